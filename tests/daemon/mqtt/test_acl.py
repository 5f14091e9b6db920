"""The example of access rules, on a Mosquitto that uses it."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support.jobs.mqtt_node import BASE, answers, node_on
from support.servers.mqtt import Broker, broker_in, observer_of

ACL = Path(__file__).parents[3] / "systemd" / "mosquitto-acl.example"
USERS = ("upframe", "alice", "viewer")


def rules(folder: Path) -> tuple[str, ...]:
    """Lines for a broker with these rules, where every user's password is the name."""
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed")
    passwords, rules = folder / "passwords", folder / "acl"
    passwords.touch()
    for user in USERS:
        subprocess.run([tool, "-b", str(passwords), user, user], check=True)
    shutil.copy(ACL, rules)
    for path in (passwords, rules):
        path.chmod(0o644)
    return (f"password_file {passwords}", f"acl_file {rules}")


def as_user(user: str) -> dict[str, str]:
    return {"username": user, "password": user}


def test_the_example_lets_everybody_do_their_work_and_no_more(tmp_path: Path) -> None:
    async def main(broker: Broker) -> None:
        secret = tmp_path / "secret"
        secret.write_text("upframe")
        secret.chmod(0o600)
        async with (
            node_on(
                broker, tmp_path, username="upframe", password_file=secret, discovery=True,
                metrics_seconds=0.2, state_keep_seconds=1,
            ) as node,
            observer_of(broker, **as_user("viewer")) as viewer,
            observer_of(broker, **as_user("alice")) as alice,
        ):  # fmt: skip
            await node.up()
            await viewer.say(f"{BASE}/job/submit", node.submission("not-mine"))  # may not
            await alice.say(
                f"{BASE}/job/submit", node.submission("a"), response="upframe/clients/alice/x"
            )
            told = answers((await alice.on("upframe/clients/alice/x")).payload)
            assert (told["id"], told["status"]) == ("a", "accepted")
            await alice.say(f"{BASE}/job/submit", b"{")
            await node.end("a")
            for topic in ("status", "info", "error", "event", "metrics", "activity"):
                await viewer.on(f"{BASE}/{topic}")
            await viewer.on(f"{BASE}/job/a/state", b"")  # written, and then cleared
            device = json.loads(
                (await viewer.on("homeassistant/device/upframe_node1/config")).payload
            )
            assert device["o"]["name"] == "upframe"
            assert [job.id for job in node.store.jobs()] == ["a"]
            assert viewer.all("upframe/clients/alice/x") == []
        log = broker.log
        assert "Denied PUBLISH from upframe-node1" not in log

    lines = rules(tmp_path)
    with broker_in(tmp_path / "broker", lines=lines, open_to_all=False) as broker:
        asyncio.run(main(broker))
        assert "Denied PUBLISH" in broker.log  # the viewer's


def test_a_node_that_may_not_publish_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(broker: Broker) -> None:
        secret = tmp_path / "secret"
        secret.write_text("alice")
        secret.chmod(0o600)
        async with node_on(broker, tmp_path, username="alice", password_file=secret) as node:
            await node.up()
            await node.until(lambda: node.bridge.health()["refused"], "a refusal")
            assert node.bridge.health()["refused"]["Not authorized"] >= 1

    lines = rules(tmp_path)
    with broker_in(tmp_path / "broker", lines=lines, open_to_all=False) as broker:
        asyncio.run(main(broker))
    text = "the broker does not accept all that we publish: Not authorized"
    assert caplog.text.count(text) == 1


def test_a_node_does_not_hear_of_other_nodes(tmp_path: Path) -> None:
    async def main(broker: Broker) -> None:
        async with (
            observer_of(broker, **as_user("upframe")) as node,
            observer_of(broker, **as_user("alice")) as alice,
        ):
            await alice.say("upframe/node2/job/submit", b"x")
            await alice.say(f"{BASE}/job/submit", b"y")
            await node.on(f"{BASE}/job/submit", b"y")
            assert [one.topic for one in node.heard] == [f"{BASE}/job/submit"]

    lines = rules(tmp_path)
    with broker_in(tmp_path / "broker", lines=lines, open_to_all=False) as broker:
        asyncio.run(main(broker))

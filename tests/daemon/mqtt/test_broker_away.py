"""A broker that comes and goes, and a node that does: nothing is lost, and all is right after."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiomqtt
import pytest
from support.jobs import mqtt_child
from support.jobs.mqtt_node import BASE, answers, fast_backoff, node_on
from support.servers.mqtt import (
    Broker,
    broker_in,
    dynamic_security,
    observer_of,
    retained_of,
)

from upframe.daemon.jobs.store import JobStore
from upframe.daemon.mqtt.handler import written_properties
from upframe.daemon.mqtt.topics import IncomingMessage

SUBMIT = f"{BASE}/job/submit"


def state_of(retained: dict[str, bytes], job_id: str) -> str | None:
    payload = retained.get(f"{BASE}/job/{job_id}/state")
    return json.loads(payload)["state"] if payload else None


async def retained_is(broker: Broker, **states: str | None) -> dict[str, bytes]:
    """Wait until the broker holds these states of jobs, and return all it holds."""
    retained: dict[str, bytes] = {}
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        retained = await retained_of(broker, f"{BASE}/#")
        if all(state_of(retained, job_id) == state for job_id, state in states.items()):
            return retained
        await asyncio.sleep(0.05)
    raise AssertionError(f"wanted {states}, got {retained}")


def test_a_broker_that_is_not_there_at_the_start_holds_up_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker(tmp_path / "broker")

    async def main() -> None:
        async with node_on(broker, tmp_path) as node:
            await node.until(lambda: node.bridge.health()["attempts"] >= 4, "attempts")
            health = node.bridge.health()
            assert (health["connected"], health["state"]) == (False, "away")
            assert "Connection refused" in health["reason"]
            await node.add("a")
            await node.add("b")
            await node.end("b")
            await asyncio.to_thread(broker.start)
            await node.up()
            retained = await retained_is(broker, a="queued", b="done")
            assert retained[f"{BASE}/status"] == b"online"
            assert f"{BASE}/info" in retained

    try:
        asyncio.run(main())
    finally:
        broker.stop()
    said = [one for one in caplog.records if "Connection refused" in one.getMessage()]
    assert [one.levelname for one in said if one.levelno > logging.DEBUG] == ["WARNING"]


def test_a_broker_that_is_away_at_the_end_holds_up_nothing(broker: Broker, tmp_path: Path) -> None:
    async def main() -> float:
        async with node_on(broker, tmp_path) as node:
            await node.up()
            await asyncio.to_thread(broker.stop)
            await node.until(lambda: not node.bridge.health()["connected"], "away")
            began = time.monotonic()
            await node.bridge.draining()
            await node.bridge.stopped()
            return time.monotonic() - began

    assert asyncio.run(main()) < 3


def test_a_broker_that_hangs_at_the_end_holds_up_a_few_seconds_only(
    broker: Broker, tmp_path: Path
) -> None:
    async def main() -> float:
        async with node_on(broker, tmp_path) as node:
            await node.up()
            broker.pause()
            began = time.monotonic()
            await node.bridge.stopped()
            return time.monotonic() - began

    try:
        assert asyncio.run(main()) < 6
    finally:
        broker.resume()


def test_everything_is_told_again_to_a_broker_that_lost_its_data(
    broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with node_on(broker, tmp_path) as node:
            await node.up()
            for number in range(30):
                await node.add(f"job-{number}")
            before = await retained_is(broker, **{f"job-{n}": "queued" for n in range(30)})
            await asyncio.to_thread(broker.lose_everything)
            await node.until(lambda: node.bridge.health()["connections"] == 2, "back")
            after = await retained_is(broker, **{f"job-{n}": "queued" for n in range(30)})
            assert before == after
            assert caplog.text.count("the broker has lost what was sent to us meanwhile") == 1
            await asyncio.to_thread(broker.restart)  # this time with all it had
            await node.until(lambda: node.bridge.health()["connections"] == 3, "back")
            assert caplog.text.count("the broker has lost what was sent to us meanwhile") == 1

    asyncio.run(main())


def test_states_that_changed_while_the_broker_was_away_are_right_after(
    broker: Broker, tmp_path: Path
) -> None:
    async def main() -> None:
        async with node_on(broker, tmp_path, state_keep_seconds=1.0) as node:
            await node.up()
            for job_id in ("stays", "ends", "over", "gone"):
                await node.add(job_id)
            await retained_is(broker, stays="queued", ends="queued", over="queued", gone="queued")
            await asyncio.to_thread(broker.stop)
            await node.until(lambda: not node.bridge.health()["connected"], "away")
            await node.end("over")
            await node.end("gone")
            await asyncio.sleep(1.1)  # their time to live
            await node.queue.forget(datetime.now(UTC) + timedelta(days=1))
            await node.end("ends", "failed")
            await asyncio.to_thread(broker.start)
            await node.up()
            await retained_is(broker, stays="queued", ends="failed", over=None, gone=None)
            await retained_is(broker, stays="queued", ends=None)  # after its own time

    asyncio.run(main())


def test_states_of_a_former_life_that_have_no_place_any_more_are_cleared(
    broker: Broker, tmp_path: Path
) -> None:
    async def main() -> None:
        async with node_on(broker, tmp_path) as node:
            await node.up()
            for job_id in ("forgotten", "old", "fresh", "queued"):
                await node.add(job_id)
            await retained_is(broker, forgotten="queued", old="queued", fresh="queued")
        with JobStore(tmp_path / "jobs.sqlite") as store:  # all while nobody tells the broker
            long_ago = datetime.now(UTC) - timedelta(days=2)
            for job_id in ("forgotten", "old", "fresh"):
                store.change(job_id, "running")
            store.change("forgotten", "done", ended=long_ago - timedelta(days=2))
            store.change("old", "done", ended=long_ago)
            store.change("fresh", "done")
            assert [job.id for job in store.forget(long_ago - timedelta(days=1))] == ["forgotten"]
        async with node_on(broker, tmp_path) as node:
            await retained_is(broker, forgotten=None, old=None, fresh="done", queued="queued")

    asyncio.run(main())


def test_the_state_of_an_ended_job_goes_after_its_time_even_without_us(
    broker: Broker, tmp_path: Path
) -> None:
    async def main() -> None:
        async with node_on(broker, tmp_path, state_keep_seconds=1.2) as node:
            await node.up()
            await node.add("a")
            await node.end("a")
            await retained_is(broker, a="done")
        await retained_is(broker, a=None)

    asyncio.run(main())


def test_whoever_listens_hears_a_state_being_cleared(broker: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            node_on(broker, tmp_path, state_keep_seconds=1.0) as node,
            observer_of(broker) as client,
        ):
            await node.up()
            await node.add("a")
            await node.end("a")
            await client.on(f"{BASE}/job/a/state", b"")
            await retained_is(broker, a=None)
            assert f"{BASE}/job/a/state" not in node.bridge._outbox._retained

    asyncio.run(main())


async def submit_all(broker: Broker, jobs: dict[str, bytes], breathe: float) -> None:
    """Submit as a persistent client does: each until the broker has it, over all its deaths."""
    waiting = list(jobs.items())
    while waiting:
        try:
            async with observer_of(broker, "me", identifier="client", timeout=0.5) as client:
                while waiting:
                    await client.say(SUBMIT, waiting[0][1], response="clients/me")
                    del waiting[0]
                    await asyncio.sleep(breathe)
        except aiomqtt.MqttError:
            await asyncio.sleep(0.02)


def test_a_broker_that_is_restarted_under_a_stream_of_requests_loses_none(
    broker: Broker, tmp_path: Path
) -> None:
    async def main() -> None:
        async with node_on(broker, tmp_path) as node:
            await node.up()
            jobs = {f"job-{n}": node.submission(f"job-{n}") for n in range(120)}
            submitting = asyncio.create_task(submit_all(broker, jobs, 0.01))
            for _ in range(5):
                await asyncio.sleep(0.25)
                await asyncio.to_thread(broker.restart)
            await submitting
            await node.until(lambda: node.store.counts()["queued"] == 120, "120 jobs")
            assert {job.id for job in node.store.jobs()} == set(jobs)
            assert node.bridge.health()["connections"] > 5

    asyncio.run(main())


def test_a_node_that_is_killed_under_a_stream_of_requests_loses_none_and_does_none_twice(
    broker: Broker, tmp_path: Path
) -> None:
    (tmp_path / "videos").mkdir()
    count, chance = 60, random.Random(3)

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, mqtt_child.__file__, str(broker.port), str(tmp_path)]
        return subprocess.Popen(command)

    async def main() -> None:
        jobs = {f"job-{n}": submission(tmp_path, f"job-{n}") for n in range(count)}
        ended: set[str] = set()
        node = start()
        try:
            async with observer_of(broker, "clients/me") as client:

                def told() -> set[str]:
                    read = [answers(one.payload) for one in client.all("clients/me")]
                    return {one["id"] for one in read if one["status"] == "done"}

                async with observer_of(broker, f"{BASE}/status") as first:
                    await first.on(f"{BASE}/status", b"online")  # from here on nothing is lost
                submitting = asyncio.create_task(submit_all(broker, jobs, 0.08))
                for _ in range(4):
                    await asyncio.sleep(0.8 + chance.random())
                    node.kill()
                    node.wait()
                    node = start()
                await submitting
                await client.until(lambda _: len(told()) == count, "the end of every job")
                ended = told()
        finally:
            node.kill()
            node.wait()
        assert ended == set(jobs)
        with JobStore(tmp_path / "jobs.sqlite") as store:
            assert {job.id for job in store.jobs(("done",))} == set(jobs)
            assert store.counts()["done"] == count
        assert (await retained_of(broker, f"{BASE}/status"))[f"{BASE}/status"] == b"offline"

    asyncio.run(main())


def submission(folder: Path, job_id: str) -> bytes:
    document = {
        "schema": "upframe.job/1",
        "id": job_id,
        "source": f"{folder}/videos/in.mkv",
        "sink": f"{folder}/videos/{job_id}.mkv",
        "filters": {"enable_upscaling": True},
    }
    return json.dumps(document).encode()


def test_the_end_of_a_job_is_told_also_by_the_next_life(broker: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with observer_of(broker) as client:
            async with node_on(broker, tmp_path) as node:
                await node.up()
                await client.say(SUBMIT, node.submission("a"), response="me", correlation=b"c")
                await client.on("me")
            async with node_on(broker, tmp_path) as node:
                await node.up()
                await node.end("a")
                await client.until(lambda _: b'"status":"done"' in client.all("me")[-1].payload)
                assert client.all("me")[-1].correlation_data == b"c"
                await node.until(lambda: not node.store.journaled(), "an empty journal")

    asyncio.run(main())


def test_requests_of_the_journal_are_done_without_any_broker(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker")  # never started
    now = time.time()

    async def main() -> None:
        with JobStore(tmp_path / "jobs.sqlite") as store:
            for name, received, expiry in (
                ("fine", now, None),
                ("in-time", now, 3600),
                ("late", now - 100, 50),
            ):
                message = IncomingMessage(
                    SUBMIT,
                    submission(tmp_path, name),
                    response_topic="me",
                    expiry_seconds=expiry,
                    received=received,
                )
                store.journal(message.topic, message.payload, written_properties(message))
            store.journal("other/node/job/submit", submission(tmp_path, "renamed"), b"{}")
            store.journal(SUBMIT, submission(tmp_path, "damaged"), b"\xff no JSON")
        async with node_on(broker, tmp_path) as node:

            def counted() -> int:
                return sum(node.bridge.health()["requests"].values())

            await node.until(lambda: counted() == 4, "four requests")
            assert node.bridge.health()["requests"] == {"taken": 3, "expired": 1}
            assert {job.id for job in node.store.jobs()} == {"fine", "in-time", "damaged"}
            broker.start()
            async with observer_of(broker) as client:
                await client.until(lambda _: len(client.all("me")) == 3, "three answers")
                told = {one["id"]: one for one in map(heard_answer, client.all("me"))}
                assert told["late"]["error"]["code"] == "expired"
                assert "50 s was over" in told["late"]["error"]["message"]
                assert told["fine"]["status"] == "accepted"

    try:
        asyncio.run(main())
    finally:
        broker.stop()


def heard_answer(heard: object) -> dict:
    return answers(heard.payload)  # type: ignore[attr-defined]


def test_an_expired_request_for_a_known_job_still_hears_its_end(tmp_path: Path) -> None:
    """It was taken in time: only its answer is late."""
    broker = Broker(tmp_path / "broker")
    message = IncomingMessage(
        SUBMIT,
        submission(tmp_path, "a"),
        response_topic="me",
        expiry_seconds=3600,
        received=time.time(),
    )

    async def life() -> dict[str, int]:
        async with node_on(broker, tmp_path) as node:
            await node.until(lambda: node.bridge.health()["requests"], "the request")
            return node.bridge.health()["requests"]

    with JobStore(tmp_path / "jobs.sqlite") as store:
        store.journal(message.topic, message.payload, written_properties(message))
    assert asyncio.run(life()) == {"taken": 1}
    with JobStore(tmp_path / "jobs.sqlite") as store:
        (row,) = store.journaled()  # still to be told the end
        store.unjournal(row.number)
        late = IncomingMessage(message.topic, message.payload, expiry_seconds=1, received=1.0)
        store.journal(late.topic, late.payload, written_properties(late))
    assert asyncio.run(life()) == {"taken": 1}


def test_wrong_credentials_are_said_once_and_shown_in_health(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = dynamic_security(tmp_path, "someone", "right", refused="nothing/#")
    secret = tmp_path / "password"
    secret.write_text("wrong\n")
    secret.chmod(0o600)

    async def main(broker: Broker) -> None:
        async with node_on(broker, tmp_path, username="someone", password_file=secret) as node:
            await node.until(lambda: node.bridge.health()["attempts"] >= 4, "attempts")
            health = node.bridge.health()
            assert (health["connected"], health["state"]) == (False, "refused")
            assert health["reason"] == "the broker refuses us: Not authorized"
            said = [one for one in caplog.records if "refuses us" in one.getMessage()]
            assert [one.levelname for one in said] == ["ERROR"]
            secret.write_text("right\n")
            await node.up()
            assert node.bridge.health()["reason"] is None

    with broker_in(tmp_path / "broker", lines=lines, open_to_all=False) as broker:
        asyncio.run(main(broker))
    assert "wrong" not in caplog.text


def test_a_password_that_everybody_may_read_is_not_used(broker: Broker, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("secret\n")
    secret.chmod(0o644)

    async def main() -> None:
        async with node_on(broker, tmp_path, username="me", password_file=secret) as node:
            await node.until(lambda: node.bridge.health()["state"] == "refused", "refused")
            assert "mode 0644 lets everybody read it" in node.bridge.health()["reason"]

    asyncio.run(main())


def test_requests_that_may_not_be_subscribed_to_are_no_online(tmp_path: Path) -> None:
    lines = dynamic_security(tmp_path, "someone", "right", refused=f"{BASE}/job/cancel")
    secret = tmp_path / "password"
    secret.write_text("right")
    secret.chmod(0o600)

    async def main(broker: Broker) -> None:
        async with node_on(broker, tmp_path, username="someone", password_file=secret) as node:
            await node.until(lambda: node.bridge.health()["state"] == "refused", "refused")
            reason = node.bridge.health()["reason"]
            assert reason == (f"the broker refuses to subscribe {BASE}/job/cancel (Not authorized)")
        assert "online" not in broker.log

    with broker_in(tmp_path / "broker", lines=lines, open_to_all=False) as broker:
        asyncio.run(main(broker))


def test_two_nodes_of_one_name_are_told_apart_in_the_log(
    broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        (tmp_path / "other").mkdir()
        backoff = [fast_backoff() for _ in range(2)]
        async with (
            node_on(broker, tmp_path, backoff=backoff[0], stop=False) as node,
            node_on(broker, tmp_path / "other", backoff=backoff[1], stop=False),
        ):
            await node.until(lambda: "is there another client" in caplog.text, "a hint")

    asyncio.run(main())

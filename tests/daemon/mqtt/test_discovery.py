"""A device that Home Assistant finds by itself, and what its sensors read."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from support.jobs.mqtt_node import BASE, node_on
from support.servers.mqtt import Broker, observer_of, retained_of

from upframe.daemon.jobs.model import JobError, JobProgress
from upframe.daemon.jobs.store import STATES
from upframe.daemon.live.status import LiveBoard, LiveStatus
from upframe.daemon.mqtt.bridge import activity_document, device_document, device_topic
from upframe.daemon.mqtt.requests import parse
from upframe.daemon.mqtt.topics import Topics

CONFIG = "homeassistant/device/upframe_node1/config"


def test_the_device_has_what_home_assistant_demands() -> None:
    topics = Topics("upframe", "living.room ä", "homeassistant")
    assert device_topic(topics) == "homeassistant/device/upframe_living_room__/config"
    document = device_document(topics)
    assert document["dev"]["identifiers"] == ["upframe_living_room__"]
    assert document["o"]["name"] == "upframe"
    sensors = {"status", "state", "queue", "progress", "fps", "failed", "last_error"}
    assert set(document["cmps"]) == sensors | {"problem", "retry", "cancel"}
    for name, component in document["cmps"].items():
        kinds = {"problem": "binary_sensor", "retry": "button", "cancel": "button"}
        assert component["p"] == kinds.get(name, "sensor")
        topic = component["command_topic" if component["p"] == "button" else "state_topic"]
        assert topic.startswith(f"{topics.base}/")
    identities = [sensor["unique_id"] for sensor in document["cmps"].values()]
    assert len(set(identities)) == len(identities)


def test_every_template_is_one_that_jinja_reads() -> None:
    """Home Assistant renders them with Jinja, with `value` and `value_json`."""
    jinja2 = pytest.importorskip("jinja2")
    document = device_document(Topics("upframe", "node1"), ["gate"])
    activity = activity_document(dict.fromkeys(STATES, 2), [], [], ["no network"])
    given = {"activity": activity, "state": LiveStatus("gate", level="bicubic").to_json()}

    def rendered(component: dict[str, Any], key: str, topic: str) -> str:
        values = {"value": "draining", "value_json": given.get(topic.split("/")[-1])}
        return jinja2.Template(component[key]).render(values)

    for component in document["cmps"].values():
        for key in component:
            if key.endswith("_template"):
                topic = component.get("json_attributes_topic", component.get("state_topic", ""))
                assert rendered(component, key, topic)
    shown = document["cmps"]
    assert rendered(shown["problem"], "value_template", "activity") == "ON"
    assert rendered(shown["last_error"], "value_template", "activity") == "none"
    attributes = rendered(shown["live_gate"], "json_attributes_template", "state")
    assert json.loads(attributes)["level"] == "bicubic"
    assert rendered(shown["queue"], "availability_template", "") == "online"


@pytest.mark.parametrize("button", ["retry", "cancel"])
def test_buttons_press_what_the_node_understands(button: Any) -> None:
    component = device_document(Topics("upframe", "node1"))["cmps"][button]
    assert parse(button, component["payload_press"].encode()).id is None


def test_streams_come_and_go_with_the_configuration(broker: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        board = LiveBoard()
        board.update(LiveStatus("gate"))
        async with (
            node_on(broker, tmp_path, discovery=True, live=board) as node,
            observer_of(broker) as client,
        ):
            await node.up()

            def streams() -> dict[str, Any]:
                heard = client.all(CONFIG)
                found = json.loads(heard[-1].payload)["cmps"] if heard else {}
                return {name: one for name, one in found.items() if name.startswith("live_")}

            await client.until(lambda _: streams().keys() == {"live_gate"}, "the stream")
            assert streams()["live_gate"]["state_topic"] == f"{BASE}/live/gate/state"
            board.update(LiveStatus("door"))
            await client.until(lambda _: len(streams()) == 2, "another one")
            board.forget("gate")
            # a component with its platform alone is removed
            await client.until(lambda _: streams()["live_gate"] == {"p": "sensor"}, "it goes")
            assert "state_topic" in streams()["live_door"]
        # and what went while the node was away goes as well
        async with (
            node_on(broker, tmp_path, discovery=True) as node,
            observer_of(broker) as client,
        ):
            await node.up()
            await client.until(
                lambda _: streams() == {"live_gate": {"p": "sensor"}, "live_door": {"p": "sensor"}},
                "all are gone",
            )

    asyncio.run(main())


def test_what_is_amiss_is_a_problem(broker: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            node_on(broker, tmp_path, discovery=True) as node,
            observer_of(broker) as client,
        ):
            await node.up()
            await node.add("a", source="/v/film.mkv")
            error = JobError(code=65, message="x" * 1000, retryable=False)
            await node.end("a", "failed", error=error)

            def last() -> dict[str, Any]:
                return json.loads(client.all(f"{BASE}/activity")[-1].payload)

            await client.until(lambda _: client.all(f"{BASE}/activity") and last()["failed"])
            assert last()["problem"]
            assert last()["last_error"].startswith("film.mkv: xxx")
            assert len(last()["last_error"]) < 256  # Home Assistant refuses longer states
            await client.say(f"{BASE}/job/retry", '{"state": "failed"}')
            await client.until(lambda _: not last()["problem"], "no problem")
            assert last()["last_error"] is None

    asyncio.run(main())


def test_nothing_is_announced_unless_asked_for(broker: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with node_on(broker, tmp_path) as node:
            await node.up()
            await node.until(lambda: node.bridge.health()["waiting"] == 0, "all sent")
            retained = await retained_of(broker)
            assert CONFIG not in retained
            assert f"{BASE}/activity" not in retained

    asyncio.run(main())


def test_the_sensors_follow_the_work(broker: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            node_on(broker, tmp_path, discovery=True) as node,
            observer_of(broker) as client,
        ):
            await node.up()
            assert json.loads((await client.on(CONFIG)).payload)["cmps"]
            assert CONFIG in await retained_of(broker)
            idle = json.loads((await client.on(f"{BASE}/activity")).payload)
            assert idle == {
                "state": "idle", "queued": 0, "running": 0, "progress_percent": 0.0, "fps": 0.0,
                "failed": 0, "last_error": None, "problem": False, "troubles": [],
            }  # fmt: skip
            await node.add("a")
            await node.add("b")
            await node.queue.claim()
            progress = JobProgress(stage="streaming", frames=25, total=200, fps=12.345)
            node.queue.report_progress("a", progress)
            await client.until(
                lambda _: (
                    json.loads(client.all(f"{BASE}/activity")[-1].payload)
                    == {
                        "state": "working",
                        "queued": 1,
                        "running": 1,
                        "progress_percent": 12.5,
                        "fps": 12.35,
                        "failed": 0,
                        "last_error": None,
                        "problem": False,
                        "troubles": [],
                    }
                )
            )
            heard = client.all(f"{BASE}/activity")
            assert len(heard) <= 3  # at most one a second

    asyncio.run(main())


def test_the_device_is_announced_again_after_the_birth_of_home_assistant(
    broker: Broker, tmp_path: Path
) -> None:
    async def main() -> None:
        async with (
            node_on(broker, tmp_path, discovery=True) as node,
            observer_of(broker) as client,
        ):
            await node.up()
            await client.on(CONFIG)
            await node.until(lambda: "homeassistant/status" in broker.log, "the subscription")
            await client.say("homeassistant/status", b"offline")
            await client.say("homeassistant/status", b"online")
            await client.until(lambda _: len(client.all(CONFIG)) == 2, "announced again")

    asyncio.run(main())

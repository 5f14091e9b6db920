"""A device that Home Assistant finds by itself, and what its sensors read."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from support.jobs.mqtt_node import BASE, node_on
from support.servers.mqtt import Broker, observer_of, retained_of

from upframe.daemon.jobs.model import JobProgress
from upframe.daemon.mqtt.bridge import device_document, device_topic
from upframe.daemon.mqtt.topics import Topics

CONFIG = "homeassistant/device/upframe_node1/config"


def test_the_device_has_what_home_assistant_demands() -> None:
    topics = Topics("upframe", "living.room ä", "homeassistant")
    assert device_topic(topics) == "homeassistant/device/upframe_living_room__/config"
    document = device_document(topics)
    assert document["dev"]["identifiers"] == ["upframe_living_room__"]
    assert document["o"]["name"] == "upframe"
    assert set(document["cmps"]) == {"status", "state", "queue", "progress", "fps"}
    for sensor in document["cmps"].values():
        assert sensor["p"] == "sensor"
        assert sensor["state_topic"].startswith(f"{topics.base}/")
    identities = [sensor["unique_id"] for sensor in document["cmps"].values()]
    assert len(set(identities)) == len(identities)


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

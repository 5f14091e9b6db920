"""Where live streams stand, retained on the broker, and cleared when a stream is gone."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

from support.jobs.mqtt_node import BASE, node_on
from support.servers.mqtt import Broker, observer_of, retained_of

from upframe.daemon.live.status import LiveBoard, LiveStatus
from upframe.daemon.mqtt.bridge import LiveStates
from upframe.daemon.mqtt.connection import Outbox
from upframe.daemon.mqtt.topics import Topics

GATE = LiveStatus("gate", state="running", input={"url": "rtsp://me:pa55@host/x"})
TOPIC = f"{BASE}/live/gate/state"


def board_of(*statuses: LiveStatus) -> LiveBoard:
    board = LiveBoard()
    for status in statuses:
        board.update(status)
    return board


def test_a_stream_is_told_retained_on_each_change_and_cleared_at_its_end(
    broker: Broker, tmp_path: Path
) -> None:
    async def main() -> None:
        board = board_of(GATE)
        async with node_on(broker, tmp_path, live=board) as node, observer_of(broker) as client:
            await node.up()
            first = json.loads((await client.on(TOPIC)).payload)
            assert (first["name"], first["state"]) == ("gate", "running")
            assert first["input"]["url"] == "rtsp://***@host/x"
            board.update(replace(GATE, state="reconnecting", reason="refused"))
            await client.until(lambda _: b'"refused"' in client.all(TOPIC)[-1].payload, "a change")
            second = json.loads((await retained_of(broker, TOPIC))[TOPIC])
            assert (second["state"], second["reason"]) == ("reconnecting", "refused")
            board.forget("gate")
            await client.until(lambda _: client.all(TOPIC)[-1].payload == b"", "cleared")
            assert TOPIC not in await retained_of(broker)

    asyncio.run(main())


def test_a_stream_that_went_while_nobody_was_connected_is_cleared(
    broker: Broker, tmp_path: Path
) -> None:
    async def main() -> None:
        async with node_on(broker, tmp_path, live=board_of(GATE)) as node:
            await node.up()
            async with observer_of(broker) as client:
                await client.on(TOPIC)
        assert TOPIC in await retained_of(broker)
        board = board_of(LiveStatus("yard"))
        async with observer_of(broker) as client, node_on(broker, tmp_path, live=board) as node:
            await node.up()
            await client.on(f"{BASE}/live/yard/state")
            await client.on(TOPIC, b"")
        assert TOPIC not in await retained_of(broker)

    asyncio.run(main())


def test_what_changes_all_the_time_is_told_now_and_then() -> None:
    async def main() -> None:
        board, outbox = board_of(GATE), Outbox()
        states = LiveStates(Topics("upframe", "node1"), outbox, board, repeat_seconds=0.01)
        repeating = asyncio.create_task(states.repeat(), name="repeat")
        for number in (1, 2, 3):
            board.update(replace(GATE, waiting_frames=number))
            async with asyncio.timeout(20):
                item = await outbox.take()
            assert json.loads(item.message.payload)["waiting_frames"] == number
            outbox.delivered(item)
        repeating.cancel()
        await asyncio.wait({repeating})

    asyncio.run(main())


def test_who_is_slow_hears_of_each_stream_once() -> None:
    async def main() -> None:
        board = board_of(GATE)
        changes = board.changes()
        assert await anext(changes) == "gate"
        for state in ("stalled", "reconnecting", "connecting", "running"):
            board.update(replace(GATE, state=state))
        counted = replace(GATE, waiting_frames=7, counts={"frames_decoded": 1})
        board.update(LiveStatus("yard"))
        assert [await anext(changes), await anext(changes)] == ["gate", "yard"]
        board.update(counted)  # that alone is no news
        board.forget("yard")
        assert await anext(changes) == "yard"
        assert board.statuses == {"gate": counted}
        await changes.aclose()

    asyncio.run(main())

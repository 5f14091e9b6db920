"""One message, whatever is in it, does not keep the next one from being served."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from support.jobs.mqtt_node import FILTERS, Node, answers, node_on
from support.servers.mqtt import Broker, observer_of

from upframe.daemon.fence import internal_errors
from upframe.daemon.mqtt import handler
from upframe.daemon.mqtt.topics import Topics

SUBMIT = "upframe/node1/job/submit"
_WORK = {"source": "/v/a.mkv", "sink": "/v/b.mkv", "filters": FILTERS}


def a_request(**changes: Any) -> bytes:
    return json.dumps({"schema": "upframe.job/1", "id": "bad", **_WORK, **changes}).encode()


HOSTILE: dict[str, bytes] = {
    "a scheme without letters in the id": a_request(id="r2 ://"),
    "in the source": a_request(source="://x"),
    "in the sink": a_request(sink="://x"),
    "in a key": a_request(**{"a://b": 1}),
    "of other letters": a_request(source="é://x"),
    "half an IPv6 address": a_request(source="file://[/x"),
    "a port that is none": a_request(source="file://localhost:99999999999/x"),
    "an escape of no UTF-8": a_request(source="file:///%ff"),
    "a rate of 5,000 digits": a_request(framerate="9" * 5000),
    "a rate of other digits": a_request(framerate="٣"),
    "a number of 5,000 digits": a_request(priority=0).replace(b"0}", b"9" * 5000 + b"}"),
    "deep nesting": a_request(filters=0).replace(b"0}", b"[" * 5000 + b"]" * 5000 + b"}"),
    "half a surrogate": a_request(source="/v/x").replace(b"/v/x", b"/v/\\ud800"),
    "NUL": a_request(source="/v/\0.mkv"),
    "not a number": a_request(priority=0).replace(b"0}", b"NaN}"),
    "endless": a_request(encoder={"crf": 0}).replace(b'"crf": 0', b'"crf": 1e999'),
}


async def ask_then_good(node: Node, broker: Broker, **properties: Any) -> list[dict[str, Any]]:
    """Send a message with properties as they are, then a good request; give all answers."""
    described = Properties(PacketTypes.PUBLISH)
    payload = properties.pop("payload", node.submission("bad"))
    for name, value in properties.items():
        setattr(described, name, value)
    async with observer_of(broker, "me/#") as client:
        await client.client.publish(SUBMIT, payload, 1, False, described)
        await client.say(SUBMIT, node.submission("good"), response="me/good")
        await client.on("me/good")
        return [answers(heard.payload) for heard in client.all("me/bad")]


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_request_is_answered_and_the_next_one_served(
    kind: str, broker: Broker, tmp_path: Any
) -> None:
    async def main() -> None:
        before = internal_errors["mqtt"]
        async with node_on(broker, tmp_path) as node:
            await node.up()
            payload = HOSTILE[kind].replace(b"/v/", f"{node.root}/".encode())
            (answer,) = await ask_then_good(node, broker, payload=payload, ResponseTopic="me/bad")
            assert answer["error"]["code"] in ("invalid", "refused", "malformed")
            assert node.bridge.health()["connections"] == 1
        assert internal_errors["mqtt"] == before
        async with node_on(broker, tmp_path) as node, observer_of(broker, "me/#") as client:
            await node.up()
            await client.say(SUBMIT, node.submission("later"), response="me/later")
            await client.on("me/later")
            assert client.all("me/bad") == []
            assert payload not in [kept.payload for kept in node.store.journaled()]

    asyncio.run(main())


@pytest.mark.parametrize(
    "properties",
    [
        {"ResponseTopic": "me/" + "a/" * 240},
        {"ResponseTopic": "me/\ufeff"},
        {"UserProperty": ("k", "\ufeff")},
        {"ContentType": "\ufeff"},
        {"ResponseTopic": "me/bad", "CorrelationData": b"\0" * 60_000},
    ],
    ids=["deep", "mark in the topic", "mark in a property", "mark in the type", "correlation"],
)
def test_hostile_properties_do_not_end_the_connection(
    properties: dict[str, Any], broker: Broker, tmp_path: Any
) -> None:
    """A broker hangs up over too deep a topic, the library over U+FEFF: at each connection anew."""

    async def main() -> None:
        async with node_on(broker, tmp_path) as node:
            await node.up()
            await ask_then_good(node, broker, **properties)
            assert node.bridge.health()["connections"] == 1
        async with node_on(broker, tmp_path) as node:
            await node.up()
            await ask_then_good(node, broker)
            assert node.bridge.health()["connections"] == 1

    asyncio.run(main())


@pytest.mark.parametrize("culprit", ["parse", "confined_work", "to_public_dict"])
def test_a_bug_in_handling_is_answered_internal_and_never_tried_again(
    culprit: str, broker: Broker, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = getattr(handler, culprit)

    def failing(*given: Any, **more: Any) -> Any:
        if any(b'"bad"' in each for each in given if isinstance(each, bytes)) or any(
            getattr(each, "source", None) == "/v/poison.mkv" for each in given
        ):
            raise ZeroDivisionError("a bug")
        return good(*given, **more)

    monkeypatch.setattr(handler, culprit, failing)

    async def main() -> None:
        before = internal_errors["mqtt"]
        async with node_on(broker, tmp_path) as node:
            await node.up()
            await node.add("stored", source="/v/poison.mkv")
            async with observer_of(broker, "me/#") as client:
                if culprit == "to_public_dict":
                    ask = b'{"schema": "upframe.job/1", "id": "stored"}'
                    await client.say("upframe/node1/job/query", ask, response="me/bad")
                else:
                    poison = a_request(source="/v/poison.mkv")
                    await client.say(SUBMIT, poison, response="me/bad")
                answer = answers((await client.on("me/bad")).payload)
                assert answer["error"]["code"] == "internal"
                assert "ZeroDivisionError" in answer["error"]["message"]
            await ask_then_good(node, broker)
            assert internal_errors["mqtt"] > before
            await node.until(lambda: len(node.store.journaled()) <= 2, "dropped from the journal")
            assert not [kept for kept in node.store.journaled() if b"poison" in kept.payload]
        async with node_on(broker, tmp_path) as node, observer_of(broker, "me/#") as client:
            await node.up()
            await client.say(SUBMIT, node.submission("later"), response="me/later")
            await client.on("me/later")
            assert client.all("me/bad") == []

    asyncio.run(main())


def test_an_answer_that_cannot_be_made_holds_up_nobody(
    broker: Broker, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where redaction itself raises, whatever it is given."""
    good = Topics.check_response

    def failing(self: Topics, topic: str, correlation_data: bytes | None) -> None:
        if topic == "me/bad":
            raise ZeroDivisionError("a bug")
        good(self, topic, correlation_data)

    monkeypatch.setattr(Topics, "check_response", failing)

    async def main() -> None:
        async with node_on(broker, tmp_path) as node:
            await node.up()
            assert await ask_then_good(node, broker, ResponseTopic="me/bad") == []
            assert {job.id for job in node.store.jobs()} == {"good"}

    asyncio.run(main())


def test_a_state_that_cannot_be_written_holds_up_no_other(
    broker: Broker, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from upframe.daemon.mqtt import bridge

    good = bridge.state_payload

    def failing(job: Any) -> bytes:
        if job.id == "poison":
            raise ZeroDivisionError("a bug")
        return good(job)

    monkeypatch.setattr(bridge, "state_payload", failing)

    async def main() -> None:
        async with node_on(broker, tmp_path) as node, observer_of(broker) as client:
            await node.up()
            await node.add("poison")
            await node.add("fine")
            await client.on("upframe/node1/job/fine/state")
            assert node.bridge.health()["connections"] == 1
            assert client.all("upframe/node1/job/poison/state") == []

    asyncio.run(main())


def test_redaction_that_fails_for_all_errors_holds_up_no_good_request(
    broker: Broker, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from upframe.daemon.mqtt import requests

    def failing(text: str, *_: object) -> str:
        if text.startswith(str(tmp_path)):  # a name of the good one
            return text
        raise ZeroDivisionError(text)

    monkeypatch.setattr(requests, "redacted", failing)
    monkeypatch.setattr(requests, "excerpt", failing)

    async def main() -> None:
        before = internal_errors["mqtt"]
        async with node_on(broker, tmp_path) as node:
            await node.up()
            payload = a_request(source=1)
            assert await ask_then_good(node, broker, payload=payload, ResponseTopic="me/bad") == []
            assert {job.id for job in node.store.jobs()} == {"good"}
            assert node.bridge.health()["connections"] == 1
            assert internal_errors["mqtt"] > before
            assert payload not in [kept.payload for kept in node.store.journaled()]

    asyncio.run(main())

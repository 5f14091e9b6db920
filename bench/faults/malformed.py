"""Malformed MQTT messages among good ones.

    python bench/faults/malformed.py [--bad 2000] [--good 50]

Correct is: the good ones are done, each of the others is counted as refused, and the daemon has
hardly more memory at the end than after the first tenth of them.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paths  # noqa: F401  # finds what is imported next
from broker import persistent_client
from figures import Outcome, at_most, equal, none_of, run_as_script
from mqtt_broker import broker_in
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from running_daemon import RunningDaemon, until
from yard import BASE, ENLARGE, Yard, document, ended_twice, running, shows, some_clips, yard_in

FRAMES = 3
_MOST_MEBIBYTES = 10.0
_WINDOW = 20
"""Messages on their way at once."""

Message = tuple[str, bytes, str | None]
"""Command, payload, response topic."""


def measure(folder: Path, *, bad: int, good: int, seed: int) -> Outcome:
    chance = random.Random(seed)
    with yard_in(folder) as yard, broker_in(folder / "broker") as broker:
        (clip,) = some_clips(yard, FRAMES)
        kinds: Counter[str] = Counter()
        messages = [wrong(yard, clip, chance, kinds) for _ in range(bad)]
        for index in range(good):
            request = document(f"good{index}", clip, yard.asked / f"good{index}.mp4", ENLARGE)
            place = chance.randrange(len(messages) + 1)
            messages.insert(place, ("submit", json.dumps(request).encode(), None))
        with running(yard, yard.config(broker)) as daemon, persistent_client(broker) as client:
            resident: list[int] = []
            for number, message in enumerate(messages):
                send(client, *message)
                if number % _WINDOW == _WINDOW - 1:
                    until(lambda n=number: requests(daemon) > n - _WINDOW, "messages read")
                if number % max(1, len(messages) // 10) == 0:
                    resident.append(daemon.status()["resident_bytes"])
            until(lambda: requests(daemon) == len(messages), "all messages read")
            yard.until_ended(good)
            resident.append(daemon.status()["resident_bytes"])
            return judged(yard, daemon, kinds, resident, bad, good)


def requests(daemon: RunningDaemon) -> int:
    """How many messages the daemon has read."""
    return sum(daemon.status()["mqtt"]["requests"].values())


def send(client: Any, command: str, payload: bytes, response: str | None) -> None:
    properties = Properties(PacketTypes.PUBLISH)
    if response is not None:
        properties.ResponseTopic = response
    client.publish(f"{BASE}/job/{command}", payload, qos=1, properties=properties)


def judged(
    yard: Yard,
    daemon: RunningDaemon,
    kinds: Counter[str],
    resident: list[int],
    bad: int,
    good: int,
) -> Outcome:
    mqtt = daemon.status()["mqtt"]
    counted = dict(mqtt["requests"])
    states = Counter(job.state for job in yard.jobs())
    wrong_outputs = [
        f"good{index}"
        for index in range(good)
        if getattr(shows(yard.asked / f"good{index}.mp4"), "frames", None) != FRAMES
    ]
    grown = (resident[-1] - resident[1]) / 2**20
    checks = [
        equal("good ones taken", counted.pop("taken", 0), good),
        equal("jobs by state", dict(states), {"done": good}),
        none_of("outputs missing or wrong", wrong_outputs),
        none_of("jobs done twice", ended_twice(yard)),
        equal("malformed ones counted", sum(counted.values()), bad),
        equal("connections to the broker", mqtt["connections"], 1),
        at_most("memory gained since the first tenth", grown, _MOST_MEBIBYTES, "MiB"),
        none_of("leftovers", yard.leftovers()),
        equal("exit of the daemon", daemon.stop(), 0),
    ]
    details = {
        "refused as": counted,
        "sent": dict(kinds),
        "resident MiB": [round(each / 2**20, 1) for each in resident],
    }
    return Outcome(checks, details)


Good = dict[str, Any]


def wrong(yard: Yard, clip: Path, chance: random.Random, kinds: Counter[str]) -> Message:
    """Make a message of which no job may come."""
    name = f"bad{chance.getrandbits(40):x}"
    request = document(name, clip, yard.asked / f"{name}.mp4", ENLARGE)
    kind = chance.choice(list(_WRONG))
    kinds[kind] += 1
    made = _WRONG[kind](request, chance)
    command = chance.choice(("submit", "submit", "submit", "cancel", "query"))
    if isinstance(made, dict):  # for the others it may be a good one but for its job
        return ("submit", json.dumps(made).encode(), None)
    if kind == "bad response topic":
        return ("submit", made, chance.choice(("$SYS/a", f"{BASE}/status", "upframe/other/error")))
    return (command, made, None)


def _without(request: Good, chance: random.Random) -> Good:
    key = chance.choice(("id", "source", "sink", "filters"))
    return {name: value for name, value in request.items() if name != key}


def _wrong_type(request: Good, chance: random.Random) -> Good:
    key = chance.choice(("id", "source", "sink", "filters"))
    return request | {key: chance.choice((None, 17, [], [[1]], True, {"a": {}}, -1.5))}


def _cut(request: Good, chance: random.Random) -> bytes:
    whole = json.dumps(request).encode()
    return whole[: chance.randrange(len(whole))]


def _flipped(request: Good, chance: random.Random) -> bytes:
    """A byte that UTF-8 never has."""
    whole = bytearray(json.dumps(request).encode())
    whole[chance.randrange(len(whole))] = chance.choice((0xFF, 0xC0, 0xFE))
    return bytes(whole)


_WRONG: dict[str, Callable[[Good, random.Random], Good | bytes]] = {
    "noise": lambda _, chance: chance.randbytes(chance.randrange(2, 2000)) + b"\xff",
    "not UTF-8": _flipped,
    "cut off": _cut,
    "no object": lambda _, chance: chance.choice((b"[]", b"7", b'"submit"', b"null", b"", b" ")),
    "deeply nested": lambda _, chance: b"[" * chance.randrange(1000, 30_000),
    "too large": lambda request, _: request | {"source": "/" + "a" * 70_000},
    "unknown schema": lambda request, chance: (
        request | {"schema": chance.choice(("upframe.job/2", "x", None, 1, ["upframe.job/1"]))}
    ),
    "key missing": _without,
    "key too many": lambda request, _: request | {"sourze": "/a"},
    "wrong type": _wrong_type,
    "bad id": lambda request, chance: (
        request | {"id": chance.choice(("", "a/b", "../x", "+", "#", "a" * 65, "a\u0000", " "))}
    ),
    "outside the roots": lambda request, chance: (
        request | {"sink": chance.choice(("/etc/x.mp4", "/tmp/../x.mp4", "relative.mp4"))}
    ),
    "refused scheme": lambda request, _: request | {"source": "ftp://user:secret@host/a.mp4"},
    "no filter": lambda request, _: request | {"filters": {}},
    "unknown filter": lambda request, _: request | {"filters": {"enable_magic": True}},
    "number out of range": lambda request, chance: (
        request | {"filters": {**ENLARGE, "upscaling_scale": chance.choice((0, -1, 1e300, 99))}}
    ),
    "NaN": lambda request, _: json.dumps(request | {"priority": float("nan")}).encode(),
    "bad response topic": lambda request, _: json.dumps(request).encode(),
}


if __name__ == "__main__":
    run_as_script("malformed", __doc__, measure, bad=2000, good=50)

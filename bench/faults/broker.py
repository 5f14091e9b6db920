"""Mosquitto is stopped and started again and again under a stream of submissions.

    python bench/faults/broker.py [--restarts 20] [--jobs 300] [--per-second 2] [--up-seconds 8]

The broker has `persistence true` and is stopped by SIGTERM, for a time of chance. A persistent
client sends jobs with QoS 1 all along, and again what was not acknowledged. Correct is: each job
is done, once; and what the broker holds of each job at the end is that it is done.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import paths  # noqa: F401  # finds what is imported next
from figures import Outcome, equal, none_of, run_as_script
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from processes import Beside
from support.jobs.daemon import RunningDaemon, until
from support.servers.mqtt import Broker, broker_in, retained_of
from witness import Witness
from yard import (
    BASE,
    ENLARGE,
    Yard,
    document,
    ended_twice,
    logged,
    running,
    shows,
    some_clips,
    yard_in,
)

FRAMES = (3, 4, 5)


def measure(
    folder: Path, *, restarts: int, jobs: int, per_second: float, up_seconds: float, seed: int
) -> Outcome:
    chance = random.Random(seed)
    with yard_in(folder) as yard, broker_in(folder / "broker") as broker:
        clips = some_clips(yard, *FRAMES)
        config = yard.config(broker)
        with running(yard, config) as daemon, Witness(yard.asked) as witness:
            with persistent_client(broker) as client:
                sender = Sender(client, yard, clips, jobs, per_second)
                downs = [restart(broker, daemon, chance, up_seconds) for _ in range(restarts)]
                sender.end()
                acknowledged = sender.acknowledged()
            yard.until_ended(jobs)
            shown = states_at(broker, jobs)
            connections = daemon.status()["mqtt"]["connections"]
            code = daemon.stop()
        details = {
            "seconds without a broker": round(sum(downs), 1),
            "connections of the daemon": connections,
            "submissions while it was away": sender.while_away,
        }
        return judged(yard, witness, clips, jobs, acknowledged, shown, code, details)


@contextmanager
def persistent_client(broker: Broker) -> Iterator[Client]:
    """A client that keeps its session, connects again by itself, and repeats what was not heard."""
    client = Client(CallbackAPIVersion.VERSION2, "submitter", protocol=MQTTProtocolVersion.MQTTv5)
    session = Properties(PacketTypes.CONNECT)
    session.SessionExpiryInterval = 3600
    client.reconnect_delay_set(1, 1)
    client.connect("127.0.0.1", broker.port, clean_start=False, properties=session)
    client.loop_start()
    try:
        yield client
    finally:
        client.disconnect()
        client.loop_stop()
        client.on_publish = None  # no circle of references: its sockets close with the last one


def restart(broker: Broker, daemon: RunningDaemon, chance: random.Random, most: float) -> float:
    """Let the broker run for a time, be away for a time; returns how long it was away.

    Mostly it goes when the daemon has been there for up to `most` seconds, else while it is still
    on its way.
    """
    if chance.random() < 0.8:
        until(lambda: daemon.status()["mqtt"]["connected"], "the daemon has returned", 90.0)
        time.sleep(chance.uniform(0.2, most))
    else:
        time.sleep(chance.uniform(0.2, min(most, 3.0)))
    began = time.monotonic()
    broker.stop()
    time.sleep(chance.uniform(0.0, 1.5))
    broker.start()
    return time.monotonic() - began


class Sender:
    """Submits jobs, whether the broker is there or not."""

    def __init__(
        self, client: Client, yard: Yard, clips: list[Path], jobs: int, per_second: float
    ) -> None:
        self.while_away = 0
        self._client = client
        self._acknowledged: set[int] = set()
        """Message ids; paho keeps what is sent without a connection, and sends it later."""
        self._hurry = threading.Event()
        client.on_publish = lambda _client, _data, mid, _code, _more: self._acknowledged.add(mid)
        self._jobs = jobs
        self._thread = Beside("submissions", self._send, yard, clips, jobs, per_second)

    def end(self) -> None:
        """Send what is left at once, now that the broker stays."""
        self._hurry.set()
        self._thread.join()

    def acknowledged(self) -> int:
        """Wait for the broker to have all; returns how many it has."""
        with suppress(AssertionError):
            until(lambda: len(self._acknowledged) == self._jobs, "acknowledgements", 120)
        return len(self._acknowledged)

    def _send(self, yard: Yard, clips: list[Path], jobs: int, per_second: float) -> None:
        for index in range(jobs):
            self.while_away += not self._client.is_connected()
            request = document(
                f"job{index}", clips[index % len(clips)], sink_of(yard, index), ENLARGE
            )
            payload = json.dumps(request)
            self._client.publish(f"{BASE}/job/submit", payload, qos=1)
            self._hurry.wait(1 / per_second)


def sink_of(yard: Yard, index: int) -> Path:
    return yard.asked / f"job{index}.mp4"


def states_at(broker: Broker, jobs: int) -> Counter[str]:
    """What the broker holds of the jobs, once all are reported as done, or after some time."""
    end = time.monotonic() + 30
    while True:
        retained = asyncio.run(retained_of(broker, f"{BASE}/#"))
        states = Counter(
            json.loads(payload)["state"]
            for topic, payload in retained.items()
            if topic.endswith("/state")
        )
        if states["done"] == jobs or time.monotonic() > end:
            return states
        time.sleep(0.5)


def judged(
    yard: Yard,
    witness: Witness,
    clips: list[Path],
    jobs: int,
    acknowledged: int,
    shown: Counter[str],
    code: int,
    details: dict[str, Any],
) -> Outcome:
    stored = {job.id: job for job in yard.jobs()}
    names = [f"job{index}" for index in range(jobs)]
    begun = Counter(line["job_id"] for line in logged(yard) if line.get("event") == "job-begun")
    wrong = [
        name
        for index, name in enumerate(names)
        if getattr(shows(sink_of(yard, index)), "frames", None) != FRAMES[index % len(clips)]
    ]
    lost = [name for name in names if name not in stored or stored[name].state != "done"]
    checks = [
        equal("submissions that the broker has acknowledged", acknowledged, jobs),
        none_of("jobs lost", lost),
        equal("jobs in the store", len(stored), jobs),
        none_of("jobs begun more than once", [name for name, n in begun.items() if n > 1]),
        none_of("jobs done more than once", ended_twice(yard)),
        none_of("outputs published more than once", witness.twice()),
        none_of("outputs missing or wrong", wrong),
        equal("retained states at the end", dict(shown), {"done": jobs}),
        none_of("leftovers", yard.leftovers()),
        equal("exit of the daemon", code, 0),
    ]
    return Outcome(checks, details)


if __name__ == "__main__":
    run_as_script("broker", __doc__, measure, restarts=20, jobs=300, per_second=2.0, up_seconds=8.0)

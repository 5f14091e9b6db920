"""How much memory the daemon gains over many short jobs.

    python bench/faults/growth.py [--jobs 1000]

They arrive by MQTT, by the control socket and in a watched folder, a few at a time. The figure is
the resident memory after the last one, less that of the daemon when it was ready.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import paths  # noqa: F401  # finds what is imported next
from broker import persistent_client
from figures import Outcome, at_most, equal, none_of, run_as_script
from support.servers.mqtt import broker_in
from yard import (
    BASE,
    ENLARGE,
    arrive,
    document,
    ended_twice,
    running,
    shows,
    shuffled,
    some_clips,
    yard_in,
)

_MOST_MEGABYTES = 30.0
_FRAMES = 2
_AT_ONCE = 20


def measure(folder: Path, *, jobs: int, seed: int) -> Outcome:
    ways = shuffled(random.Random(seed), ("mqtt", "cli", "watch"), jobs)
    with yard_in(folder) as yard, broker_in(folder / "broker") as broker:
        (clip,) = some_clips(yard, _FRAMES)
        config = yard.config(broker, watches=(yard.watch(),))
        with running(yard, config) as daemon, persistent_client(broker) as client:
            resident = [daemon.status()["resident_bytes"]]
            for number, way in enumerate(ways):
                name = f"job{number}"
                sink = yard.asked / f"{name}.mp4"
                if way == "mqtt":
                    request = json.dumps(document(name, clip, sink, ENLARGE))
                    client.publish(f"{BASE}/job/submit", request, qos=1)
                elif way == "cli":
                    daemon.submit(clip, sink, ENLARGE, name)
                else:
                    arrive(clip, yard.input / sink.name)
                if number % _AT_ONCE == _AT_ONCE - 1:
                    yard.until_ended(number + 1 - _AT_ONCE)
                if number % max(1, jobs // 20) == 0:
                    resident.append(daemon.status()["resident_bytes"])
            yard.until_ended(jobs)
            resident.append(daemon.status()["resident_bytes"])
            code = daemon.stop()
        outputs = [path for each in (yard.asked, yard.watched) for path in each.glob("*.mp4")]
        wrong = [path for path in outputs if getattr(shows(path), "frames", None) != _FRAMES]
        stored = yard.jobs()
        grown = (resident[-1] - resident[0]) / 1e6
        checks = [
            at_most("memory gained since it was ready", grown, _MOST_MEGABYTES, "MB"),
            at_most("the same at its peak", _peak(resident), _MOST_MEGABYTES, "MB"),
            equal("jobs done", sum(job.state == "done" for job in stored), jobs),
            none_of("jobs done twice", ended_twice(yard)),
            equal("outputs", len(outputs), jobs),
            none_of("outputs that are wrong", wrong),
            none_of("leftovers", yard.leftovers()),
            equal("exit of the daemon", code, 0),
        ]
        return Outcome(checks, {"resident MB": [round(each / 1e6, 1) for each in resident]})


def _peak(resident: list[int]) -> float:
    return (max(resident) - resident[0]) / 1e6


if __name__ == "__main__":
    run_as_script("growth", __doc__, measure, jobs=1000)

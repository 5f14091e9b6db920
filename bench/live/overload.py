"""A camera that gives four times what this machine can do, for ten minutes.

    python bench/live/overload.py [--seconds 600] [--times 4] [--size WxH] [--rate 15] [--short]

Without a size it is found by measuring. Correct is: the governor
has found its level within 10 s, the delay keeps to its budget all the time, the output keeps its
form, and memory does not grow.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import paths  # noqa: F401  # finds what is imported next
from capacity import size_for
from cores import on_two_cores
from figures import Outcome, at_most, equal, none_of, run_as_script, timed
from shown import judged
from stream import Sample, Stream, growth_bytes
from support.servers.camera import Camera
from support.servers.receivers import Receiver

BUDGET_SECONDS = 2.0
SETTLED_SECONDS = 10.0
SHORT: dict[str, Any] = {"seconds": 5.0, "size": "320x180", "rate": 60, "device": "cpu"}
"""Too much for any two cores: to find that by measuring takes its time. Pictures are small, so that
memory is at rest after seconds."""
_HOLDS_SECONDS = 4.0
"""A level that is kept for this long has been settled at: the first try upwards comes after 5 s."""


def measure(
    folder: Path, *, seconds: float, times: float, size: str, rate: int, device: str, seed: int
) -> Outcome:
    report = folder / "report.json"
    with on_two_cores():
        load = None
        if not size:
            size, load = size_for(times, rate, device)
        with (
            Camera(size=size, rate=rate) as camera,
            Receiver(folder / "received") as receiver,
            Stream(camera.url, receiver.url, "--report", str(report), "--device", device) as stream,
        ):
            first = stream.until(lambda s: s.count("frames_decoded"), "frames come in")
            begun = stream.until_running()
            end = begun.at + seconds
            last = stream.until(lambda s: s.at >= end, "the time is over", seconds + 60)
            code = stream.stop()
            received = receiver.wait()
    samples = [each for each in stream.after(first.at) if each.at <= last.at]
    settled = settled_at(samples)
    document = json.loads(report.read_text())
    checks, shown = judged([receiver.file], doubled(size), 2 * rate)
    warm_from = begun.at + min(SETTLED_SECONDS, seconds / 2)
    grown = growth_bytes([each.resident_bytes for each in samples if each.at >= warm_from])
    changes = last.count("level_changes") - settled.count("level_changes")
    checks = [
        timed(
            at_most("delay, longest of all", document["delay_seconds"]["max"], BUDGET_SECONDS, "s")
        ),
        at_most("delay, 99th percentile", document["delay_seconds"]["p99"], BUDGET_SECONDS, "s"),
        timed(at_most("until settled", settled.at - first.at, SETTLED_SECONDS, "s")),
        timed(at_most("level changes after that", changes, 2 * most_tries(seconds), "by tries")),
        none_of("full work at the end", [last.status["level"]] * (last.status["level"] == "full")),
        at_most("growth of memory", grown / 1e6, 20.0, "MB"),
        *checks,
        equal("exit of the stream", code, 0),
        equal("exit of the receiver", received, 0),
        equal("errors of the receiver", receiver.log, ""),
        none_of("processes left", stream.left()),
    ]
    details: dict[str, Any] = {
        "size": size,
        "times what full work can do": load and round(load, 2),
        "level": last.status["level"],
        "levels": document["levels"][:40],
        "delay": document["delay_seconds"],
        "counts": document["counts"],
        "resident MB": [round(s.resident_bytes / 1e6) for s in samples[:: len(samples) // 10 + 1]],
        "received": shown,
    }
    return Outcome(checks, details)


def settled_at(samples: list[Sample]) -> Sample:
    """Find the first status whose level is kept for a while."""
    for index, sample in enumerate(samples):
        later = [each for each in samples[index:] if each.at <= sample.at + _HOLDS_SECONDS]
        if sample.written and {each.status["level"] for each in later} == {sample.status["level"]}:
            return sample
    return samples[-1]


def most_tries(seconds: float) -> int:
    """How often a better level may be tried where the quiet time doubles, from 5 s on."""
    return math.floor(math.log2(seconds / 5.0 + 1.0))


def doubled(size: str) -> str:
    width, height = (int(word) for word in size.split("x"))
    return f"{2 * width}x{2 * height}"


if __name__ == "__main__":
    long = {"seconds": 600.0, "times": 4.0, "size": "", "rate": 15, "device": "auto"}
    run_as_script("overload", __doc__, measure, SHORT, **long)

"""The highest rate of a camera at which a stream gives up nothing, by two versions of upframe.

    python bench/live/rate.py --old OTHER/.venv/bin/upframe [--new .venv/bin/upframe] [--seconds 60]
        [--rounds 3] [--low 8] [--high 48] [--short]

320x180, made twice as smooth and twice as large with the built-in weights, on two cores, on which
camera and receiver run too. A rate holds if every status from the time that the stream has settled
until the end shows the level `full` and no frame dropped. Rates are bisected to 5 %, the versions
take turns, and only the command line and its status are used, so that any version can be compared.
Without --old one version is measured. Correct is: the new version holds 1.15 times the old rate.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import paths  # noqa: F401  # finds what is imported next
from cores import on_two_cores
from figures import Check, Outcome, at_least, run_as_script, timed
from stream import Sample, Stream
from support.jobs.daemon import UPFRAME
from support.servers.camera import Camera
from support.servers.receivers import Receiver

SIZE = "320x180"
GOAL = 1.15
_PRECISION = 1.05
"""Between the highest rate that held and the lowest that did not."""
SHORT: dict[str, Any] = {
    "seconds": 2.0,
    "settle_seconds": 1.0,
    "rounds": 1,
    "low": 5.0,
    "high": 5.4,
}


@dataclass
class Version:
    """One command, and what it held so far."""

    name: str
    command: tuple[str, ...]
    rates: list[float] = field(default_factory=list[float])
    trials: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


def measure(
    folder: Path,
    *,
    old: str,
    new: str,
    seconds: float,
    settle_seconds: float,
    rounds: int,
    low: float,
    high: float,
    seed: int,
) -> Outcome:
    versions = [Version("new", (new,) if new else tuple(UPFRAME))]
    if old:
        versions.insert(0, Version("old", (old,)))
    for index in range(rounds):
        for version in versions if index % 2 == 0 else reversed(versions):

            def holds(rate: Fraction, version: Version = version) -> bool:
                trial = try_rate(folder, version.command, rate, seconds, settle_seconds)
                version.trials.append(trial)
                return trial["why not"] is None

            version.rates.append(highest(holds, low, high))
    return Outcome(_checks(versions), {each.name: _details(each) for each in versions})


def highest(holds: Callable[[Fraction], bool], low: float, high: float) -> float:
    """Bisect between a rate that holds and one that does not; 0 if none between them does."""
    best = 0.0
    while high / low > _PRECISION:
        rate = Fraction(round(math.sqrt(low * high) * 10), 10)
        if holds(rate):
            low = best = float(rate)
        else:
            high = float(rate)
    return best


def try_rate(
    folder: Path, command: Sequence[str], rate: Fraction, seconds: float, settle_seconds: float
) -> dict[str, Any]:
    """Run one stream at a rate to its end, or until it shows that the rate does not hold."""
    received = folder / "received"
    with (
        on_two_cores(),
        Camera(size=SIZE, rate=rate) as camera,
        Receiver(received) as receiver,
        Stream(camera.url, receiver.url, command=command) as stream,
    ):
        began = stream.until_running().at + settle_seconds
        first = stream.until(lambda s: s.at >= began, "settled", settle_seconds + 30)
        last = stream.until(
            lambda s: s.at >= began + seconds or _why_not(first, s), "the end", seconds + 60
        )
        stream.stop()
    shutil.rmtree(received)
    return {
        "rate": float(rate),
        "why not": _why_not(first, last),
        "delay": last.status["delay_seconds"],
        "waiting": last.status["waiting_frames"],
    }


def _why_not(first: Sample, last: Sample) -> str | None:
    """Why a rate does not hold; None if it does so far."""
    if last.status["level"] != "full":
        return f"level {last.status['level']}"
    for name in ("level_changes", "frames_dropped"):
        if gained := last.count(name) - first.count(name):
            return f"{gained} {name.replace('_', ' ')}"
    return None


def _checks(versions: list[Version]) -> list[Check]:
    figures = {version.name: median(version.rates) for version in versions}
    checks = [
        timed(at_least(f"{name}, frames a second", each, 1)) for name, each in figures.items()
    ]
    if figures.get("old"):
        checks.append(timed(at_least("new over old", figures["new"] / figures["old"], GOAL)))
    return checks


def _details(version: Version) -> dict[str, Any]:
    return {"command": version.command, "rates": version.rates, "trials": version.trials}


if __name__ == "__main__":
    sizes = {"seconds": 60.0, "settle_seconds": 15.0, "rounds": 3, "low": 8.0, "high": 48.0}
    run_as_script("rate", __doc__, measure, SHORT, old="", new="", **sizes)

"""A camera that dies, freezes and cannot be reached, under a receiver that must not notice.

    python bench/live/outages.py [--kills 20] [--freezes 10] [--cuts 1] [--cut-seconds 60] [--short]

Killed by `kill -9` and started again, frozen by SIGSTOP, behind a line that is cut, each for a time
of chance. Correct is: frames come in again within 5 s of its return, or after an outage of more
than 25 s within the step of the back-off that has been reached; the receiver gets one stream with
timestamps that strictly rise, in one form, without an error.

Each outage begins after three seconds of frames or more: of less than two, the back-off takes no
notice.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import paths  # noqa: F401  # finds what is imported next
from figures import Check, Outcome, at_most, equal, none_of, run_as_script
from shown import judged
from stream import Stream
from support.servers.camera import Camera
from support.servers.line import Line
from support.servers.receivers import Receiver

SIZE, RATE = "160x90", 15
SHORT = {"kills": 1, "freezes": 1, "cuts": 0, "most_seconds": 2.5, "between_seconds": 0.5}
STEPS = ((30.0, 5.0), (130.0, 10.0), (float("inf"), 60.0))
"""Until an outage lasts so long, attempts are so far apart, or nearer; seconds."""
_SOON_SECONDS = 25.0
_NEVER_SECONDS = 120.0


@dataclass(frozen=True)
class Plan:
    """One outage to come."""

    kind: str
    away_seconds: float
    back_seconds: float
    """Allowed until frames come in again, after no more than 25 s."""
    after_seconds: float
    """From the return before."""

    @property
    def allowed_seconds(self) -> float:
        if self.away_seconds <= _SOON_SECONDS:
            return self.back_seconds
        step = next(step for until, step in STEPS if self.away_seconds <= until)
        return max(step, self.back_seconds)


@dataclass(frozen=True)
class Return:
    """One outage, and how it ended."""

    kind: str
    away_seconds: float
    back_seconds: float
    most_seconds: float
    slate: bool
    """Whether the output has shown one meanwhile."""

    @property
    def late(self) -> bool:
        return self.back_seconds > self.most_seconds


def measure(
    folder: Path,
    *,
    kills: int,
    freezes: int,
    cuts: int,
    cut_seconds: float,
    most_seconds: float,
    back_seconds: float,
    between_seconds: float,
    seed: int,
) -> Outcome:
    chance = random.Random(seed)

    def planned(kind: str) -> Plan:
        away = cut_seconds if kind == "cut" else chance.uniform(2.0, most_seconds)
        return Plan(kind, away, back_seconds, chance.uniform(1.0, 2.0) * between_seconds)

    plans = [planned(kind) for kind in ["kill"] * kills + ["freeze"] * freezes]
    chance.shuffle(plans)
    checks, details = run(folder / "direct", plans)
    if cuts:  # apart from the others: it is the line that answers, or not, where there is one
        more, details["by a line"] = run(folder / "line", [planned("cut")] * cuts)
        checks += [replace(check, what=f"{check.what}, by a line") for check in more]
    return Outcome(checks, details)


def run(folder: Path, plans: list[Plan]) -> tuple[list[Check], dict[str, Any]]:
    """One stream, through some outages."""
    with ExitStack() as stack:
        camera = stack.enter_context(Camera(size=SIZE, rate=RATE))
        url = camera.url
        ways = {"kill": (camera.kill, camera.start), "freeze": (camera.freeze, camera.resume)}
        if any(plan.kind == "cut" for plan in plans):
            line = stack.enter_context(Line(camera.port))
            url = line.through(url)
            ways["cut"] = (line.cut, line.mend)
        receiver = stack.enter_context(Receiver(folder))
        stream = stack.enter_context(Stream(url, receiver.url))
        began = stream.until_running(RATE)
        returns: list[Return] = []
        for plan in plans:
            time.sleep(plan.after_seconds)
            returns.append(outage(stream, plan, *ways[plan.kind]))
        time.sleep(1.0)
        last = stream.now
        code = stream.stop()
        received = receiver.wait()
        checks, shown = judged([receiver.file], "320x180", 2 * RATE)
        missing = last.at - began.at - sum(each["seconds"] for each in shown.values())
        unseen = [each for each in returns if each.away_seconds > 3.5 and not each.slate]
        checks = [
            none_of("returns that came too late", [each for each in returns if each.late]),
            none_of("outages without a slate", unseen),
            at_most("time that the receiver's video lacks", missing, 3.0, "s"),
            equal("connections of the output", last.status["output_state"]["connections"], 1),
            *checks,
            equal("exit of the stream", code, 0),
            equal("exit of the receiver", received, 0),
            equal("errors of the receiver", receiver.log, ""),
            none_of("processes left", stream.left()),
        ]
        details: dict[str, Any] = {
            "returns": [asdict(each) for each in returns],
            "longest": {
                kind: max((r.back_seconds for r in returns if r.kind == kind), default=None)
                for kind in ways
            },
            "reconnects": last.status["reconnects"],
            "counts": last.status["counts"],
            "delay": last.status["delay_seconds"],
            "received": shown,
        }
        return checks, details


def outage(stream: Stream, plan: Plan, go: Callable[[], None], come: Callable[[], None]) -> Return:
    """Let the camera be away for a time; returns how soon its frames are there again."""
    gone = time.monotonic()
    go()
    time.sleep(plan.away_seconds)
    come()
    returned = time.monotonic()
    before = stream.now.count("frames_decoded")
    seconds = _NEVER_SECONDS
    with suppress(AssertionError):  # it is reported as too late
        back = stream.until(
            lambda s: s.at > returned and s.count("frames_decoded") > before,
            f"back after {plan}",
            _NEVER_SECONDS,
        )
        since_first = (back.count("frames_decoded") - before - 1) / RATE
        seconds = max(0.0, back.at - returned - since_first)
    slate = any(each.status["showing"] == "slate" for each in stream.after(gone))
    away = round(plan.away_seconds, 2)
    return Return(plan.kind, away, round(seconds, 2), plan.allowed_seconds, slate)


if __name__ == "__main__":
    run_as_script(
        "outages",
        __doc__,
        measure,
        SHORT,
        kills=20,
        freezes=10,
        cuts=1,
        cut_seconds=60.0,
        most_seconds=25.0,
        back_seconds=5.0,
        between_seconds=3.0,
    )

"""Runs of `upframe run` on films, what their journals show, and runs that are killed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import paths  # noqa: F401  # finds what is imported next
from processes import children_of, kill, until_gone
from support.jobs.daemon import UPFRAME

from upframe.daemon.convert.plan import Plan, plan_folder
from upframe.filters.kernels.ways import SWITCH
from upframe.filters.options import Way

ONE_SEGMENT = 1_000_000
"""Frames in a segment: more than any film here has."""
WEIGHTS = ("--weights", "builtin")
RUN_SECONDS = 3600.0
# The way of a network belongs to the plan. Where other work disturbs, each process measures another
os.environ.setdefault(SWITCH, ",".join(reversed(get_args(Way))))


@dataclass(frozen=True)
class Ran:
    """A run that has ended."""

    code: int
    said: str
    """On stderr."""
    report: Mapping[str, Any]

    @property
    def why_whole(self) -> str | None:
        """Why it was not divided."""
        _, _, why = self.said.partition("if it is broken off, it begins anew: ")
        return why.splitlines()[0] if why else None

    @property
    def segments(self) -> int:
        """How many there were; 1 if it was not divided."""
        return (self.report.get("resumed") or {}).get("segments", 1)


def words_of(source: Path, sink: Path, report: Path, *words: object) -> list[str]:
    """The command line of a run."""
    given = [source, sink, *WEIGHTS, "--progress", "none", "--report", report, *words]
    return [*UPFRAME, "run", *map(str, given)]


def attempt(source: Path, sink: Path, *words: object, **environment: str) -> Ran:
    """Run once, to its end."""
    report = sink.with_suffix(".json")
    report.unlink(missing_ok=True)
    ran = subprocess.run(
        words_of(source, sink, report, *words), capture_output=True, text=True, timeout=RUN_SECONDS,
        env=os.environ | environment,
    )  # fmt: skip
    written = json.loads(report.read_text()) if report.exists() else {}
    return Ran(ran.returncode, ran.stderr, written)


def converted(source: Path, sink: Path, *words: object, **environment: str) -> Ran:
    """Run once, and well.

    Raises:
        RuntimeError: if it fails.
    """
    ran = attempt(source, sink, *words, **environment)
    if ran.code:
        raise RuntimeError(f"{sink.name}: exit {ran.code}: {ran.said}")
    return ran


@dataclass
class Progress:
    """What the journal of a run shows."""

    done: int = 0
    begun: int = 0
    """Attempts of all segments."""


def progress_of(sink: Path) -> Progress | None:
    """Read the journal beside an output; None where there is none."""
    try:
        plan = Plan.opened(plan_folder(sink))
    except OSError:
        return None
    if plan is None:
        return None
    entries = plan.entries()
    plan.close()
    return Progress(
        sum(one.state == "done" for one in entries), sum(one.attempts for one in entries)
    )


@dataclass
class Kills:
    """A run that was killed again and again, and then left to finish."""

    number: int = 0
    loading: int = 0
    """Of these, before any segment of that process was begun."""
    in_flight: int = 0
    """Segments that were begun and not finished, at all kills together."""
    lost: list[str] = field(default_factory=list)
    """Kills after which fewer segments were done than before."""
    orphans: list[int] = field(default_factory=list)
    last: Ran | None = None
    most_in_flight: int = 0


def kill_often(
    source: Path, sink: Path, words: Sequence[object], kills: int, dice: random.Random
) -> Kills:
    """Kill a run with `kill -9` at random moments, and let the last one finish."""
    found, before = Kills(), Progress()
    while found.number < kills:
        command = words_of(source, sink, sink.with_suffix(".json"), *words)
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        if dice.random() < 0.3:
            _wait(child, sink, before.done + ONE_SEGMENT, dice.uniform(0, 5))
        else:
            _wait(child, sink, before.done + 1, 60)
            time.sleep(dice.uniform(0, 0.5))
        children = children_of(child.pid)
        if child.poll() is not None:
            break  # too late
        kill([child.pid])
        child.wait()
        found.orphans += until_gone(children)
        found.number += 1
        now = progress_of(sink) or Progress()
        if now.done < before.done:
            found.lost.append(f"kill {found.number}: {before.done} done, then {now.done}")
        broken = now.begun - before.begun - (now.done - before.done)
        found.in_flight += broken
        found.most_in_flight = max(found.most_in_flight, broken)
        found.loading += now.begun == before.begun
        before = now
    found.last = converted(source, sink, *words)
    return found


def _wait(child: subprocess.Popen[bytes], sink: Path, done: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and child.poll() is None:
        now = progress_of(sink)
        if now is not None and now.done >= done:
            return
        time.sleep(0.01)

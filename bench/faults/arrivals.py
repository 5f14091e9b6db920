"""Files that arrive in pieces, by every way that files arrive, in watched folders.

    python bench/faults/arrivals.py [--seconds 60] [--stable-seconds 2]

By copy, by copy with pauses in which the file holds still (an MP4 whose index comes last), by
rename of a hidden and of a `.part` file, by rsync and by rsync --inplace; each at once into a
folder that is watched by events and into one that is polled. Correct is: each file is taken once,
not before it is whole, and its output is that of a file which was whole from the start.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import paths  # noqa: F401  # finds what is imported next
from figures import Outcome, equal, none_of, run_as_script
from processes import Beside
from support.media.clips import make_clip
from witness import Witness
from yard import (
    ENLARGE,
    Content,
    Yard,
    ended_twice,
    logged,
    running,
    shows,
    yard_in,
)

from upframe.daemon.jobs.model import Job
from upframe.io.demo import write_demo_clip

_PAUSE_FACTOR = 3.0
"""Of `stable_seconds`, for who holds still on the way."""
MODES = ("events", "poll")

Arrive = Callable[[Path, Path, float, float, random.Random], None]
"""Source, target, seconds that it takes, seconds of holding still, chance."""


def measure(folder: Path, *, seconds: float, stable_seconds: float, seed: int) -> Outcome:
    with yard_in(folder) as yard:
        index_first, index_last = clips_of(yard)
        watches = tuple(
            yard.watch(
                input=_made(yard.input / mode),
                output=_made(yard.watched / mode),
                mode=mode,
                stable_seconds=stable_seconds,
                scan_seconds=max(0.2, stable_seconds / 2),
            )
            for mode in MODES
        )
        with (
            running(yard, yard.config(watches=watches)) as daemon,
            Witness(*(yard.watched / mode for mode in MODES)) as witness,
        ):
            for clip in (index_first, index_last):
                daemon.submit(clip, yard.asked / clip.name, ENLARGE, f"whole-{clip.stem}")
            yard.until_ended(2)
            whole = {clip: shows(yard.asked / clip.name) for clip in (index_first, index_last)}
            arrivals = [
                Arrival(way, mode, index_last if way == "copy with pauses" else index_first)
                for way in WAYS
                for mode in MODES
            ]
            for number, arrival in enumerate(arrivals):
                arrival.begin(yard, seconds, stable_seconds, random.Random(f"{seed} {number}"))
            for arrival in arrivals:
                arrival.beside.join(seconds * 4 + 60)
            yard.until_ended(2 + len(arrivals), 60 + 200 * stable_seconds)
            code = daemon.stop()
        return judged(yard, arrivals, whole, witness, code)


def clips_of(yard: Yard) -> tuple[Path, Path]:
    """Two MP4 files of some hundred KiB: one with its index first, one with it last."""
    first, last = yard.clips / "first.mp4", yard.clips / "last.mp4"
    write_demo_clip(first, width=64, height=48, rate=Fraction(1, 4), num_frames=6)
    make_clip(last, frames=6, rate=Fraction(1, 4), audio="pcm_s16le")
    return first, last


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


class Arrival:
    """One file on its way."""

    def __init__(self, way: str, mode: str, clip: Path) -> None:
        self.way = way
        self.mode = mode
        self.clip = clip
        self.name = f"{way.replace(' ', '-')}.mp4"
        self.whole_at: datetime | None = None

    def begin(
        self, yard: Yard, seconds: float, stable_seconds: float, chance: random.Random
    ) -> None:
        target = yard.input / self.mode / self.name
        self.beside = Beside(self.name, self._go, target, seconds, stable_seconds, chance)

    def _go(self, target: Path, seconds: float, stable: float, chance: random.Random) -> None:
        WAYS[self.way](self.clip, target, seconds, stable, chance)
        self.whole_at = datetime.now(UTC)


def by_copy(
    source: Path, target: Path, seconds: float, stable: float, chance: random.Random
) -> None:
    """Write piece after piece, none of which is waited for as long as `stable_seconds`."""
    data = source.read_bytes()
    end = time.monotonic() + seconds
    number = max(8, int(seconds / (stable * 0.4)))
    cuts = sorted(chance.randrange(len(data)) for _ in range(number - 1))
    with target.open("wb", buffering=0) as file:
        for piece, (first, last) in enumerate(zip([0, *cuts], [*cuts, len(data)], strict=True)):
            file.write(data[first:last])
            left = end - time.monotonic()
            if piece < number - 1:
                time.sleep(max(0.0, min(left / (number - piece), stable * 0.6)))


def by_copy_with_pauses(
    source: Path, target: Path, seconds: float, stable: float, chance: random.Random
) -> None:
    """Hold still in the middle, for longer than `stable_seconds`, and more than once."""
    data = source.read_bytes()
    cuts = [0, *sorted(chance.randrange(1, len(data) - 1) for _ in range(3)), len(data)]
    pause = max(seconds / 3, _PAUSE_FACTOR * stable)
    with target.open("wb", buffering=0) as file:
        for first, last in pairwise(cuts):
            file.write(data[first:last])
            if last < len(data):
                time.sleep(pause)


def by_rename(
    source: Path, target: Path, seconds: float, stable: float, chance: random.Random
) -> None:
    hidden = target.with_name(f".{target.name}.tmp1")
    by_copy(source, hidden, seconds, stable, chance)
    hidden.rename(target)


def by_rename_of_part(
    source: Path, target: Path, seconds: float, stable: float, chance: random.Random
) -> None:
    part = target.with_name(f"{target.name}.part")
    by_copy(source, part, seconds, stable, chance)
    part.rename(target)


def by_rsync(
    source: Path, target: Path, seconds: float, stable: float, chance: random.Random
) -> None:
    _rsync(source, target, seconds)


def by_rsync_inplace(
    source: Path, target: Path, seconds: float, stable: float, chance: random.Random
) -> None:
    _rsync(source, target, seconds, "--inplace")


def _rsync(source: Path, target: Path, seconds: float, *words: str) -> None:
    rate = max(1, round(source.stat().st_size / 1024 / seconds))
    limit = f"--bwlimit={rate}"  # KiB a second
    subprocess.run(["rsync", "-t", limit, *words, str(source), str(target)], check=True)


WAYS: dict[str, Arrive] = {
    "copy": by_copy,
    "copy with pauses": by_copy_with_pauses,
    "rename": by_rename,
    "rename of part": by_rename_of_part,
    "rsync": by_rsync,
    "rsync inplace": by_rsync_inplace,
}


def judged(
    yard: Yard,
    arrivals: list[Arrival],
    whole: dict[Path, Content | str],
    witness: Witness,
    code: int,
) -> Outcome:
    jobs = [job for job in yard.jobs() if job.origin == "watch"]
    times = Counter(Path(job.source) for job in jobs)
    targets = {yard.input / each.mode / each.name: each for each in arrivals}
    begun = Counter(line["job_id"] for line in logged(yard) if line.get("event") == "job-begun")
    wrong = [
        f"{each.mode}/{each.name}"
        for each in arrivals
        if shows(yard.watched / each.mode / each.name) != whole[each.clip]
    ]
    checks = [
        equal("files", len(times), len(arrivals)),
        none_of("taken more than once", [path for path, number in times.items() if number > 1]),
        none_of("taken before it was whole", [j.source for j in jobs if _too_early(j, targets)]),
        none_of("not done", [f"{job.source}: {job.error}" for job in jobs if job.state != "done"]),
        none_of("outputs not as of a whole file", wrong),
        none_of("begun more than once", [name for name, number in begun.items() if number > 1]),
        none_of("done more than once", ended_twice(yard)),
        none_of("outputs published more than once", witness.twice()),
        none_of("leftovers", yard.leftovers()),
        equal("exit of the daemon", code, 0),
    ]
    waits = {
        f"{Path(job.source).parent.name}/{Path(job.source).name}": _wait_of(job, targets)
        for job in jobs
    }
    sizes = {clip.name: clip.stat().st_size for clip in whole}
    return Outcome(checks, {"bytes": sizes, "seconds from whole to taken": waits})


def _too_early(job: Job, targets: dict[Path, Arrival]) -> bool:
    arrival = targets.get(Path(job.source))
    # rsync gives a file its name a moment before it ends
    slack = 0.5 if arrival is not None and "rsync" in arrival.way else 0.0
    whole_at = None if arrival is None else arrival.whole_at
    return whole_at is None or (whole_at - job.created).total_seconds() > slack


def _wait_of(job: Job, targets: dict[Path, Arrival]) -> Any:
    arrival = targets.get(Path(job.source))
    if arrival is None or arrival.whole_at is None:
        return None
    return round((job.created - arrival.whole_at).total_seconds(), 2)


if __name__ == "__main__":
    run_as_script("arrivals", __doc__, measure, seconds=60.0, stable_seconds=2.0)

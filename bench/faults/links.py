"""Links bent at moments of chance, while jobs wait and run: nothing outside is read or written.

    python bench/faults/links.py [--moments 1000]

Jobs arrive by MQTT and in a watched folder. While they wait, are looked at, run and are settled,
one thing on their way becomes a link that leads outside of the roots, or into the daemon's own
state: the source, its folder, the output, its folder, a temporary name, the folder of locks, that
of done inputs. Some of them are bent back in time, some back and forth, some never. Among them
come jobs that are not disturbed.

Outside lie files and folders of the very names that would be met there. Each is known by content,
times and links; a read shows by its time of access, where the file system keeps it. A video
outside is of another size than all others, so that an output made of it is known.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import paths  # noqa: F401  # finds what is imported next
from broker import persistent_client
from figures import Outcome, at_least, equal, none_of, run_as_script
from support.servers.mqtt import broker_in
from yard import BASE, ENLARGE, Yard, arrive, document, running, yard_in

from upframe.daemon.jobs.model import Job, partial_token
from upframe.io.demo import write_demo_clip

_FRAMES = 5
_SIZE, _SIZE_OUTSIDE = 32, 48
_AT_ONCE = 12
"""Moments under way."""
_LATEST_SECONDS, _LONGEST_SECONDS = 1.2, 1.0
"""Until a link is bent, and until it is bent back."""
_LAST_SECONDS = 300.0

Bends = list[tuple[Path, str]]
"""Paths, and where links in their places lead."""


class Ground:
    """Where jobs come from and go to, and what lies outside."""

    def __init__(self, yard: Yard) -> None:
        self.yard = yard
        self.shared, self.done = yard.folder / "shared", yard.folder / "done"
        self.outside = yard.folder.parent / f"{yard.folder.name}-outside"
        for folder in (self.shared, self.done, self.outside):
            folder.mkdir()
        self.clip = yard.clips / "clip.mp4"
        for path, size in ((self.clip, _SIZE), (self.outside / "clip.mp4", _SIZE_OUTSIDE)):
            write_demo_clip(path, width=size, height=size, rate=Fraction(10), num_frames=_FRAMES)
        (self.outside / "out.mp4").write_text("precious")
        for name in ("in", "out", "sub"):
            (self.outside / name).mkdir()
            for file in ("clip.mp4", "out.mp4"):
                (self.outside / name / file).write_bytes((self.outside / file).read_bytes())
        self.tells_reads = self._age()
        self.before = self.seen()

    def _age(self) -> bool:
        """Set times of access so that a read will show; tell whether it does here."""
        everything = [self.outside, *self.outside.rglob("*")]
        trial = self.yard.folder / "trial"
        trial.write_text("x")
        for path in (trial, *everything):
            os.utime(path, ns=(0, time.time_ns() - 10**9))
        trial.read_text()
        return trial.stat().st_atime_ns > 0

    def seen(self) -> dict[str, tuple[int, ...]]:
        """All that a stat returns of what lies outside."""
        found: dict[str, tuple[int, ...]] = {}
        for parent, folders, files in os.walk(self.outside):
            for name in ("", *folders, *files):
                path = Path(parent) / name
                status = path.lstat()
                found[str(path.relative_to(self.outside))] = (
                    status.st_ino,
                    status.st_nlink,
                    status.st_mtime_ns,
                    status.st_ctime_ns,
                    0 if path.is_dir() else status.st_atime_ns,  # we list folders ourselves
                )
        return found


class Moments:
    """Jobs, and what is bent on their way."""

    def __init__(self, ground: Ground, chance: random.Random, say: Callable[[str], None]) -> None:
        self.ground = ground
        self.kinds: Counter[str] = Counter()
        self.bent: Counter[str] = Counter()
        self.taken: set[str] = set()
        """Names of what we have moved, so that no other process can remove it."""
        self._chance = chance
        self._say = say
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._begun = 0
        self._ways = itertools.cycle((self._ask, self._watch))

    def run(self, number: int) -> None:
        """Begin so many moments, some at once, and see them to their ends."""
        end = self._begun + number
        while self._begun < end or self._due:
            if self._begun < end and len(self._due) < _AT_ONCE:
                bends = next(self._ways)(f"m{self._begun}")
                self._begun += 1
                self._plan(*self._chance.choice(list(bends.items())))
            when, _, act = heapq.heappop(self._due)
            time.sleep(max(0.0, min(when - time.monotonic(), 0.2)))
            if when > time.monotonic():
                self._later(when - time.monotonic(), act)
            else:
                act()

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), act))

    def _plan(self, kind: str, bends: Bends) -> None:
        self.kinds[kind] += 1
        path, leads = self._chance.choice(bends)
        bend = self._chance.uniform(0.0, _LATEST_SECONDS)
        for times in range(self._chance.choice((1, 1, 4))):
            back = bend + self._chance.uniform(0.0, _LONGEST_SECONDS / (1 + times))
            self._later(bend, lambda: self._bend(kind, path, leads))
            if kind == "locks" or self._chance.random() < 0.7:  # without locks nothing is taken
                self._later(back, lambda: _bend_back(path))
            bend = back + self._chance.uniform(0.0, 0.05)

    def _bend(self, kind: str, path: Path, leads: str) -> None:
        with suppress(OSError):  # the daemon was faster, or another link is in the way
            for place in path.parent.glob(path.name) if "*" in path.name else [path]:
                if "*" in path.name and place.is_symlink():
                    continue
                if os.path.lexists(place) and not place.is_symlink():
                    place.rename(_aside(place))
                    self.taken.add(place.name)
                new = place.with_name(f".link-{place.name}")
                new.symlink_to(leads)
                new.rename(place)
                self.bent[kind] += 1

    def _ask(self, name: str) -> dict[str, Bends]:
        base, outside = self.ground.shared / name, str(self.ground.outside)
        source, sink = base / "in" / "clip.mp4", base / "out" / "out.mp4"
        for folder in (source.parent, sink.parent):
            folder.mkdir(parents=True)
        arrive(self.ground.clip, source)
        work = document(name, source, sink, ENLARGE) | {"overwrite": True}
        self._say(json.dumps(work))
        state, dots = "../../../state/jobs.sqlite", _dots(self.ground, 3, "clip.mp4")
        partial = sink.with_name(f".{sink.name}.{partial_token(name)}.partial")
        return {
            "source": [
                (source, f"{outside}/clip.mp4"),
                (source, dots),
            ],
            "source into the state": [(source, state)],
            "source's folder": [(source.parent, outside), (source.parent, _dots(self.ground, 2))],
            "sink": [(sink, f"{outside}/out.mp4"), (sink, f"{outside}/new.mp4"), (sink, state)],
            "sink's folder": [(sink.parent, outside), (sink.parent, "../../state")],
            "job's folder": [(base, outside), (base, _dots(self.ground, 1))],
            "temporary name": [(partial, f"{outside}/out.mp4"), (partial, f"{outside}/new.mp4")],
        }

    def _watch(self, name: str) -> dict[str, Bends]:
        yard, outside = self.ground.yard, str(self.ground.outside)
        source, sink = yard.input / name / "clip.mp4", yard.watched / name / "clip.mp4"
        source.parent.mkdir()
        arrive(self.ground.clip, source)
        locks = yard.watched / ".upframe-locks"
        return {
            "watched file": [(source, f"{outside}/clip.mp4"), (source, "../../state/jobs.sqlite")],
            "watched folder": [(source.parent, outside), (source.parent, "../state")],
            "output": [(sink, f"{outside}/out.mp4"), (sink, f"{outside}/new.mp4")],
            "output's folder": [(sink.parent, outside), (sink.parent, "../state")],
            "output's temporary name": [(sink.with_name(".*.partial"), f"{outside}/out.mp4")],
            "locks": [(locks, f"{outside}/sub"), (locks / "*.lock", f"{outside}/out.mp4")],
            "done folder": [(self.ground.done / name, f"{outside}/sub")],
        }


def _dots(ground: Ground, levels: int, name: str = "") -> str:
    return "../" * (levels + 1) + f"{ground.outside.name}/{name}"


def _aside(path: Path) -> Path:
    return path.with_name(f".aside-{path.name}")


def _bend_back(path: Path) -> None:
    for place in path.parent.glob(path.name) if "*" in path.name else [path]:
        with suppress(OSError):
            if place.is_symlink():
                place.unlink()
            if not os.path.lexists(place):
                _aside(place).rename(place)


def measure(folder: Path, *, moments: int, seed: int) -> Outcome:
    with yard_in(folder) as yard, broker_in(folder / "broker") as broker:
        ground = Ground(yard)
        more = {"on_done": "move", "done_dir": ground.done, "on_existing": "overwrite"}
        config = yard.config(broker, watches=(yard.watch(**more),), attempts=2, slots=1)
        with running(yard, config) as daemon, persistent_client(broker) as client:

            def say(text: str) -> None:
                client.publish(f"{BASE}/job/submit", text, qos=1)

            bender = Moments(ground, random.Random(seed), say)
            good = moments // 20 + 1
            for number in range(good):
                sink = yard.asked / f"good{number}.mp4"
                say(json.dumps(document(f"good{number}", ground.clip, sink, ENLARGE)))
                share = moments * (number + 1) // good - moments * number // good
                bender.run(share)
            idle = _until_idle(yard)
            code = daemon.stop()
        after = ground.seen()
        jobs = yard.jobs()
        checks = [
            none_of("written, made or removed outside", _differing(ground.before, after, 4)),
            none_of("read outside", _differing(ground.before, after, 5)),
            none_of("outputs made of what lies outside", list(_leaked(yard, ground))),
            equal("undisturbed jobs done", _done(jobs, "good"), good),
            equal("jobs all ended", idle, True),
            none_of("jobs that failed as internal", _internal(jobs)),
            none_of("temporary files left", _partials(yard, ground, bender.taken)),
            at_least("links bent", sum(bender.bent.values()), moments / 2),
            equal("exit of the daemon", code, 0),
        ]
        details = {
            "reads show by the time of access": ground.tells_reads,
            "moments": dict(bender.kinds),
            "bent": dict(bender.bent),
            "jobs": dict(Counter(job.state for job in jobs)),
            "errors": dict(Counter(job.error.code for job in jobs if job.error)),
        }
        return Outcome(checks, details)


def _until_idle(yard: Yard) -> bool:
    """Wait until nothing is queued or running, for some seconds on end."""
    end, still = time.monotonic() + _LAST_SECONDS, 0
    while still < 5:
        counts = yard.counts()
        still = 0 if counts.get("queued") or counts.get("running") else still + 1
        if time.monotonic() > end:
            return False
        time.sleep(1)
    return True


def _differing(
    before: dict[str, tuple[int, ...]], after: dict[str, tuple[int, ...]], facts: int
) -> list[str]:
    names = sorted(before.keys() | after.keys())
    return [name for name in names if before.get(name, ())[:facts] != after.get(name, ())[:facts]]


def _outputs(yard: Yard, ground: Ground) -> Iterator[Path]:
    for top in (yard.watched, yard.asked, ground.shared):
        for parent, _, files in os.walk(top):
            yield from (Path(parent) / name for name in files)


def _leaked(yard: Yard, ground: Ground) -> Iterator[Path]:
    for path in _outputs(yard, ground):
        if path.is_symlink() or path.suffix != ".mp4":
            continue
        with av.open(str(path)) as container:
            if container.streams.video[0].width not in (_SIZE, 2 * _SIZE):
                yield path


def _partials(yard: Yard, ground: Ground, taken: set[str]) -> list[Path]:
    return [
        path
        for path in _outputs(yard, ground)
        if path.suffix == ".partial" and not path.is_symlink()
        if not any(path.name.endswith(name) for name in taken)
    ]


def _done(jobs: list[Job], start: str) -> int:
    return sum(job.state == "done" and job.id.startswith(start) for job in jobs)


def _internal(jobs: list[Job]) -> list[str]:
    failed = [job for job in jobs if job.error and job.error.code == 70]
    return [f"{job.id}: {job.error and job.error.message}" for job in failed]


if __name__ == "__main__":
    run_as_script("links", __doc__, measure, short={"moments": 40}, moments=1000)

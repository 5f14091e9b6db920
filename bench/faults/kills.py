"""kill -9 of daemon, worker or both, again and again, while jobs arrive by three ways.

    python bench/faults/kills.py [--rounds 100] [--jobs 30]

Each round ends with a kill at a moment of chance: some time after the start, some time after a job
began to run, or within some milliseconds from when a result is entered into the ledger. Jobs
arrive all along: as a file in a watched folder, as an MQTT message of QoS 1, and by
`upframe jobs submit`, which is run again where no daemon answers. After the last round a daemon is
left alone to do what is left.

Correct is: every job done; every output there once, seen by the kernel's events and not by the
daemon's word; equal to what an undisturbed daemon made of the same clip, pixel for pixel; and no
temporary file, no entry in the ledger of results, no process left.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import paths  # noqa: F401  # finds what is imported next
from feeding import WAYS, Arrivals
from figures import Outcome, equal, none_of, run_as_script
from processes import children_of, kill, until_gone
from support.jobs.daemon import RunningDaemon, daemon_in
from support.servers.mqtt import broker_in
from witness import Witness
from yard import (
    DOUBLE,
    ENLARGE,
    Content,
    Yard,
    ended_twice,
    running,
    shows,
    shuffled,
    some_clips,
    yard_in,
)

FILTERS = {**DOUBLE, **ENLARGE}
FRAMES = (10, 12, 14, 16)
_TRY_SECONDS = 0.1
_LAST_SECONDS = 240.0
_MOST_WAIT_SECONDS = 5.0
"""For a job to be running."""


def measure(folder: Path, *, rounds: int, jobs: int, seed: int) -> Outcome:
    chance = random.Random(seed)
    with yard_in(folder) as yard, broker_in(folder / "broker") as broker:
        watch = yard.watch(filters=FILTERS)
        config = yard.config(broker, watches=(watch,), attempts=50, retry_delays=[_TRY_SECONDS])
        clips = some_clips(yard, *FRAMES)
        expected = references(yard, config, clips)
        arrivals = Arrivals(yard, broker, clips, shuffled(chance, WAYS, jobs), FILTERS)
        with Witness(yard.watched, yard.asked) as witness:
            killer = Killer(yard, config, chance, seconds_of_a_job(yard))
            for number in range(rounds):
                arrivals.release(up_to=-(-jobs * (number + 1) * 10 // (rounds * 9)))
                killer.one_round()
            killer.end()
            arrivals.release(up_to=jobs)
            with running(yard, config) as daemon:
                arrivals.end()
                yard.until_ended(jobs + len(clips), _LAST_SECONDS)
                until_tidy(yard)
                code = daemon.stop()
        return judged(yard, arrivals, expected, witness, killer, code)


def references(yard: Yard, config: Mapping[str, Any], clips: list[Path]) -> dict[Path, Content]:
    """What an undisturbed daemon makes of each clip."""
    with running(yard, config) as daemon:
        for clip in clips:
            daemon.submit(clip, yard.asked / f"reference-{clip.name}", FILTERS, f"r-{clip.stem}")
        yard.until_ended(len(clips))
        assert daemon.stop() == 0
    found = {clip: shows(yard.asked / f"reference-{clip.name}") for clip in clips}
    for (clip, content), frames in zip(found.items(), FRAMES, strict=True):
        assert isinstance(content, Content), f"{clip}: {content}"
        assert content.frames == 2 * frames - 1, f"{clip}: {content.frames} frames"
    return found  # type: ignore[return-value]


def seconds_of_a_job(yard: Yard) -> float:
    """How long one took that was not disturbed, on average."""
    times = [
        (job.ended - job.started).total_seconds()
        for job in yard.jobs()
        if job.ended and job.started
    ]
    return sum(times) / len(times)


class Killer:
    """One daemon after the other, and their deaths."""

    def __init__(
        self, yard: Yard, config: Mapping[str, Any], chance: random.Random, job_seconds: float
    ) -> None:
        self.kills: Counter[str] = Counter()
        self.moments: Counter[str] = Counter()
        """What was going on then."""
        self.processes: set[int] = set()
        """All children that any of the daemons was seen with."""
        self.ended_by_themselves: list[int] = []
        """Exit codes of daemons that were not killed."""
        self._yard = yard
        self._config = config
        self._chance = chance
        self.job_seconds = job_seconds
        self._daemon: RunningDaemon | None = None
        self._context: Any = None

    def one_round(self) -> None:
        """Wait for a moment, and kill somebody."""
        daemon = self._living()
        self._wait(daemon)
        victim = self._chance.choice(("daemon", "worker", "both"))
        children = children_of(daemon.process.pid)
        self.processes |= children
        victims = list(children) if victim == "worker" else [daemon.process.pid]
        if victim == "both":
            victims += children
            self._chance.shuffle(victims)
        killed = kill(victims)
        self._note()
        self.kills[victim if killed else f"{victim}, but none was there"] += 1
        if victim != "worker":
            self.end()

    def end(self) -> None:
        """Kill the last daemon, if there is one."""
        if self._context is not None:
            self._context.__exit__(None, None, None)
        self._daemon = self._context = None

    def _living(self) -> RunningDaemon:
        if self._daemon is not None and self._daemon.process.poll() is not None:
            self.ended_by_themselves.append(self._daemon.process.returncode)
            self.end()  # and another one is started, as a service manager would
        if self._daemon is None:
            self._context = daemon_in(self._yard.folder, ready=False, **self._config)
            self._daemon = self._context.__enter__()
        return self._daemon

    def _wait(self, daemon: RunningDaemon) -> None:
        """Until some time after the start, after a job has begun, or while one is published."""
        moment = self._chance.choice(("start", "start", "job", "job", "job", "result"))
        if moment == "start":
            time.sleep(self._chance.uniform(0.0, 4.0))
            return
        self._until(lambda: bool(self._yard.counts().get("running")), daemon, 0.03)
        if moment == "job":
            time.sleep(self._chance.uniform(0.0, 1.1 * self.job_seconds))
            return
        ledger = self._yard.folder / "state" / "results"
        if self._until(lambda: bool(os.listdir(ledger)), daemon, 0.0005):
            time.sleep(self._chance.uniform(0.0, 0.03))

    def _until(self, holds: Callable[[], bool], daemon: RunningDaemon, pause: float) -> bool:
        end = time.monotonic() + _MOST_WAIT_SECONDS
        while not (held := holds()) and time.monotonic() < end:
            self.processes |= children_of(daemon.process.pid)
            daemon.heard("")  # else the daemon would wait for its service manager
            time.sleep(pause)
        return held

    def _note(self) -> None:
        """See what killed processes left: it shows what was going on."""
        counts = self._yard.counts()
        left = self._yard.leftovers()
        partials = [path for path in left if path.endswith(".partial")]
        ledger = [path for path in left if path.startswith("state/results")]
        if ledger:
            self.moments["publishing"] += 1
        elif partials:
            self.moments["writing"] += 1
        else:
            self.moments["running" if counts.get("running") else "no job running"] += 1


def until_tidy(yard: Yard) -> None:
    """A daemon tidies after it has recorded the end of a job; give it a moment."""
    end = time.monotonic() + 10
    while yard.leftovers() and time.monotonic() < end:
        time.sleep(0.1)


def judged(
    yard: Yard,
    arrivals: Arrivals,
    expected: dict[Path, Content],
    witness: Witness,
    killer: Killer,
    code: int,
) -> Outcome:
    numbers = range(len(arrivals.ways))
    jobs = {Path(job.sink): job for job in yard.jobs() if not job.id.startswith("r-")}
    sinks = {arrivals.sink(index): arrivals.clip(index) for index in numbers}
    outputs = {
        path
        for folder in (yard.watched, yard.asked)
        for path in folder.iterdir()
        if not path.name.startswith((".", "reference-"))
    }
    undone = [
        f"{sink.name}: {_state(jobs.get(sink))}" for sink in sinks if not _is_done(jobs, sink)
    ]
    wrong = [sink.name for sink, clip in sinks.items() if shows(sink) != expected[clip]]
    checks = [
        equal("jobs in the store", len(yard.jobs()), len(sinks) + len(expected)),
        none_of("jobs not done", undone),
        none_of("outputs missing, partial or wrong", wrong),
        none_of("outputs that were not asked for", sorted(outputs - sinks.keys())),
        none_of("outputs published more than once", witness.twice()),
        none_of("outputs not whole when they got their names", witness.grown()),
        none_of("jobs logged as done twice", ended_twice(yard)),
        none_of("leftovers", yard.leftovers()),
        none_of("processes left", until_gone(killer.processes)),
        none_of("daemons that ended by themselves", killer.ended_by_themselves),
        equal("exit of the last daemon", code, 0),
    ]
    return Outcome(checks, _details(arrivals, killer, jobs))


def _is_done(jobs: Mapping[Path, Any], sink: Path) -> bool:
    return sink in jobs and jobs[sink].state == "done"


def _state(job: Any) -> str:
    return "unknown" if job is None else f"{job.state} ({job.error})"


def _details(arrivals: Arrivals, killer: Killer, jobs: Mapping[Path, Any]) -> dict[str, Any]:
    return {
        "kills": dict(killer.kills),
        "going on when killed": dict(killer.moments),
        "arrivals": dict(Counter(arrivals.ways)),
        "runs of upframe jobs submit": arrivals.command_runs,
        "attempts of a job, most": max((job.attempts for job in jobs.values()), default=0),
        "seconds of an undisturbed job": round(killer.job_seconds, 2),
        "worker processes seen": len(killer.processes),
    }


if __name__ == "__main__":
    run_as_script("kills", __doc__, measure, rounds=100, jobs=30)

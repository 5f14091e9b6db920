"""kill -9 of daemon, worker or both, at moments of chance: each job ends in one correct output."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.jobs.work import (
    children_of,
    config_of,
    frames_in,
    is_alive,
    names_in,
    new_job,
    store_path,
)
from support.media.clips import make_clip

from upframe.daemon.jobs.store import JobStore

DAEMON = """
import asyncio, sys
from upframe.daemon.jobs.queue import JobQueue
from upframe.daemon.jobs.store import STORE_NAME, JobStore
from upframe.daemon.config import Config
from upframe.daemon.workers.outcomes import recover
from upframe.daemon.workers.scheduler import Scheduler
config = Config.model_validate_json(sys.argv[1])
async def main():
    with JobStore(config.state_dir / STORE_NAME) as store:
        queue = JobQueue(store)
        await recover(queue, config.state_dir)
        scheduler = Scheduler(queue, config)
        print("up", flush=True)
        await scheduler.run()
asyncio.run(main())
"""
JOBS = 6
VICTIMS = ("daemon", "worker", "both", "daemon")


@contextmanager
def started_daemon(config: str) -> Generator[subprocess.Popen[str]]:
    """A daemon that recovers, runs jobs, and is killed at the end."""
    command = [sys.executable, "-c", DAEMON, config]
    daemon = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "up\n"
        yield daemon
    finally:
        daemon.kill()
        daemon.communicate()


def workers_of(daemon: subprocess.Popen[str]) -> set[int]:
    try:
        return children_of(daemon.pid)
    except FileNotFoundError:
        return set()


def ended_jobs(state_dir: Path) -> int:
    with JobStore(state_dir / "jobs.sqlite", read_only=True) as store:
        return len(store.jobs({"done", "failed"}))


def test_a_worker_ends_with_its_daemon(tmp_path: Path) -> None:
    with JobStore(store_path(tmp_path / "state")) as store:
        store.add(new_job("a", make_clip(tmp_path / "in.mp4", frames=4), tmp_path / "a.mp4"))
    ends = time.monotonic() + 60
    with started_daemon(config_of(tmp_path / "state").model_dump_json()) as daemon:
        while not (workers := workers_of(daemon)):
            assert time.monotonic() < ends
            time.sleep(0.01)
    while any(is_alive(pid) for pid in workers):
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_no_job_is_lost_or_done_twice_whoever_is_killed(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    clip = make_clip(tmp_path / "in.mp4", frames=30)
    out, state = tmp_path / "out", tmp_path / "state"
    out.mkdir()
    with JobStore(store_path(state)) as store:
        for number in range(JOBS):
            name = f"{number}.mp4" if number % 3 else f"{number}_%03d.png"
            encoder = {"preset": "ultrafast"} if number % 3 else {}
            store.add(new_job(f"job{number}", clip, out / name, encoder=encoder))
    config = config_of(state, attempts=50).model_dump_json()
    for number, victims in enumerate(VICTIMS):
        kill_by_chance(config, chance, victims, None if number == 0 else out)
    assert ended_jobs(state) < JOBS, "nobody was at work any more when the last one was killed"
    ends = time.monotonic() + 120
    with started_daemon(config):
        while ended_jobs(state) < JOBS or names_in(state / "results"):
            assert time.monotonic() < ends
            time.sleep(0.1)
    check(state, out)


def kill_by_chance(config: str, chance: random.Random, victims: str, out: Path | None) -> None:
    """Kill some time after the start, or after a job has begun to write where others write."""
    with started_daemon(config) as daemon:
        if out is not None:
            before = partials(out)
            ends = time.monotonic() + 60
            while not partials(out) - before:
                assert time.monotonic() < ends
                time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.6))
        if victims != "daemon":
            for pid in workers_of(daemon):
                os.kill(pid, signal.SIGKILL)
        if victims == "worker":
            time.sleep(chance.uniform(0.0, 2.0))


def partials(out: Path) -> set[tuple[str, int]]:
    """What is being written; the same name again is another file."""
    return {(entry.name, entry.inode()) for entry in os.scandir(out) if entry.name.startswith(".")}


def check(state: Path, out: Path) -> None:
    with JobStore(state / "jobs.sqlite", read_only=True) as store:
        jobs = store.jobs()
    assert {job.state for job in jobs} == {"done"}, [job.error for job in jobs]
    films = {f"{number}.mp4" for number in range(JOBS) if number % 3}
    stills = {f"{n}_{i:03}.png" for n in range(0, JOBS, 3) for i in range(1, 60)}
    assert names_in(out) == films | stills
    assert {frames_in(out / name) for name in films} == {59}

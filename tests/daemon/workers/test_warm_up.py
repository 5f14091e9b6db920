"""Workers that die while they are warmed up: by chance, or each time."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from support.jobs.work import children_of, config_of, eventually, is_alive, opened_queue

from upframe.daemon.workers.process import WorkerLost
from upframe.daemon.workers.scheduler import Scheduler


def test_a_worker_killed_while_it_warms_up_is_started_again(tmp_path: Path) -> None:
    async def main() -> None:
        config = config_of(tmp_path / "state")
        async with opened_queue(config.state_dir) as queue:
            scheduler = Scheduler(queue, config)
            warming = asyncio.create_task(scheduler.warm_up())
            first = await killed_child()
            await warming
            (worker,) = scheduler.workers()
            assert worker.pid not in (None, first)
            await stopped(scheduler)

    asyncio.run(main())


def test_a_worker_that_dies_at_every_warm_up_ends_the_attempts(tmp_path: Path) -> None:
    async def main() -> None:
        config = config_of(tmp_path / "state")
        async with opened_queue(config.state_dir) as queue:
            scheduler = Scheduler(queue, config)
            warming = asyncio.create_task(scheduler.warm_up())
            killed = {await killed_child() for _ in range(3)}
            with pytest.raises(WorkerLost, match="SIGKILL"):
                await warming
            assert len(killed) == 3
            assert [worker.pid for worker in scheduler.workers()] == [None]

    asyncio.run(main())


async def killed_child() -> int:
    """Wait for a child of this process, and kill it."""

    def living() -> set[int]:
        return {pid for pid in children_of(os.getpid()) if is_alive(pid)}

    await eventually(lambda: bool(living()))
    (pid,) = living()
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not is_alive(pid))
    return pid


async def stopped(scheduler: Scheduler) -> None:
    """End a scheduler that has only been warmed up."""
    running = asyncio.create_task(scheduler.run())
    await scheduler.drain(5)
    await running

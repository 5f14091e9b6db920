"""How the queue gives jobs out, and wakes who waits for them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.jobs.queues import a_job, claimed, with_queue

from upframe.daemon.jobs.model import Job, JobProgress
from upframe.daemon.jobs.queue import JobQueue

STREAMING = JobProgress(stage="streaming", frames=7, total=20, fps=2.5, eta_seconds=5.2)


def test_a_running_job_is_told_to_stop_and_waited_for(tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        job = await claimed(queue)
        told: list[str] = []
        stopped = asyncio.Event()

        async def stop() -> None:
            told.append(job.id)
            stopped.set()

        async def work() -> None:
            await stopped.wait()
            await asyncio.sleep(0.05)
            await queue.change(job.id, "cancelled")
            queue.detach(job.id)

        queue.attach(job.id, stop)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(work(), name="worker")
            assert (await queue.cancel(job.id)).state == "cancelled"
        assert told == [job.id]

    with_queue(tmp_path, use)


def test_a_job_that_does_not_stop_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        job = await claimed(queue)
        calls = 0

        async def stop() -> None:
            nonlocal calls
            calls += 1

        queue.attach(job.id, stop)
        with pytest.raises(TimeoutError, match=r"asked to stop, but still runs after 0\.2 s"):
            await queue.cancel(job.id, timeout_seconds=0.2)
        assert calls == 1
        assert (await queue.get(job.id)).state == "running"

    with_queue(tmp_path, use)


def test_work_is_waited_for_and_announced(tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        loop = asyncio.get_running_loop()
        assert await queue.claim() is None
        start = loop.time()
        await queue.wait_for_work(0.1)
        assert loop.time() - start >= 0.09
        async with asyncio.TaskGroup() as tasks:
            waiting = [
                tasks.create_task(queue.wait_for_work(15), name=f"slot {slot}") for slot in (0, 1)
            ]
            await asyncio.sleep(0.05)
            assert not any(task.done() for task in waiting)
            await queue.submit(a_job())
        assert await queue.claim() is not None

    with_queue(tmp_path, use)


def test_no_job_that_came_while_a_claim_looked_is_slept_over(tmp_path: Path) -> None:
    async def slot(queue: JobQueue, claims: list[str], wanted: int) -> None:
        while len(claims) < wanted:
            job = await queue.claim()
            if job is not None:
                claims.append(job.id)
            elif len(claims) < wanted:
                await queue.wait_for_work(1.0)

    async def use(queue: JobQueue) -> None:
        claims: list[str] = []
        start = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as tasks:
            for number in range(3):
                tasks.create_task(slot(queue, claims, 60), name=f"slot {number}")
            for number in range(60):
                await queue.submit(a_job(f"job{number}"))
                await asyncio.sleep(0.002 * (number % 3))
        assert sorted(claims) == sorted(f"job{number}" for number in range(60))
        assert asyncio.get_running_loop().time() - start < 3  # nobody slept through to a timeout

    with_queue(tmp_path, use)


def test_what_another_slot_left_is_not_slept_over(tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        assert await queue.claim() is None  # one slot finds nothing, and is slow to go to sleep
        await queue.submit(a_job("a"))
        await queue.submit(a_job("b"))
        assert await queue.claim() is not None  # another is faster
        async with asyncio.timeout(1):
            await queue.wait_for_work(15)
        assert await queue.claim() is not None

    with_queue(tmp_path, use)


def test_a_job_is_begun_when_it_becomes_due(tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        job = await claimed(queue)
        due = datetime.now(UTC) + timedelta(seconds=0.3)
        await queue.change(job.id, "queued", not_before=due)
        assert await queue.claim() is None
        await queue.wait_for_work(15)
        assert await queue.claim() is not None
        assert datetime.now(UTC) >= due

    with_queue(tmp_path, use)


def test_a_paused_queue_gives_nothing_out(tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        queue.paused = True
        await queue.submit(a_job())
        assert await queue.claim() is None
        start = asyncio.get_running_loop().time()
        await queue.wait_for_work(0.1)
        assert asyncio.get_running_loop().time() - start >= 0.09

    with_queue(tmp_path, use)


def test_a_pause_that_comes_during_a_claim_gives_the_job_back(tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        await queue.submit(a_job())
        claiming = asyncio.create_task(queue.claim(), name="slot")
        await asyncio.sleep(0)
        queue.paused = True
        assert await claiming is None
        job = await queue.get("film")
        assert (job.state, job.attempts) == ("queued", 0)

    with_queue(tmp_path, use)


@pytest.mark.parametrize("turns", range(6))
def test_a_claim_whose_claimer_is_cancelled_is_given_back(turns: int, tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        for number in range(20):
            await queue.submit(a_job(f"job{number}"))
        for _ in range(20):
            claiming = asyncio.create_task(queue.claim(), name="slot")
            for _ in range(turns):
                await asyncio.sleep(0.0003)
            claiming.cancel()
            result = (await asyncio.gather(claiming, return_exceptions=True))[0]
            if isinstance(result, Job):  # it was faster than the cancellation
                await queue.change(result.id, "queued", attempts=0)
        await queue.close()  # finishes what is still on its way back
        jobs = queue.store.jobs()
        assert {(job.state, job.attempts) for job in jobs} == {("queued", 0)}
        assert len(jobs) == 20

    with_queue(tmp_path, use)

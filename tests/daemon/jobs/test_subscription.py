from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from support.jobs.queues import a_job, a_queue

from upframe.daemon.jobs.model import JobProgress
from upframe.daemon.jobs.queue import JobChange, JobQueue, Subscription


async def read(changes: Subscription, number: int) -> list[tuple[str, str, str]]:
    async with asyncio.timeout(5):
        read = [await anext(changes) for _ in range(number)]
    return [(change.job.id, change.kind, change.job.state) for change in read]


def test_changes_come_in_their_order(tmp_path: Path) -> None:
    async def follow(queue: JobQueue) -> None:
        with queue.subscribe() as changes:
            await queue.submit(a_job("a"))
            assert await read(changes, 1) == [("a", "state", "queued")]
            await queue.submit(a_job("b"))
            await queue.claim()
            queue.report_progress("a", JobProgress(frames=3))
            await queue.change("b", "cancelled")
            assert await read(changes, 2) == [
                ("b", "state", "cancelled"),
                ("a", "state", "running"),
            ]
        await queue.close()

    with a_queue(tmp_path) as queue:
        asyncio.run(follow(queue))


def test_a_slow_reader_gets_the_latest_of_each_job_and_holds_nothing_up(tmp_path: Path) -> None:
    async def follow(queue: JobQueue) -> None:
        for name in ("a", "b"):
            await queue.submit(a_job(name))
            await queue.claim()
        with queue.subscribe() as slow, queue.subscribe() as other:
            for frames in range(10_000):
                queue.report_progress("a", JobProgress(stage="streaming", frames=frames))
                queue.report_progress("b", JobProgress(stage="streaming", frames=-frames))
            assert len(slow) == 2
            changes = [await anext(slow), await anext(slow)]
            assert [change.job.progress.frames for change in changes] == [9999, -9999]
            assert [change.kind for change in changes] == ["progress", "progress"]
            await queue.change("a", "done")
            await queue.change("b", "failed")
            assert len(other) == 2
            ended = [("a", "state", "done"), ("b", "state", "failed")]
            assert sorted(await read(other, 2)) == ended
            assert sorted(await read(slow, 2)) == ended
        await queue.close()

    with a_queue(tmp_path) as queue:
        asyncio.run(follow(queue))


def test_progress_does_not_hide_a_change_of_state(tmp_path: Path) -> None:
    async def follow(queue: JobQueue) -> None:
        await queue.submit(a_job())
        with queue.subscribe() as changes:
            await queue.claim()
            queue.report_progress("film", JobProgress(frames=8))
            change = await anext(changes)
            assert (change.kind, change.job.progress.frames) == ("state", 8)
        await queue.close()

    with a_queue(tmp_path) as queue:
        asyncio.run(follow(queue))


def test_a_closed_subscription_ends_after_what_is_waiting(tmp_path: Path) -> None:
    async def follow(queue: JobQueue) -> None:
        changes = queue.subscribe()
        await queue.submit(a_job("a"))
        await queue.close()  # which closes every subscription
        assert [change.job.id async for change in changes] == ["a"]
        changes.close()

    with a_queue(tmp_path) as queue:
        asyncio.run(follow(queue))


def test_a_closed_subscription_wakes_its_reader(tmp_path: Path) -> None:
    async def follow(queue: JobQueue) -> None:
        changes = queue.subscribe()
        reading = asyncio.create_task(anext(changes, None), name="reader")
        await asyncio.sleep(0)
        changes.close()
        assert await asyncio.wait_for(reading, 5) is None
        await queue.submit(a_job("late"))
        assert len(changes) == 0
        await queue.close()

    with a_queue(tmp_path) as queue:
        asyncio.run(follow(queue))


def test_a_forgotten_job_is_told_as_removed(tmp_path: Path) -> None:
    async def follow(queue: JobQueue) -> None:
        await queue.submit(a_job())
        await queue.cancel("film")
        with queue.subscribe() as changes:
            assert len(await queue.forget(datetime.now(UTC))) == 1
            assert await read(changes, 1) == [("film", "removed", "cancelled")]
        await queue.close()

    with a_queue(tmp_path) as queue:
        asyncio.run(follow(queue))


def test_many_waiting_changes_leave_the_loop_to_others(tmp_path: Path) -> None:
    """A reader of a long backlog must not be the only one who runs."""

    async def follow() -> None:
        changes = Subscription(lambda _: None)
        for number in range(100):
            changes.put(JobChange(a_job(f"job{number}"), "state"))
        turns = 0

        async def other() -> None:
            nonlocal turns
            while len(changes):
                turns += 1
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(other(), name="other")
            for _ in range(100):
                await anext(changes)
        assert turns >= 99

    asyncio.run(follow())

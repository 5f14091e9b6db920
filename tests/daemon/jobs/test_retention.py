from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.jobs.queues import a_job, a_queue

from upframe.daemon.jobs.queue import JobQueue, forget_old, forget_regularly


def fill(queue: JobQueue, number: int, days: float) -> None:
    ended = datetime.now(UTC) - timedelta(days=days)
    for each in range(number):
        queue.store.add(a_job(f"days{days}-{each}"))
        queue.store.change(f"days{days}-{each}", "cancelled", ended=ended)


def test_forgets_what_ended_long_ago_and_nothing_else(tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        queue.store.add(a_job("waiting"))
        fill(queue, 250, days=31)
        fill(queue, 3, days=29)
        assert await forget_old(queue, 30) == 250
        assert len(await queue.jobs()) == 4
        assert await forget_old(queue, 30) == 0
        await queue.close()

    with a_queue(tmp_path) as queue:
        asyncio.run(use(queue))


def test_comes_back_now_and_again(tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        forgetting = forget_regularly(queue, 30, interval_seconds=0.05)
        tidying = asyncio.create_task(forgetting, name="tidy")
        with queue.subscribe() as changes:
            for days in (40, 50):
                fill(queue, 1, days=days)
                async with asyncio.timeout(5):
                    assert (await anext(changes)).job.id == f"days{days}-0"
        tidying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await tidying
        await queue.close()

    with a_queue(tmp_path) as queue:
        asyncio.run(use(queue))


def test_a_store_that_fails_for_a_while_is_no_reason_to_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def use(queue: JobQueue) -> None:
        queue.store.close()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await forget_regularly(queue, 30, interval_seconds=0.01)
        await queue.close()

    with a_queue(tmp_path) as queue:
        asyncio.run(use(queue))
    assert caplog.text.count("could not be dropped") > 1
    assert "is closed" in caplog.text

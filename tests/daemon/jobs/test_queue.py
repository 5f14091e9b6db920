from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.jobs.queues import FAILURE, Turns, a_job, claimed, fill, with_queue

from upframe.daemon.errors import Conflict, IllegalChange, StoreBroken, UnknownJob
from upframe.daemon.jobs.model import Job, JobProgress
from upframe.daemon.jobs.queue import JobQueue

STREAMING = JobProgress(stage="streaming", frames=7, total=20, fps=2.5, eta_seconds=5.2)


def test_gives_what_the_store_has(tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        assert await queue.submit(a_job("a")) == (a_job("a"), True)
        assert await queue.submit(a_job("a")) == (a_job("a"), False)
        with pytest.raises(Conflict):
            await queue.submit(a_job("a", overwrite=True))
        with pytest.raises(UnknownJob):
            await queue.get("b")
        assert await queue.get("a") == queue.store.find("a") == queue.store.get("a")
        assert queue.store.find("b") is None
        assert [job.id for job in await queue.jobs(("queued",), limit=3)] == ["a"]
        assert (await queue.counts())["queued"] == 1
        assert (await queue.update("a", waits_for="room")).waits_for == "room"

    with_queue(tmp_path, use)


def test_progress_lives_in_memory_and_is_stored_at_the_end(tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        await claimed(queue)
        queue.report_progress("film", STREAMING)
        assert queue.store.get("film").progress == JobProgress()
        assert (await queue.get("film")).progress == STREAMING
        assert [job.progress for job in await queue.jobs()] == [STREAMING]
        (body,) = await queue.bodies()
        assert Job.model_validate_json(body).progress == STREAMING
        assert (await queue.change("film", "failed", error=FAILURE)).progress == STREAMING
        assert queue.store.get("film").progress == STREAMING

    with_queue(tmp_path, use)


def test_a_new_attempt_begins_without_progress(tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        await claimed(queue)
        queue.report_progress("film", STREAMING)
        assert (await queue.change("film", "queued")).progress == JobProgress()
        await queue.claim()
        assert (await queue.get("film")).progress == JobProgress()

    with_queue(tmp_path, use)


def test_progress_of_what_does_not_run_is_ignored(tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        await claimed(queue)
        await queue.change("film", "done")
        with queue.subscribe() as changes:
            queue.report_progress("film", STREAMING)
            queue.report_progress("nobody", STREAMING)
            assert len(changes) == 0
        assert (await queue.get("film")).progress == JobProgress()

    with_queue(tmp_path, use)


def test_a_queued_job_is_cancelled_at_once(tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        await queue.submit(a_job())
        assert (await queue.cancel("film")).state == "cancelled"
        assert (await queue.cancel("film")).state == "cancelled"
        assert await queue.claim() is None

    with_queue(tmp_path, use)


def test_a_job_that_has_only_just_begun_is_told_as_soon_as_it_can_be(tmp_path: Path) -> None:
    """Between the claim and the start of its worker nothing is attached yet."""

    async def use(queue: JobQueue) -> None:
        job = await claimed(queue)

        async def stop() -> None:
            await queue.change(job.id, "cancelled")

        async with asyncio.TaskGroup() as tasks:
            cancelling = tasks.create_task(queue.cancel(job.id), name="cancel")
            await asyncio.sleep(0.05)
            assert not cancelling.done()
            queue.attach(job.id, stop)
        assert cancelling.result().state == "cancelled"

    with_queue(tmp_path, use)


def test_a_job_that_is_done_before_it_could_stop_stays_done(tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        job = await claimed(queue)

        async def stop() -> None:
            await queue.change(job.id, "done")

        queue.attach(job.id, stop)
        with pytest.raises(IllegalChange, match="film is done"):
            await queue.cancel(job.id)

    with_queue(tmp_path, use)


def test_a_job_given_back_while_it_is_cancelled_is_cancelled_in_the_queue(tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        job = await claimed(queue)

        async def stop() -> None:
            queue.detach(job.id)
            await queue.change(job.id, "queued")

        queue.attach(job.id, stop)
        assert (await queue.cancel(job.id)).state == "cancelled"

    with_queue(tmp_path, use)


@pytest.mark.parametrize("state", ["done", "failed"])
def test_what_has_ended_cannot_be_cancelled(state: str, tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        await claimed(queue)
        await queue.change("film", "done" if state == "done" else "failed")
        with pytest.raises(IllegalChange, match=f"film is {state}"):
            await queue.cancel("film")
        with pytest.raises(UnknownJob):
            await queue.cancel("nobody")

    with_queue(tmp_path, use)


def test_all_failed_are_tried_again(tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        for number in range(250):
            queue.store.add(a_job(f"job{number}"))
            queue.store.change(f"job{number}", "failed", error=FAILURE)
        await queue.submit(a_job("cancelled"))
        await queue.cancel("cancelled")
        with queue.subscribe() as changes:
            assert len(await queue.retry_failed()) == 250
            assert len(changes) == 250
        assert (await queue.counts())["queued"] == 250
        assert await queue.retry_failed() == []
        assert (await queue.retry("cancelled")).state == "queued"

    with_queue(tmp_path, use)


def test_a_watched_file_is_asked_about_before_it_is_tried_again(tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        asked: list[str] = []

        async def renew(job: Job) -> dict[str, object]:
            asked.append(job.id)
            if job.id == "gone":
                raise IllegalChange("its file is nowhere")
            return {"priority": 7, "idempotency_key": "another"}

        for name in ("file", "gone", "mine"):
            queue.store.add(a_job(name, origin="cli" if name == "mine" else "watch"))
            queue.store.change(name, "running")
            queue.store.change(name, "failed")
        queue.renew = renew
        with pytest.raises(IllegalChange, match="nowhere"):
            await queue.retry("gone")
        assert {job.id for job in await queue.retry_failed()} == {"file", "mine"}
        assert asked.count("mine") == 0
        again = await queue.get("file")
        assert (again.priority, queue.store.find("another")) == (7, again)
        assert (await queue.get("gone")).state == "failed"
        with pytest.raises(IllegalChange, match="it cannot become queued"):
            await queue.retry("file")
        assert asked.count("file") == 1  # not of a job that cannot be retried

    with_queue(tmp_path, use)


def test_a_change_is_told_even_if_who_made_it_is_gone(tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        with queue.subscribe() as changes:
            submitting = asyncio.create_task(queue.submit(a_job()), name="client")
            await asyncio.sleep(0)
            submitting.cancel()
            await asyncio.gather(submitting, return_exceptions=True)
            change = await anext(changes)
            assert (change.job.id, change.job.state) == ("film", "queued")
        assert queue.store.get("film").state == "queued"

    with_queue(tmp_path, use)


def test_a_broken_store_is_said_to_the_asker(tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        queue.store.close()
        with pytest.raises(StoreBroken, match="is closed"):
            await queue.submit(a_job())
        with pytest.raises(StoreBroken, match="is closed"):
            await queue.claim()

    with_queue(tmp_path, use)


def test_the_loop_stays_free_while_the_store_is_busy(tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        fill(queue.store.path, (a_job(f"job{number}") for number in range(5000)))
        async with Turns() as turns:
            while turns.num <= 10:  # a busy machine may take so many turns away from us
                before = turns.num
                assert len(await queue.jobs()) == 5000
                assert turns.num > before + 1  # it had none, or one, if the list was read by it

    with_queue(tmp_path, use)

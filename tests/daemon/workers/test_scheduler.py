"""Jobs from the queue on real workers: order, retries, cancelling, draining, recycling."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from support.jobs.work import (
    ENDLESS,
    FAST,
    INTERPOLATE,
    config_of,
    eventually,
    frames_in,
    is_alive,
    names_in,
    new_job,
    opened_queue,
    running,
    until,
)
from support.media.clips import make_clip

from upframe.daemon.errors import IllegalChange
from upframe.daemon.jobs.model import Job, partial_token
from upframe.daemon.workers.admission import DiskSpace
from upframe.daemon.workers.ledger import FOLDER, Result, Results
from upframe.daemon.workers.outcomes import recover
from upframe.daemon.workers.process import WorkerLost
from upframe.daemon.workers.scheduler import (
    Scheduler,
    filters_to_warm,
    worker_settings,
)
from upframe.io.files import partial_path

LONG = 80  # frames: long enough to be met at work


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "in.mp4", frames=4)


@pytest.fixture
def long_clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "long.mp4", frames=LONG)


def endless(job_id: str, source: Path, sink: Path) -> Job:
    return new_job(job_id, source, sink, filters=ENDLESS)


def entries(tmp_path: Path) -> set[str]:
    return names_in(tmp_path / "state" / FOLDER)


def test_priority_goes_before_age_and_one_worker_does_all(
    tmp_path: Path, out: Path, clip: Path
) -> None:
    async def main() -> None:
        async with opened_queue(tmp_path / "state") as queue:
            for name, priority in (("old", 0), ("young", 0), ("urgent", 5), ("last", -5)):
                job = new_job(name, clip, out / f"{name}.mp4")
                await queue.submit(job.model_copy(update={"priority": priority}))
        async with running(config_of(tmp_path / "state")) as at_work:
            jobs = [await at_work.ended(name) for name in ("urgent", "old", "young", "last")]
            assert {job.state for job in jobs} == {"done"}
            started = [job.started for job in jobs if job.started is not None]
            assert started == sorted(started)
            assert jobs[0].report is not None
            assert jobs[0].report["frames_out"] == jobs[0].progress.frames == 7
            assert "for the encoder" in str(jobs[0].progress.memory)
            counts = at_work.scheduler.statistics()
            assert counts == {"worker_starts": 1, "done": 4}
            # A job's end is told before its slot is free again.
            await eventually(lambda: at_work.scheduler.workers()[0].job_id is None)
            (worker,) = at_work.scheduler.workers()
            assert (worker.num_jobs, worker.device) == (4, "cpu")

    asyncio.run(main())
    assert names_in(out) == {"urgent.mp4", "old.mp4", "young.mp4", "last.mp4"}
    assert entries(tmp_path) == set()


def test_only_what_time_may_mend_is_tried_again(
    tmp_path: Path, out: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    hub = INTERPOLATE | {"frame_interpolation_model_path": "nobody/nothing"}

    async def main() -> None:
        async with running(config_of(tmp_path / "state", attempts=3)) as at_work:
            await at_work.queue.submit(new_job("hub", clip, out / "a.mp4", filters=hub))
            await at_work.queue.submit(new_job("gone", tmp_path / "none.mp4", out / "b.mp4"))
            failed, gone = await at_work.ended("hub"), await at_work.ended("gone")
            assert failed.error is not None
            assert (failed.state, failed.attempts, failed.error.code) == ("failed", 3, 69)
            assert gone.error is not None
            assert (gone.state, gone.attempts, gone.error.code) == ("failed", 1, 66)
            assert at_work.scheduler.statistics()["retries"] == 2

    asyncio.run(main())
    assert names_in(out) == set()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
def test_a_worker_that_is_lost_costs_one_attempt_of_one_job(
    tmp_path: Path, out: Path, clip: Path, long_clip: Path, number: int
) -> None:
    stages = {"loading": 60, "streaming": 2, "publishing": 60}

    async def main() -> None:
        config = config_of(tmp_path / "state", stage_seconds=stages, retry_delays=(1.0,))
        async with running(config) as at_work:
            await at_work.queue.submit(new_job("a", long_clip, out / "a.mp4"))
            await at_work.queue.submit(new_job("b", clip, out / "b.mp4"))
            await at_work.streaming("a")
            os.kill(at_work.pid, number)
            waits = await until(at_work.queue, "a", lambda job: job.state == "queued")
            assert waits.error is not None
            assert waits.error.retryable
            assert waits.waits_for is not None
            assert waits.waits_for.startswith("attempt 2 of 3: the worker process was")
            assert not {name for name in names_in(out) if name.startswith(".a")}
            first, second = await at_work.ended("a"), await at_work.ended("b")
            assert (first.state, first.attempts, first.error) == ("done", 2, None)
            assert (second.state, second.attempts) == ("done", 1)
            counts = at_work.scheduler.statistics()
            assert counts == {"worker_starts": 2, "workers_lost": 1, "retries": 1, "done": 2}

    asyncio.run(main())
    assert frames_in(out / "a.mp4") == 2 * LONG - 1
    assert names_in(out) == {"a.mp4", "b.mp4"}


@pytest.mark.parametrize("ends", ["done", "cancelled", "failed", "failed, may be mended"])
def test_a_lost_worker_costs_the_segment_at_hand_and_no_end_leaves_segments(
    tmp_path: Path, out: Path, ends: str
) -> None:
    """But those of a job that failed and may succeed when it is tried again."""
    clip = make_clip(tmp_path / "cut.mkv", frames=LONG, options={"g": "8", "bf": "2"})
    segments = tmp_path / "state" / "segments"
    job = new_job("a", clip, out / "a.mkv", segment_frames=8)

    async def main() -> None:
        config = config_of(tmp_path / "state", attempts=2, retry_delays=(1.0,))
        async with running(config) as at_work:
            await at_work.queue.submit(job)
            await at_work.streaming("a", 40)
            assert names_in(segments) == {"a"}
            if ends == "cancelled":
                await at_work.queue.cancel("a")
            elif ends == "failed":
                with clip.open("ab") as file:
                    file.write(b"more")
            else:
                os.kill(at_work.pid, signal.SIGKILL)
            if "mended" in ends:
                await until(at_work.queue, "a", lambda job: job.attempts == 2)
                await at_work.streaming("a", 41)
                os.kill(at_work.pid, signal.SIGKILL)
            ended = await at_work.ended("a")
            assert ended.state == ends.partition(",")[0]
            if ends == "done":
                assert ended.report is not None
                resumed = ended.report["resumed"]
                assert resumed["segments"] == LONG // 8
                assert resumed["found"] >= 2
                assert resumed["repeated"] <= 1
            await eventually(lambda: names_in(segments) == ({"a"} if "mended" in ends else set()))

    asyncio.run(main())
    if ends == "done":
        assert frames_in(out / "a.mkv") == 2 * LONG - 1


def test_cancelling_leaves_nothing_and_the_next_job_runs(
    tmp_path: Path, out: Path, clip: Path, long_clip: Path
) -> None:
    async def main() -> None:
        async with running(config_of(tmp_path / "state")) as at_work:
            await at_work.queue.submit(endless("a", long_clip, out / "a.mp4"))
            await at_work.queue.submit(new_job("b", clip, out / "b.mp4"))
            await at_work.queue.submit(new_job("c", clip, out / "c.mp4"))
            assert (await at_work.queue.cancel("c")).state == "cancelled"
            await at_work.streaming("a")
            pid, began = at_work.pid, time.monotonic()
            assert (await at_work.queue.cancel("a")).state == "cancelled"
            assert time.monotonic() - began < 5
            assert not {name for name in names_in(out) if "a.mp4" in name}
            assert (await at_work.ended("b")).state == "done"
            assert at_work.pid == pid
            with pytest.raises(IllegalChange):
                await at_work.queue.cancel("b")

    asyncio.run(main())
    assert names_in(out) == {"b.mp4"}
    assert entries(tmp_path) == set()


def test_a_job_that_is_cancelled_while_its_worker_starts_never_begins(
    tmp_path: Path, out: Path, clip: Path
) -> None:
    async def main() -> None:
        async with running(config_of(tmp_path / "state")) as at_work:
            await at_work.queue.submit(new_job("a", clip, out / "a.mp4"))
            await until(at_work.queue, "a", lambda job: job.state == "running")
            assert (await at_work.queue.cancel("a")).state == "cancelled"

    asyncio.run(main())
    assert names_in(out) == set()


def test_draining_lets_jobs_end_and_gives_back_what_does_not(
    tmp_path: Path, out: Path, clip: Path, long_clip: Path
) -> None:
    async def main() -> None:
        config = config_of(tmp_path / "state", slots=2)
        async with running(config) as at_work:
            await at_work.queue.submit(endless("endless", long_clip, out / "endless.mp4"))
            await at_work.streaming("endless")
            await at_work.queue.submit(new_job("long", long_clip, out / "long.mp4"))
            await at_work.streaming("long")
            pids = [worker.pid for worker in at_work.scheduler.workers() if worker.pid]
            assert len(set(pids)) == 2
            ended = asyncio.create_task(at_work.ended("long"))
            drained = asyncio.create_task(at_work.scheduler.drain(60))
            await asyncio.sleep(0)
            await at_work.queue.submit(new_job("later", clip, out / "later.mp4"))
            assert (await ended).state == "done"
            await drained_by_force(at_work.scheduler, drained)
            await at_work.task
            given_back = await at_work.queue.get("endless")
            assert (given_back.state, given_back.attempts) == ("queued", 0)
            later = await at_work.queue.get("later")
            assert (later.state, later.attempts) == ("queued", 0)
            assert not any(is_alive(pid) for pid in pids)

    asyncio.run(main())
    assert names_in(out) == {"long.mp4"}


async def drained_by_force(scheduler: Scheduler, drained: asyncio.Task[None]) -> None:
    """A shorter drain beside the one that waits."""
    began = time.monotonic()
    await scheduler.drain(0.1)
    await drained
    assert time.monotonic() - began < 5.1


def test_stopped_at_once_the_next_start_begins_anew(
    tmp_path: Path, out: Path, long_clip: Path
) -> None:
    async def main() -> None:
        config = config_of(tmp_path / "state")
        async with running(config) as at_work:
            await at_work.queue.submit(endless("a", long_clip, out / "a.mp4"))
            await at_work.streaming("a")
            pid = at_work.pid
            at_work.task.cancel()
            await asyncio.wait({at_work.task})
            assert not is_alive(pid)
            await recover(at_work.queue, config.state_dir)
            job = await at_work.queue.get("a")
            assert (job.state, job.attempts) == ("queued", 0)

    asyncio.run(main())
    assert names_in(out) == set()


@pytest.mark.parametrize(
    ("limit", "jobs"), [({"recycle_jobs": 2}, 3), ({"recycle_mebibytes": 64}, 2)]
)
def test_a_worker_that_is_old_or_large_is_replaced(
    tmp_path: Path, out: Path, clip: Path, limit: dict[str, Any], jobs: int
) -> None:
    async def main() -> None:
        async with running(config_of(tmp_path / "state", **limit)) as at_work:
            for number in range(jobs):
                await at_work.queue.submit(new_job(f"a{number}", clip, out / f"{number}.mp4"))
                assert (await at_work.ended(f"a{number}")).state == "done"
            assert at_work.scheduler.statistics()["worker_starts"] == 2
            assert "retries" not in at_work.scheduler.statistics()

    asyncio.run(main())


def test_a_job_waits_for_room_says_so_and_begins_when_there_is(
    tmp_path: Path, out: Path, clip: Path
) -> None:
    free = [0]

    async def main() -> None:
        space = DiskSpace(lambda _: free[0], look_seconds=0.1)
        async with running(config_of(tmp_path / "state"), space=space) as at_work:
            await at_work.queue.submit(new_job("a", clip, out / "a.mp4"))
            waits = await until(at_work.queue, "a", lambda job: job.waits_for is not None)
            assert waits.waits_for is not None
            assert waits.waits_for.startswith(f"room in {out}: about 64 MiB are wanted, 0 B")
            assert (waits.state, waits.attempts) == ("queued", 0)
            free[0] = 1 << 40
            done = await at_work.ended("a")
            assert (done.state, done.attempts, done.waits_for) == ("done", 1, None)

    asyncio.run(main())


def test_a_result_that_was_renamed_and_not_recorded_is_neither_redone_nor_refused(
    tmp_path: Path, out: Path
) -> None:
    """Also where its file could not be looked at when the daemon started."""
    job = new_job("a", "/none.mp4", out / "a.mp4")
    partial = partial_path(out / "a.mp4", partial_token("a"))
    partial.write_text("a film")
    kept = Results(tmp_path / "state" / FOLDER)
    kept.write(Result.of("a", job.work.digest, [(partial, out / "a.mp4")], {"frames_out": 7}))
    partial.rename(out / "a.mp4")

    async def main() -> None:
        async with running(config_of(tmp_path / "state")) as at_work:
            await at_work.queue.submit(job)
            done = await at_work.ended("a")
            assert (done.state, done.report) == ("done", {"frames_out": 7})
            assert "worker_starts" not in at_work.scheduler.statistics()
            await eventually(lambda: not entries(tmp_path))

    asyncio.run(main())
    assert (out / "a.mp4").read_text() == "a film"


def test_a_warm_worker_takes_the_first_job(tmp_path: Path, out: Path, clip: Path) -> None:
    async def main() -> None:
        config = config_of(tmp_path / "state")
        async with opened_queue(config.state_dir) as queue:
            scheduler = Scheduler(queue, config)
            said: list[str] = []
            await scheduler.warm_up(said.append)
            assert said[0] == "starting worker 0"
            assert said[1].startswith("worker 0 is warm after ")
            (worker,) = scheduler.workers()
            assert worker.job_id is None
            task = asyncio.create_task(scheduler.run())
            await queue.submit(new_job("a", clip, out / "a.mp4"))
            await until(queue, "a", lambda job: job.state == "done")
            assert [one.pid for one in scheduler.workers()] == [worker.pid]
            assert scheduler.trouble() is None
            await scheduler.drain(5)
            await task

    asyncio.run(main())


def test_a_warm_up_that_fails_says_why_and_leaves_no_process(tmp_path: Path) -> None:
    async def main() -> None:
        config = config_of(tmp_path / "state", devices=("cpu", "cuda:99"))
        async with opened_queue(config.state_dir) as queue:
            scheduler = Scheduler(queue, config)
            with pytest.raises(WorkerLost, match="cuda:99 was asked for") as failed:
                await scheduler.warm_up()
            assert failed.value.error.code == 69
            assert [worker.pid for worker in scheduler.workers()] == [None, None]

    asyncio.run(main())


def test_slots_take_the_devices_in_turn_and_share_the_processor(tmp_path: Path) -> None:
    config = config_of(tmp_path, devices=("cuda:0", "cuda:1"))
    assert [worker.device for worker in worker_settings(config)] == ["cuda:0", "cuda:1"]
    config = config_of(tmp_path, slots=3, devices=("cpu", "cuda:0"))
    assert [worker.device for worker in worker_settings(config)] == ["cpu", "cuda:0", "cpu"]
    (alone,) = worker_settings(config_of(tmp_path))
    assert alone.threads is None


def test_what_is_watched_is_warmed_up_once_each(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    (default,) = filters_to_warm(config)
    assert default.enable_frame_interpolation
    watch = {"input": "/in", "output": "/out", "filters": INTERPOLATE, "encoder": FAST}
    config = config.model_validate(config.model_dump() | {"watch": [watch, watch]})
    assert filters_to_warm(config) == [config.watch[0].filters]


@pytest.mark.parametrize(
    ("source", "sink"),
    [("in\0.mp4", "out.mp4"), ("in.mp4", "/"), ("://x", "://y"), ("in.mp4", "x\0.mp4")],
    ids=["NUL in the source", "a sink without a name", "no scheme", "NUL in the sink"],
)
def test_a_job_that_trips_us_fails_and_holds_up_no_other(
    source: str, sink: str, tmp_path: Path, out: Path, clip: Path
) -> None:
    """From the control socket, where nothing is confined."""

    async def main() -> None:
        async with running(config_of(tmp_path / "state")) as at_work:
            await at_work.queue.submit(new_job("poison", source, Path(sink)))
            await at_work.queue.submit(new_job("fine", clip, out / "fine.mp4"))
            assert (await at_work.ended("fine")).state == "done"
            poison = await at_work.ended("poison")
            assert (poison.state, poison.attempts) == ("failed", 1)

    asyncio.run(main())
    assert names_in(out) == {"fine.mp4"}


def test_a_job_that_trips_recovery_holds_up_no_start(tmp_path: Path, clip: Path) -> None:
    async def main() -> None:
        async with opened_queue(tmp_path / "state") as queue:
            await queue.submit(new_job("poison", clip, Path("/")))
            await queue.claim()
            await recover(queue, tmp_path / "state")
            assert (await queue.get("poison")).state == "queued"

    asyncio.run(main())

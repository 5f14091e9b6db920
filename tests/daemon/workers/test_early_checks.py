"""What can only fail fails before its turn; all else waits for it, whatever the check becomes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from support.jobs.work import config_of, eventually, opened_queue, until, work_of
from support.media.clips import make_clip

from upframe.daemon.config import JobsConfig
from upframe.daemon.convert.conversion import run
from upframe.daemon.convert.preflight import RunRequest
from upframe.daemon.jobs.model import Confinement, Job, JobError, job_of
from upframe.daemon.jobs.queue import JobQueue
from upframe.daemon.specification import Origin
from upframe.daemon.workers.admission import EarlyChecks
from upframe.daemon.workers.attempt import check_job
from upframe.daemon.workers.messages import AccessLimits, CheckJob, error_of
from upframe.daemon.workers.process import FileProber
from upframe.filters.device import Runtime
from upframe.io.errors import MediaError
from upframe.io.root import Root

RUNTIME = Runtime(torch.device("cpu"), torch.float32, "builtin")
Make = Callable[[Path], dict[str, Any]]


def the_job(
    name: str, source: str | Path, sink: Path, origin: Origin = "mqtt", **fields: Any
) -> Job:
    return job_of(work_of(source, sink, **fields), id=name, origin=origin)


@asynccontextmanager
async def checked(folder: Path, check: Any = None, **seconds: float) -> AsyncIterator[JobQueue]:
    """A queue whose jobs are checked, and never begun."""
    config = config_of(folder / "state", allowed_hosts=("127.0.0.1",))
    async with (
        opened_queue(config.state_dir) as queue,
        aclosing(FileProber(config, **seconds)) as prober,
    ):
        use = check or prober.check
        checks = EarlyChecks(queue, use, lambda: config.jobs, pause_seconds=0.1)
        task = asyncio.create_task(checks.run())
        await asyncio.sleep(0)
        yield queue
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def a_text(folder: Path) -> dict[str, Any]:
    (folder / "text.mkv").write_text("no film at all" * 100)
    return {"source": folder / "text.mkv"}


def an_existing_output(folder: Path) -> dict[str, Any]:
    (folder / "out.mkv").touch()
    return {}


WRONG: dict[str, tuple[Make, int]] = {
    "a text": (a_text, 65),
    "output exists": (an_existing_output, 73),
    "no such folder": (lambda folder: {"sink": folder / "none" / "out.mkv"}, 73),
    "preset": (lambda _: {"encoder": {"preset": "picture"}}, 64),
    "encoder option": (lambda _: {"encoder": {"options": {"no-such": "1"}}}, 64),
    "size": (lambda folder: {"sink": folder / "out.mov", "encoder": {"codec": "dnxhd"}}, 73),
    "same file": (lambda folder: {"sink": folder / "in.mkv", "overwrite": True}, 64),
    "part": (lambda _: {"start": "1:00:00"}, 64),
}


@pytest.mark.parametrize("origin", ["mqtt", "watch"])
def test_what_can_only_fail_fails_as_its_run_would(tmp_path: Path, origin: Origin) -> None:
    jobs = dict[str, Job]()
    for index, (make, _) in enumerate(WRONG.values()):
        folder = tmp_path / str(index)
        folder.mkdir()
        given = {"source": make_clip(folder / "in.mkv", frames=3), "sink": folder / "out.mkv"}
        jobs[f"job-{index}"] = the_job(f"job-{index}", **given | make(folder), origin=origin)

    async def main() -> None:
        async with checked(tmp_path) as queue:
            for job in jobs.values():
                await queue.submit(job)
            for (_, code), job in zip(WRONG.values(), jobs.values(), strict=True):
                failed = await until(queue, job.id, lambda job: job.state != "queued")
                with pytest.raises(Exception, match=r".") as refused:
                    run(RunRequest(job.source, job.sink, job.work, RUNTIME))
                assert (failed.state, failed.attempts) == ("failed", 0)
                assert failed.error == error_of(refused.value)
                assert failed.error.code == code

    asyncio.run(main())


@pytest.mark.parametrize(
    ("source", "sink", "code", "text"),
    [
        ("none.mp4", "out.mp4", 66, "{0}/none.mp4: no such file"),
        ("in.mp4/deep.mp4", "out.mp4", 66, "{0}/in.mp4/deep.mp4"),
        ("in.mp4", "none/out.mp4", 73, "output folder does not exist: {0}/none"),
        ("in.mp4", "there.mp4", 73, "output exists: {0}/there.mp4 (use --overwrite)"),
        ("in.mp4", "in.mp4", 64, "input and output are the same file: {0}/in.mp4"),
        ("link.mp4", "in.mp4", 64, "input and output are the same file: {0}/in.mp4"),
        ("half.mp4", "out.mp4", 65, "{0}/half.mp4: truncated: "),
    ],
)
def test_the_users_own_job_needs_its_source_now(
    source: str, sink: str, code: int, text: str, tmp_path: Path
) -> None:
    whole = make_clip(tmp_path / "in.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "there.mp4").touch()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "in.mp4")
    work = work_of(tmp_path / source, tmp_path / sink)
    with pytest.raises(MediaError) as refused:
        check_job(CheckJob(id="film", work=work, may_come=False))
    error = error_of(refused.value)
    assert (error.code, error.retryable) == (code, False)
    assert text.format(tmp_path) in error.message


def waits(folder: Path, name: str, origin: Origin = "mqtt") -> Job:
    """A job whose check finds nothing, or cannot be done now."""
    path = folder / f"{name}.mp4"
    if name in ("good", "half", "user"):
        make_clip(path, frames=12)
    if name == "half":
        path.write_bytes(path.read_bytes()[:2000])
    if name == "empty":
        path.touch()
    if name == "reserved":
        path.write_bytes(bytes(10_000))
    if name == "hangs":
        os.mkfifo(path)
    source = "http://127.0.0.1:9/none.mp4" if name == "url" else path
    encoder = {"preset": "picture"} if name == "user" else {}
    return the_job(name, source, folder / f"{name}.out.mp4", origin, encoder=encoder)


def test_what_cannot_be_said_now_is_left_to_the_attempt(tmp_path: Path) -> None:
    names = ["good", "missing", "half", "empty", "reserved", "hangs", "url"]
    jobs = [waits(tmp_path, name) for name in names]
    jobs.append(waits(tmp_path, "user", origin="cli"))  # they are checked when submitted
    within = Confinement(source=Root(tmp_path), sink=Root(tmp_path))
    confined = [
        job_of(job.work, id=f"c-{job.id}", origin="mqtt", confined=within)
        for job in jobs
        if job.id in ("good", "missing", "half", "empty")
    ]
    wrong = the_job(
        "wrong", tmp_path / "good.mp4", tmp_path / "wrong.mp4", encoder={"preset": "picture"}
    )

    async def main() -> None:
        async with checked(tmp_path, timeout_seconds=5) as queue:
            for job in [*jobs, *confined, wrong]:
                await queue.submit(job)
            await until(queue, "wrong", lambda job: job.state == "failed")  # after all the others
            left = await queue.jobs(("queued",))
            assert {job.id for job in left} == {job.id for job in [*jobs, *confined]}

    asyncio.run(main())


def test_a_request_reads_no_address_that_it_may_not(tmp_path: Path) -> None:
    job = the_job("film", "http://192.0.2.1/a.mp4", tmp_path / "out.mp4")

    async def main() -> None:
        async with checked(tmp_path) as queue:
            await queue.submit(job)
            failed = await until(queue, "film", lambda job: job.state != "queued")
            assert failed.error is not None
            assert failed.error.code == 65
            assert "192.0.2.1" in failed.error.message

    asyncio.run(main())


REFUSAL = JobError(code=73, message="output exists", retryable=False)


class Answer:
    """Answers every check alike, and keeps which jobs were asked about."""

    def __init__(self, error: JobError | None = REFUSAL) -> None:
        self.error = error
        self.asked = list[tuple[str, AccessLimits | None]]()

    async def __call__(self, job: Job, limits: AccessLimits | None) -> JobError | None:
        self.asked.append((job.id, limits))
        return self.error


def test_only_jobs_that_wait_for_their_first_attempt_are_checked(tmp_path: Path) -> None:
    answer, later = Answer(None), datetime.now(UTC) + timedelta(hours=1)
    film, out = tmp_path / "in.mp4", tmp_path / "out.mp4"
    again = the_job("again", film, out).model_copy(update={"attempts": 1})
    aside = the_job("aside", film, out).model_copy(update={"not_before": later})

    async def main() -> None:
        async with checked(tmp_path, answer) as queue:
            await queue.submit(the_job("running", film, out))
            assert await queue.claim() is not None
            await queue.submit(again)
            await queue.submit(aside)
            await queue.submit(the_job("cancelled", film, out))
            await queue.cancel("cancelled")
            await queue.submit(the_job("watched", film, out, origin="watch"))
            await queue.submit(the_job("asked", film, out))
            await eventually(lambda: len(answer.asked) == 2)
            await queue.update("asked", waits_for="room")  # told every half minute, checked once
            await queue.submit(the_job("last", film, out))
            await eventually(lambda: answer.asked[-1][0] == "last")

    asyncio.run(main())
    limits = AccessLimits(hosts=("127.0.0.1",), model_mebibytes=JobsConfig().model_mebibytes)
    assert answer.asked == [("watched", None), ("asked", limits), ("last", limits)]


def test_a_job_that_was_begun_or_cancelled_while_it_was_checked_goes_on_so(tmp_path: Path) -> None:
    film, out = tmp_path / "in.mp4", tmp_path / "out.mp4"

    async def main() -> None:
        begun = list[Job | None]()

        async def check(job: Job, _: AccessLimits | None) -> JobError:
            if job.id == "claimed":
                begun.append(await queue.claim(limit_ids=["claimed"]))
            else:
                await queue.cancel(job.id)
            return REFUSAL

        async with checked(tmp_path, check) as queue:
            await queue.submit(the_job("claimed", film, out))
            await queue.submit(the_job("cancelled", film, out))
            await until(queue, "cancelled", lambda job: job.state == "cancelled")
            assert [job and job.id for job in begun] == ["claimed"]
            assert (await queue.get("claimed")).state == "running"

    asyncio.run(main())


def test_a_job_that_is_tried_again_is_checked_again(tmp_path: Path) -> None:
    answer = Answer()

    async def main() -> None:
        async with checked(tmp_path, answer) as queue:
            await queue.submit(the_job("film", tmp_path / "in.mp4", tmp_path / "out.mp4"))
            failed = await until(queue, "film", lambda job: job.state == "failed")
            assert failed.error == REFUSAL
            answer.error = None
            await queue.retry("film")
            await eventually(lambda: len(answer.asked) == 2)
            assert (await queue.get("film")).state == "queued"

    asyncio.run(main())


def test_a_busy_or_dead_prober_says_nothing_in_time(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hangs.mkv")
    wrong = the_job("wrong", make_clip(tmp_path / "in.mp4"), tmp_path / "in.mp4", overwrite=True)

    async def main() -> None:
        async with aclosing(FileProber(config_of(tmp_path / "state"), timeout_seconds=4)) as prober:
            error = await prober.check(wrong)
            assert error is not None
            assert error.code == 64
            hanging = asyncio.create_task(prober.probe(tmp_path / "hangs.mkv"))
            await asyncio.sleep(2)
            assert await prober.check(wrong) is None or hanging.done()
            await hanging
            assert await prober.check(wrong) == error
            asked = asyncio.create_task(prober.check(waits(tmp_path, "hangs")))
            await asyncio.sleep(0.5)
            os.kill(prober.pid or 0, 9)
            assert await asked is None
            assert await prober.check(wrong) == error

    asyncio.run(main())

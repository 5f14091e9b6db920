"""After a death: what an attempt left behind, and which of its jobs are done all the same.

The daemon, a worker or both may be killed at any moment. In the order in which things happen:

1. *Before the claim is in the store:* the job is queued. Nothing else exists.
2. *Claimed, and the worker is loading or streaming:* there may be a temporary file or folder, whose
   name has the job's token. No entry is in the ledger. It is removed; the job is queued again.
3. *While the entry is written:* it is complete or not there, since it comes by rename; see 2.
4. *The entry is there, no file has its name yet:* every file is complete, checked and on the disk.
   What the worker would have done is done: the files get their names, and the job is done.
5. *Between link and unlink of one file, or between two files of a sequence:* as 4. A file that
   has its name already is known by inode, size and time; the temporary one is removed.
6. *All have their names, the daemon does not know:* as 5, with nothing left to rename.
7. *The daemon has recorded the end, the entry is still there:* the job is not running, so nothing
   of it is touched but the entry, which is dropped.

If another file took a name meanwhile (and may not be replaced), 4 and 5 cannot be completed: those
of our files that have a name are removed, known as in 5, and the job is queued again, to be refused
as any other would be. If nobody can tell, as where a share is away, the entry stays: each attempt
begins by asking the same again, so a result is neither redone nor refused later.

Two rules make this hold. Temporary files exist only while a job is `running`: they are removed
before its state changes. And files are looked at only when no worker can be writing them: a worker
was reaped, or, after the death of a daemon, its lock is free.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ...io.errors import MediaError
from ...io.files import discard_partials, rename, sync_folder
from ...io.root import opened_place
from ..config import JobsConfig
from ..exits import Exit
from ..fence import Fence
from ..jobs.model import IllegalChange, Job, JobError, State, StoreBroken, UnknownJob, partial_token
from ..jobs.queue import JobQueue
from . import ledger, worker_lock
from .ledger import Publication, Result, Results
from .messages import Done, Failed
from .process import Lost, Outcome
from .retry import next_attempt

log = logging.getLogger("upframe.work")


_END_SECONDS = 60.0
"""In which the workers of a dead daemon must be gone: the kernel may be writing out gigabytes."""


async def recover(queue: JobQueue, state_dir: Path) -> None:
    """Bring everything that was running when the last daemon died to an end or back to the queue.

    To be called before anything else touches jobs or files.

    Raises:
        TimeoutError: if a worker of the last daemon cannot be ended.
        StoreBroken: if the store fails.
    """
    killed = await asyncio.to_thread(
        worker_lock.end_holders, state_dir / worker_lock.FOLDER, _END_SECONDS
    )
    for pid in killed:
        log.warning("killed worker process %d, which its daemon had left behind", pid)
    kept = await asyncio.to_thread(Results, state_dir / ledger.FOLDER)
    for job in await queue.jobs(states={"running"}):
        await _recover(queue, job, kept)
    for job_id in await asyncio.to_thread(lambda: list(kept.job_ids())):
        if await _is_over(queue, job_id):
            await asyncio.to_thread(kept.forget, job_id)


async def _recover(queue: JobQueue, job: Job, kept: Results) -> None:
    report = None
    with Fence("job", job.id):
        try:
            report = await asyncio.to_thread(settle, job, kept)
        except OSError as error:
            log.warning("cannot look after what job %s left: %s", job.id, error)
    if report is not None:
        log.info("job %s had been done, but not recorded", job.id, extra={"job_id": job.id})
        await queue.change(job.id, "done", report=report)
    else:
        log.info("job %s was interrupted, and is queued again", job.id, extra={"job_id": job.id})
        await queue.change(job.id, "queued", attempts=max(0, job.attempts - 1))


async def _is_over(queue: JobQueue, job_id: str) -> bool:
    try:
        return (await queue.get(job_id)).ended_for_good
    except UnknownJob:
        return True


def settle(job: Job, kept: Results, *, complete: bool = True) -> dict[str, Any] | None:
    """Complete what an attempt was about to publish, or remove all that it left. Blocks.

    No worker may be at work on the job.

    Args:
        job: whose attempt has ended, somehow.
        kept: the ledger.
        complete: whether to rename files that were ready; otherwise only a result that is complete
            already counts, and one that is not is removed.

    Returns:
        The job's report if it is done, else None.

    Raises:
        OSError: if files cannot be looked at or removed.
    """
    result = kept.read(job.id)
    report = None
    sink = Path(job.sink)
    with opened_place(job.confined and job.confined.sink, sink) as place:
        if result is not None and result.digest == job.work.digest:
            result = result.moved(sink.parent, place.parent)
            done = _publish(job, result, complete=complete)
            report = result.report if done else None
            if not done:
                _take_back(result)
        discard_partials(place, partial_token(job.id))
    return report


def _publish(job: Job, result: Result, *, complete: bool) -> bool:
    """Give those files their names that have none yet. False where that cannot be done."""
    missing = [file for file in result.files if not file.is_published]
    if missing and not (complete and all(file.is_waiting for file in missing)):
        return False
    try:
        for file in missing:
            rename(Path(file.partial), Path(file.final), overwrite=job.overwrite)
    except MediaError as error:
        log.warning("cannot complete what job %s had made: %s", job.id, error)
        return False
    for folder in {Path(file.final).parent for file in result.files}:
        sync_folder(folder)
    return True


def _take_back(result: Result) -> None:
    for file in result.files:
        if file.is_published:
            _remove(file)


def _remove(file: Publication) -> None:
    with suppress(FileNotFoundError):
        os.unlink(file.final)


# How an attempt ends in the store: done, failed, tried again, cancelled or given back.

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0
"""Between attempts to write what cannot be written: it must not be lost."""

Wish = Literal["cancel", "give back"]
"""Why an attempt was stopped."""


class Endings:
    """Cleans up after attempts, and then records how they ended, in this order."""

    def __init__(
        self, queue: JobQueue, config: JobsConfig, results: Results, counts: Counter[str]
    ) -> None:
        self._queue = queue
        self._config = config
        self._results = results
        self._counts = counts

    def configure(self, config: JobsConfig) -> None:
        """Give later attempts another number and other delays."""
        self._config = config

    async def record(self, job: Job, outcome: Outcome, wish: Wish | None) -> None:
        """Record what became of an attempt. Whatever is asked of a job: if it is done, it is done.

        Args:
            job: as it was claimed.
            outcome: what the worker said.
            wish: why it was stopped, if it was.
        """
        report = await self._report(job, outcome, wish)
        if report is not None:
            await self._end(job, "done", report=report)
        elif wish == "cancel":
            await self._end(job, "cancelled")
        elif wish == "give back":
            log.info("given back: it begins anew with the next daemon")
            await self._change(job, "queued", attempts=job.attempts - 1)
        else:
            await self._fail(job, _error_of(outcome))

    async def give_up(self, job: Job, error: Exception) -> None:
        """Record that a job failed by an error of ours, without looking at its files."""
        text = f"an internal error, {type(error).__name__}; the daemon's log has more of it"
        failed = JobError(code=int(Exit.INTERNAL), message=text, retryable=False)
        with Fence("job", job.id):
            await self._end(job, "failed", error=failed)

    async def _report(self, job: Job, outcome: Outcome, wish: Wish | None) -> dict[str, Any] | None:
        if isinstance(outcome, Done):
            return outcome.report
        try:
            return await asyncio.to_thread(settle, job, self._results, complete=wish != "cancel")
        except OSError as error:  # the next attempt looks again before it begins
            log.warning("cannot look after what the attempt left: %s", error)
            return None

    async def _fail(self, job: Job, error: JobError) -> None:
        due = next_attempt(error, job.attempts, self._config, datetime.now(UTC))
        if due is None:
            log.error("failed after %d attempts: %s", job.attempts, error.message)
            await self._end(job, "failed", error=error)
            return
        text = f"attempt {job.attempts + 1} of {self._config.attempts}"
        seconds = (due - datetime.now(UTC)).total_seconds()
        log.warning("%s; %s in %.0f s", error.message, text, seconds)
        self._counts["retries"] += 1
        await self._change(
            job, "queued", error=error, not_before=due, waits_for=f"{text}: {error.message}"
        )

    async def _end(self, job: Job, state: State, **fields: object) -> None:
        await self._change(job, state, **fields)
        self._counts[state] += 1
        try:
            await asyncio.to_thread(self._results.forget, job.id)
        except OSError as error:  # the next start drops it
            log.warning("cannot drop what the ledger says of a job that has ended: %s", error)

    async def _change(self, job: Job, state: State, **fields: object) -> None:
        """Change the state, however long that takes. If we are ended meanwhile, recovery does."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._queue.change(job.id, state, expected=("running",), **fields)
                return
            except (IllegalChange, UnknownJob) as error:
                log.error("cannot record that job %s is %s: %s", job.id, state, error)
                return
            except StoreBroken as error:
                log.error("cannot record that job %s is %s yet: %s", job.id, state, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _error_of(outcome: Outcome) -> JobError:
    if isinstance(outcome, Failed | Lost):
        return outcome.error
    return JobError(code=70, message="the worker stopped without being asked", retryable=True)

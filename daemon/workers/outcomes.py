"""How attempts end: recovery after a death, cleanup, retries, and the final state in the store.

The daemon, a worker or both may be killed at any moment. In the order of an attempt:

1. *Before the claim is in the store:* the job is queued. Nothing else exists.
2. *Claimed, and the worker is loading or streaming:* there may be a temporary file or folder, with
   the job's token in its name, and no entry in the ledger. It is removed; the job is queued again.
3. *While the entry is written:* it is complete or missing, since it comes by rename; see 2.
4. *The entry is there, no file has its name yet:* every file is complete, checked and on the disk.
   The files get their names, as the worker would have given them, and the job is done.
5. *Between link and unlink of one file, or between two files of a sequence:* as 4. A file that
   has its name already is recognised by inode, size and time; the temporary one is removed.
6. *All have their names, the daemon does not know yet:* as 5, with nothing left to rename.
7. *The daemon has recorded the end, the entry is still there:* the job is not running, so nothing
   of it is touched but the entry, which is removed.

If another file took a name meanwhile (and must not be replaced), 4 and 5 cannot be completed: those
of our files that have a name are removed, recognised as in 5, and the job is queued again, to be
refused as any other would be. While a network share is away, the entry stays: each attempt begins
with the same check, so a result is neither made twice nor refused later.

This depends on two rules. Temporary files exist only while a job is `running`: they are removed
before its state changes. And files are touched only while no worker can be writing them: a worker
was reaped, or, after the death of a daemon, its lock is free.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from ...io.errors import MediaError
from ...io.files import discard_partials, rename, sync_folder
from ...io.root import opened_place
from ..backoff import STORE_STEPS, Backoff
from ..config import JobsConfig
from ..errors import IllegalChange, StoreBroken, UnknownJob
from ..exits import Exit
from ..fence import Fence
from ..jobs.model import Job, JobError, State, partial_token
from ..jobs.queue import JobQueue
from . import ledger, worker_lock
from .ledger import Result, Results
from .messages import JobDone, RequestFailed
from .process import AttemptOutcome, WorkerDied

log = logging.getLogger("upframe.work")


_END_SECONDS = 60.0
"""For the workers of a dead daemon to be gone: the kernel may be writing out gigabytes."""


async def recover(queue: JobQueue, state_dir: Path) -> None:
    """End or queue again each job that was running when the last daemon died.

    Call it before anything else touches jobs or files.

    Raises:
        TimeoutError: if a worker of the last daemon cannot be ended.
        StoreBroken: if the store fails.
    """
    killed = await asyncio.to_thread(
        worker_lock.end_holders, state_dir / worker_lock.FOLDER, _END_SECONDS
    )
    for pid in killed:
        log.warning("killed worker process %d, left behind by the last daemon", pid)
    entries = await asyncio.to_thread(Results, state_dir / ledger.FOLDER)
    for job in await queue.jobs(states={"running"}):
        report = None
        with Fence("job", job.id):
            report = await _settled(job, entries)
        if report is not None:
            log.info("job %s had been done, but not recorded", job.id, extra={"job_id": job.id})
            await queue.change(job.id, "done", report=report)
        else:
            log.info(
                "job %s was interrupted, and is queued again", job.id, extra={"job_id": job.id}
            )
            await queue.change(job.id, "queued", attempts=max(0, job.attempts - 1))
    for job_id in await asyncio.to_thread(lambda: list(entries.job_ids())):
        state = await _state_of(queue, job_id)
        if state in (None, "done", "failed", "cancelled"):
            kept = state == "failed"  # `jobs retry` continues it
            await asyncio.to_thread(entries.forget, job_id, keep_segments=kept)


async def _state_of(queue: JobQueue, job_id: str) -> State | None:
    try:
        return (await queue.get(job_id)).state
    except UnknownJob:
        return None


async def _settled(job: Job, entries: Results, *, complete: bool = True) -> dict[str, Any] | None:
    try:
        return await asyncio.to_thread(settle, job, entries, complete=complete)
    except OSError as error:  # the next attempt checks again before it begins
        log.warning("cannot clean up after job %s: %s", job.id, error)
        return None


def settle(job: Job, entries: Results, *, complete: bool = True) -> dict[str, Any] | None:
    """Complete what an attempt was about to publish, or remove all that it left. Blocks.

    No worker may be working on the job. No worker may be working on the job, whose attempt has
    ended in whatever way. If `complete`, files that are ready are renamed; otherwise a result
    counts only if all its files have their names already, and is removed if not. Returned is the
    report of a job that is done, else None.

    Raises:
        OSError: if files cannot be accessed or removed.
    """
    result = entries.read(job.id)
    report = None
    sink = Path(job.sink)
    with opened_place(job.confined and job.confined.sink, sink) as place:
        if result is not None and result.digest == job.work.digest:
            result = result.moved(sink.parent, place.parent)
            done = _publish(job, result, complete=complete)
            report = result.report if done else None
            if not done:
                for file in result.files:
                    if file.is_published:
                        with suppress(FileNotFoundError):
                            os.unlink(file.final)
        discard_partials(place, partial_token(job.id))
    return report


def _publish(job: Job, result: Result, *, complete: bool) -> bool:
    """Give their names to the files that have none yet; return whether that was possible."""
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


# The end of an attempt in the store: done, failed, queued again, cancelled or given back.

StopReason = Literal["cancel", "give back"]
"""Why an attempt was stopped."""

_UNASKED = JobError(
    code=int(Exit.INTERNAL), message="the worker stopped without being asked", retryable=True
)
_JITTER = 0.25  # of the delay, either way: jobs that failed together do not come back together


def next_attempt(
    error: JobError,
    attempts: int,
    config: JobsConfig,
    now: datetime,
    *,
    uniform: Callable[[float, float], float] = random.uniform,
) -> datetime | None:
    """Return when a job that failed `now` is tried again, by the attempts so far; None: never."""
    if not error.retryable or attempts >= config.attempts:
        return None
    delays = config.retry_delays
    delay = delays[min(max(attempts, 1), len(delays)) - 1]
    return now + timedelta(seconds=delay * uniform(1 - _JITTER, 1 + _JITTER))


class OutcomeRecorder:
    """Cleans up after attempts, and then records how they ended, in this order."""

    def __init__(
        self,
        queue: JobQueue,
        config: Callable[[], JobsConfig],
        results: Results,
        counts: Counter[str],
    ) -> None:
        self._queue = queue
        self._config = config
        self._results = results
        self._counts = counts

    async def record(self, job: Job, outcome: AttemptOutcome, reason: StopReason | None) -> None:
        """Record an attempt's outcome, and why it was stopped. Done is done, even if cancelled."""
        if isinstance(outcome, JobDone):
            report = outcome.report
        else:
            report = await _settled(job, self._results, complete=reason != "cancel")
        if report is not None:
            await self._end(job, "done", report=report)
        elif reason == "cancel":
            await self._end(job, "cancelled")
        elif reason == "give back":
            log.info("given back to the queue: the next daemon runs it again")
            await self._change(job, "queued", attempts=job.attempts - 1)
        else:
            error = outcome.error if isinstance(outcome, RequestFailed | WorkerDied) else _UNASKED
            await self._fail(job, error)

    async def give_up(self, job: Job, error: Exception) -> None:
        """Record that a job failed by an internal error, without touching its files."""
        text = f"an internal error, {type(error).__name__}; the daemon's log has more of it"
        failed = JobError(code=int(Exit.INTERNAL), message=text, retryable=False)
        with Fence("job", job.id):
            await self._end(job, "failed", error=failed)

    async def _fail(self, job: Job, error: JobError) -> None:
        config = self._config()
        due = next_attempt(error, job.attempts, config, datetime.now(UTC))
        if due is None:
            log.error("failed after %d attempts: %s", job.attempts, error.message)
            await self._end(job, "failed", error=error)
            return
        text = f"attempt {job.attempts + 1} of {config.attempts}"
        seconds = (due - datetime.now(UTC)).total_seconds()
        log.warning("%s; %s in %.0f s", error.message, text, seconds)
        self._counts["retries"] += 1
        await self._change(
            job, "queued", error=error, not_before=due, waits_for=f"{text}: {error.message}"
        )

    async def _end(self, job: Job, state: State, **fields: object) -> None:
        await self._change(job, state, **fields)
        self._counts[state] += 1
        error = fields.get("error")
        kept = isinstance(error, JobError) and error.retryable  # `jobs retry` continues it
        try:
            await asyncio.to_thread(self._results.forget, job.id, keep_segments=kept)
        except OSError as error:  # the next start removes it
            log.warning("cannot remove the ledger's entry of a job that has ended: %s", error)

    async def _change(self, job: Job, state: State, **fields: object) -> None:
        """Change the state, however long that takes; if we are killed meanwhile, recovery does."""
        backoff = Backoff(STORE_STEPS)
        while True:
            try:
                await self._queue.change(job.id, state, expected=("running",), **fields)
                return
            except (IllegalChange, UnknownJob) as error:
                log.error("cannot record that job %s is %s: %s", job.id, state, error)
                return
            except StoreBroken as error:
                log.error("cannot record that job %s is %s yet: %s", job.id, state, error)
            await asyncio.sleep(backoff.next_seconds())

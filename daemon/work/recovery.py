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
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...io.errors import MediaError
from ...io.files import discard_partials, rename, sync_folder
from ..jobs.errors import UnknownJob
from ..jobs.model import Job, partial_token
from ..jobs.queue import JobQueue
from . import results, tether
from .results import Publication, Result, Results

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
    killed = await asyncio.to_thread(tether.end_holders, state_dir / tether.FOLDER, _END_SECONDS)
    for pid in killed:
        log.warning("killed worker process %d, which its daemon had left behind", pid)
    kept = await asyncio.to_thread(Results, state_dir / results.FOLDER)
    for job in await queue.jobs(states={"running"}):
        await _recover(queue, job, kept)
    for job_id in await asyncio.to_thread(lambda: list(kept.job_ids())):
        if await _is_over(queue, job_id):
            await asyncio.to_thread(kept.forget, job_id)


async def _recover(queue: JobQueue, job: Job, kept: Results) -> None:
    report = None
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
    if result is not None and result.digest == job.work.digest:
        done = _publish(job, result, complete=complete)
        report = result.report if done else None
        if not done:
            _take_back(result)
    discard_partials(Path(job.sink), partial_token(job.id))
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

"""Forgets what is long over, so that the store stays as small as the memory that it is for."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from ..errors import StoreBroken
from .queue import JobQueue

log = logging.getLogger("upframe.jobs")

_INTERVAL_SECONDS = 3600.0
_BREATH_SECONDS = 0.05  # between two portions: others write too


async def keep_tidy(
    queue: JobQueue, keep_days: float, *, interval_seconds: float = _INTERVAL_SECONDS
) -> None:
    """Forget ended jobs after their time, now and again, until cancelled."""
    while True:
        try:
            forgotten = await forget_old(queue, keep_days)
        except StoreBroken as error:  # a full disk now may not be one in an hour
            log.warning("old jobs could not be dropped: %s", error)
        else:
            if forgotten:
                log.info("dropped the records of %d jobs of %g days ago", forgotten, keep_days)
        await asyncio.sleep(interval_seconds)


async def forget_old(queue: JobQueue, keep_days: float) -> int:
    """Forget every job that ended more than `keep_days` ago, in portions; count them.

    Raises:
        StoreBroken: if the store fails.
    """
    before = datetime.now(UTC) - timedelta(days=keep_days)
    forgotten = 0
    while jobs := await queue.forget(before):
        forgotten += len(jobs)
        await asyncio.sleep(_BREATH_SECONDS)
    return forgotten

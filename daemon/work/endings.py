"""How an attempt ends in the store: done, failed, tried again, cancelled or given back."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from datetime import UTC, datetime
from typing import Any, Literal

from ..jobs.errors import IllegalChange, StoreBroken, UnknownJob
from ..jobs.model import Job, JobError, State
from ..jobs.queue import JobQueue
from ..service.config import JobsConfig
from .messages import Done, Failed
from .process import Lost, Outcome
from .recovery import settle
from .results import Results
from .retry import next_attempt

log = logging.getLogger("upframe.work")

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

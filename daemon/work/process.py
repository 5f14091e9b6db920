"""A worker process as the daemon sees it: asked one thing at a time, watched, stopped, reaped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from ...filters.options import FilterOptions
from ..exits import Exit
from ..jobs.model import JobError, Work
from .child import Child, WorkerSettings
from .messages import (
    Answer,
    Cancel,
    Done,
    Event,
    Failed,
    Probed,
    ProbeFile,
    Ready,
    Request,
    RunJob,
    Stage,
    Stop,
    Stopped,
    Verdict,
    Warm,
    Warmed,
)
from .retry import error_of
from .stall import Stall

__all__ = ["Lost", "Outcome", "WorkerLost", "WorkerProcess", "WorkerSettings"]

CANCEL_SECONDS = 4.0
"""That a job gets to stop in order before its worker is killed: both together stay below 5."""
_STOP_SECONDS = 5.0
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Lost:
    """The worker died, or had to be killed, before it could answer."""

    error: JobError


Outcome = Done | Failed | Stopped | Lost


def _ignore(_: Event) -> None:
    pass


class WorkerLost(Exception):
    """A worker could not be started, or died over a request that is no job."""

    def __init__(self, error: JobError) -> None:
        super().__init__(error.message)
        self.error = error


class WorkerProcess:
    """One worker. Whoever starts it ends it, with `stop` or `kill`."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.num_jobs = 0
        """Jobs begun."""
        self.device: str | None = None
        """Where it computes, as people know it."""
        self.stall: Stall | None = None
        """Of the request that it works on; None while it is idle."""
        self._child = Child(settings)
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def alive(self) -> bool:
        """Whether it was started and has not ended."""
        return self._child.alive

    @property
    def pid(self) -> int | None:
        """Its process id; None before it was started."""
        return self._child.pid

    @property
    def rss_bytes(self) -> int:
        """Its resident memory; 0 where it has none."""
        return self._child.rss_bytes

    @property
    def crashed(self) -> bool:
        """Whether it ended by a fault of its own, such as a segmentation fault."""
        return self._child.crashed

    async def start(self, timeout_seconds: float) -> None:
        """Start it, and wait until it takes requests.

        Raises:
            WorkerLost: if it does not come up in time, or cannot do its work here.
        """
        self._idle.clear()  # from here on it can be cancelled
        try:
            await self._child.start()
        except OSError as error:
            self._idle.set()
            raise WorkerLost(error_of(error)) from error
        answer = await self._answer(Stall({"loading": timeout_seconds}), _ignore)
        if not isinstance(answer, Ready):
            await self.kill()
            raise WorkerLost(_error_of(answer))
        self.device = answer.device

    async def warm(self, filters: FilterOptions, timeout_seconds: float) -> float:
        """Load the models of some filters and run each once.

        Returns:
            How long that took, in seconds.

        Raises:
            WorkerLost: if that fails; the worker may live on.
        """
        answer = await self._ask(Warm(filters=filters), {"loading": timeout_seconds})
        if not isinstance(answer, Warmed):
            raise WorkerLost(_error_of(answer))
        return answer.seconds

    async def probe(self, path: str, timeout_seconds: float) -> Verdict:
        """Look whether a file is video.

        Raises:
            WorkerLost: if the worker died over it, or did not answer in time and was killed.
        """
        answer = await self._ask(ProbeFile(path=path), {"loading": timeout_seconds})
        if not isinstance(answer, Probed):
            raise WorkerLost(_error_of(answer))
        return answer.verdict

    async def run_job(
        self,
        job_id: str,
        work: Work,
        budgets: Mapping[Stage, float],
        on_event: Callable[[Event], None],
    ) -> Outcome:
        """Run a job to whatever end it takes; never raises for what happens to the worker.

        Args:
            job_id: names its temporary files and its entry in the ledger.
            work: what to do.
            budgets: seconds that each stage may go without progress.
            on_event: told of stages and progress.
        """
        self.num_jobs += 1
        self._child.job_id = job_id
        try:
            answer = await self._ask(RunJob(id=job_id, work=work), budgets, on_event)
        finally:
            self._child.job_id = None
        if isinstance(answer, Done | Failed | Stopped | Lost):
            return answer
        return self._confused(answer)

    async def cancel(self, seconds: float = CANCEL_SECONDS) -> None:
        """Stop what runs, and return when it has ended.

        Args:
            seconds: that it gets to stop in order, before the worker is killed.
        """
        if self._child.job_id is not None:
            self._child.send(Cancel(id=self._child.job_id))
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._idle.wait()
        if not self._idle.is_set():
            self._child.kill_now(f"it did not stop within {seconds:g} s")
            await self._idle.wait()

    async def stop(self) -> None:
        """End it when it is idle, in order; kill it if it does not follow."""
        if self.alive:
            self._child.send(Stop())
            with suppress(TimeoutError):
                async with asyncio.timeout(_STOP_SECONDS):
                    await self._child.ended()
        await self.kill()

    async def kill(self) -> None:
        """End it now, and wait until nothing of it is left. Safe to call twice."""
        await self._child.kill("nobody needs it any more")

    async def _ask(
        self,
        request: Request,
        budgets: Mapping[Stage, float],
        on_event: Callable[[Event], None] = _ignore,
    ) -> Answer | Lost:
        if not self.alive:
            return await self._lost()
        self._child.send(request)
        return await self._answer(Stall(budgets), on_event)

    async def _answer(self, stall: Stall, on_event: Callable[[Event], None]) -> Answer | Lost:
        self._idle.clear()
        self.stall = stall
        try:
            while (event := await self._next(stall)) is not None:
                if isinstance(event, Answer):
                    return event
                stall.note(event)
                on_event(event)
            return await self._lost()
        finally:
            self.stall = None
            self._idle.set()

    async def _next(self, stall: Stall) -> Event | None:
        """Wait for an event; None when the worker has closed its end, if need be by force."""
        while stall.left_seconds > 0:
            seconds = min(_LOOK_SECONDS, stall.left_seconds)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    return await self._child.events.get()
            stall.wait(seconds)
        self._child.kill_now(str(stall))
        return await self._child.events.get()

    async def _lost(self) -> Lost:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._child.ended()
        await self._child.kill("it closed its pipe and went on")
        return Lost(_worker_error(self._child.end, self._child.tail.text))

    def _confused(self, answer: Answer) -> Lost:
        self._child.kill_now(f"it answered {answer.kind!r}, wanted the end of a job")
        return Lost(_worker_error(self._child.end, None))


def _worker_error(text: str, detail: str | None) -> JobError:
    """Say that it is the worker that failed: that may go better the next time."""
    return JobError(
        code=int(Exit.INTERNAL),
        message=f"the worker process {text}",
        retryable=True,
        detail=detail,
    )


def _error_of(answer: Answer | Lost) -> JobError:
    if isinstance(answer, Failed | Lost):
        return answer.error
    return _worker_error(f"answered {answer.kind!r}, which was not asked", None)

"""A worker process as the daemon sees it: asked one thing at a time, watched, stopped, reaped."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...filters.errors import says_no_memory
from ...filters.options import FilterOptions
from ...io.root import Root
from ..exits import Exit
from ..fence import Fence
from ..jobs.model import Confinement, JobError, Work
from . import ledger, worker_lock
from .child import LineChild
from .messages import (
    Answer,
    Cancel,
    Done,
    Event,
    Failed,
    Logged,
    Probed,
    ProbeFile,
    Progressed,
    Reach,
    Ready,
    Request,
    RunJob,
    Stage,
    StageBegun,
    Stop,
    Stopped,
    Verdict,
    Warm,
    Warmed,
    read_event,
)
from .retry import error_of

__all__ = ["Child", "Lost", "Outcome", "Stall", "WorkerLost", "WorkerProcess", "WorkerSettings"]


# A worker process that runs jobs, by the lines of JSON that it speaks.


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How to start a worker."""

    name: str
    """Of its lock and in the log, such as ``0``."""
    state_dir: Path
    runs_jobs: bool = True
    """Or only probes files."""
    device: str = "auto"
    precision: str = "auto"
    weights: str = "auto"
    threads: int | None = None
    """For computing on the CPU; None leaves the choice to torch."""

    @property
    def command(self) -> list[str]:
        """The command line."""
        lock = self.state_dir / worker_lock.FOLDER / f"{self.name}.lock"
        # -P: nothing is imported from the folder in which somebody started the daemon
        words = [sys.executable, "-P", "-m", "upframe.daemon.workers.worker"]
        words += ["--parent", str(os.getpid()), "--lock", str(lock)]
        if not self.runs_jobs:
            return words
        words += ["--results", str(self.state_dir / ledger.FOLDER), "--device", self.device]
        words += ["--precision", self.precision, "--weights", self.weights]
        return words + ([] if self.threads is None else ["--threads", str(self.threads)])


class Child(LineChild):
    """One worker process, without what it is asked. Whoever starts it ends it, with `kill`."""

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(f"worker {settings.name}", settings.command)
        self.events: asyncio.Queue[Event | None] = asyncio.Queue()
        """What it sends; None when there will be no more."""
        self.job_id: str | None = None
        """Of the job that what it logs is about."""

    def send(self, request: Request) -> None:
        """Send a request. Whether anybody is there to read it shows by the answer."""
        self.say(request.line)

    def _take(self, line: bytes) -> None:
        event = read_event(line)
        if isinstance(event, Logged):
            text, _, trace = event.message.partition("\n")
            about = {"job_id": self.job_id, "trace": trace}
            logging.getLogger(event.logger).log(event.level, "%s", text, extra=about)
        else:
            self.events.put_nowait(event)

    def _closed(self) -> None:
        self.events.put_nowait(None)


# How long a worker has stood still, and when that means that it hangs.


class Stall:
    """The time without progress, held against what the stage may take.

    Args:
        budgets: seconds that each stage may go without progress.

    Time is told to it rather than taken from a clock, so that a daemon that was stopped itself, or
    a machine that slept, does not take its workers for hung.
    """

    def __init__(self, budgets: Mapping[Stage, float]) -> None:
        self._budgets = budgets
        self._frames = (0, 0)
        self.stage: Stage = "loading"
        self.still_seconds = 0.0
        """Since the last progress."""

    def note(self, event: Event) -> None:
        """Take an event for progress, if it is some: another stage, more frames."""
        if isinstance(event, StageBegun):
            self.stage = event.stage
            self.still_seconds = 0.0
        elif isinstance(event, Progressed):
            frames = (event.frames_in, event.frames_out)
            if frames != self._frames:
                self._frames = frames
                self.still_seconds = 0.0

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.still_seconds += seconds

    @property
    def budget_seconds(self) -> float:
        """What the stage may take."""
        return self._budgets[self.stage]

    @property
    def left_seconds(self) -> float:
        """Until it counts as hung; 0 from then on."""
        return max(0.0, self.budget_seconds - self.still_seconds)

    def __str__(self) -> str:
        return (
            f"no progress in {self.stage} for {self.still_seconds:.0f} s, "
            f"wanted some within {self.budget_seconds:g} s"
        )


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

    async def probe(self, path: str, timeout_seconds: float, root: Root | None = None) -> Verdict:
        """Look whether a file is video, beneath a root where there is one.

        Raises:
            WorkerLost: if the worker died over it, or did not answer in time and was killed.
        """
        answer = await self._ask(ProbeFile(path=path, root=root), {"loading": timeout_seconds})
        if not isinstance(answer, Probed):
            raise WorkerLost(_error_of(answer))
        return answer.verdict

    async def run_job(
        self,
        job_id: str,
        work: Work,
        budgets: Mapping[Stage, float],
        on_event: Callable[[Event], None],
        confined: Confinement | None = None,
        reach: Reach | None = None,
    ) -> Outcome:
        """Run a job to whatever end it takes; never raises for what happens to the worker.

        Args:
            job_id: names its temporary files and its entry in the ledger.
            work: what to do.
            budgets: seconds that each stage may go without progress.
            on_event: told of stages and progress.
            confined: where it may read and write; None: anywhere.
            reach: the hosts and models that it may have; None: all.
        """
        self.num_jobs += 1
        self._child.job_id = job_id
        try:
            request = RunJob(id=job_id, work=work, confined=confined, reach=reach)
            answer = await self._ask(request, budgets, on_event)
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
                with Fence("worker", f"{event.kind} of worker {self.settings.name}"):
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
    no_memory = says_no_memory(detail or "")  # in C++ that ends a process
    return JobError(
        code=int(Exit.TRY_LATER if no_memory else Exit.INTERNAL),
        message=f"the worker process {text}" + (": too large for memory" if no_memory else ""),
        retryable=True,
        detail=detail,
    )


def _error_of(answer: Answer | Lost) -> JobError:
    if isinstance(answer, Failed | Lost):
        return answer.error
    return _worker_error(f"answered {answer.kind!r}, which was not asked", None)

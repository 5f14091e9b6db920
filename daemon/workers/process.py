"""A worker process as the daemon sees it: started, asked one thing at a time, watched and ended.

One of them probes whether files are video: it may crash or hang over any of them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from ...filters.errors import says_no_memory
from ...io.child import Child, Tail, exit_text, rss_bytes_of
from ...io.redaction import one_line
from ...io.root import Root
from ..config import Config
from ..exits import Exit
from ..fence import Fence
from ..jobs.model import Confinement, Job, JobError, ProbeVerdict
from ..specification import ConversionSpec
from ..tasks import within
from . import ledger, worker_lock
from .messages import (
    AccessLimits,
    Answer,
    CancelJob,
    Checked,
    CheckJob,
    Event,
    JobDone,
    JobStopped,
    Logged,
    Probed,
    ProbeFile,
    Progressed,
    Ready,
    Request,
    RequestFailed,
    RunJob,
    Stage,
    error_of,
    read_event,
)

log = logging.getLogger("upframe.work")

_REAP_SECONDS = 10.0
_START_SECONDS = 60.0
"""Until the prober must be ready."""
_OWN_BUSINESS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY")
"""Variables of the daemon that its children must not have."""
_FAULTS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)


def worker_command(module: str, state_dir: Path, lock: str) -> list[str]:
    """Return the command line of a worker, a module that :func:`worker_lock.bind` binds to us."""
    # -P: nothing is imported from the folder in which the daemon was started
    words = [sys.executable, "-P", "-m", module, "--parent", str(os.getpid())]
    return [*words, "--lock", str(state_dir / worker_lock.FOLDER / f"{lock}.lock")]


class WorkerChild:
    """A worker process on the event loop. The caller that spawns it ends it, with `kill`.

    What it logs goes to our log.

    Args:
        name: of the process in the log, such as ``worker 0``.
        command: the program and its arguments.
        on_event: called with every other event.
        on_end: called once there will be no more events.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        on_event: Callable[[Event], None],
        on_end: Callable[[], None],
    ) -> None:
        self.name = name
        self.subject: Mapping[str, str | None] = {}
        """Fields of the lines that it logs, such as `job_id`."""
        self._command = tuple(command)
        self._on_event = on_event
        self._on_end = on_end
        self._child: Child | None = None
        self.pid: int | None = None
        """Its process id; None before it was started."""
        self.tail = Tail()
        """The last lines of its stderr."""
        self._reaped = asyncio.Event()
        self.has_ended = False
        """Whether there will be no more events."""
        self._why_killed: str | None = None

    @property
    def alive(self) -> bool:
        """Whether it was started and has not ended."""
        return self._child is not None and self._child.returncode is None

    @property
    def rss_bytes(self) -> int:
        """Its resident memory; 0 if it does not run."""
        return rss_bytes_of(self.pid) if self.pid is not None and self.alive else 0

    @property
    def crashed(self) -> bool:
        """Whether it ended by a fault of its own, such as a segmentation fault."""
        ended = 0 if self._child is None else self._child.returncode or 0
        return -ended in _FAULTS

    @property
    def end(self) -> str:
        """How and why it ended, as the rest of a sentence."""
        if self._child is None:
            return "was never started"
        if self._why_killed is not None:
            return f"was killed: {self._why_killed}"
        return exit_text(self._child.returncode)

    def spawn(self) -> None:
        """Start it.

        Raises:
            OSError: if the process cannot be started.
        """
        environment = {key: text for key, text in os.environ.items() if key not in _OWN_BUSINESS}
        self._child = child = Child(self._command, environment=environment)
        self.pid, self.tail = child.pid, child.tail
        loop = asyncio.get_running_loop()
        loop.add_reader(child.fileno(), self._turn, child, loop)

    def send(self, request: Request) -> None:
        """Send a request; one to a process that has ended is dropped."""
        if self._child is not None:
            self._child.send(request.line)

    def close_stdin(self) -> None:
        """Close its stdin, after the requests that were sent."""
        if self._child is not None:
            self._child.close_stdin()

    def kill_now(self, why: str) -> None:
        """Send SIGKILL, without waiting for the end."""
        if self._child is not None and self.alive:
            self._why_killed = self._why_killed or why
            self._child.signal(signal.SIGKILL)

    async def ended(self) -> None:
        """Wait until the process is reaped and its pipes are read to their ends."""
        if self._child is not None:
            await self._reaped.wait()

    async def kill(self, why: str = "it is no longer needed") -> None:
        """End it now, and wait until nothing of it is left. Safe to call twice."""
        self.kill_now(why)
        if not await within(_REAP_SECONDS, self.ended()):  # in a system call
            log.error("%s, process %s, does not end by SIGKILL", self.name, self.pid)

    async def end_within(self, seconds: float, why: str) -> None:
        """Wait for its end, and kill it if it goes on."""
        await within(seconds, self.ended())
        await self.kill(why)

    def _turn(self, child: Child, loop: asyncio.AbstractEventLoop) -> None:
        child.turn(0)
        for line in child.lines():
            self._receive(line)
        if child.returncode is not None:
            loop.remove_reader(child.fileno())
            child.close()
            self._reaped.set()
        if child.stdout_ended and not self.has_ended:
            self.has_ended = True
            self._on_end()

    def _receive(self, line: bytes) -> None:
        try:
            with Fence("worker", f"line of {self.name}", let=(ValueError,)):
                event = read_event(line)
                if isinstance(event, Logged):
                    text, _, trace = event.message.partition("\n")
                    about = {**self.subject, "trace": trace}
                    logging.getLogger(event.logger).log(event.level, "%s", text, extra=about)
                else:
                    self._on_event(event)
        except ValueError as error:
            self.kill_now(f"it sent what is no event: {one_line(error, 500)}")


# A worker that runs jobs or probes files.


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
    cluster: Path | None = None
    """Socket of the driver of a cluster, which makes the films."""

    @property
    def command(self) -> list[str]:
        """The command line."""
        words = worker_command("upframe.daemon.workers.worker", self.state_dir, self.name)
        if not self.runs_jobs:
            return words
        words += ["--results", str(self.state_dir / ledger.FOLDER), "--device", self.device]
        words += ["--precision", self.precision, "--weights", self.weights]
        words += [] if self.cluster is None else ["--cluster", str(self.cluster)]
        return words + ([] if self.threads is None else ["--threads", str(self.threads)])


class Stall:
    """The time without progress, compared with what the stage may take.

    Time is passed in and not read from a clock: a daemon that was stopped itself, or a machine that
    slept, must not take its workers for hung.

    Args:
        budgets: seconds that each stage may go without progress.
    """

    def __init__(self, budgets: Mapping[Stage, float]) -> None:
        self._budgets = budgets
        self._position = ("loading", 0, 0)
        self.stage: Stage = "loading"
        self.still_seconds = 0.0
        """Since the last progress."""

    def note(self, event: Event) -> None:
        """Start again from 0 if an event is progress: another stage, more frames, or a queue."""
        if isinstance(event, Progressed):
            position = (event.stage, event.frames_in, event.frames_out)
            if position != self._position or event.waits:
                self.stage, self._position, self.still_seconds = event.stage, position, 0.0

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.still_seconds += seconds

    @property
    def budget_seconds(self) -> float:
        """What the stage may take."""
        return self._budgets[self.stage]

    @property
    def left_seconds(self) -> float:
        """The time until the worker counts as hung; 0 from then on."""
        return max(0.0, self.budget_seconds - self.still_seconds)

    def __str__(self) -> str:
        return (
            f"no progress in {self.stage} for {self.still_seconds:.0f} s, "
            f"wanted some within {self.budget_seconds:g} s"
        )


CANCEL_SECONDS = 4.0
"""For a cancelled job to stop in order, before its worker is killed: both together stay below 5."""
_STOP_SECONDS = 5.0
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """The worker died, or had to be killed, before it could answer."""

    error: JobError


AttemptOutcome = JobDone | RequestFailed | JobStopped | WorkerDied
Given = TypeVar("Given", bound=Answer)


class WorkerLost(Exception):
    """A worker could not be started or warmed up, or died over a request that is no job."""

    def __init__(self, error: JobError) -> None:
        super().__init__(error.message)
        self.error = error


class WorkerProcess(WorkerChild):
    """One worker. The caller that starts it ends it, with `stop` or `kill`."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        put = self._events.put_nowait
        super().__init__(f"worker {settings.name}", settings.command, put, lambda: put(None))
        self.settings = settings
        self.num_jobs = 0
        """Jobs begun."""
        self.device: str | None = None
        """Where it computes, as people know it."""
        self.stall: Stall | None = None
        """Of the request that it works on; None while it is idle."""
        self._job_id: str | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self, timeout_seconds: float) -> None:
        """Start it, and wait until it accepts requests.

        Raises:
            WorkerLost: if it is not ready in time, or cannot do its work here.
        """
        try:
            self.spawn()
        except OSError as error:
            raise WorkerLost(error_of(error)) from error
        answer = await self._answer({"loading": timeout_seconds})
        if not isinstance(answer, Ready):
            await self.kill()
            raise WorkerLost(_error_of(answer))
        self.device = answer.device

    async def ask(self, request: Request, timeout_seconds: float, *wanted: type[Given]) -> Given:
        """Return the answer to a request that is no job.

        Raises:
            WorkerLost: if it is none of those wanted, and the worker may live on; if the worker
                died over it, or did not answer in time and was killed.
        """
        answer = await self._ask(request, {"loading": timeout_seconds})
        if not isinstance(answer, wanted):
            raise WorkerLost(_error_of(answer))
        return answer

    async def run_job(
        self,
        job_id: str,
        work: ConversionSpec,
        budgets: Mapping[Stage, float],
        on_event: Callable[[Event], None],
        confined: Confinement | None = None,
        limits: AccessLimits | None = None,
    ) -> AttemptOutcome:
        """Run a job to its end, whatever that is; never raises for what happens to the worker.

        Args:
            job_id: part of the names of its temporary files, and of its entry in the ledger.
            work: what to do.
            budgets: seconds that each stage may go without progress.
            on_event: called with stages and progress.
            confined: where it may read and write; None: anywhere.
            limits: the hosts and models that it may access; None: all.
        """
        self.num_jobs += 1
        self._job_id = job_id
        self.subject = {"job_id": job_id}
        try:
            request = RunJob(id=job_id, work=work, confined=confined, limits=limits)
            answer = await self._ask(request, budgets, on_event)
        finally:
            self._job_id = None
            self.subject = {"job_id": None}
        if isinstance(answer, AttemptOutcome):
            return answer
        self.kill_now(f"it answered {answer.kind!r}, wanted the end of a job")
        return WorkerDied(_worker_error(self.end, None))

    async def cancel(self, seconds: float = CANCEL_SECONDS) -> None:
        """Stop the current request, and return when it has ended.

        Args:
            seconds: for a job to stop in order, before the worker is killed.
        """
        if self._job_id is not None:
            self.send(CancelJob(id=self._job_id))
            await within(seconds, self._idle.wait())
        if not self._idle.is_set():
            self.kill_now(f"it did not stop within {seconds:g} s")
            await self._idle.wait()

    async def stop(self) -> None:
        """End it in order while it is idle; kill it if it goes on."""
        if self.alive:
            self.close_stdin()
            await within(_STOP_SECONDS, self.ended())
        await self.kill()

    async def _ask(
        self,
        request: Request,
        budgets: Mapping[Stage, float],
        on_event: Callable[[Event], None] = lambda _: None,
    ) -> Answer | WorkerDied:
        if not self.alive:
            return await self._died()
        self.send(request)
        return await self._answer(budgets, on_event)

    async def _answer(
        self, budgets: Mapping[Stage, float], on_event: Callable[[Event], None] = lambda _: None
    ) -> Answer | WorkerDied:
        self._idle.clear()
        self.stall = stall = Stall(budgets)
        try:
            while (event := await self._next(stall)) is not None:
                if isinstance(event, Answer):
                    return event
                stall.note(event)
                with Fence("worker", f"{event.kind} of worker {self.settings.name}"):
                    on_event(event)
            return await self._died()
        finally:
            self.stall = None
            self._idle.set()

    async def _next(self, stall: Stall) -> Event | None:
        """Wait for an event; None at the end of the worker, which is killed if it hangs."""
        while stall.left_seconds > 0:
            seconds = min(_LOOK_SECONDS, stall.left_seconds)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    return await self._events.get()
            stall.wait(seconds)
        self.kill_now(str(stall))
        return await self._events.get()

    async def _died(self) -> WorkerDied:
        await self.end_within(_LOOK_SECONDS, "it closed its pipe and went on")
        return WorkerDied(_worker_error(self.end, self.tail.text))


class FileProber:
    """Probes one file, or checks one job, after the other. `aclose` ends its process.

    Args:
        config: of the daemon.
        timeout_seconds: for one of them.
        idle_seconds: without a file, after which the process is stopped until the next one.
    """

    def __init__(
        self, config: Config, *, timeout_seconds: float = 30.0, idle_seconds: float = 60.0
    ) -> None:
        self._settings = WorkerSettings("prober", config.state_dir, runs_jobs=False)
        self._timeout_seconds = timeout_seconds
        self._idle_seconds = idle_seconds
        self._worker = WorkerProcess(self._settings)
        self._lock = asyncio.Lock()
        self._resting: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id; None while there is no process."""
        return self._worker.pid if self._worker.alive else None

    async def probe(self, path: Path, root: Root | None = None) -> ProbeVerdict:
        """Probe a file, below a root. Never raises for what the file does to the process."""
        async with self._awake():
            try:
                await self._start()
            except WorkerLost as lost:
                return ProbeVerdict(kind="unfinished", message=f"{path}: cannot be probed: {lost}")
            try:
                request = ProbeFile(path=str(path), root=root)
                return (await self._worker.ask(request, self._timeout_seconds, Probed)).verdict
            except WorkerLost as lost:
                log.warning("%s: the prober was lost over it: %s", path, lost)
                return ProbeVerdict(kind=self._blame(lost), message=f"{path}: {lost}")

    async def check(self, job: Job, limits: AccessLimits | None = None) -> JobError | None:
        """Check a job before its turn.

        Returns:
            Why it can only fail; None if that is not known, since it is busy or was lost over it.
        """
        given = {name: getattr(job, name) for name in ("id", "work", "confined")}
        request = CheckJob(**given, limits=limits, may_come=job.origin != "cli")
        try:
            async with asyncio.timeout(self._timeout_seconds), self._awake():
                await self._start()
                wanted = Checked, RequestFailed
                answer = await self._worker.ask(request, self._timeout_seconds, *wanted)
            error = answer.error if isinstance(answer, RequestFailed) else None
            return None if error is None or error.retryable else error
        except (TimeoutError, WorkerLost) as lost:
            log.info("not checked before its turn: %s", lost or "no time", extra={"job_id": job.id})
            return None

    @asynccontextmanager
    async def _awake(self) -> AsyncGenerator[None]:
        async with self._lock:
            await self._wake()
            try:
                yield
            except BaseException:  # its answer would be taken for that of the next file
                await self._worker.kill()
                raise
            finally:
                self._resting = asyncio.create_task(self._rest(), name="prober-rest")

    async def aclose(self) -> None:
        """End the process."""
        async with self._lock:
            await self._wake()
            await self._worker.stop()

    def _blame(self, lost: WorkerLost) -> Literal["unfinished", "refused"]:
        """Blame the file if it crashes decoders or is too large, not if the process was killed."""
        if self._worker.alive:
            later = lost.error.retryable and lost.error.code != Exit.TRY_LATER
            return "unfinished" if later else "refused"
        return "refused" if self._worker.crashed else "unfinished"

    async def _start(self) -> None:
        """Make sure that the worker runs."""
        if not self._worker.alive:
            await self._worker.kill()
            self._worker = WorkerProcess(self._settings)
            await self._worker.start(_START_SECONDS)

    async def _rest(self) -> None:
        await asyncio.sleep(self._idle_seconds)
        await self._worker.stop()

    async def _wake(self) -> None:
        """End the countdown of the idle time."""
        resting, self._resting = self._resting, None
        if resting is not None:
            resting.cancel()
            with suppress(asyncio.CancelledError):
                await resting


def _worker_error(text: str, detail: str | None) -> JobError:
    """Describe a failure of the worker itself: the next attempt may succeed."""
    no_memory = says_no_memory(detail or "")  # in C++ that ends a process
    return JobError(
        code=int(Exit.TRY_LATER if no_memory else Exit.INTERNAL),
        message=f"the worker process {text}" + (": too large for memory" if no_memory else ""),
        retryable=True,
        detail=detail,
    )


def _error_of(answer: Answer | WorkerDied) -> JobError:
    if isinstance(answer, RequestFailed | WorkerDied):
        return answer.error
    return _worker_error(f"answered {answer.kind!r}, which was not asked", None)

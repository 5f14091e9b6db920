"""The flow of pictures: decode thread → compute thread → encode thread, started by asyncio.

A stage that fails cancels the queues, and every other stage stops at its next picture. A slow
stage fills the queue before it, and the stage before that waits: memory is bounded.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from itertools import chain

from ...filters.frame import Picture
from ...io.errors import TruncatedMedia
from ...io.media import Sink, Source
from ..errors import Stopped
from ..queues import BlockingQueue, QueueCancelled
from .compute import Compute

STEPS: Mapping[str, str] = {"decode": "reading", "compute": "filters", "encode": "writing"}
"""The stages, and what users call them."""
CHANNEL_PICTURES = 4
CHANNEL_BYTES = 256 * 2**20


@dataclass(slots=True)
class StageTime:
    """What one stage did with its time so far, in seconds."""

    worked_seconds: float = 0.0
    waited_seconds: float = 0.0

    @contextmanager
    def working(self, *, waits: bool = False) -> Generator[None]:
        """Count the time of the block as work, or as waiting."""
        began = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - began
            self.worked_seconds += 0.0 if waits else spent
            self.waited_seconds += spent if waits else 0.0

    def waiting(self) -> AbstractContextManager[None]:
        """Count the time of the block as waiting."""
        return self.working(waits=True)


@dataclass(slots=True)
class Flow:
    """The state of a running pipeline, written by its threads and read by the progress display."""

    frames_in: int = 0
    frames_out: int = 0
    began: float = field(default_factory=time.monotonic)
    """Seconds on the monotonic clock."""
    first_frame_seconds: float | None = None
    """From `began` until the first picture was written."""
    frames_before: int = 0
    """Of `frames_out`, those that earlier runs have written."""
    waits: bool = False
    """Whether no process works on it, since a cluster has none to lend."""
    stages: dict[str, StageTime] = field(
        default_factory=lambda: {name: StageTime() for name in STEPS}
    )

    def add(self, stages: Mapping[str, tuple[float, float]]) -> None:
        """Add seconds that were worked and waited elsewhere, by stage."""
        for name, (worked, waited) in stages.items():
            self.stages[name].worked_seconds += worked
            self.stages[name].waited_seconds += waited

    @property
    def elapsed_seconds(self) -> float:
        """Since the pipeline began."""
        return time.monotonic() - self.began

    @property
    def limiting_stage(self) -> str:
        """The stage that has worked the most; the others wait for it."""
        return max(self.stages, key=lambda name: self.stages[name].worked_seconds)


class Pipeline:
    """One source through one compute stage into one sink.

    If `keep_partial`, a truncated input or a signal still completes the output with the pictures
    read so far, as a pipe must; otherwise it is aborted. Either way `run` raises `TruncatedMedia`
    or `Stopped`. `interrupt` ends a read of the source that waits, from any thread. `flow` is that
    of the pipelines before, which this one continues.
    """

    def __init__(
        self,
        source: Source,
        transform: Compute,
        sink: Sink,
        *,
        keep_partial: bool = False,
        interrupt: Callable[[], None] | None = None,
        flow: Flow | None = None,
    ) -> None:
        self.flow = Flow() if flow is None else flow
        self._continues = flow is not None
        self._source = source
        self._transform = transform
        self._sink = sink
        self._keep_partial = keep_partial
        self._interrupt = interrupt
        self._threads: dict[asyncio.Future[None], threading.Thread] = {}
        self._decoded: BlockingQueue[Picture] = BlockingQueue(CHANNEL_PICTURES, CHANNEL_BYTES)
        self._computed: BlockingQueue[Picture] = BlockingQueue(CHANNEL_PICTURES, CHANNEL_BYTES)
        self._errors: list[BaseException] = []
        self._stopped_by: int | None = None
        self._finished = False

    async def run(self) -> Flow:
        """Run to the end of the source and complete the sink, or abort it and raise.

        Raises:
            Stopped: if `stop` was called.
            MediaError, FilterError: whatever the first stage that failed raised.
        """
        if not self._continues:
            self.flow.began = time.monotonic()
        encode = self._start("encode", self._encode)
        compute = self._start("compute", self._compute)
        decode = self._start("decode", self._decode)
        try:
            await asyncio.wait({compute, encode})
            early = self._stopped_by is not None or not self._finished
            if early and self._interrupt is not None:
                self._interrupt()
            # without an interrupt it may hang in a read that cannot be ended
            await asyncio.wait({decode}, timeout=1.0 if early else None)
        finally:
            self.cancel()
            await asyncio.wait({compute, encode})
            # a thread that frees tensors while the interpreter ends takes the process down with it
            for done, thread in self._threads.items():
                if done.done():
                    thread.join()
            if not self._finished:
                self._sink.abort()
        self._raise_first()
        return self.flow

    def stop(self, signal_number: int) -> None:
        """Ask the pipeline to end; `run` then raises `Stopped`. For the event loop's thread."""
        self._stopped_by = signal_number
        if self._keep_partial:
            self._decoded.close()
        else:
            self.cancel()

    def _raise_first(self) -> None:
        """Raise why the work ended early, if it did; a signal explains every error after it."""
        if self._stopped_by is not None and (self._keep_partial or not self._finished):
            raise Stopped(self._stopped_by)
        failures = [error for error in self._errors if not isinstance(error, TruncatedMedia)]
        for error in failures or self._errors:
            raise error

    def _start(self, name: str, work: Callable[[], None]) -> asyncio.Future[None]:
        """Run `work` in a thread of its own; the future ends when it does and never raises.

        Not an executor: its threads are joined at exit, and a read from a silent pipe never ends.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def finish() -> None:
            if not done.done():
                done.set_result(None)

        def run() -> None:
            """Work, keep the error, and end the future."""
            try:
                work()
            except QueueCancelled:
                pass
            except BaseException as error:  # every one of them is raised again by `run`
                self._errors.append(error)
                self.cancel()
            finally:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(finish)

        thread = threading.Thread(target=run, name=f"upframe-{name}", daemon=True)
        thread.start()
        self._threads[done] = thread
        return done

    def cancel(self) -> None:
        """End early, from any thread: `run` aborts the sink."""
        self._decoded.cancel()
        self._computed.cancel()

    def _decode(self) -> None:
        clock = self.flow.stages["decode"]
        try:
            for picture in _timed(self._source, clock.working):
                self.flow.frames_in += 1
                self._transform.stage(picture)
                _put(self._decoded, picture, clock)
        except TruncatedMedia as error:
            if not self._keep_partial:
                raise
            self._errors.append(error)  # the whole pictures still go out
        finally:
            self._source.close()
        self._decoded.close()

    def _compute(self) -> None:
        clock, transform = self.flow.stages["compute"], self._transform
        with closing(transform):
            for picture in _timed(self._decoded, clock.waiting):
                held = transform.settle(lambda: len(self._decoded) > 0)
                for result in _timed(chain(transform(picture), held), clock.working):
                    _put(self._computed, result, clock)
            for result in _timed(transform.flush(), clock.working):
                _put(self._computed, result, clock)
            self._computed.close()

    def _encode(self) -> None:
        clock = self.flow.stages["encode"]
        for picture in _timed(self._computed, clock.waiting):
            with clock.working():
                self._sink.write(picture)
            self.flow.frames_out += 1
            if self.flow.first_frame_seconds is None:
                self.flow.first_frame_seconds = self.flow.elapsed_seconds
        with clock.working():
            self._sink.finish()
            self._finished = True


def _put(queue: BlockingQueue[Picture], picture: Picture, clock: StageTime) -> None:
    with clock.waiting():
        queue.put(picture, picture.num_bytes)


def _timed(
    pictures: Iterable[Picture], timer: Callable[[], AbstractContextManager[None]]
) -> Iterator[Picture]:
    """Yield the pictures; the timer runs while the next one is awaited."""
    iterator = iter(pictures)
    while True:
        with timer():
            picture = next(iterator, None)
        if picture is None:
            return
        yield picture

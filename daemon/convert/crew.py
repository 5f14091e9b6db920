"""Several devices for one film: a process for each makes segments, and this one joins them.

A process that dies loses the segment at hand, which another one then makes. All of them end with
the thread that has started them.
"""

from __future__ import annotations

import base64
import logging
import os
import pickle
import re
import selectors
import shutil
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, Field, TypeAdapter

from ...filters import errors as filter_errors
from ...filters.device import Runtime
from ...io import errors as media_errors
from ...io.child import Child, Waker, exit_text
from ...io.cuts import Segment
from ...io.redaction import one_line
from ...io.root import ConfinedFile
from ...io.web import NetworkRules
from ..errors import Stopped, WorkersLost
from .plan import worker_folder
from .schedule import MOST_ATTEMPTS, Schedule
from .segments import FilmRun, MadeSegment, SegmentWork

log = logging.getLogger("upframe.run")

_LOOK_SECONDS = 1.0
"""After which free workers ask again, since another one may be late by then."""
_MOST_DEATHS = 3
"""Of a worker in a row, before the others go on without it."""
_BY_DESCRIPTOR = re.compile(r"/proc/self/fd/(\d+)/")
_MODULE = "upframe.daemon.convert.segment_worker"


@dataclass(frozen=True, slots=True)
class Setup:
    """What a worker needs to make segments of a film."""

    work: SegmentWork
    """Of any segment."""
    runtime: Runtime
    """With the ways by which all workers compute."""
    threads: int
    """For computing on the CPU."""
    rules: NetworkRules
    weights: Mapping[str, str]
    """SHA-256 by filter: other ones are not taken."""
    memory_share: int = 1
    """How many workers share the memory of the machine."""
    estimate: float | None = None
    """Seconds of a worker for a frame of the source, if it was measured."""


Order = tuple[Segment, Path]
"""To make a segment, and its file in a folder of the worker's own."""


def line_of(given: Setup | Order) -> bytes:
    """Return what a worker gets, as it is sent: a pickle on a line."""
    return base64.b64encode(pickle.dumps(given)) + b"\n"


class WorkerReady(BaseModel, frozen=True):
    """The filters are built."""

    kind: Literal["ready"] = "ready"


class SegmentProgress(BaseModel, frozen=True):
    """Sent at the beginning of a segment, and twice a second."""

    kind: Literal["progress"] = "progress"
    number: int
    frames_in: int = 0
    frames_out: int = 0


class WorkFailed(BaseModel, frozen=True):
    """What another worker would meet as well: the film cannot be made."""

    kind: Literal["failed"] = "failed"
    error: str
    """Its class, of `filters.errors` or `io.errors`."""
    message: str

    @property
    def exception(self) -> Exception:
        """The error, to be raised again."""
        found = getattr(media_errors, self.error, getattr(filter_errors, self.error, None))
        return (found or media_errors.MediaError)(self.message)


Event = WorkerReady | SegmentProgress | MadeSegment | WorkFailed
_EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


@dataclass(slots=True)
class _Worker:
    slot: int
    device: torch.device
    child: Child
    folder: Path
    unit: deque[int] = field(default_factory=deque[int])
    begun: int | None = None
    """The last segment that it has begun."""
    is_ready: bool = False
    deaths: int = 0
    """Since its last result."""
    frames: tuple[int, int] = (0, 0)
    """In and out, of the segment at hand."""

    @property
    def name(self) -> str:
        return f"worker {self.slot} on {self.device}"

    @property
    def end(self) -> str:
        """How it ended, and its last words."""
        last = self.child.tail.lines()[-1:]
        return one_line(": ".join([exit_text(self.child.returncode), *last]), 500)


class Crew:
    """Makes what is missing of a film by several processes, as an `Executor`.

    Args:
        setup: of each worker, but for the device.
        devices: of each worker.
    """

    def __init__(self, setup: Setup, devices: Sequence[torch.device]) -> None:
        self._setup = setup
        self._devices = devices
        self._workers: dict[int, _Worker] = {}
        self._selector = selectors.DefaultSelector()
        self._waker = Waker()
        self._stopped_by: int | None = None
        self._film: FilmRun
        self._schedule: Schedule

    def stop(self, number: int) -> None:
        """Have the film end with `Stopped`; from any thread."""
        self._stopped_by = number
        self._waker.wake()

    def __call__(self, film: FilmRun) -> Generator[MadeSegment]:
        """Yield each segment once its file has its name, in the order in which they are done.

        Raises:
            Stopped: after `stop`.
            MediaError, FilterError: of a worker; another one would meet it as well.
            WorkersLost: if a segment ends every process that makes it, or none can be started.
        """
        self._selector.register(self._waker, selectors.EVENT_READ)
        self._film, self._schedule = film, Schedule(film.missing, self._setup.estimate)
        try:
            for slot, device in enumerate(self._devices[: self._schedule.left]):
                self._spawn(slot, device)
            while self._schedule.left:
                self._feed()
                for key, _ in self._selector.select(_LOOK_SECONDS):
                    if isinstance(key.data, _Worker):
                        yield from self._hear(key.data)
                self._waker.clear()
                if self._stopped_by is not None:
                    raise Stopped(self._stopped_by)
        finally:
            self.close()

    def close(self) -> None:
        """End all workers, and remove what they have not finished. Safe to call twice."""
        for worker in self._workers.values():
            worker.child.close()
            shutil.rmtree(worker.folder, ignore_errors=True)
        self._workers.clear()
        self._selector.close()
        self._waker.close()

    def _spawn(self, slot: int, device: torch.device, deaths: int = 0) -> None:
        command = [sys.executable, "-P", "-m", _MODULE, "--parent", str(os.getpid())]
        folder = worker_folder(self._film.folder, slot)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            child = Child(command, pass_fds=self._descriptors())
        except OSError as error:
            raise media_errors.SinkFull(f"cannot start {_MODULE} in {folder}: {error}") from error
        worker = self._workers[slot] = _Worker(slot, device, child, folder, deaths=deaths)
        self._schedule.join(slot)
        self._selector.register(child, selectors.EVENT_READ, worker)
        runtime = replace(self._setup.runtime, device=device, workers=())
        child.send(line_of(replace(self._setup, runtime=runtime)))

    def _descriptors(self) -> tuple[int, ...]:
        """Those by which source and folder are reached, where they are confined."""
        source, place = self._setup.work.source, _BY_DESCRIPTOR.match(f"{self._film.folder}/")
        kept = source.descriptor if isinstance(source, ConfinedFile) else None
        return tuple(int(one) for one in (kept, place and place[1]) if one is not None)

    def _feed(self) -> None:
        for worker in self._workers.values():
            if not worker.is_ready or worker.unit:
                continue
            worker.unit.extend(self._schedule.take(worker.slot, time.monotonic()))
            for number in worker.unit:
                path = worker.folder / self._film.path(number).name
                worker.child.send(line_of((self._film.work(number).segment, path)))

    def _hear(self, worker: _Worker) -> Iterator[MadeSegment]:
        worker.child.turn(0)
        for line in worker.child.lines():
            event = _EVENTS.validate_json(line)
            match event:
                case WorkerReady():
                    worker.is_ready = True
                case SegmentProgress():
                    if event.number != worker.begun:
                        worker.begun = event.number
                        self._film.begin(event.number)
                    self._count(worker, event.frames_in, event.frames_out)
                case MadeSegment():
                    worker.deaths = 0
                    if self._take(worker, event):
                        yield event
                case WorkFailed():
                    raise event.exception
        if worker.child.returncode is not None:
            self._bury(worker)

    def _take(self, worker: _Worker, done: MadeSegment) -> bool:
        """Give a file its name, unless another worker was faster."""
        worker.unit.remove(done.number)
        path, result = self._film.path(done.number), done.result
        counts = self._schedule.finish(worker.slot, done.number, time.monotonic())
        self._count(worker, *((result.frames_in, result.frames_out) if counts else (0, 0)))
        worker.frames = (0, 0)
        if not counts:
            with suppress(OSError):
                (worker.folder / path.name).unlink()
            return False
        self._film.flow.add(result.stages)
        try:
            os.replace(worker.folder / path.name, path)
        except OSError as error:
            raise media_errors.SinkFull(f"cannot write {path}: {error.strerror}") from error
        return True

    def _count(self, worker: _Worker, frames_in: int, frames_out: int) -> None:
        """Count the frames of the segment at hand, instead of those counted of it before."""
        flow, before = self._film.flow, worker.frames
        flow.frames_in += frames_in - before[0]
        flow.frames_out += frames_out - before[1]
        worker.frames = (frames_in, frames_out)
        if flow.first_frame_seconds is None and frames_out:
            flow.first_frame_seconds = flow.elapsed_seconds

    def _bury(self, worker: _Worker) -> None:
        """Give back what a dead worker had, and start another one in its place."""
        self._selector.unregister(worker.child)
        worker.child.close()
        self._count(worker, 0, 0)
        del self._workers[worker.slot]
        at_hand = f"segment {worker.unit[0]}" if worker.unit else "no segment"
        if (number := self._schedule.lose(worker.slot)) is not None:
            segment = self._film.work(number).segment
            frames = f"frames {segment.first} to {segment.last}"
            times = f"{MOST_ATTEMPTS} processes did not survive it"
            raise WorkersLost(f"segment {number} ({frames}): {times}; the last {worker.end}")
        deaths = worker.deaths + 1
        if deaths < _MOST_DEATHS or (worker.is_ready and not self._workers):
            log.warning("%s, over %s, %s: started again", worker.name, at_hand, worker.end)
            self._spawn(worker.slot, worker.device, deaths)
            return
        if not self._workers:
            raise WorkersLost(f"no process can work: the last one, {worker.name}, {worker.end}")
        log.warning("%s, over %s, %s: given up", worker.name, at_hand, worker.end)

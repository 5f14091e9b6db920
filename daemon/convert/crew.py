"""Several devices for one film: a process for each makes segments, and this one joins them.

A process that dies loses the segment at hand, which another one then makes. Those of this machine
end with the thread that has started them; those of a cluster with the connection to its driver.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import pickle
import platform
import re
import secrets
import selectors
import shutil
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, Field, TypeAdapter

from ...filters import errors as filter_errors
from ...filters.device import Runtime
from ...io import errors as media_errors
from ...io.child import Child, Waker
from ...io.cuts import Segment
from ...io.root import ConfinedFile
from ...io.web import NetworkRules
from ..errors import ClusterAbsent, Stopped, WorkersLost
from .plan import versions_of, worker_folder
from .report import device_name
from .schedule import MOST_ATTEMPTS, Schedule
from .segments import FilmRun, MadeSegment, SegmentWork

log = logging.getLogger("upframe.run")

_LOOK_SECONDS = 1.0
"""After which free workers ask again, since another one may be late by then."""
_MOST_DEATHS = 3
"""Of a worker in a row, before the others go on without it."""
_END_SECONDS = 10.0
"""For the processes of a cluster to be ended."""
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
    name: str
    folder: Path
    send: Callable[[bytes], object]
    """An order."""
    unit: deque[int] = field(default_factory=deque[int])
    begun: int | None = None
    """The last segment that it has begun."""
    is_ready: bool = False
    deaths: int = 0
    """Since its last result."""
    frames: tuple[int, int] = (0, 0)
    """In and out, of the segment at hand."""


class Crew:
    """Makes what is missing of a film by several processes, as an `Executor`.

    Args:
        setup: of each worker, but for the device.
        devices: of each worker.
    """

    def __init__(self, setup: Setup, devices: Sequence[torch.device] = ()) -> None:
        self._setup = setup
        self._devices = devices
        self._workers: dict[int, _Worker] = {}
        self._children: dict[int, Child] = {}
        self._selector = selectors.DefaultSelector()
        """Of each that is ready, its data yield what has been made."""
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
            ClusterAbsent: if the processes are those of a cluster that does not answer.
        """
        self._selector.register(self._waker, selectors.EVENT_READ, tuple[MadeSegment, ...])
        self._film, self._schedule = film, Schedule(film.missing, self._setup.estimate)
        try:
            if self._schedule.left:
                self._begin()
            while self._schedule.left:
                self._feed()
                for key, _ in self._selector.select(_LOOK_SECONDS):
                    yield from key.data()
                self._waker.clear()
                if self._stopped_by is not None:
                    raise Stopped(self._stopped_by)
        finally:
            self.close()

    def close(self) -> None:
        """End all workers, and remove what they have not finished. Safe to call twice."""
        for child in self._children.values():
            child.close()
        for worker in self._workers.values():
            self._count(worker, 0, 0)
            shutil.rmtree(worker.folder, ignore_errors=True)
        self._workers.clear()
        self._children.clear()
        self._selector.close()
        self._waker.close()

    def _begin(self) -> None:
        """Start the workers."""
        for slot in range(len(self._devices[: self._schedule.left])):
            self._spawn(slot)

    def _spawn(self, slot: int, deaths: int = 0) -> None:
        command = [sys.executable, "-P", "-m", _MODULE, "--parent", str(os.getpid())]
        folder, device = worker_folder(self._film.folder, slot), self._devices[slot]
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            child = self._children[slot] = Child(command, pass_fds=self._descriptors())
        except OSError as error:
            raise media_errors.SinkFull(f"cannot start {_MODULE} in {folder}: {error}") from error
        worker = _Worker(slot, f"worker {slot} on {device}", folder, child.send, deaths=deaths)
        self._workers[slot] = worker
        self._schedule.join(slot)
        self._selector.register(child, selectors.EVENT_READ, partial(self._hear, worker, child))
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
                worker.send(line_of((self._film.work(number).segment, path)))

    def _hear(self, worker: _Worker, child: Child) -> Iterator[MadeSegment]:
        child.turn(0)
        for line in child.lines():
            yield from self._note(worker, line)
        if child.returncode is not None:
            self._bury(worker, child)

    def _note(self, worker: _Worker, line: str | bytes) -> Iterator[MadeSegment]:
        """Do what a line of a worker asks for."""
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
                self._fail(worker, event)

    def _fail(self, worker: _Worker, failure: WorkFailed) -> None:
        raise failure.exception

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

    def _lose(self, worker: _Worker, end: str) -> str:
        """Give back what a worker had that has ended in some way; return what that was."""
        self._count(worker, 0, 0)
        del self._workers[worker.slot]
        at_hand = f"segment {worker.unit[0]}" if worker.unit else "no segment"
        if (number := self._schedule.lose(worker.slot)) is not None:
            segment = self._film.work(number).segment
            frames = f"frames {segment.first} to {segment.last}"
            times = f"{MOST_ATTEMPTS} processes did not survive it"
            raise WorkersLost(f"segment {number} ({frames}): {times}; the last {end}")
        return at_hand

    def _bury(self, worker: _Worker, child: Child) -> None:
        """Give back what a dead worker had, and start another one in its place."""
        self._selector.unregister(child)
        child.close()
        del self._children[worker.slot]
        end, deaths = child.end, worker.deaths + 1
        at_hand = self._lose(worker, end)
        if deaths < _MOST_DEATHS or (worker.is_ready and not self._workers):
            log.warning("%s, over %s, %s: started again", worker.name, at_hand, end)
            self._spawn(worker.slot, deaths)
            return
        if not self._workers:
            raise WorkersLost(f"no process can work: the last one, {worker.name}, {end}")
        log.warning("%s, over %s, %s: given up", worker.name, at_hand, end)


# ------------------------------------------------------------------------------------ a cluster


def machine_of(device: torch.device) -> dict[str, str]:
    """Return in what all machines that make segments of one film must agree."""
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "Ray": ".".join(version("ray").split(".")[:2]),
        "device": device_name(device),
        "cores": str(len(os.sched_getaffinity(0))),
        **versions_of(""),
    }


def difference(wanted: Mapping[str, str], got: Mapping[str, str]) -> str | None:
    """Say in what a machine does not agree, for people."""
    wrong = {name: (got.get(name), text) for name, text in wanted.items() if got.get(name) != text}
    return "; ".join(f"{name}: got {a}, wanted {b}" for name, (a, b) in wrong.items()) or None


class ClusterCrew(Crew):
    """Makes what is missing of a film by the processes that a cluster's driver lends.

    Args:
        setup: of each worker.
        connect: to the driver, which :mod:`upframe.daemon.workers.ray` describes.
    """

    def __init__(self, setup: Setup, connect: Callable[[], socket.socket]) -> None:
        super().__init__(setup)
        self._connect = connect
        self._driver: socket.socket | None = None
        self._rest = b""
        self._failed: set[int] = set()
        """Segments that a machine could not make."""

    def close(self) -> None:
        """End all workers, as `Crew.close`."""
        if self._driver is not None:
            with suppress(OSError):
                self._driver.shutdown(socket.SHUT_WR)
                self._driver.settimeout(_END_SECONDS)
                while self._driver.recv(1 << 16):
                    pass
            self._driver.close()
            shutil.rmtree(worker_folder(self._film.folder, 0), ignore_errors=True)
        super().close()

    def _begin(self) -> None:
        """Tell the driver what the nodes need, and begin to wait for processes."""
        self._driver = driver = self._connect()
        self._selector.register(driver, selectors.EVENT_READ, self._receive)
        probe, setup = worker_folder(self._film.folder.absolute(), 0) / "probe", self._setup
        secret = secrets.token_hex()
        probe.parent.mkdir(mode=0o700, exist_ok=True)
        probe.write_text(secret)
        runtime = replace(setup.runtime, workers=())
        if runtime.device.type == "cuda":
            runtime = replace(runtime, device=torch.device("cuda", 0))  # of those that it is lent
        source = os.path.abspath(str(setup.work.source))
        work = replace(setup.work, source=source)
        self._say(
            source=source,
            **self._film.source_facts.model_dump(),
            folders=str(probe.parent).removesuffix("0"),
            secret=secret,
            machine=machine_of(runtime.device),
            setup=line_of(replace(setup, work=work, runtime=runtime)).decode(),
            most=self._schedule.left,
        )
        self._film.flow.waits = True

    def _say(self, **values: object) -> None:
        if self._driver is not None:
            with suppress(OSError):  # what it said before its end is still to be read
                self._driver.sendall(json.dumps(values).encode() + b"\n")

    def _receive(self) -> Iterator[MadeSegment]:
        data = b""
        with suppress(OSError):
            data = self._driver.recv(1 << 16) if self._driver is not None else b""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield from self._act(*json.loads(line))
        if not data:
            raise ClusterAbsent("the connection to the cluster is lost; the next run continues")

    def _act(self, kind: str, slot: int, text: str) -> Iterable[MadeSegment]:
        """Do what the driver says."""
        worker, film = self._workers.get(slot), self._film
        if kind == "lent":
            folder = worker_folder(film.folder, slot)
            folder.mkdir(mode=0o700, exist_ok=True)
            order = partial(self._order, slot)
            self._workers[slot] = _Worker(slot, f"worker {slot} on {text}", folder, order)
            self._schedule.join(slot)
        elif kind == "said" and worker is not None:
            return self._note(worker, text)
        elif kind == "ended" and worker is not None:
            log.warning("%s, over %s, %s", worker.name, self._lose(worker, text), text)
            shutil.rmtree(worker.folder, ignore_errors=True)
        elif kind == "refused":
            log.warning("%s", text)
        elif kind == "absent":
            raise ClusterAbsent(text)
        film.flow.waits = not self._workers
        return ()

    def _order(self, slot: int, line: bytes) -> None:
        self._say(slot=slot, line=line.decode())

    def _fail(self, worker: _Worker, failure: WorkFailed) -> None:
        """Have another machine try what one cannot make: that may be of its disk or its mounts."""
        number = worker.unit[0] if worker.unit else -1
        if number in self._failed:
            raise failure.exception
        self._failed.add(number)
        log.warning("%s, over segment %d: %s", worker.name, number, failure.message)

"""What the compute thread does with pictures: planes to RGB, the filters, RGB to planes.

Files have one chain of filters. A live stream has several, its levels, of which one is in force.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch

from ...filters.chain import BuiltFilter, Chain
from ...filters.color.convert import ToFrame, ToPicture, output_size
from ...filters.color.matrix import matrix_warning, output_color
from ...filters.device import GIB, Runtime, available_bytes
from ...filters.frame import Pending, Picture, StreamInfo
from ...filters.kernels.cuda import on_stream, stream_for
from ...filters.scenes import Scenes
from ...io.calls import calling
from ..specification import MediaOptions

log = logging.getLogger("upframe.compute")


T = TypeVar("T")
Work = Callable[[], T]
Until = Callable[[], bool]

_MOST_LANES = 4
"""With more, frames in flight cost more memory than idle threads cost time."""
_WAITING = 1
"""Groups that wait for a lane, or are done while one before them is not, so that none is idle."""
_MEMORY_SHARE = 8
"""All lanes together may use this fraction of the free memory: one part in so many."""
_FRAMES_IN_FLIGHT = 2
"""Whose pictures a CUDA device computes or copies while the next frame is begun."""
_COSTS_KEPT = 64
_LOOK_SECONDS = 0.004
"""How often to look for other work while a result is awaited: far less than any frame takes."""


class SharedClock:
    """Divides time among works that run at the same time: their shares add up to what passed.

    Args:
        now: seconds, monotonic.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._num_works = 0
        self._changed_at = 0.0
        self._share = 0.0

    def start(self) -> float:
        """Begin a work; the result is for `stop`."""
        return self._change(1)

    def stop(self, started: float) -> float:
        """End a work; returns the seconds that it took of all that passed."""
        return self._change(-1) - started

    def _change(self, by: int) -> float:
        with self._lock:
            now = self._now()
            if self._num_works:
                self._share += (now - self._changed_at) / self._num_works
            self._changed_at = now
            self._num_works += by
            return self._share


class _Group(Generic[T]):
    """Works that one lane does in order, and their results."""

    def __init__(self, works: Sequence[Work[T]], seconds: float) -> None:
        self.seconds = seconds
        """Time that the works took, as one of several that ran; `seconds` to begin with."""
        self._works = [(work, Future[T]()) for work in works]
        self.results = deque(future for _, future in self._works)
        """Those that were not yielded yet."""

    def compute(self, may_continue: Callable[[], bool], clock: SharedClock) -> None:
        """Do all works, up to one that fails, or until it may not continue."""
        while self._works and may_continue():
            work, future = self._works.pop(0)
            started = clock.start()
            try:
                with calling("compute: a frame on cpu"):
                    result = work()
            except BaseException as error:  # raised again in the thread that waits for the result
                future.set_exception(error)
                return
            finally:
                self.seconds += clock.stop(started)
            future.set_result(result)


class Lanes(Generic[T]):
    """Computes several frames at the same time, each with few threads; results stay in order.

    All threads on one frame wait for each other after every step of it, and where an encoder takes
    a core from one of them, all others stand still. In lanes it holds up only one frame: with x264
    beside the filters on two cores, two lanes of one thread made the same film in 0.8 of the time.

    All calls come from one thread.

    Args:
        count: number of lanes, at least 1.
        threads: of torch, for all lanes together. While only one group is in flight it has them
            all, so that a slow source does not wait longer than it must.
        clock: measures what each group takes.
        is_steady: whether each group has as many threads as the others at any time, since another
            number rounds some pixels otherwise.
    """

    def __init__(
        self,
        count: int,
        threads: int,
        clock: SharedClock | None = None,
        *,
        is_steady: bool = False,
    ) -> None:
        self.max_in_flight = count + _WAITING
        """Groups; `__call__` waits while there are more."""
        self.costs: deque[float] = deque(maxlen=_COSTS_KEPT)
        """Seconds of the groups whose results were all returned, the latest last."""
        self.is_closing = False
        """Whether `close` was called."""
        self._count = count
        self._threads = threads
        self._is_steady = is_steady
        self._clock = clock or SharedClock()
        self._in_flight: deque[_Group[T]] = deque()
        self._executor = ThreadPoolExecutor(count, "upframe-lane")
        self._lock = threading.Lock()
        self._num_undone = 0

    def __call__(self, works: Sequence[Work[T]], seconds: float = 0.0) -> Iterator[T]:
        """Submit one group, and yield results of earlier ones while too many are in flight.

        Args:
            works: the group; nothing is done for an empty one.
            seconds: that its frame has already cost.

        Raises:
            RuntimeError: after `close`.
            Exception: whatever the works raise; the results of that group after it are lost.
        """
        if self.is_closing:
            raise RuntimeError("frames came after the lanes were closed")
        if works:
            with self._lock:
                self._num_undone += 1
            self._in_flight.append(_Group(works, seconds))
            self._executor.submit(self._compute, self._in_flight[-1])
        while len(self._in_flight) > self.max_in_flight:
            yield from self._oldest(None)

    def __len__(self) -> int:
        """Groups in flight: submitted, and not all of their results returned."""
        return len(self._in_flight)

    def settle(self, until: Until | None = None) -> Iterator[T]:
        """Wait for everything in flight and yield it, until a condition holds; the rest stays."""
        while self._in_flight and not (until and until()):
            yield from self._oldest(until)

    def close(self) -> None:
        """End the threads after the work at hand; everything else in flight is lost."""
        self.is_closing = True
        self._executor.shutdown(cancel_futures=True)
        self._in_flight.clear()
        torch.set_num_threads(self._threads)  # else the next thread begins with a lane's few

    def _oldest(self, until: Until | None) -> Iterator[T]:
        group = self._in_flight[0]
        try:
            while group.results and _is_awaited(group.results[0], until):
                yield group.results.popleft().result()
        except Exception:
            self._in_flight.popleft()
            raise
        if not group.results:
            self._in_flight.popleft()
            self.costs.append(group.seconds)

    def _compute(self, group: _Group[T]) -> None:
        self._take_threads()
        with torch.inference_mode():
            group.compute(lambda: not self.is_closing, self._clock)
        with self._lock:
            self._num_undone -= 1

    def _take_threads(self) -> None:
        """Set this lane's share of the threads; torch remembers it for each thread."""
        with self._lock:
            busy = self._count if self._is_steady else min(self._num_undone, self._count)
        share = max(1, self._threads // busy)
        if torch.get_num_threads() != share:
            torch.set_num_threads(share)


def _is_awaited(future: Future[Any], until: Until | None) -> bool:
    """Wait for a future, until a condition holds. Whether it is done."""
    while not wait([future], None if until is None else _LOOK_SECONDS).done:
        if until is not None and until():
            return False
    return True


def num_lanes(threads: int, frame_bytes: int) -> int:
    """Return how many frames should be computed on this CPU at the same time, at least 1.

    Args:
        threads: for all lanes together.
        frame_bytes: memory for one frame in flight.
    """
    free = available_bytes(torch.device("cpu"))
    fitting = _MOST_LANES if free is None else free // _MEMORY_SHARE // max(frame_bytes, 1)
    return max(1, min(threads, _MOST_LANES, fitting))


def lanes_for(
    chain: Chain,
    device: torch.device,
    results_bytes: int = 0,
    clock: SharedClock | None = None,
    *,
    is_steady: bool = False,
) -> Lanes[Any] | None:
    """Make lanes for an open chain; None where all threads should work on one frame.

    Args:
        chain: computes the frames.
        device: of the chain. A CUDA device is busy with one frame.
        results_bytes: memory for the results of one frame, in addition to the chain's.
        clock: of the lanes.
        is_steady: as for `Lanes`.
    """
    if device.type != "cpu" or not chain.has_plans:
        return None
    threads = torch.get_num_threads()
    count = num_lanes(threads, chain.frame_bytes + results_bytes)
    return Lanes(count, threads, clock, is_steady=is_steady) if count > 1 else None


class Compute:
    """Pictures in, filtered pictures out; every frame passes the same colour conversion.

    On a CPU several frames are computed at the same time, in lanes; on a CUDA device results are
    copied to the CPU while the next frames are computed. Results that this holds back are yielded
    by `settle`, for times when no other picture waits. All calls but `stage` and `statistics` come
    from one thread at a time.

    Args:
        info: of the incoming pictures.
        levels: chains by name, which may share filters: only one is in force at a time. The first
            one is to begin with; its output is the output. Levels may share a chain.
        pix_fmt: of the outgoing pictures.
        device: of the filters.
        detect_cuts: whether to detect scene cuts.
        is_steady: whether pictures are the same to the last bit at each run, as they must be where
            a film is made in several.
        now: clock of the costs, in seconds.

    Raises:
        FilterError: if a size is too large, or a format cannot be computed with.
    """

    def __init__(
        self,
        info: StreamInfo,
        levels: Mapping[str, Chain],
        *,
        pix_fmt: str,
        device: torch.device,
        detect_cuts: bool = True,
        is_steady: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._incoming = info
        self._device = device
        self._detect_cuts = detect_cuts
        self._levels = dict(levels)
        self._chain = next(iter(self._levels.values()))
        self._keeps_coded = False
        """Whether a chain without filters leaves pictures as they are coded."""
        out = self._open()
        width, height = output_size(out.width, out.height, pix_fmt)
        color = output_color(info, width, height, pix_fmt)
        self.info = replace(out, width=width, height=height, pix_fmt=pix_fmt, color=color)
        """Of the outgoing pictures at the first level. At others size, rate and time base may
        differ, as their chains do."""
        if warning := matrix_warning(info, color):
            log.warning("%s", warning)
        self._downloads: deque[Callable[[], Picture]] = deque()
        self._num_pictures = _num_pictures(info, out)
        most = max(_FRAMES_IN_FLIGHT, GIB // (12 * out.width * out.height))  # in fp32
        most = min(_FRAMES_IN_FLIGHT * self._num_pictures, most)
        self._most_downloads = most if device.type == "cuda" else 0
        if device.type == "cuda":  # weights were loaded on the stream of who calls
            stream_for("compute", device).wait_stream(torch.cuda.current_stream(device))
        self._clock = SharedClock(now)
        self._lanes: Lanes[Picture] | None = lanes_for(
            self._chain, device, _coded_bytes(info, out), self._clock, is_steady=is_steady
        )
        self._costs = deque[float]() if self._lanes is None else self._lanes.costs
        self._begin()

    def __call__(self, picture: Picture, *, breaks: bool = False) -> Iterator[Picture]:
        """Accept the next picture and yield those that are ready.

        Args:
            picture: as described by the constructor's `info`.
            breaks: nothing may be interpolated between it and the one before; results that are
                held come first.

        Raises:
            FilterError: if a picture cannot be computed; its results are lost.
        """
        if self._keeps_coded and not self._chain.filters:
            self._num_here += 1
            yield self._finished(picture)
            return
        if breaks:
            yield from self.flush()
        with self._working():
            marks = self._scenes(picture)
            cut = marks.cut or breaks
            frame = self._to_frame(picture, cut=cut, duplicate=marks.duplicate)
        yield from self._computed(self._chain.plan(frame))

    def flush(self) -> Iterator[Picture]:
        """Yield everything that is held; the next picture is compared with none before it."""
        yield from self._computed(self._chain.plan_flush())
        yield from self.settle()
        self.take_costs()
        self._counts.update(self._scenes.statistics())
        self._scenes = Scenes(self._detect_cuts)

    def settle(self, until: Until | None = None) -> Iterator[Picture]:
        """Wait for the results of the pictures so far and yield them, until a condition holds.

        The condition is that another picture waits. Results that were not yielded stay.
        """
        if self._lanes is not None:
            yield from map(self._finished, self._lanes.settle(until))
        while self._downloads and not (until and until()):
            yield self._next_download()

    def switch(self, level: str) -> list[Picture]:
        """Compute at another level from the next picture on; returns what is held at this one.

        Raises:
            KeyError: for a name that the constructor was not given.
        """
        chain = self._levels[level]
        held = [] if chain is self._chain else list(self.flush())
        self._chain = chain
        return held

    @property
    def num_in_flight(self) -> int:
        """Incoming pictures that are being computed and that `settle` would wait for."""
        if self._lanes is None:
            return -(-len(self._downloads) // self._num_pictures)
        return len(self._lanes)

    @property
    def max_in_flight(self) -> int:
        """How many pictures may be computed at the same time, or wait for a lane meanwhile."""
        return 1 if self._lanes is None else self._lanes.max_in_flight

    def take_costs(self) -> list[float]:
        """Return the seconds that each picture took which was computed since the last call.

        Of pictures that were computed at the same time each has its share. A flush costs nothing.
        """
        costs = [*self._costs, *[self._spent / max(self._num_here, 1)] * self._num_here]
        self._costs.clear()
        if self._num_here:
            self._num_here, self._spent = 0, 0.0
        return costs

    def restart(self) -> None:
        """Forget all pictures so far, and all counters. Nothing may be in flight."""
        self._open()
        self._begin()

    def close(self) -> None:
        """End the threads that compute; results in flight are lost. To be called last."""
        if self._lanes is not None:
            self._lanes.close()

    def stage(self, picture: Picture) -> Picture:
        """Begin to copy a picture to the device; for the thread that reads them, in order."""
        return self._to_frame.stage(picture)

    def statistics(self) -> Mapping[str, int]:
        """Return the counters of the scenes, the colours and all filters."""
        total = Counter(self._counts)
        filters = {id(one): one for chain in self._levels.values() for one in chain.filters}
        for stage in (self._scenes, self._to_frame, *filters.values(), self._to_picture):
            total.update(stage.statistics())
        return dict(total)

    def _open(self) -> StreamInfo:
        """Open all chains; filters that several share are opened for the first one last."""
        return [chain.open(self._incoming) for chain in reversed(self._levels.values())][-1]

    def _begin(self) -> None:
        self._scenes = Scenes(self._detect_cuts)
        self._to_frame = ToFrame(self._device)
        self._to_picture = ToPicture(self.info.pix_fmt, self.info.color)
        self._counts: Counter[str] = Counter()
        self._num_here = 0
        """Pictures that were computed by this thread and whose cost was not taken yet."""
        self._spent = 0.0
        """Seconds of this thread's work on them, or on the next picture for the lanes."""

    def _computed(self, planned: Iterator[Pending]) -> Iterator[Picture]:
        if self._lanes is None:
            while self._compute_next(planned):
                if len(self._downloads) > self._most_downloads:
                    yield self._next_download()
            self._num_here += 1
            return
        with self._working():
            works = [self._to_picture.plan(pending) for pending in planned]
        if not works:
            self._num_here += 1
            return
        spent, self._spent = self._spent, 0.0
        yield from map(self._finished, self._lanes(works, spent))

    def _compute_next(self, planned: Iterator[Pending]) -> bool:
        """Compute a frame in this thread; whether there was one."""
        with self._working():
            pending = next(planned, None)
            if pending is not None:
                self._downloads.append(self._to_picture.begin(pending))
        return pending is not None

    def _next_download(self) -> Picture:
        with self._working():
            picture = self._downloads.popleft()()
        return self._finished(picture)

    def _finished(self, picture: Picture) -> Picture:
        with self._working():
            return self._finish(picture)

    def _finish(self, picture: Picture) -> Picture:
        """Bring a picture to the output's form; for subclasses whose levels differ."""
        return picture

    @contextmanager
    def _working(self) -> Generator[None]:
        started, device = self._clock.start(), self._device
        call = calling(f"compute: a frame on {device}", on_card=device.type == "cuda")
        try:
            # on a stream of their own: a card that decodes waits for the default one
            with call, torch.inference_mode(), on_stream("compute", device):
                yield
        finally:
            self._spent += self._clock.stop(started)


class FilmCompute(Compute):
    """Computes a file or pipe by one chain of filters, into an output of a pixel format."""

    def __init__(
        self,
        info: StreamInfo,
        filters: Sequence[BuiltFilter],
        options: MediaOptions,
        runtime: Runtime,
        pix_fmt: str,
        *,
        is_steady: bool = False,
    ) -> None:
        super().__init__(
            info,
            {"full": Chain(built.filter for built in filters)},
            pix_fmt=pix_fmt,
            device=runtime.device,
            detect_cuts=options.filters.detects_cuts,
            is_steady=is_steady,
        )


def _coded_bytes(incoming: StreamInfo, outgoing: StreamInfo) -> int:
    """Estimate the memory of all pictures that one becomes, at most."""
    pictures = _num_pictures(incoming, outgoing)
    return pictures * outgoing.width * outgoing.height * 3 * torch.uint16.itemsize


def _num_pictures(incoming: StreamInfo, outgoing: StreamInfo) -> int:
    return max(1, int(incoming.time_base / outgoing.time_base))

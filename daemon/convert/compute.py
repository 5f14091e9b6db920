"""What the compute thread does: planes to RGB, the filters, RGB to planes."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import torch

from ...filters.chain import Chain
from ...filters.color.convert import ToFrame, ToPicture, matrix_warning, output_color, output_size
from ...filters.device import available_bytes
from ...filters.frame import Filter, Frame, Picture, StreamInfo
from ...filters.scenes import Scenes

log = logging.getLogger("upframe.compute")


# Lanes: several frames are computed at the same time, each by few threads, and leave in order.
#
# All threads on one frame wait for each other after every step of it, and where an encoder takes a
# core from one of them, all others stand still. In lanes it holds up only one frame: with x264
# beside the filters on two cores, two lanes of one thread made the same film in 0.8 of the time.

T = TypeVar("T")
Work = Callable[[], T]

_MOST_LANES = 4
"""With more, frames that are on their way cost more memory than idle threads cost time."""
_WAITING = 1
"""Groups that wait for a lane, or are done while one before them is not, so that none is idle."""
_MEMORY_SHARE = 8
"""Lanes together may take so small a part of the memory that is free."""


def num_lanes(threads: int, frame_bytes: int) -> int:
    """Find how many frames should be computed on this CPU at the same time, at least 1.

    Args:
        threads: that there are for all lanes together.
        frame_bytes: memory that one frame takes on its way.
    """
    free = available_bytes(torch.device("cpu"))
    fitting = _MOST_LANES if free is None else free // _MEMORY_SHARE // max(frame_bytes, 1)
    return max(1, min(threads, _MOST_LANES, fitting))


def lanes_for(chain: Chain, device: torch.device, results_bytes: int = 0) -> Lanes[Any] | None:
    """Make lanes for a chain that is open; None where all threads should be on one frame.

    Args:
        chain: computes; its filters must plan.
        device: where it does. A card has enough to do with one frame.
        results_bytes: memory for what is made of one frame, beside what the chain needs.
    """
    if device.type != "cpu" or not chain.can_plan:
        return None
    threads = torch.get_num_threads()
    count = num_lanes(threads, chain.frame_bytes + results_bytes)
    return Lanes(count, threads) if count > 1 else None


@dataclass(frozen=True, slots=True, eq=False)
class _Made(Generic[T]):
    result: T


class _Group(Generic[T]):
    """What is computed one after the other, in one lane; iterating waits for it."""

    def __init__(self, works: Sequence[Work[T]]) -> None:
        self._works = deque(works)
        self._made: SimpleQueue[_Made[T] | BaseException | None] = SimpleQueue()

    def compute(self, goes_on: Callable[[], bool]) -> None:
        """Do all of the work, or until told otherwise."""
        try:
            while self._works and goes_on():
                self._made.put(_Made(self._works.popleft()()))
            self._made.put(None)
        except BaseException as error:  # raised again by who waits for the result
            self._made.put(error)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        made = self._made.get()
        if isinstance(made, _Made):
            return made.result
        raise StopIteration if made is None else made


class Lanes(Generic[T]):
    """Computes groups of work in several threads and gives what they make, in order.

    For one thread, which hands in and takes out.

    Args:
        count: of lanes, at least 1.
        threads: of torch, for all lanes together. While only one group is on its way it has them
            all, so that a slow source does not wait longer than it must.
    """

    def __init__(self, count: int, threads: int) -> None:
        self._count = count
        self._threads = threads
        self._on_their_way: deque[_Group[T]] = deque()
        self._handed_in: SimpleQueue[_Group[T] | None] = SimpleQueue()
        self._lanes: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._num_undone = 0
        self._ending = threading.Event()

    def __call__(self, works: Sequence[Work[T]]) -> Iterator[T]:
        """Hand in one group, and give what those before it made where more are on their way.

        Raises:
            RuntimeError: after `close`.
            Exception: whatever the work raises.
        """
        if self.is_closing:
            raise RuntimeError("frames came after the lanes were closed")
        if works:
            self._hand_in(_Group(works))
        while len(self._on_their_way) > self._count + _WAITING:
            yield from self._oldest()

    def settle(self) -> Iterator[T]:
        """Wait for everything that is on its way, and give it; what is not taken stays."""
        while self._on_their_way:
            yield from self._oldest()

    @property
    def is_closing(self) -> bool:
        """Whether `close` was called."""
        return self._ending.is_set()

    def close(self) -> None:
        """End the threads, after the work that they are at; what else was handed in is lost."""
        self._ending.set()
        if not self._lanes:
            return
        for _ in self._lanes:
            self._handed_in.put(None)
        for lane in self._lanes:
            lane.join()
        self._lanes.clear()
        self._on_their_way.clear()
        torch.set_num_threads(self._threads)  # else the next thread begins with a lane's few

    def _oldest(self) -> Iterator[T]:
        yield from self._on_their_way[0]
        self._on_their_way.popleft()

    def _hand_in(self, group: _Group[T]) -> None:
        while len(self._lanes) < self._count:
            name = f"upframe-lane-{len(self._lanes)}"
            self._lanes.append(threading.Thread(target=self._run, name=name, daemon=True))
            self._lanes[-1].start()
        with self._lock:
            self._num_undone += 1
        self._on_their_way.append(group)
        self._handed_in.put(group)

    def _run(self) -> None:
        with torch.inference_mode():
            while (group := self._handed_in.get()) is not None:
                self._take_threads()
                group.compute(lambda: not self._ending.is_set())
                with self._lock:
                    self._num_undone -= 1

    def _take_threads(self) -> None:
        """Take a fair share for this thread; torch remembers it for each."""
        with self._lock:
            share = max(1, self._threads // min(self._num_undone, self._count))
        if torch.get_num_threads() != share:
            torch.set_num_threads(share)


PICTURES_COMING = 2
"""That come down from a CUDA card while it computes the next ones."""


class Compute:
    """Pictures in, filtered pictures out; every frame takes the same way through the colours.

    Args:
        info: Of the pictures that come in.
        filters: In the order in which frames pass them.
        pix_fmt: Of the pictures that go out.
        device: Where the filters compute.
        detect_cuts: Whether scene cuts are sought.
    """

    def __init__(
        self,
        info: StreamInfo,
        filters: Iterable[Filter],
        *,
        pix_fmt: str,
        device: torch.device,
        detect_cuts: bool = True,
    ) -> None:
        self._chain = Chain(tuple(filters))
        out = self._chain.open(info)
        width, height = output_size(out.width, out.height, pix_fmt)
        color = output_color(info, width, height, pix_fmt)
        self.info = replace(out, width=width, height=height, pix_fmt=pix_fmt, color=color)
        """Of the pictures that go out."""
        if warning := matrix_warning(info, color):
            log.warning("%s", warning)
        self._scenes = Scenes(detect_cuts)
        self._to_frame = ToFrame(device)
        self._to_picture = ToPicture(pix_fmt, color)
        self._coming: deque[Callable[[], Picture]] = deque()
        self._most_coming = PICTURES_COMING if device.type == "cuda" else 0
        self._lanes: Lanes[Picture] | None = lanes_for(self._chain, device, _coded_bytes(info, out))

    def __call__(self, picture: Picture) -> Iterator[Picture]:
        """Take the next picture, give those that are ready."""
        marks = self._scenes(picture)
        with torch.inference_mode():
            frame = self._to_frame(picture, cut=marks.cut, duplicate=marks.duplicate)
        if self._lanes is None:
            yield from self._pictures(self._chain(frame))
        else:
            planned = self._chain.plan(frame)
            yield from self._lanes([self._to_picture.plan(pending) for pending in planned])

    def flush(self) -> Iterator[Picture]:
        """Give what the filters still hold."""
        if self._lanes is not None:
            yield from self._lanes.settle()
            self.close()
        yield from self._pictures(self._chain.flush())
        yield from self.settle()

    def settle(self) -> Iterator[Picture]:
        """Give the pictures that are on their way, and wait for them."""
        if self._lanes is not None:
            yield from self._lanes.settle()
        while self._coming:
            yield self._coming.popleft()()

    def close(self) -> None:
        """End the threads that compute; what they have not given is lost. To be called last."""
        if self._lanes is not None:
            self._lanes.close()

    def stage(self, picture: Picture) -> Picture:
        """Begin to copy a picture to the device; for the thread that reads them, in their order."""
        return self._to_frame.stage(picture)

    def statistics(self) -> Mapping[str, int]:
        """Counters of the scenes, the colours and all filters."""
        total: Counter[str] = Counter()
        for stage in (self._scenes, self._to_frame, self._chain, self._to_picture):
            total.update(stage.statistics())
        return dict(total)

    def _pictures(self, frames: Iterable[Frame]) -> Iterator[Picture]:
        for frame in frames:
            with torch.inference_mode():
                self._coming.append(self._to_picture.begin(frame))
            if len(self._coming) > self._most_coming:
                yield self._coming.popleft()()


def _coded_bytes(incoming: StreamInfo, outgoing: StreamInfo) -> int:
    """Estimate the memory of all pictures that come of one, at most."""
    pictures = int(incoming.time_base / outgoing.time_base)
    return pictures * outgoing.width * outgoing.height * 3 * torch.uint16.itemsize

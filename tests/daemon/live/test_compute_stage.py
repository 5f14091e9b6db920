"""The compute stage: several frames at the same time, and none held back while nothing waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from queue import Queue

import pytest
import torch
from av.video.frame import VideoFrame
from support.live.pictures import INFO, INTERVAL, RUNTIME

from upframe.daemon.live.compute_stage import (
    ComputeStage,
    LiveCompute,
    OutputFrame,
    QueuedFrame,
    SessionContext,
)
from upframe.daemon.live.governor import Governor
from upframe.daemon.live.levels import parse_levels
from upframe.daemon.queues import DropOldestQueue
from upframe.filters.chain import BuiltFilter
from upframe.filters.errors import FilterError
from upframe.filters.frame import Deferred, Frame, Pending, PlannedFilter, StreamInfo
from upframe.filters.options import FilterOptions

SECONDS = 20


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Let there be two lanes, whatever this machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Worked(PlannedFilter):
    """A filter that does some work for each frame, and counts how many it works on at a time."""

    def __init__(self, work: Callable[[int], object]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0

    def open(self, info: StreamInfo) -> StreamInfo:
        return info

    def plan(self, pending: Pending) -> tuple[Pending]:
        return (Pending(Deferred(lambda: self._worked(pending.frame())), pending.duplicate),)

    def flush(self) -> tuple[()]:
        return ()

    def statistics(self) -> dict[str, int]:
        return {}

    def _worked(self, frame: Frame) -> Frame:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            self._work(frame.pts // INTERVAL)
        finally:
            with self._lock:
                self._now -= 1
        return frame


class Costs(Governor):
    """A governor that keeps what it was told."""

    def __init__(self) -> None:
        super().__init__(parse_levels(("full",), FilterOptions()), latency_seconds=2)
        self.seconds: list[float] = []

    def computed(self, now: float, *, busy_seconds: float, **others: float) -> None:
        self.seconds.append(busy_seconds)


@dataclass
class Stage:
    work: Callable[[int], object]
    deadline_seconds: float = 600
    given: Queue[OutputFrame] = field(default_factory=Queue[OutputFrame])
    governor: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        self.filter = Worked(self.work)
        built = (BuiltFilter("worked", self.filter, None),)
        compute = LiveCompute(
            INFO,
            FilterOptions(),
            RUNTIME,
            levels=parse_levels(("full",), FilterOptions()),
            build=lambda *_: built,
        )
        self.queue = DropOldestQueue[QueuedFrame](100)
        self.stage = ComputeStage(
            compute=compute,
            governor=self.governor,
            queue=self.queue,
            model=INFO,
            give=self.given.put,
            interval_seconds=lambda: 1 / 30,
            hold_seconds=60,
            deadline_seconds=self.deadline_seconds,
            context=SessionContext(time.monotonic, speed=1, changed=lambda: None),
        )

    def put(self, *indices: int) -> None:
        now = time.monotonic()
        for index in indices:
            frame = VideoFrame(INFO.width, INFO.height, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes([100 + index]) * plane.buffer_size)
            self.queue.put(QueuedFrame(frame, index * INTERVAL, now, 0), now)

    def take(self, count: int) -> list[int]:
        interval = INTERVAL * INFO.time_base
        return [int(self.given.get(timeout=SECONDS).seconds / interval) for _ in range(count)]

    def end(self) -> None:
        self.stage.end()
        assert self.stage.join(SECONDS)
        assert self.stage.failure is None
        assert not any(thread.name.startswith("upframe-lane") for thread in threading.enumerate())


def test_a_picture_goes_out_though_no_frame_follows() -> None:
    stage = Stage(lambda _: None)
    stage.stage.start()
    for index in range(3):
        stage.put(index)
        assert stage.take(1) == [index]
    stage.end()
    assert stage.stage.handled_pts == 2 * INTERVAL


def test_frames_that_wait_are_computed_at_the_same_time_and_go_out_in_order() -> None:
    together = threading.Barrier(2)
    stage = Stage(lambda _: together.wait(SECONDS))
    stage.put(*range(8))
    stage.stage.start()
    assert stage.take(8) == list(range(8))
    stage.end()
    assert stage.filter.most == 2


def test_a_frame_that_comes_while_one_is_computed_is_begun_at_once() -> None:
    first, second = threading.Event(), threading.Event()

    def work(index: int) -> None:
        (first, second)[index].set()
        assert second.wait(SECONDS)

    stage = Stage(work)
    stage.stage.start()
    stage.put(0)
    assert first.wait(SECONDS)
    stage.put(1)
    assert stage.take(2) == [0, 1]
    stage.end()


def test_the_costs_of_frames_that_are_computed_at_the_same_time_add_up_to_the_time() -> None:
    stage = Stage(lambda _: time.sleep(0.1))
    began = time.monotonic()
    stage.put(*range(8))
    stage.stage.start()
    assert stage.take(8) == list(range(8))
    stage.end()
    taken = time.monotonic() - began
    assert len(stage.governor.seconds) == 8
    assert 0.39 < sum(stage.governor.seconds) <= 1.05 * taken
    assert max(stage.governor.seconds) < taken / 4


def test_frames_that_take_long_are_computed_one_after_the_other() -> None:
    """At the same time each would take longer, and be too late."""
    stage = Stage(lambda _: time.sleep(0.2), deadline_seconds=1.2)
    stage.stage.start()
    stage.put(0)
    assert stage.take(1) == [0]
    stage.put(1, 2, 3)
    assert stage.take(3) == [1, 2, 3]
    stage.end()
    assert stage.filter.most == 1


def test_a_frame_that_fails_is_left_out_and_those_beside_it_are_not() -> None:
    def work(index: int) -> None:
        if index == 1:
            raise FilterError("no such frame")

    stage = Stage(work)
    stage.put(*range(5))
    stage.stage.start()
    assert stage.take(4) == [0, 2, 3, 4]
    stage.end()
    assert stage.stage.counts()["frames_failed"] == 1


def test_frames_that_wait_at_the_end_all_go_out() -> None:
    stage = Stage(lambda _: time.sleep(0.01))
    stage.put(*range(6))
    stage.stage.start()
    stage.end()
    assert stage.take(6) == list(range(6))


def test_a_picture_shows_when_its_packet_came() -> None:
    stage = Stage(lambda _: None)
    stage.put(0)
    stage.stage.start()
    made = stage.given.get(timeout=SECONDS)
    assert made.arrived is not None
    assert made.seconds == Fraction(0)
    stage.end()


@pytest.mark.parametrize(
    ("threads", "most_seconds", "at_once"), [(2, 60.0, 2), (2, 0.05, 1), (16, 60.0, 4)]
)
def test_warming_up_fills_every_lane_while_there_is_time(
    threads: int, most_seconds: float, at_once: int
) -> None:
    """So that the memory of all lanes, however many, is taken before the first frame."""
    torch.set_num_threads(threads)
    worked = Worked(lambda _: time.sleep(0.05))
    compute = LiveCompute(
        INFO,
        FilterOptions(),
        RUNTIME,
        levels=parse_levels(("full",), FilterOptions()),
        build=lambda *_: (BuiltFilter("worked", worked, None),),
    )
    assert set(compute.warm_up(most_seconds=most_seconds)) == {"full"}
    compute.close()
    assert worked.most == at_once

"""What a transform does beside its calls: pictures that are staged, and held while others wait."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import pytest
import torch
from support.media.fakes import ListSink, ListSource, moving_pictures, stream_info

from upframe.daemon.convert.compute import Compute
from upframe.daemon.convert.pipeline import Pipeline
from upframe.filters.chain import Chain
from upframe.filters.frame import Picture


class Holding:
    """Holds every picture until another one comes, or nothing else waits."""

    def __init__(self) -> None:
        self.staged: list[int] = []
        self.threads: set[str] = set()
        self._held: deque[Picture] = deque()

    def stage(self, picture: Picture) -> None:
        self.staged.append(picture.pts)
        self.threads.add(threading.current_thread().name)

    def __call__(self, picture: Picture) -> Iterator[Picture]:
        assert picture.pts in self.staged
        self._held.append(picture)
        if len(self._held) > 1:
            yield self._held.popleft()

    def settle(self, until: Callable[[], bool]) -> Iterator[Picture]:
        while self._held and not until():
            yield self._held.popleft()

    def flush(self) -> Iterable[Picture]:
        return self.settle(lambda: False)

    def close(self) -> None:
        pass


class AskingSource(ListSource):
    """Reads the next picture only when the one before has come out at the other end."""

    def __init__(self, sink: ListSink, pictures: list[Picture]) -> None:
        super().__init__(stream_info(), pictures)
        self._sink = sink
        self._there = threading.Condition()
        self.num_waited = 0

    def __iter__(self) -> Iterator[Picture]:
        for index, picture in enumerate(super().__iter__()):
            with self._there:
                assert self._there.wait_for(partial(self._has_come, index), 10)
            self.num_waited += 1
            yield picture

    def _has_come(self, count: int) -> bool:
        return len(self._sink.pictures) >= count

    def told(self) -> None:
        with self._there:
            self._there.notify_all()


class TellingSink(ListSink):
    source: AskingSource | None = None

    def write(self, picture: Picture) -> None:
        super().write(picture)
        assert self.source is not None
        self.source.told()


def test_pictures_are_staged_by_the_thread_that_reads_and_none_is_lost() -> None:
    pictures, sink, holding = moving_pictures(9), ListSink(), Holding()
    source = ListSource(stream_info(), pictures)
    asyncio.run(Pipeline(source, holding, sink).run())
    assert holding.staged == [picture.pts for picture in pictures]
    assert holding.threads == {"upframe-decode"}
    assert [picture.pts for picture in sink.pictures] == holding.staged


def test_nothing_is_held_from_a_source_that_waits_for_it() -> None:
    sink, holding = TellingSink(), Holding()
    sink.source = source = AskingSource(sink, moving_pictures(5))
    asyncio.run(Pipeline(source, holding, sink).run())
    assert source.num_waited == 5


def test_on_a_cpu_nothing_is_staged_and_nothing_held() -> None:
    info = stream_info()
    compute = Compute(info, {"full": Chain([])}, pix_fmt=info.pix_fmt, device=torch.device("cpu"))
    for picture in moving_pictures(3):
        assert compute.stage(picture) is picture
        assert len(list(compute(picture))) == 1
        assert list(compute.settle()) == []
    assert list(compute.flush()) == []


@pytest.mark.needs_cuda
def test_on_a_card_pictures_come_down_in_order_and_as_they_were() -> None:
    info, pictures = stream_info(), moving_pictures(12)
    results: list[list[Picture]] = []
    for name in ("cpu", "cuda"):
        compute = Compute(
            info, {"full": Chain([])}, pix_fmt=info.pix_fmt, device=torch.device(name)
        )
        staged = [compute.stage(picture) for picture in pictures]
        results.append([out for one in staged for out in compute(one)] + list(compute.flush()))
    for ours, wanted in zip(*results, strict=True):
        assert ours.pts == wanted.pts
        for a, b in zip(ours.planes, wanted.planes, strict=True):
            assert (a.int() - b.int()).abs().max() <= 1

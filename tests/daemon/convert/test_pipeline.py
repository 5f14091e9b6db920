from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import pytest
from support.media.fakes import ListSink, ListSource, moving_pictures, stream_info

from upframe.daemon.convert.pipeline import CHANNEL_PICTURES, Flow, Pipeline
from upframe.daemon.errors import Stopped
from upframe.filters.frame import Picture
from upframe.io.errors import SinkFull, TruncatedMedia, UnsupportedMedia


class Twice:
    """Gives every picture twice, and one more at the end."""

    closed = False

    def __init__(self, error: BaseException | None = None) -> None:
        self._error = error
        self._last: Picture | None = None

    def __call__(self, picture: Picture) -> Iterator[Picture]:
        if self._error is not None:
            raise self._error
        self._last = picture
        yield picture
        yield picture

    def flush(self) -> Iterable[Picture]:
        return () if self._last is None else (self._last,)

    def settle(self, until: Callable[[], bool]) -> Iterable[Picture]:
        return ()

    def stage(self, picture: Picture) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class CountedSource(ListSource):
    """Counts how many pictures were taken from it."""

    given = 0

    def __iter__(self) -> Iterator[Picture]:
        for picture in super().__iter__():
            self.given += 1
            yield picture


class BlockedSink(ListSink):
    """Takes nothing until told."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()

    def write(self, picture: Picture) -> None:
        self.open.wait(10)
        super().write(picture)


class FailingSink(ListSink):
    """Fails at the third picture."""

    def write(self, picture: Picture) -> None:
        if len(self.pictures) == 2:
            raise SinkFull("no space left on device")
        super().write(picture)


class SignallingSink(ListSink):
    """Says when it holds so many pictures."""

    def __init__(self, num: int) -> None:
        super().__init__()
        self._num = num
        self.filled = threading.Event()

    def write(self, picture: Picture) -> None:
        super().write(picture)
        if len(self.pictures) == self._num:
            self.filled.set()


class EndlessSource(ListSource):
    """A silent pipe: after its pictures a read never comes back."""

    def __iter__(self) -> Iterator[Picture]:
        yield from super().__iter__()
        threading.Event().wait()


def pictures(num: int) -> list[Picture]:
    return list(moving_pictures(num, 16, 16))


def source_of(num: int, error: BaseException | None = None) -> ListSource:
    return ListSource(stream_info(16, 16), pictures(num), error=error)


def run(pipeline: Pipeline) -> Flow:
    return asyncio.run(pipeline.run())


@pytest.mark.parametrize("num", [0, 1, 2, 3 * CHANNEL_PICTURES])
def test_every_picture_arrives_once_and_in_order(num: int) -> None:
    source, sink = source_of(num), ListSink()
    flow = run(Pipeline(source, Twice(), sink))
    given = [picture.pts for picture in pictures(num)]
    expected = [pts for pts in given for _ in range(2)] + given[-1:]
    assert [picture.pts for picture in sink.pictures] == expected
    assert (flow.frames_in, flow.frames_out) == (num, len(expected))
    assert sink.finished
    assert not sink.aborted
    assert source.closed


def test_a_slow_sink_stops_the_reading() -> None:
    source, sink = CountedSource(stream_info(16, 16), pictures(100)), BlockedSink()

    async def scenario() -> int:
        task = asyncio.create_task(Pipeline(source, Twice(), sink).run())
        await asyncio.sleep(0.3)
        held = source.given
        sink.open.set()
        await task
        return held

    held = asyncio.run(scenario())
    # two full channels, and one picture in the hands of each stage
    assert held <= 2 * CHANNEL_PICTURES + 3
    assert len(sink.pictures) == 201


def test_a_failing_sink_ends_everything_and_is_aborted() -> None:
    source, sink = CountedSource(stream_info(16, 16), pictures(100)), FailingSink()
    with pytest.raises(SinkFull, match="no space left"):
        run(Pipeline(source, Twice(), sink))
    assert sink.aborted
    assert not sink.finished
    assert source.closed
    assert source.given < 100


def test_a_failing_filter_ends_everything_and_the_sink_is_aborted() -> None:
    source, sink, transform = source_of(100), ListSink(), Twice(UnsupportedMedia("reason"))
    with pytest.raises(UnsupportedMedia, match="reason"):
        run(Pipeline(source, transform, sink))
    assert sink.aborted
    assert source.closed
    assert transform.closed


def test_a_failing_source_aborts_the_sink() -> None:
    sink = ListSink()
    with pytest.raises(UnsupportedMedia, match="reason"):
        run(Pipeline(source_of(3, UnsupportedMedia("reason")), Twice(), sink))
    assert sink.aborted
    assert not sink.finished


def test_a_truncated_input_leaves_no_output() -> None:
    sink = ListSink()
    with pytest.raises(TruncatedMedia, match="got 3"):
        run(Pipeline(source_of(3, TruncatedMedia("got 3 of 5")), Twice(), sink))
    assert sink.aborted
    assert not sink.finished


def test_a_truncated_input_still_completes_an_output_that_keeps_it() -> None:
    sink = ListSink()
    pipeline = Pipeline(
        source_of(3, TruncatedMedia("got 3 of 5")), Twice(), sink, keep_partial=True
    )
    with pytest.raises(TruncatedMedia, match="got 3"):
        run(pipeline)
    assert len(sink.pictures) == 7
    assert sink.finished
    assert not sink.aborted


@pytest.mark.parametrize("keep", [False, True])
def test_a_signal_ends_even_a_source_that_hangs(keep: bool) -> None:
    source, sink = EndlessSource(stream_info(16, 16), pictures(3)), SignallingSink(6)
    pipeline = Pipeline(source, Twice(), sink, keep_partial=keep)

    async def scenario() -> None:
        task = asyncio.create_task(pipeline.run())
        await asyncio.to_thread(sink.filled.wait, 10)
        pipeline.stop(15)
        await task

    began = time.monotonic()
    with pytest.raises(Stopped) as stopped:
        asyncio.run(scenario())
    assert stopped.value.signal_number == 15
    assert time.monotonic() - began < 5
    assert sink.finished is keep
    assert sink.aborted is not keep


def test_cancelling_the_task_aborts_the_sink() -> None:
    source, sink = EndlessSource(stream_info(16, 16), pictures(3)), ListSink()

    async def scenario() -> None:
        task = asyncio.create_task(Pipeline(source, Twice(), sink).run())
        await asyncio.sleep(0.1)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(scenario())
    assert sink.aborted


def test_work_and_waiting_of_every_stage_are_told_apart() -> None:
    class SlowSink(ListSink):
        def write(self, picture: Picture) -> None:
            time.sleep(0.01)
            super().write(picture)

    flow = run(Pipeline(source_of(20), Twice(), SlowSink()))
    assert flow.limiting_stage == "encode"
    assert flow.stages["encode"].worked_seconds >= 0.4
    assert flow.stages["compute"].waited_seconds > flow.stages["compute"].worked_seconds
    assert flow.first_frame_seconds is not None
    assert flow.first_frame_seconds < flow.stages["encode"].worked_seconds

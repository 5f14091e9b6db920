"""An input that is lost in every way there is, stepped without waiting for its minutes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from queue import SimpleQueue

import pytest
from av.video.frame import VideoFrame

from upframe.daemon.live.input import InputSupervisor
from upframe.filters.frame import StreamInfo
from upframe.io.errors import InputLost, Reason, SourceMissing
from upframe.io.live.values import DecodedFrame, LiveForm, SoundPacket

DEADLINE_SECONDS = 20.0
INFO = StreamInfo(64, 48, "yuv420p", Fraction(1, 90_000), rate=Fraction(15))


class Moments:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class Source:
    """A connection on which things happen in the order in which the test puts them."""

    def __init__(self, *, refused: Reason | None = None, returns: bool = True) -> None:
        self.counts = {"frames_decoded": 0}
        self.gop_seconds: Fraction | None = None
        self.stopped = False
        self.closed = False
        self._refused: Reason | None = refused
        self._returns = returns
        self._frames: SimpleQueue[DecodedFrame | InputLost] = SimpleQueue()

    def send(self, frames: int = 1) -> None:
        for _ in range(frames):
            self._frames.put(DecodedFrame(VideoFrame(64, 48, "yuv420p"), Fraction(0), 0.0, True))

    def lose(self, reason: Reason) -> None:
        self._frames.put(InputLost(reason, f"it has {reason}"))

    def connect(self) -> None:
        if self._refused is not None:
            raise InputLost(self._refused, "no such luck")

    def probe(self, deadline_seconds: float = 10.0) -> LiveForm:
        return LiveForm(INFO, "h264", None, None)

    def __iter__(self) -> Iterator[DecodedFrame | SoundPacket]:
        while True:
            item = self._frames.get()
            if isinstance(item, InputLost):
                raise item
            self.counts["frames_decoded"] += 1
            yield item

    def stop(self) -> None:
        self.stopped = True
        if self._returns:
            self.lose("ended")

    def close(self) -> None:
        self.closed = True

    def lines(self) -> list[str]:
        return []


class Taken:
    """Counts what readers give."""

    def __init__(self) -> None:
        self.frames = 0
        self.decided = threading.Event()
        self.decided.set()

    def formed(self, form: LiveForm) -> bool:
        return self.decided.wait(DEADLINE_SECONDS)

    def frame(self, frame: DecodedFrame) -> None:
        self.frames += 1

    def sound(self, packet: SoundPacket) -> None:
        raise AssertionError("there is no sound")


class Bench:
    """An input whose connections are given one after the other."""

    def __init__(self, *sources: Source | Exception, stall_seconds: float | None = None) -> None:
        self.sources = list(sources)
        self.moments = Moments()
        self.taken = Taken()
        self.read_seconds: list[float | None] = []
        self.incoming = InputSupervisor(
            self._make,
            self.taken,
            now=self.moments,
            changed=lambda: None,
            stall_seconds=stall_seconds,
        )

    def _make(self, read_seconds: float | None) -> Source:
        self.read_seconds.append(read_seconds)
        source = self.sources[len(self.read_seconds) - 1]
        if isinstance(source, Exception):
            raise source
        return source

    def until(self, is_so: Callable[[], bool]) -> None:
        """Tick until something is so; no time passes on the input's clock."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            self.incoming.tick()
            if is_so():
                return
            assert time.monotonic() < deadline, vars(self.incoming)
            time.sleep(0.002)

    def until_state(self, state: str) -> None:
        self.until(lambda: self.incoming.state == state)

    def until_frames(self, number: int) -> None:
        self.until(lambda: self.taken.frames == number)

    def passes(self, seconds: float) -> None:
        self.moments.seconds += seconds

    def until_connections(self, number: int) -> None:
        self.until(lambda: len(self.read_seconds) == number)


@pytest.mark.parametrize("reason", ["refused", "not-found", "unauthorised", "timed-out"])
def test_what_refuses_is_tried_again_and_again_and_told_apart(reason: Reason) -> None:
    bench = Bench(*(Source(refused=reason) for _ in range(4)), last := Source())
    for number in range(1, 5):
        bench.until_connections(number)
        bench.until_state("reconnecting")
        bench.until(lambda wanted=number: bench.incoming.reconnects[reason] == wanted)
        bench.passes(60.0)
    last.send()
    bench.until_state("running")
    assert bench.incoming.reason == reason
    assert bench.incoming.reconnects == {reason: 4}
    bench.incoming.stop()


def test_lost_is_said_only_of_what_was_there(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(Source(refused="refused"), there := Source(), Source(refused="refused"))
    bench.until_state("reconnecting")
    assert [line.partition(":")[0] for line in caplog.messages] == ["no input (refused)"]
    bench.passes(100)
    there.send()
    bench.until_frames(1)
    bench.until_state("running")
    there.lose("ended")
    bench.until_state("reconnecting")
    bench.passes(100)
    bench.until_connections(3)
    bench.until_state("reconnecting")
    bench.until(lambda: len(caplog.messages) == 3)
    lost = [line.partition(":")[0] for line in caplog.messages]
    assert lost == ["no input (refused)", "input lost (ended)", "no input (refused)"]


def test_the_next_attempt_waits_for_its_time() -> None:
    bench = Bench(Source(refused="refused"), Source())
    bench.until_state("reconnecting")
    bench.passes(0.4)  # of a step of one second, 0.5 to 0.7 are waited
    bench.incoming.tick()
    assert len(bench.read_seconds) == 1
    bench.passes(0.4)
    bench.until_connections(2)
    bench.incoming.stop()


def test_silence_is_first_a_stall_and_then_a_loss() -> None:
    bench = Bench(first := Source(), second := Source())
    first.send(3)
    bench.until_frames(3)
    bench.until_state("running")
    bench.passes(1.1)
    bench.until_state("stalled")
    first.send()
    bench.until_state("running")
    bench.passes(2.0)
    bench.until_state("stalled")
    assert not first.stopped
    bench.passes(9.0)
    bench.until_state("reconnecting")
    assert first.stopped
    assert bench.incoming.reason == "stalled"
    bench.passes(1.0)
    second.send()
    bench.until_state("running")
    assert bench.incoming.counts()["stalls"] == 2
    assert bench.incoming.counts()["frames_decoded"] == 5
    assert bench.incoming.reconnects == {"stalled": 1}
    bench.incoming.stop()


def test_a_stall_can_be_as_short_as_the_user_says() -> None:
    bench = Bench(first := Source(), Source(), stall_seconds=0.5)
    first.send()
    bench.until_state("running")
    bench.passes(0.6)
    bench.until_state("reconnecting")
    assert bench.incoming.reason == "stalled"
    bench.incoming.stop()


def test_a_silence_of_some_of_the_streams_own_keyframe_intervals_is_no_loss() -> None:
    bench = Bench(first := Source(), Source())
    first.gop_seconds = Fraction(8)
    first.send(2)
    bench.until_frames(2)
    bench.until_state("running")
    bench.passes(20.0)
    bench.until_state("stalled")
    assert not first.stopped
    bench.passes(4.0)
    bench.until_state("reconnecting")
    assert bench.incoming.reason == "stalled"
    bench.incoming.stop()


def test_an_input_that_must_wait_for_its_output_is_not_given_up_meanwhile() -> None:
    """Weights may be fetched for minutes, and a file waits for them."""
    bench = Bench(first := Source())
    bench.taken.decided.clear()
    first.send()
    bench.until(lambda: bench.incoming.form is not None)
    bench.passes(300.0)
    bench.incoming.tick()
    bench.passes(2.0)
    bench.incoming.tick()
    assert not first.stopped
    bench.taken.decided.set()
    bench.until_state("running")
    bench.incoming.stop()


def test_reads_may_last_as_long_as_the_streams_own_rule_lets_it_be_silent() -> None:
    bench = Bench(first := Source(), Source())
    first.send()
    bench.until_state("running")
    first.lose("ended")
    bench.until_state("reconnecting")
    bench.passes(1.0)
    bench.until_connections(2)
    assert bench.read_seconds[0] is None
    assert (bench.read_seconds[1] or 0.0) > 10.0
    bench.incoming.stop()


def test_a_reader_that_does_not_come_back_is_left_behind() -> None:
    bench = Bench(first := Source(returns=False), second := Source())
    first.send()
    bench.until_frames(1)
    bench.passes(11.0)
    bench.until(lambda: first.stopped)
    bench.passes(1.1)
    bench.until_state("reconnecting")
    assert bench.incoming.counts()["readers_left_behind"] == 1
    bench.passes(1.0)
    second.send()
    bench.until_state("running")
    first.send()  # it comes back at last, with a frame that nobody wants
    bench.until(lambda: first.closed)
    assert bench.taken.frames == 2
    bench.incoming.stop()


def test_what_is_not_the_connections_fault_is_raised() -> None:
    bench = Bench(SourceMissing("credentials: no such file"))
    with pytest.raises(SourceMissing, match="credentials"):
        bench.until_state("running")


def test_a_connection_that_is_stopped_ends_its_reader() -> None:
    bench = Bench(source := Source())
    source.send()
    bench.until_state("running")
    bench.incoming.stop(DEADLINE_SECONDS)
    assert source.closed

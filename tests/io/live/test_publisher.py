"""Outputs that are kept up: real receivers killed, frozen and refused, and never waited for."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from av.stream import Stream
from live_receivers import Receiver, rises
from live_sound import PACKET_SAMPLES, SAMPLE_RATE, aac_stream
from rtsp_camera import free_port

from upframe.filters.frame import Color, Picture, StreamInfo
from upframe.io.encode.options import EncoderOptions
from upframe.io.errors import OutputLost, SinkRefused
from upframe.io.live.backoff import Backoff
from upframe.io.live.encoder import LiveEncoder
from upframe.io.live.publisher import Publisher
from upframe.io.live.targets import LiveTarget, find_live_target
from upframe.io.live.values import Encoded, OutputState

DEADLINE_SECONDS = 30.0
RATE = Fraction(25)
INFO = StreamInfo(96, 64, "yuv420p", Fraction(1, 90_000), RATE)
LARGE = StreamInfo(640, 360, "yuv420p", Fraction(1, 90_000), RATE)


def noise(info: StreamInfo) -> Picture:
    planes = tuple(
        torch.randint(16, 235, info.format.plane_size(info.width, info.height, n)[::-1])
        for n in range(3)
    )
    return Picture(
        tuple(plane.to(torch.uint8) for plane in planes),
        info.pix_fmt,
        Color(),
        0,
        0,
        info.time_base,
    )


@dataclass
class Told:
    """What a publisher has said of itself."""

    states: list[OutputState] = field(default_factory=list[OutputState])
    written: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])

    def change(self, state: OutputState) -> None:
        self.states.append(state)

    def write(self, packet: Encoded, at: float) -> None:
        self.written.append((packet.pts, at))

    @property
    def reasons(self) -> list[str | None]:
        return [state.reason for state in self.states if not state.connected]


class Source:
    """Gives a publisher pictures as an output thread does, at 25 a second or as fast as asked."""

    def __init__(self, publisher: Publisher, encoder: LiveEncoder, picture: Picture) -> None:
        self.publisher = publisher
        self.given = self.taken = 0
        self.encoder = encoder
        self._picture = picture

    def picture(self) -> None:
        """Encode and give the next one."""
        wanted = self.publisher.wants_keyframe
        for packet in self.encoder(self._picture, self.given, keyframe=wanted):
            self.given += 1
            self.taken += self.publisher.give(packet)

    def until(self, condition: Callable[[], object], pause_seconds: float = 0.01) -> None:
        """Go on until something is so; fails where it does not become so."""
        ends = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < ends, f"not so: {self.publisher.state}"
            self.picture()
            time.sleep(pause_seconds)


@contextmanager
def publishing(
    target: LiveTarget,
    told: Told,
    info: StreamInfo = INFO,
    sound: Stream | None = None,
    **more: object,
) -> Generator[Source]:
    """A publisher that soon tries again, killed at the end if it still runs; none of it is left."""
    encoder = LiveEncoder(info, EncoderOptions(), sound=sound, format=target.format)
    publisher = Publisher(
        target,
        encoder.primer,
        backoff=Backoff(chance=lambda: 0.0),
        on_change=told.change,
        on_written=told.write,
        **more,  # pyright: ignore[reportArgumentType]
    )
    publisher.start()
    try:
        yield Source(publisher, encoder, noise(info))
    finally:
        publisher.kill()
    assert not [pid for pid in children() if pid in publishers() or is_dead_python(pid)]
    assert not [one.name for one in threading.enumerate() if one.name == "upframe-publisher"]


def children() -> set[int]:
    """Processes that we have started and that are not reaped, zombies among them."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def is_dead_python(pid: int) -> bool:
    """Whether a process of the publisher's has ended and was not reaped; receivers are ffmpeg's."""
    with suppress(OSError):
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
        return "python" in name and rest.split()[0] == "Z"
    return False


def publishers() -> list[int]:
    return [pid for pid in children() if b"upframe.io.live.publish" in command_of(pid)]


def command_of(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def frames_in(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_a_file_gets_every_picture_from_the_first_one_on(tmp_path: Path) -> None:
    told, path = Told(), tmp_path / "out.mp4"
    with publishing(find_live_target(str(path)), told) as source:
        for _ in range(60):
            source.picture()
        state = source.publisher.finish(DEADLINE_SECONDS)
    assert (source.taken, state.written, state.dropped, state.reason) == (60, 60, {}, None)
    assert (state.connections, state.connected, state.files) == (1, False, (str(path),))
    assert frames_in(path) == 60
    assert [index for index, _ in told.written] == list(range(60))
    assert [state.connected for state in told.states] == [True, True, False]
    assert source.publisher.failure is None


def test_moments_of_writing_are_told_on_the_clock_that_was_given(tmp_path: Path) -> None:
    told, began = Told(), time.monotonic()
    target = find_live_target(str(tmp_path / "out.mkv"))
    with publishing(target, told, now=lambda: 10_000.0 + time.monotonic()) as source:
        source.until(lambda: len(told.written) >= 3)
    moments = [at - 10_000.0 for _, at in told.written]
    assert moments == sorted(moments)
    assert began <= moments[0] <= moments[-1] <= time.monotonic()


def test_a_name_that_was_taken_meanwhile_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    told, path = Told(), tmp_path / "out.mp4"
    with publishing(find_live_target(str(path)), told) as source:
        source.until(lambda: told.written)
        path.write_bytes(b"mine")
        with pytest.raises(SinkRefused, match=r"kept as .*out-1\.mp4"):
            source.publisher.finish(DEADLINE_SECONDS)
    assert path.read_bytes() == b"mine"
    assert frames_in(tmp_path / "out-1.mp4") == source.publisher.state.written
    assert isinstance(source.publisher.failure, SinkRefused)


def test_a_file_that_cannot_be_written_is_given_up_with_its_reason(tmp_path: Path) -> None:
    told, folder = Told(), tmp_path / "recordings"
    folder.mkdir()
    target = find_live_target(str(folder / "out.mp4"))
    folder.rmdir()
    with publishing(target, told) as source:
        source.until(lambda: source.publisher.failure is not None)
        assert not source.publisher.wants_keyframe
        with pytest.raises(SinkRefused, match="recordings"):
            source.publisher.finish(DEADLINE_SECONDS)
    state = source.publisher.state
    assert (state.reason, state.connections, state.written) == ("failed", 0, 0)
    assert sum(state.dropped.values()) == source.given


def test_a_file_whose_process_is_killed_is_given_up(tmp_path: Path) -> None:
    told = Told()
    with publishing(find_live_target(str(tmp_path / "out.mp4")), told) as source:
        source.until(lambda: told.written)
        (pid,) = publishers()
        os.kill(pid, signal.SIGKILL)
        source.until(lambda: source.publisher.failure is not None)
        assert "was ended by SIGKILL" in source.publisher.state.message
        with pytest.raises(OutputLost, match="SIGKILL"):
            source.publisher.finish(DEADLINE_SECONDS)
        state = source.publisher.state
    assert state.written + sum(state.dropped.values()) == source.given
    assert told.states[-1].reason == "failed"


def test_rolling_files_go_on_after_their_process_was_killed(tmp_path: Path) -> None:
    told = Told()
    target = find_live_target(str(tmp_path / "%Y%m%d-%H%M%S.mp4"), segment_seconds=600)
    with publishing(target, told) as source:
        source.until(lambda: len(told.written) >= 60)
        (pid,) = publishers()
        os.kill(pid, signal.SIGKILL)
        source.until(lambda: source.publisher.state.connections == 2)
        before = len(told.written)
        source.until(lambda: len(told.written) >= before + 60)
        state = source.publisher.finish(DEADLINE_SECONDS)
    assert source.publisher.failure is None
    assert len(state.files) == 2, "what was left behind, and the new one"
    assert [frames_in(Path(path)) > 0 for path in state.files] == [True, True]


def test_publishes_again_when_the_receiver_is_back(tmp_path: Path) -> None:
    told = Told()
    with Receiver(tmp_path) as receiver:
        with publishing(find_live_target(receiver.url), told) as source:
            for number in range(1, 3):
                source.until(lambda number=number: source.publisher.state.connections == number)
                source.until(lambda: receiver.pictures() >= 10)
                receiver.kill()
                source.until(lambda: not source.publisher.state.connected)
                receiver.start()
            source.until(lambda: source.publisher.state.connections == 3)
            source.until(lambda: receiver.pictures() >= 10)
            state = source.publisher.finish(DEADLINE_SECONDS)
            assert receiver.wait() == 0
        assert receiver.log == ""
        got = receiver.got()
    assert got[0].is_keyframe
    assert rises(got)
    assert state.written + sum(state.dropped.values()) == source.given
    assert state.dropped["away"] > 0
    assert source.publisher.failure is None
    indices = [index for index, _ in told.written]
    assert indices == sorted(set(indices))


def test_a_receiver_that_takes_nothing_is_given_up_and_found_again(tmp_path: Path) -> None:
    told = Told()
    with (
        Receiver(tmp_path) as receiver,
        publishing(find_live_target(receiver.url), told, LARGE, stall_seconds=1.0) as source,
    ):
        source.until(lambda: told.written)
        receiver.freeze()
        source.until(lambda: "stalled" in told.reasons, pause_seconds=0)
        stalled = next(state for state in told.states if state.reason == "stalled")
        assert "has taken nothing for 1 s" in stalled.message
        receiver.restart()
        before = source.publisher.state.connections
        source.until(lambda: source.publisher.state.connections > before, 0.02)
        source.until(lambda: receiver.pictures() >= 5, 0.02)
        state = source.publisher.finish(DEADLINE_SECONDS)
    assert state.dropped["full"] > 0
    assert state.written + sum(state.dropped.values()) == source.given


def test_pictures_do_not_wait_for_sound_that_does_not_come(tmp_path: Path) -> None:
    told = Told()
    with (
        aac_stream(tmp_path, 20) as (sound, packets),
        Receiver(tmp_path, "tcp") as receiver,
        publishing(find_live_target(receiver.url), told, sound=sound) as source,
    ):
        source.until(lambda: told.written)
        begins = source.given / RATE
        for index, data in enumerate(packets):  # and no more after these
            seconds = begins + Fraction(index * PACKET_SAMPLES, SAMPLE_RATE)
            source.publisher.give(source.encoder.sound_packet(data, seconds))
        taken = source.taken
        source.until(lambda: source.taken >= taken + 100, pause_seconds=0.02)
        source.until(lambda: source.given - told.written[-1][0] <= 10, pause_seconds=0.02)
        given = source.given
        source.until(lambda: told.written[-1][0] >= given)
        source.publisher.finish(DEADLINE_SECONDS)
        assert receiver.wait() == 0
        assert rises(receiver.got())


def test_sound_goes_along_with_the_pictures(tmp_path: Path) -> None:
    told, path = Told(), tmp_path / "out.mkv"
    with (
        aac_stream(tmp_path, 100) as (sound, packets),
        publishing(find_live_target(str(path)), told, sound=sound) as source,
    ):
        for index, data in enumerate(packets):
            seconds = Fraction(index * PACKET_SAMPLES, SAMPLE_RATE)
            while source.given / RATE <= seconds:
                source.picture()
            lasts = Fraction(PACKET_SAMPLES, SAMPLE_RATE)
            assert source.publisher.give(source.encoder.sound_packet(data, seconds, lasts))
        state = source.publisher.finish(DEADLINE_SECONDS)
    with av.open(str(path)) as container:
        got = [packet for packet in container.demux(audio=0) if packet.size]
    assert [bytes(packet) for packet in got] == packets
    assert float(got[-1].pts * got[-1].time_base) == pytest.approx(seconds, abs=0.001)
    assert frames_in(path) == state.written == source.given


def test_refused_connections_are_tried_again_and_say_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told, port = Told(), free_port()
    target = find_live_target(f"rtsp://user:hidden@127.0.0.1:{port}/x")
    with (
        caplog.at_level(logging.DEBUG, logger="upframe"),
        publishing(target, told) as source,
    ):
        source.until(lambda: told.reasons.count("refused") >= 2)
        for pid in publishers():
            assert b"hidden" not in command_of(pid)
        assert not source.publisher.wants_keyframe
        state = source.publisher.finish(DEADLINE_SECONDS)
    assert (state.connections, state.written, state.reason) == (0, 0, "refused")
    assert state.dropped == {"away": source.given}
    assert "hidden" not in caplog.text + repr(told.states) + repr(target)
    assert "user:***@127.0.0.1" in state.message


def test_one_that_never_answers_is_given_up_in_time() -> None:
    told = Told()
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # connects, and says nothing
        port = deaf.getsockname()[1]
        target = find_live_target(f"rtsp://127.0.0.1:{port}/x")
        with publishing(target, told, connect_seconds=2.0) as source:
            source.until(lambda: "timed-out" in told.reasons)
            assert "not connected within 2 s" in source.publisher.state.message


def test_killing_it_leaves_nothing_that_runs(tmp_path: Path) -> None:
    told = Told()
    with publishing(find_live_target(str(tmp_path / "out.mp4")), told) as source:
        source.until(lambda: told.written)
        source.publisher.kill()
        assert publishers() == []
        assert not source.publisher.give(Encoded("video", b"", 0, 0, 0, 1 / RATE, True))
    assert not (tmp_path / "out.mp4").exists()
    source.publisher.kill()


def test_one_that_was_never_started_can_be_ended() -> None:
    publisher = Publisher(find_live_target("rtsp://127.0.0.1/x"), b"")
    assert publisher.finish(1.0) == OutputState()
    publisher.kill()

"""Recordings as the publisher keeps them: complete, or given up with the reason."""

from __future__ import annotations

import os
import signal
import time
from fractions import Fraction
from pathlib import Path

import av
import pytest
from support.live.publishing import DEADLINE_SECONDS, RATE, Told, frames_in, publishers, publishing
from support.live.sound import PACKET_SAMPLES, SAMPLE_RATE, aac_stream

from upframe.daemon.live.publisher import Publisher
from upframe.io.errors import OutputLost, SinkRefused
from upframe.io.live.target import find_live_target
from upframe.io.live.values import Encoded, OutputState


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


def test_a_playlist_goes_on_after_its_process_was_killed(tmp_path: Path) -> None:
    told, path = Told(), tmp_path / "stream.m3u8"
    with publishing(find_live_target(str(path)), told) as source:
        source.until(path.exists, pause_seconds=0.002)
        (pid,) = publishers()
        os.kill(pid, signal.SIGKILL)
        source.until(lambda: source.publisher.state.connections == 2)
        segments = path.read_text().count(".ts")
        source.until(lambda: path.read_text().count(".ts") > segments, pause_seconds=0.002)
        state = source.publisher.finish(DEADLINE_SECONDS)
    assert (source.publisher.failure, state.connections) == (None, 2)
    assert frames_in(path) > 50, "of both processes"


def test_who_waits_for_the_end_of_a_recording_is_called_meanwhile(tmp_path: Path) -> None:
    calls: list[int] = []
    target = find_live_target(str(tmp_path / "out.mp4"))
    with publishing(target, Told()) as source:
        source.until(lambda: source.publisher.state.written)
        (pid,) = publishers()
        os.kill(pid, signal.SIGSTOP)  # as if it had days of video to check

        def called() -> None:
            calls.append(1)
            if len(calls) == 2:
                os.kill(pid, signal.SIGCONT)

        source.publisher.finish(DEADLINE_SECONDS, called)
    assert len(calls) >= 2
    assert source.publisher.state.files == (str(tmp_path / "out.mp4"),)


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


def test_a_name_that_was_taken_meanwhile_gets_a_number_where_that_is_asked_for(
    tmp_path: Path,
) -> None:
    told, path = Told(), tmp_path / "out.mp4"
    with publishing(find_live_target(str(path), numbered=True), told) as source:
        source.until(lambda: told.written)
        path.write_bytes(b"mine")
        state = source.publisher.finish(DEADLINE_SECONDS)
    assert state.files == (str(tmp_path / "out-1.mp4"),)
    assert (path.read_bytes(), source.publisher.failure) == (b"mine", None)


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

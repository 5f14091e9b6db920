"""What comes in bursts is let go at its own pace."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path

import pytest
from support.jobs.daemon import until

from upframe.io.live.address import find_address
from upframe.io.live.input_connection import BurstPacer
from upframe.io.live.live_input import LiveInput
from upframe.io.live.values import DecodedFrame


def test_a_burst_is_spread_over_its_own_length() -> None:
    pacer = BurstPacer()
    waits = [pacer.wait_seconds(Fraction(index, 25), 100.0) for index in range(50)]
    assert waits == pytest.approx([index / 25 for index in range(50)])


def test_what_is_late_by_little_keeps_the_pace_and_by_much_begins_it_anew() -> None:
    pacer = BurstPacer()
    assert pacer.wait_seconds(Fraction(0), 100.0) == 0
    assert pacer.wait_seconds(Fraction(1), 101.3) == 0
    assert pacer.wait_seconds(Fraction(2), 101.4) == pytest.approx(0.6)
    assert pacer.wait_seconds(Fraction(3), 107.0) == 0
    assert pacer.wait_seconds(Fraction(4), 107.0) == pytest.approx(1.0)


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_a_jump_of_the_sender_is_no_pause(jump: int) -> None:
    pacer = BurstPacer()
    pacer.wait_seconds(Fraction(5000), 100.0)
    assert pacer.wait_seconds(Fraction(5000 + jump), 100.1) == pytest.approx(0)
    assert pacer.wait_seconds(Fraction(5001 + jump), 100.1) == pytest.approx(1.0)


def test_what_has_no_timestamp_goes_at_once() -> None:
    assert BurstPacer().wait_seconds(None, 100.0) == 0


@pytest.mark.slow
def test_a_live_playlist_comes_as_evenly_as_a_camera(tmp_path: Path) -> None:
    playlist = tmp_path / "live.m3u8"
    command = [
        "ffmpeg", "-v", "error", "-nostdin", "-re", "-f", "lavfi", "-i", "testsrc=s=64x48:r=15",
        "-c:v", "libx264", "-preset", "ultrafast", "-g", "15", "-f", "hls", "-hls_time", "1",
        str(playlist),
    ]  # fmt: skip
    with subprocess.Popen(command) as sender:
        try:
            until(lambda: _num_segments(playlist) >= 3, "three segments")
            frames = _frames_of(playlist, 50)
        finally:
            sender.kill()
    sent = [frame.seconds for frame in frames if frame.seconds is not None]
    assert len(sent) == len(frames) == 50
    assert sent == pytest.approx([sent[0] + Fraction(index, 15) for index in range(50)], abs=0.002)
    # without the pace, the three segments that are there already come at once: 45 frames
    for first, last in zip(frames, frames[30:], strict=False):
        assert last.arrived - first.arrived > 1.0


def _num_segments(playlist: Path) -> int:
    return playlist.read_text().count(".ts") if playlist.exists() else 0


def _frames_of(playlist: Path, count: int) -> list[DecodedFrame]:
    live = LiveInput(find_address(str(playlist)))
    frames: list[DecodedFrame] = []
    try:
        live.connect()
        live.probe()
        for event in live:
            if isinstance(event, DecodedFrame):
                frames.append(event)
            if len(frames) == count:
                break
    finally:
        live.close()
    return frames

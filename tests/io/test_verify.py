"""A file that is not what it should be is found out, by name, got and wanted."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from support.media import clips as samples
from support.media.sinks import FAST, constant, encode, packets, pictures

from upframe.filters.frame import Color
from upframe.io.decode.demuxer import find_target
from upframe.io.encode.encoder import EncoderOptions
from upframe.io.errors import SinkRefused, VerificationFailed
from upframe.io.sink import FileSink, open_file_sink
from upframe.io.verify import ExpectedOutput, SoundTimes, count_decoded, inspect, verify_output

BT709 = Color("tv", "bt709", "bt709", "bt709")
RIGHT = ExpectedOutput(
    frames=12,
    last_start_seconds=Fraction(11, 25),
    duration_seconds=Fraction(12, 25),
    width=64,
    height=48,
    streams={"audio": 0, "subtitle": 0},
    color=BT709,
    sample_aspect_ratio=Fraction(1),
    rotation=0,
)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.ts", "a.avi"])
def test_a_file_as_expected_passes(tmp_path: Path, name: str) -> None:
    findings = verify_output(encode(tmp_path / name, constant(color=BT709)), RIGHT)
    assert {"frames", "duration", "size", "color matrix", "rotation"} <= {
        finding.name for finding in findings
    }
    assert all(finding.ok for finding in findings)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frames": 13}, "frames: wanted 13, got 12"),
        ({"duration_seconds": Fraction(1)}, "duration: wanted 1.000000 s, got 0.480000 s"),
        ({"last_start_seconds": Fraction(1)}, "last frame at: wanted 1.000000 s, got 0.440000 s"),
        ({"width": 128}, "size: wanted 128x48, got 64x48"),
        ({"streams": {"audio": 1}}, "audio streams: wanted 1, got 0"),
        ({"color": replace(BT709, matrix="bt2020nc")}, "color matrix: wanted bt2020nc, got bt709"),
        ({"color": replace(BT709, range="pc")}, "color range: wanted pc, got tv"),
        ({"sample_aspect_ratio": Fraction(2)}, "sample aspect ratio: wanted 2, got 1"),
        ({"rotation": 90}, "rotation: wanted 90, got 0"),
        (
            {"sound": SoundTimes(Fraction(0), Fraction(1), Fraction(2))},
            "sound offset: wanted 0.000000 s, got none",
        ),
    ],
)
def test_each_difference_is_named(tmp_path: Path, wrong: dict[str, object], message: str) -> None:
    target = encode(tmp_path / "a.mp4", constant(color=BT709))
    with pytest.raises(VerificationFailed, match=message):
        verify_output(target, replace(RIGHT, **wrong))


def test_a_shift_of_the_sound_is_found_at_two_milliseconds(tmp_path: Path) -> None:
    clip = samples.make_clip(tmp_path / "a.mp4", audio="aac", frames=25)
    times = inspect(find_target(str(clip))).times
    assert times.sound is not None
    right = times.sound.after(times.start_seconds)
    verify_output(clip, ExpectedOutput(sound=right))
    with pytest.raises(VerificationFailed, match="sound offset"):
        verify_output(clip, ExpectedOutput(sound=right.after(Fraction(2, 1000))))


def test_two_frames_at_one_time_are_found(tmp_path: Path) -> None:
    """Matroska rounds to 1 ms; a player shows one of them only."""
    clip = samples.make_clip(
        tmp_path / "a.mkv",
        codec="ffv1",
        frames=4,
        pts=[0, 10, 11, 30],
        time_base=Fraction(1, 10_000),
    )
    with pytest.raises(VerificationFailed, match="pts of their own: wanted 4, got 3"):
        verify_output(clip, ExpectedOutput(frames=4))


@pytest.mark.parametrize("keep", [0, 40, 700])
def test_a_file_that_breaks_off_is_found(tmp_path: Path, keep: int) -> None:
    target = encode(tmp_path / "a.mkv", constant(color=BT709))
    target.write_bytes(target.read_bytes()[:keep])
    with pytest.raises(VerificationFailed):
        verify_output(target, RIGHT)


def test_a_damaged_frame_is_found_by_decoding(tmp_path: Path) -> None:
    target = encode(
        tmp_path / "a.mkv", constant(width=320, height=240), options=EncoderOptions(crf=1)
    )
    found = find_target(str(target))
    assert count_decoded(found) == 12
    damaged = bytearray(target.read_bytes())
    place = int(packets(target)[3]["pos"]) + 30
    damaged[place : place + 200] = b"\xff" * 200
    target.write_bytes(damaged)
    with pytest.raises(VerificationFailed, match=r"a.mkv: .*frame"):
        count_decoded(found)


def unfinished(folder: Path) -> tuple[FileSink, Path]:
    sink = open_file_sink(folder / "a.mkv", constant(), FAST)
    for picture in pictures(constant()):
        sink.write(picture)
    (partial,) = folder.iterdir()
    return sink, partial


def test_nothing_is_renamed_when_the_proof_fails(tmp_path: Path) -> None:
    """The bytes are spoilt under the sink's hands before it checks them."""
    sink, partial = unfinished(tmp_path)
    with partial.open("r+b") as spoilt:
        sink._media._file.stream.flush()
        spoilt.write(b"not what was written")
    with pytest.raises(VerificationFailed, match="no good"):
        sink.finish()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_renamed_but_the_file_that_was_verified(tmp_path: Path) -> None:
    sink, partial = unfinished(tmp_path)
    partial.unlink()
    partial.write_bytes(b"not what was written")
    with pytest.raises(SinkRefused, match="exchanged for another file meanwhile"):
        sink.finish()
    assert list(tmp_path.iterdir()) == []

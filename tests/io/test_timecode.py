"""A time code keeps its start in every container that holds one, at every rate."""

from __future__ import annotations

import re
import subprocess
from fractions import Fraction
from pathlib import Path

import pytest
from support.media.sinks import FAST, constant, ffprobe, pictures, through, write

from upframe.io.encode.encoder import EncoderOptions
from upframe.io.sink import open_file_sink, plan_output
from upframe.io.streams.plan import plan_streams
from upframe.io.timecode import Timecode

FILM, NTSC, DOUBLE = Fraction(24_000, 1001), Fraction(30_000, 1001), Fraction(60_000, 1001)


@pytest.mark.parametrize(
    ("text", "rate", "other", "wanted"),
    [
        ("01:02:03:04", 24, 24, "01:02:03:04"),
        ("01:02:03:04", 24, 48, "01:02:03:08"),
        ("01:00:00:23", FILM, 2 * FILM, "01:00:00:46"),
        ("10:00:10:12", 25, 100, "10:00:10:48"),
        ("00:59:59;28", NTSC, DOUBLE, "00:59:59;56"),
        ("00:01:00;02", NTSC, DOUBLE, "00:01:00;04"),
        ("00:01:00;04", DOUBLE, NTSC, "00:01:00;02"),
        ("00:10:00;00", NTSC, DOUBLE, "00:10:00;00"),
        ("00:59:59:28", NTSC, DOUBLE, "00:59:59:56"),
        ("01:00:00.10", NTSC, NTSC, "01:00:00;10"),
        # 119.88 and film rates drop no numbers
        ("00:59:59;28", NTSC, 4 * NTSC, "00:59:59:112"),
        ("00:59:59;28", NTSC, FILM, "00:59:59:22"),
        ("23:59:59:49", 50, 25, "23:59:59:24"),
    ],
)
def test_the_same_start_at_another_rate(
    text: str, rate: Fraction | int, other: Fraction | int, wanted: str
) -> None:
    code = Timecode.parse(text, Fraction(rate))
    assert code is not None
    assert str(code.at(Fraction(other))) == wanted


@pytest.mark.parametrize("text", ["", "01:02:03", "1h", "01:02:03:xx", "-1:00:00:00"])
def test_what_is_no_time_code_is_none(text: str) -> None:
    assert Timecode.parse(text, Fraction(25)) is None


def with_timecode(path: Path, code: str, rate: str, codec: str, *more: str) -> Path:
    """One second of film, its time code written by a real ffmpeg."""
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", f"testsrc2=s=64x48:r={rate}"]
    command += ["-t", "1", "-c:v", codec, "-timecode", code, *more, str(path)]
    subprocess.run(command, check=True)
    return path


def timecodes(path: Path) -> set[str]:
    """All that a real ffprobe finds, of the file and of its streams."""
    probed = ffprobe(path)
    tags = [one.get("tags", {}) for one in (probed["format"], *probed["streams"])]
    return {value for one in tags for key, value in one.items() if key.lower() == "timecode"}


SOURCES = [
    ("in.mov", "01:02:03:04", "24", "prores_ks"),
    ("in.mp4", "00:59:59;28", "30000/1001", "libx264"),
    ("in.mxf", "01:00:00:00", "25", "mpeg2video"),
    ("in.mxf", "10:00:00:12", "25", "mpeg2video"),
    ("in.mkv", "09:08:07:06", "25", "libx264"),
    ("in.avi", "09:08:07:06", "25", "mpeg4"),
]


@pytest.mark.parametrize("target", ["out.mov", "out.mp4", "out.mkv", "out.mxf"])
@pytest.mark.parametrize(("source", "code", "rate", "codec"), SOURCES)
def test_a_time_code_is_kept(
    tmp_path: Path, source: str, code: str, rate: str, codec: str, target: str
) -> None:
    clip = with_timecode(tmp_path / source, code, rate, codec)
    options = EncoderOptions() if target == "out.mxf" else FAST
    had = timecodes(clip)
    through(clip, tmp_path / target, options=options)
    if had:  # AVI has no place for it
        assert timecodes(tmp_path / target) == {code}


@pytest.mark.parametrize("target", ["out.mov", "out.mp4", "out.mkv", "out.mxf"])
@pytest.mark.parametrize(
    ("source", "code", "rate", "codec", "wanted"),
    [
        ("in.mov", "01:02:03:04", "24", "prores_ks", "01:02:03:08"),
        ("in.mp4", "00:59:59;28", "30000/1001", "libx264", "00:59:59;56"),
        ("in.mp4", "01:00:00:01", "24000/1001", "libx264", "01:00:00:02"),
        ("in.mxf", "01:00:00:12", "25", "mpeg2video", "01:00:00:24"),
    ],
)
def test_a_time_code_starts_at_the_same_time_at_twice_the_rate(
    tmp_path: Path, source: str, code: str, rate: str, codec: str, wanted: str, target: str
) -> None:
    clip = with_timecode(tmp_path / source, code, rate, codec)
    plan = plan_streams(str(clip), str(tmp_path / target))
    doubled = constant(2 * Fraction(rate))
    if target == "out.mxf" and doubled.rate not in (50, DOUBLE):
        pytest.skip("MPEG-2 holds no such rate")
    options = EncoderOptions() if target == "out.mxf" else FAST
    sink = open_file_sink(tmp_path / target, doubled, options, plan=plan)
    write(sink, pictures(doubled, 24))
    assert timecodes(tmp_path / target) == {wanted}
    assert not [line for line in sink.losses() if "time code" in line]


def test_the_frames_of_a_time_code_are_those_of_its_own_track(tmp_path: Path) -> None:
    """Cameras count 25 frames a second at 50 pictures a second: frame 12 is half a second."""
    clip = with_timecode(tmp_path / "in.mov", "01:00:00:24", "50", "libx264")
    raw = bytearray(clip.read_bytes())
    entry = next(found.end() for found in re.finditer(rb"stsd.{12}tmcd", raw, re.DOTALL))
    scale = int.from_bytes(raw[entry + 16 : entry + 20])
    raw[entry + 16 : entry + 20] = (scale // 2).to_bytes(4)
    raw[entry + 24] = 25
    clip.write_bytes(raw)
    (told,) = timecodes(clip)
    plan = plan_streams(str(clip), str(tmp_path / "out.mov"))
    assert plan.timecode is not None
    assert (str(plan.timecode), plan.timecode.rate) == (told, 25)


@pytest.mark.parametrize("target", ["out.ts", "out.avi"])
def test_a_time_code_that_the_container_cannot_hold_is_in_the_ledger(
    tmp_path: Path, target: str
) -> None:
    clip = with_timecode(tmp_path / "in.mov", "01:02:03:04", "25", "libx264")
    plan = plan_streams(str(clip), str(tmp_path / target))
    assert not any("written" in line or "copied" in line for line in plan.lines())
    sink = open_file_sink(tmp_path / target, constant(25), FAST, plan=plan)
    assert "video: time code 01:02:03:04: not kept" in sink.losses()
    write(sink, pictures(constant(25), 25))
    assert "video: time code 01:02:03:04: not kept" in sink.losses()


@pytest.mark.parametrize("target", ["out.mov", "out.mp4", "out.mkv", "out.nut"])
@pytest.mark.parametrize(
    "rate", [Fraction(1, 3), Fraction(240), Fraction(255), Fraction(256), Fraction(480)], ids=str
)
def test_a_time_code_that_a_container_cannot_count_is_a_loss_that_is_known_before(
    tmp_path: Path, rate: Fraction, target: str
) -> None:
    """MP4 and MOV count its frames in 8 bits, at least one a second."""
    clip = with_timecode(tmp_path / "in.mkv", "01:00:00:00", "24", "libx264")
    info = constant(rate)
    plan = plan_streams(str(clip), str(tmp_path / target))
    planned = plan_output(info, EncoderOptions(), tmp_path / target, None, plan).losses
    sink = open_file_sink(tmp_path / target, info, EncoderOptions(), plan=plan)
    before = sink.losses()
    assert planned == before
    write(sink, pictures(info, 4))
    assert sink.losses() == before
    holds = target in ("out.mkv", "out.nut") or 1 <= rate <= 255
    assert bool(timecodes(tmp_path / target)) == holds
    assert [line for line in before if "time code" in line] == (
        [] if holds else ["video: time code 01:00:00:00: not kept"]
    )

"""A second video beside the one that is filtered: another angle, a preview, sign language."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.media.sinks import decodes_without_errors, packets, streams, through

_ENCODERS = {
    "h264, no B-frame": ["libx264", "-bf", "0"],
    "h264, 1 B-frame": ["libx264", "-bf", "1"],
    "h264, 2 B-frames": ["libx264", "-bf", "2"],
    "h264, 3 B-frames": ["libx264", "-bf", "3", "-x264-params", "b-pyramid=normal:b-adapt=0"],
    "hevc": ["libx265", "-x265-params", "log-level=none:bframes=3:b-adapt=0"],
    "mpeg2": ["mpeg2video", "-bf", "2"],
    "mpeg4": ["mpeg4", "-bf", "2"],
    "mpeg4 of Microsoft": ["msmpeg4v2"],
}


def ffmpeg(*arguments: str | Path) -> None:
    """Run a real ffmpeg."""
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, arguments)], check=True)


def two_videos(path: Path, codec: str, rate: str = "25") -> Path:
    """A file with two videos, of which the smaller one is to be copied."""
    small, large = f"testsrc2=s=64x48:r={rate}", f"testsrc2=s=96x64:r={rate}"
    inputs = ["-f", "lavfi", "-i", large, "-f", "lavfi", "-i", small, "-t", "0.8"]
    encoders = ["-map", "0", "-map", "1", "-c:v:0", "libx264", "-preset", "ultrafast"]
    encoder, *options = _ENCODERS[codec]
    encoders += ["-c:v:1", encoder]
    for name, value in zip(options[::2], options[1::2], strict=True):
        encoders += [f"{name}:v:1", value]
    ffmpeg(*inputs, *encoders, path)
    return path


def small_one(path: Path, kind: str = "pts") -> list[int]:
    """The times of the smaller video's packets, in ms from the first pts of the file."""
    index = next(at for at, one in enumerate(streams(path, "video")) if one["width"] == 64)
    start = min(float(one["pts_time"]) for one in packets(path, "v"))
    found = packets(path, f"v:{index}")
    return [round(1000 * (float(one[f"{kind}_time"]) - start)) for one in found]


@pytest.mark.parametrize("target", ["out.mkv", "out.mp4", "out.mov", "out.ts"])
@pytest.mark.parametrize("codec", _ENCODERS)
def test_a_second_video_of_a_matroska_is_copied_as_ffmpeg_copies_it(
    tmp_path: Path, codec: str, target: str
) -> None:
    clip = two_videos(tmp_path / "in.mkv", codec)
    wanted = tmp_path / f"ffmpeg{target[3:]}"
    try:
        ffmpeg("-i", clip, "-map", "0", "-c", "copy", wanted)
        kept = len(small_one(wanted)) > 0
    except (subprocess.CalledProcessError, StopIteration):
        kept = False  # no place for it there
    lines = through(clip, tmp_path / target)
    assert any("copied" in line for line in lines) == kept
    if not kept:
        return
    got = small_one(tmp_path / target)
    assert all(abs(one - two) <= 1 for one, two in zip(got, small_one(wanted), strict=True))
    assert sorted(got) == [40 * index for index in range(20)]
    assert decodes_without_errors(tmp_path / target)


@pytest.mark.parametrize("codec", ["h264, 1 B-frame", "h264, 3 B-frames", "hevc", "mpeg2"])
def test_its_decoding_times_are_those_of_ffmpeg(tmp_path: Path, codec: str) -> None:
    clip = two_videos(tmp_path / "in.mkv", codec)
    ffmpeg("-i", clip, "-map", "0", "-c", "copy", tmp_path / "wanted.mp4")
    through(clip, tmp_path / "out.mp4")
    for kind in ("pts", "dts"):
        wanted, got = (small_one(tmp_path / name, kind) for name in ("wanted.mp4", "out.mp4"))
        assert len(got) == 20
        assert all(abs(one - two) <= 1 for one, two in zip(got, wanted, strict=True))


def test_a_second_video_of_ntsc_rate_stays_within_a_tick(tmp_path: Path) -> None:
    clip = two_videos(tmp_path / "in.mkv", "h264, 3 B-frames", "24000/1001")
    through(clip, tmp_path / "out.mp4")
    got = sorted(small_one(tmp_path / "out.mp4"))
    assert all(abs(one - 1001 / 24 * index) <= 1 for index, one in enumerate(got))

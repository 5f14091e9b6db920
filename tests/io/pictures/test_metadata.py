"""What travels beside the pixels, from real files."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from support.media.clips import (
    BT709,
    index_of,
    make_clip,
    make_hdr10_clip,
    make_still,
)

from upframe.filters.frame import ContentLight, MasteringDisplay, Picture, StreamInfo
from upframe.io.source import open_source

NTSC_FILM = Fraction(24_000, 1001)


def read(target: object, **options: object) -> tuple[StreamInfo, list[Picture], list[str]]:
    source = open_source(str(target) if isinstance(target, Path) else target, **options)  # type: ignore[arg-type]
    try:
        return source.info, list(source), source.warnings()
    finally:
        source.close()


def indices(pictures: list[Picture]) -> list[int]:
    return [index_of(picture) for picture in pictures]


def test_colour_and_sample_aspect_ratio_are_read(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", tags=BT709, sample_aspect_ratio=Fraction(4, 3))
    info, pictures, _ = read(clip)
    color = info.color
    assert (color.range, color.primaries, color.trc, color.matrix) == ("tv", *["bt709"] * 3)
    assert info.sample_aspect_ratio == Fraction(4, 3)
    assert pictures[0].color == color


def test_unspecified_colour_stays_unspecified(tmp_path: Path) -> None:
    color = read(make_clip(tmp_path / "clip.mp4"))[0].color
    assert (color.range, color.primaries, color.trc, color.matrix) == (None,) * 4


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
def test_hdr10_metadata_is_exact(tmp_path: Path, name: str) -> None:
    info, _, _ = read(make_hdr10_clip(tmp_path / name))
    assert (info.color.primaries, info.color.trc) == ("bt2020", "smpte2084")
    assert info.color.matrix == "bt2020nc"
    assert info.bit_depth == 10
    assert info.content_light == ContentLight(1000, 400)
    assert info.mastering_display == MasteringDisplay(
        red=(Fraction(34_000, 50_000), Fraction(16_000, 50_000)),
        green=(Fraction(13_250, 50_000), Fraction(34_500, 50_000)),
        blue=(Fraction(7_500, 50_000), Fraction(3_000, 50_000)),
        white_point=(Fraction(15_635, 50_000), Fraction(16_450, 50_000)),
        min_luminance=Fraction(50, 10_000),
        max_luminance=Fraction(1000),
    )


def test_sdr_has_no_hdr10_metadata(tmp_path: Path) -> None:
    info, _, _ = read(make_clip(tmp_path / "clip.mp4"))
    assert (info.mastering_display, info.content_light) == (None, None)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_rotation_is_told_and_pixels_stay_as_coded(tmp_path: Path, rotation: int) -> None:
    """Readers that autorotate and probe apart read garbage for phones (Real-ESRGAN)."""
    info, pictures, _ = read(make_clip(tmp_path / "clip.mp4", frames=3, rotation=rotation))
    assert (info.rotation, info.hflip) == (rotation, False)
    assert (info.width, info.height) == (pictures[0].width, pictures[0].height) == (64, 48)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_mirrored_video_is_told_as_mirrored_before_the_rotation(
    tmp_path: Path, rotation: int
) -> None:
    """A mirror after turning by r is a mirror before turning by -r."""
    clip = make_clip(tmp_path / "clip.mp4", frames=3, rotation=rotation, hflip=True)
    info, _, _ = read(clip)
    assert (info.rotation, info.hflip) == (-rotation % 360, True)


@pytest.mark.parametrize(
    ("orientation", "rotation", "hflip"),
    [
        (1, 0, False),
        (2, 0, True),
        (3, 180, False),
        (4, 180, True),
        (5, 90, True),
        (6, 270, False),
        (7, 270, True),
        (8, 90, False),
    ],
)
def test_exif_orientation_of_a_still_is_told(
    tmp_path: Path, orientation: int, rotation: int, hflip: bool
) -> None:
    still = make_still(tmp_path / "still.jpg", pix_fmt="yuvj420p")
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes(
        [orientation, 0, 0, 0, 0, 0, 0, 0]
    )
    app1 = b"Exif\0\0" + tiff
    data = still.read_bytes()
    header = b"\xff\xe1" + (len(app1) + 2).to_bytes(2) + app1
    still.write_bytes(data[:2] + header + data[2:])
    info, pictures, _ = read(still)
    assert (info.rotation, info.hflip) == (rotation, hflip)
    assert len(pictures) == 1


@pytest.mark.parametrize(
    ("codec", "name", "pix_fmt", "options", "siting"),
    [
        ("libx264", "clip.mp4", "yuv420p", {}, "left"),
        ("libx264", "clip.mkv", "yuv420p", {"x264-params": "chromaloc=2"}, "topleft"),
        ("libx264", "clip.ts", "yuv420p", {"x264-params": "chromaloc=1"}, "center"),
        (
            "libx265",
            "clip.mp4",
            "yuv420p10le",
            {"x265-params": "log-level=0:chromaloc=2"},
            "topleft",
        ),
        ("mjpeg", "clip.avi", "yuvj420p", {}, "center"),
        ("mpeg1video", "clip.mpg", "yuv420p", {}, "center"),
        ("mpeg2video", "clip.mpg", "yuv420p", {}, "left"),
        ("ffv1", "clip.mkv", "yuv420p", {}, None),
        ("libx264", "clip.mp4", "yuv444p", {}, None),
    ],
)
def test_chroma_siting_is_read(
    tmp_path: Path,
    codec: str,
    name: str,
    pix_fmt: str,
    options: dict[str, str],
    siting: str | None,
) -> None:
    clip = make_clip(tmp_path / name, codec=codec, pix_fmt=pix_fmt, options=options)
    assert read(clip)[0].color.chroma_location == siting

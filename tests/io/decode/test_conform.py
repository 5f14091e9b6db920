"""Frames that change their form in the middle of a stream, made like the first one."""

from __future__ import annotations

import subprocess
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from support.media.clips import BT709, BT2020_PQ, make_clip

from upframe.filters.frame import Picture
from upframe.io.decode.decoder import conform
from upframe.io.source import open_source


def test_the_same_frame_becomes_the_same_every_time() -> None:
    """With several threads, swscale spoils the rows where packed YUYV is cut between them."""
    random = np.random.default_rng(0)
    frame = av.VideoFrame(322, 180, "yuv422p")
    for plane in frame.planes:
        plane.update(random.integers(0, 256, plane.buffer_size, dtype=np.uint8).tobytes())
    frame.pts = 7
    first = av.VideoFrame(322, 180, "yuyv422")
    made = [conform(frame, first) for _ in range(400)]
    assert {one.format.name for one in made} == {"yuyv422"}
    assert {one.pts for one in made} == {7}
    assert len({rows_of(one) for one in made}) == 1


def rows_of(frame: av.VideoFrame) -> bytes:
    """The bytes of packed YUYV, without padding."""
    plane = frame.planes[0]
    rows = np.frombuffer(bytes(plane), np.uint8).reshape(plane.height, -1)
    return rows[:, : 2 * frame.width].tobytes()


@pytest.mark.parametrize(
    "pix_fmt", ["yuv420p", "yuvj420p", "yuv422p10le", "nv12", "yuyv422", "gbrp", "gray", "yuva420p"]
)
@pytest.mark.parametrize(("wider", "shown"), [
    (Fraction(4, 3), (120, 60)), (Fraction(3, 4), (90, 80)), (Fraction(10), (120, 8)),
])  # fmt: skip
def test_bars_fill_what_another_shape_leaves(
    pix_fmt: str, wider: Fraction, shown: tuple[int, int]
) -> None:
    white = av.VideoFrame.from_ndarray(np.full((80, 120, 3), 255, np.uint8)).reformat(
        format=pix_fmt, threads=1
    )
    made = conform(white, white, wider)
    assert (made.width, made.height, made.format.name) == (120, 80, pix_fmt)
    bright = made.to_ndarray(format="gray") > 128
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    assert (columns.size, rows.size) == pytest.approx(shown, abs=2)
    assert (columns[0] + columns[-1], rows[0] + rows[-1]) == pytest.approx((119, 79), abs=2)
    assert bright[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def joined(path: Path, *clips: Path) -> Path:
    path.write_bytes(b"".join(clip.read_bytes() for clip in clips))
    return path


def shapes(tmp_path: Path, codec: str, aspects: list[Fraction], options: dict[str, str]) -> Path:
    parts = [
        make_clip(
            tmp_path / f"{index}.ts", frames=10, codec=codec, width=96, height=64,
            sample_aspect_ratio=aspect, pts=range(10 * index, 10 * index + 10), options=options,
        )
        for index, aspect in enumerate(aspects)
    ]  # fmt: skip
    return joined(tmp_path / "clip.ts", *parts)


def read(path: Path) -> tuple[list[Picture], list[str]]:
    with closing(open_source(str(path))) as source:
        return list(source), source.losses()


def bars(picture: Picture) -> tuple[int, int]:
    """How many rows and columns are black."""
    luma = picture.planes[0].numpy()
    return int((luma.max(1) < 24).sum()), int((luma.max(0) < 24).sum())


@pytest.mark.parametrize(("codec", "options"), [
    ("libx264", {"bf": "0"}), ("libx264", {"bf": "3"}), ("mpeg2video", {"bf": "2"}),
])  # fmt: skip
def test_frames_whose_pixels_change_their_shape_keep_it(
    tmp_path: Path, codec: str, options: dict[str, str]
) -> None:
    """A broadcast changes from 4:3 to 16:9, and back."""
    narrow, wide = Fraction(8, 9), Fraction(32, 27)
    path = shapes(tmp_path, codec, [narrow, wide, narrow], options)
    pictures, losses = read(path)
    seen = [bars(picture) for picture in pictures]
    assert seen[:10] == [(0, 0)] * 10
    assert seen[20:] == [(0, 0)] * 10
    assert {(abs(rows - 16) <= 2, columns) for rows, columns in seen[10:20]} == {(True, 0)}
    assert losses == ["10 frames of another shape: shown between black bars"]


def test_shapes_that_are_nearly_alike_are_one(tmp_path: Path) -> None:
    path = shapes(tmp_path, "libx264", [Fraction(12, 11), Fraction(16, 15)], {})
    pictures, losses = read(path)
    assert {bars(picture) for picture in pictures} == {(0, 0)}
    assert losses == []


def test_a_container_with_a_shape_of_its_own_decides(tmp_path: Path) -> None:
    stream = shapes(tmp_path, "libx264", [Fraction(8, 9), Fraction(32, 27)], {"bf": "0"})
    copied = tmp_path / "copied.mkv"
    subprocess.run(
        ["ffmpeg", "-v", "error", "-i", str(stream), "-c", "copy", str(copied)], check=True
    )
    pictures, losses = read(copied)
    assert {bars(picture) for picture in pictures} == {(0, 0)}
    assert losses == []


def test_a_frame_of_another_size_and_shape_keeps_its_shape(tmp_path: Path) -> None:
    """A call whose sender turns the phone."""
    first = make_clip(tmp_path / "a.ts", frames=10, width=96, height=64)
    second = make_clip(tmp_path / "b.ts", frames=10, width=64, height=96, pts=range(10, 20))
    pictures, losses = read(joined(tmp_path / "clip.ts", first, second))
    rows, columns = bars(pictures[15])
    assert rows == 0
    assert columns == pytest.approx(96 - 64 * 64 / 96, abs=2)
    assert losses == [
        "10 frames of another shape: shown between black bars",
        "10 frames of another size or pixel format: converted",
    ]


def test_other_colour_tags_in_mid_file_are_a_loss(tmp_path: Path) -> None:
    first = make_clip(tmp_path / "a.ts", frames=10, tags=BT709)
    second = make_clip(tmp_path / "b.ts", frames=10, tags=BT2020_PQ, pts=range(10, 20))
    _, losses = read(joined(tmp_path / "clip.ts", first, second))
    assert losses == [
        "10 frames of primaries bt2020: tagged bt709, as the first",
        "10 frames of transfer smpte2084: tagged bt709, as the first",
        "10 frames of matrix bt2020nc: tagged bt709, as the first",
    ]


def test_ordinary_frames_are_not_touched(tmp_path: Path) -> None:
    clip = make_clip(
        tmp_path / "clip.mp4", rotation=90, tags=BT709, sample_aspect_ratio=Fraction(4, 3)
    )
    assert read(clip)[1] == []

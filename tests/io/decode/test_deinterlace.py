from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from support.media.clips import BT709, make_clip

from upframe.filters.frame import Picture, StreamInfo
from upframe.io.source import Deinterlace, open_source

SAID = "interlaced (top field first): deinterlaced to one frame per frame"


def read(path: Path, deinterlace: Deinterlace) -> tuple[StreamInfo, list[Picture], list[str]]:
    source = open_source(str(path), deinterlace=deinterlace)
    pictures = list(source)
    source.close()
    return source.info, pictures, source.warnings()


def combing(picture: Picture) -> float:
    """How much neighbouring lines differ more than lines of one field do, in code values."""
    y = picture.planes[0].to(torch.float32)
    between_fields = (y[1:-1] - (y[:-2] + y[2:]) / 2).abs().mean()
    return float(between_fields)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "clip.mp4", interlaced=True, tags=BT709)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
def test_interlaced_video_is_recognised_and_said(tmp_path: Path, name: str) -> None:
    info, pictures, warnings = read(make_clip(tmp_path / name, interlaced=True), "auto")
    assert warnings == [SAID]
    assert info.field_order == "progressive"
    assert not any(picture.interlaced for picture in pictures)


@pytest.mark.parametrize("deinterlace", ["auto", "on", "off"])
def test_as_many_frames_come_out_at_the_same_times(clip: Path, deinterlace: Deinterlace) -> None:
    info, pictures, _ = read(clip, deinterlace)
    assert [picture.pts * picture.time_base for picture in pictures] == [
        Fraction(index, 25) for index in range(12)
    ]
    assert {picture.duration * picture.time_base for picture in pictures} == {Fraction(1, 25)}
    assert info.rate == 25


def test_combs_are_gone_in_every_frame(clip: Path) -> None:
    combed = [combing(picture) for picture in read(clip, "off")[1]]
    smooth = [combing(picture) for picture in read(clip, "auto")[1]]
    assert min(combed) > 4
    # what is left is the edges of the picture's own shapes
    assert max(smooth) < 0.75 * min(combed)


def test_tags_and_format_are_kept(clip: Path) -> None:
    for picture in read(clip, "auto")[1]:
        assert picture.color.matrix == "bt709"
        assert picture.color.range == "tv"
        assert (picture.pix_fmt, picture.width, picture.height) == ("yuv420p", 64, 48)


def test_off_leaves_the_fields_and_the_field_order(clip: Path) -> None:
    info, pictures, warnings = read(clip, "off")
    assert info.field_order == "tt"
    assert all(picture.interlaced for picture in pictures)
    assert warnings == []


def test_progressive_video_is_left_alone(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", frames=4)
    left, plain = read(path, "auto"), read(path, "off")
    assert left[2] == []
    for one, other in zip(left[1], plain[1], strict=True):
        assert torch.equal(one.planes[0], other.planes[0])


def test_on_deinterlaces_what_is_not_flagged(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mkv", frames=6, codec="ffv1")
    on, off = read(path, "on"), read(path, "off")
    assert len(on[1]) == 6
    assert on[2] == ["deinterlaced to one frame per frame as asked (field order unknown)"]
    assert not torch.equal(on[1][2].planes[0], off[1][2].planes[0])


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_short_streams_lose_no_frame(tmp_path: Path, frames: int) -> None:
    path = make_clip(tmp_path / "clip.mp4", frames=frames, interlaced=True)
    assert len(read(path, "auto")[1]) == frames


def test_variable_rate_keeps_its_times(tmp_path: Path) -> None:
    pts = [0, 40, 120, 160, 300, 340]
    path = make_clip(
        tmp_path / "clip.mkv", frames=6, pts=pts, time_base=Fraction(1, 1000), interlaced=True
    )
    _, pictures, warnings = read(path, "auto")
    assert [picture.pts * picture.time_base * 1000 for picture in pictures] == pts
    assert SAID in warnings


def test_10_bits_stay_10_bits(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mkv", interlaced=True, pix_fmt="yuv422p10le")
    assert {picture.pix_fmt for picture in read(path, "auto")[1]} == {"yuv422p10le"}

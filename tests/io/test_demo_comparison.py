"""The before/after picture."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
import torch

from upframe.io.demo import busiest, compare, enlarge, read_pictures, write_png
from upframe.io.errors import MediaError


def test_finds_where_most_goes_on() -> None:
    activity = torch.zeros(20, 30)
    activity[12:15, 21:24] = 1
    assert busiest(activity, 3, 3) == (12, 21)


def test_both_sides_show_the_same_part() -> None:
    """A ramp across the frame, whose right half has more detail."""
    ramp = torch.linspace(0, 1, 80).expand(3, 45, 80).clone()
    ramp[:, ::2, 41:] *= 0.5  # half of the frame, as wide as one side
    result = enlarge(ramp, (90, 160), "nearest-exact")
    picture = compare(ramp, [result, result, result])
    half = (160 - 4) // 2
    assert picture.shape[2] == 160
    rows = slice(40, 88)  # below the labels
    assert torch.equal(picture[:, rows, :half], picture[:, rows, half + 4 :])
    assert torch.equal(picture[:, rows, :half], result[:, rows, -half:])
    assert picture[:, 60, half + 1].tolist() == pytest.approx([0.11] * 3)  # the gap between


def test_the_left_side_is_the_source_and_the_right_side_the_result() -> None:
    source, result = torch.full((3, 45, 80), 0.2), torch.full((3, 90, 160), 0.8)
    picture = compare(source, [result, result, result])
    assert picture[:, 60, 20].tolist() == pytest.approx([0.2] * 3)
    assert picture[:, 60, 140].tolist() == pytest.approx([0.8] * 3)


def test_wants_the_frame_and_the_two_after_it() -> None:
    with pytest.raises(ValueError, match="must have 3 frames there, got 1"):
        compare(torch.zeros(3, 45, 80), [torch.zeros(3, 90, 160)])


def test_the_inserted_frame_stands_between_its_neighbours() -> None:
    shades = [torch.full((3, 180, 320), shade) for shade in (0.2, 0.5, 0.8)]
    row = compare(torch.full((3, 90, 160), 0.2), shades)[:, -2]
    assert [round(float(row[0, at]), 2) for at in (50, 160, 270)] == [0.2, 0.5, 0.8]


def test_writes_what_reads_back_exactly(tmp_path: Path) -> None:
    picture = enlarge(torch.rand(3, 5, 7), (10, 14), "bicubic")
    write_png(tmp_path / "a.png", picture)
    write_png(tmp_path / "a.png", picture)  # replaces
    with av.open(str(tmp_path / "a.png")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "rgb24"
    (read,) = read_pictures(tmp_path / "a.png", 0, 3)
    assert (read - picture).abs().max() <= 0.5 / 255 + 1e-6


def test_says_where_the_picture_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"cannot write .*a\.png"):
        write_png(tmp_path / "none" / "a.png", torch.zeros(3, 4, 4))

"""The picture that stands in for a stream that is gone."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import pytest
import torch
from torch import Tensor

from upframe.filters.frame import Color, Picture, StreamInfo
from upframe.io.encode.options import EncoderOptions
from upframe.io.live.live_encoder import LiveEncoder
from upframe.io.live.slate import HEADLINE, slate, wrapped
from upframe.io.pictures.font import draw_text


def info_of(
    width: int, height: int, pix_fmt: str = "yuv420p", color: Color | None = None
) -> StreamInfo:
    rate = Fraction(15)
    return StreamInfo(width, height, pix_fmt, 1 / rate, rate, color=color or Color())


def lines_of(ink: Tensor) -> list[Tensor]:
    """The lines of text in a bright-on-dark picture, each cut to its ink."""
    rows = ink.any(1).tolist()
    bands: list[list[int]] = []
    for row, used in enumerate(rows):
        if used and row and rows[row - 1]:
            bands[-1].append(row)
        elif used:
            bands.append([row])
    return [cut(ink[band[0] : band[-1] + 1]) for band in bands]


def cut(ink: Tensor) -> Tensor:
    columns = ink.any(0).nonzero().flatten().tolist()
    return ink[:, columns[0] : columns[-1] + 1]


def reads(luma: Tensor) -> list[int]:
    """How large NO SIGNAL and the lines below it are; fails where the first is not that."""
    lines = lines_of(luma.int() > 110)
    scale = lines[0].shape[0] // 7
    assert torch.equal(lines[0], cut(draw_text(HEADLINE, scale) > 0))
    return [line.shape[0] for line in lines]


@pytest.mark.parametrize(
    ("width", "height"), [(64, 48), (160, 90), (320, 240), (1280, 720), (1080, 1920), (3840, 2160)]
)
def test_the_name_stands_below_no_signal_at_any_size(width: int, height: int) -> None:
    luma = slate(info_of(width, height), "Hall_7").planes[0]
    lines = lines_of(luma.int() > 110)
    assert reads(luma)[0] >= max(7, height // 24)
    scale = lines[1].shape[0] // 7
    assert torch.equal(lines[1], cut(draw_text("Hall_7", scale) > 0))


def test_a_long_name_is_broken_into_lines_that_fit() -> None:
    luma = slate(info_of(160, 120), "north-entrance-behind-the-garage-2").planes[0]
    heights = reads(luma)
    assert len(heights) == 3
    assert all(height <= 7 for height in heights[1:])


@pytest.mark.parametrize("size", [(64, 48), (2, 2), (16, 240), (240, 16)])
def test_the_longest_name_fits_any_size_somehow(size: tuple[int, int]) -> None:
    picture = slate(info_of(*size), "x" * 64)
    assert (picture.width, picture.height) == size


def test_lines_break_between_words() -> None:
    assert wrapped("NO SIGNAL", 53, 1) == ["NO SIGNAL"]
    assert wrapped("NO SIGNAL", 52, 1) == ["NO", "SIGNAL"]
    assert wrapped("NO SIGNAL", 17, 1) == ["NO", "SIG", "NAL"]
    assert wrapped("", 100, 1) == []


def dark_and_bright(picture: Picture) -> tuple[int, int]:
    low, high = picture.planes[0].int().aminmax()
    return int(low), int(high)


@pytest.mark.parametrize(
    ("pix_fmt", "color", "black_level", "white_level", "neutral"),
    [
        ("yuv420p", Color(), 16, 235, 128),
        ("yuv420p", Color(range="pc"), 0, 255, 128),
        ("yuv422p10le", Color(range="tv", matrix="bt2020nc"), 64, 940, 512),
        ("yuv444p12le", Color(range="pc"), 0, 4095, 2048),
        ("yuva420p", Color(), 16, 235, 128),
        ("gbrp", Color(), 0, 255, None),
        ("gbrp10le", Color(range="tv"), 64, 940, None),
        ("gray", Color(), 0, 255, None),
    ],
)
def test_greys_are_coded_as_the_output_codes_them(
    pix_fmt: str, color: Color, black_level: int, white_level: int, neutral: int | None
) -> None:
    info = info_of(160, 90, pix_fmt, color)
    picture = slate(info, "cam")
    assert (picture.pix_fmt, picture.color) == (pix_fmt, color)
    dark, bright = dark_and_bright(picture)
    span = white_level - black_level
    assert black_level < dark < black_level + 0.2 * span
    assert black_level + 0.8 * span < bright < white_level
    for plane in picture.planes[1:]:
        if neutral is not None:
            assert (plane.int() == neutral).all()
        else:
            assert torch.equal(plane, picture.planes[0])
    if picture.alpha is not None:
        assert (picture.alpha == 255).all()


def test_it_can_be_read_after_coding_at_the_smallest_size() -> None:
    info = info_of(64, 48)
    encoder = LiveEncoder(info, EncoderOptions())
    packets = encoder(slate(info, "cam-1"), 0)
    with av.open(io.BytesIO(encoder.primer), format="nut") as primer:
        decoder = primer.streams.video[0].codec_context
        (frame,) = [*decoder.decode(av.Packet(packets[0].data)), *decoder.decode(None)]
    assert reads(torch.as_tensor(frame.to_ndarray()[:48])) == [7, 7]

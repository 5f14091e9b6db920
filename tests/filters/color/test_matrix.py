"""Which matrix and range streams are computed with, and what their outputs are tagged with."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from support.kernels.colors import RECOMMENDATIONS

from upframe.filters.color.convert import ToFrame, ToPicture
from upframe.filters.color.matrix import (
    arithmetic_matrix,
    arithmetic_range,
    code_scale,
    matrix_warning,
    output_color,
    rgb_to_yuv,
)
from upframe.filters.errors import UnsupportedPixels
from upframe.filters.frame import Color, Frame, Picture, PixelFormat, StreamInfo


def stream(width: int, height: int, pix_fmt: str = "yuv420p", **tags: str) -> StreamInfo:
    color = replace(Color(), **tags)
    return StreamInfo(width, height, pix_fmt, Fraction(1, 25), color=color)


@pytest.mark.parametrize(
    ("width", "height", "primaries", "matrix"),
    [
        (640, 480, None, "smpte170m"),
        (720, 576, None, "bt470bg"),
        (720, 480, "bt470bg", "bt470bg"),
        (720, 576, "smpte170m", "smpte170m"),
        (1024, 576, None, "bt470bg"),
        (1025, 576, None, "bt709"),
        (640, 577, None, "bt709"),
        (1280, 720, "smpte170m", "bt709"),
        (1280, 534, None, "bt709"),
    ],
)
def test_an_unspecified_matrix_is_601_for_sd_and_709_for_hd(
    width: int, height: int, primaries: str | None, matrix: str
) -> None:
    assert arithmetic_matrix(Color(primaries=primaries), width, height) == matrix


def test_a_tagged_matrix_is_used_whatever_the_size() -> None:
    assert arithmetic_matrix(Color(matrix="bt2020nc"), 64, 48) == "bt2020nc"
    assert arithmetic_matrix(Color(matrix="fcc"), 1920, 1080) == "fcc"


def test_yuv_that_claims_to_be_rgb_is_guessed() -> None:
    assert arithmetic_matrix(Color(matrix="gbr"), 1920, 1080) == "bt709"


@pytest.mark.parametrize(
    ("pix_fmt", "unspecified"), [("yuv420p", "tv"), ("gbrp", "pc"), ("gray", "pc")]
)
def test_an_unspecified_range_is_limited_only_for_yuv(pix_fmt: str, unspecified: str) -> None:
    form = PixelFormat.parse(pix_fmt)
    assert arithmetic_range(Color(), form) == unspecified
    assert arithmetic_range(Color(range="tv"), form) == "tv"
    assert arithmetic_range(Color(range="pc"), form) == "pc"


@pytest.mark.parametrize("recommendation", RECOMMENDATIONS)
def test_coefficients_are_the_recommendations_own(recommendation: str) -> None:
    matrix, kr, kg, kb, blue, red = RECOMMENDATIONS[recommendation]
    wanted = torch.tensor(
        [
            [kr, kg, kb],
            [-kr / blue, -kg / blue, (1 - kb) / blue],
            [(1 - kr) / red, -kg / red, -kb / red],
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(rgb_to_yuv(matrix), wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("matrix", ["bt709", "fcc", "smpte240m", "bt2020nc", "ycgco", "bt470bg"])
def test_every_matrix_gives_gray_no_colour_and_can_be_inverted(matrix: str) -> None:
    forward = rgb_to_yuv(matrix)
    gray = forward @ torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(gray, torch.tensor([1.0, 0, 0], dtype=torch.float64))
    torch.testing.assert_close(forward.inverse()[:, 0], torch.ones(3, dtype=torch.float64))
    assert forward[1:].abs().max() == pytest.approx(0.5)


@pytest.mark.parametrize("matrix", ["ictcp", "bt2020c", "smpte2085", "nonsense"])
def test_a_matrix_that_is_none_is_refused_by_name(matrix: str) -> None:
    with pytest.raises(UnsupportedPixels, match=f"got {matrix}"):
        rgb_to_yuv(matrix)


@pytest.mark.parametrize("bit_depth", [8, 10, 16])
def test_code_scales_are_those_of_the_standards(bit_depth: int) -> None:
    unit = 2 ** (bit_depth - 8)
    assert code_scale(bit_depth, "tv") == (219 * unit, 16 * unit)
    assert code_scale(bit_depth, "tv", chroma=True) == (224 * unit, 128 * unit)
    assert code_scale(bit_depth, "pc") == (2**bit_depth - 1, 0)
    assert code_scale(bit_depth, "pc", chroma=True) == (2**bit_depth - 1, 2 ** (bit_depth - 1))


def test_tags_stay_as_they_are() -> None:
    tags = {"range": "tv", "primaries": "bt2020", "trc": "smpte2084", "matrix": "bt2020nc"}
    info = stream(640, 360, chroma_location="topleft", **tags)
    assert output_color(info, 2560, 1440) == info.color


def test_unspecified_stays_unspecified_where_a_player_guesses_the_same() -> None:
    for info, size in ((stream(320, 240), (640, 480)), (stream(1280, 720), (3840, 2160))):
        assert output_color(info, *size) == info.color
        assert matrix_warning(info, output_color(info, *size)) is None


def test_enlarging_from_sd_to_hd_names_the_matrix_that_was_used() -> None:
    info = stream(720, 576)
    color = output_color(info, 2880, 2304)
    assert color == Color(matrix="bt470bg")
    warning = matrix_warning(info, color)
    assert warning is not None
    assert "bt470bg was assumed for its size of 720x576" in warning


def test_colours_keep_their_matrix_across_the_sd_to_hd_boundary() -> None:
    """Red enlarged from SD to HD has the codes it had, and a tag to read them by."""
    info = stream(64, 48)
    red = [torch.full((48, 64), 81), torch.full((24, 32), 90), torch.full((24, 32), 240)]
    planes = tuple(plane.to(torch.uint8) for plane in red)
    frame = ToFrame(torch.device("cpu"))(
        Picture(planes, "yuv420p", info.color, 0, 1, info.time_base)
    )
    large = Frame(frame.pixels[:, :1, :1].expand(3, 720, 1280), 0, 1, info.time_base)
    color = output_color(info, 1280, 720)
    assert color.matrix == "smpte170m"
    made = ToPicture("yuv420p", color)(large)
    assert [plane.unique().tolist() for plane in made.planes] == [[81], [90], [240]]


def test_rgb_that_becomes_yuv_is_tagged_with_what_was_done() -> None:
    info = stream(640, 480, "gbrp", matrix="gbr", range="pc", primaries="bt709")
    assert output_color(info, 640, 480, "yuv420p") == Color("tv", "bt709", matrix="smpte170m")
    assert output_color(info, 1280, 960, "yuv420p") == Color("tv", "bt709", matrix="bt709")
    assert matrix_warning(info, output_color(info, 1280, 960, "yuv420p")) is None


def test_yuv_that_becomes_rgb_is_tagged_as_rgb() -> None:
    info = stream(640, 480, matrix="smpte170m", range="tv", chroma_location="left")
    color = output_color(info, 1280, 960, "gbrp")
    assert color == Color(range="pc", matrix="gbr")
    assert matrix_warning(info, color) is None


def test_yuv_that_becomes_gray_is_full_range_and_keeps_its_luma() -> None:
    info = stream(640, 480, range="tv")
    assert output_color(info, 1280, 960, "gray") == Color(range="pc", matrix="smpte170m")


def test_gray_that_becomes_yuv_keeps_its_range() -> None:
    info = stream(640, 480, "gray", range="pc")
    assert output_color(info, 1280, 960, "yuv420p") == Color(range="pc")

"""Pictures converted by their ICC profiles to sRGB."""

from __future__ import annotations

import logging

import pytest
import torch
from support.media.sinks import constant
from support.media.stills import SRGB, icc_profile

from upframe.filters.frame import Color, Picture, PixelFormat
from upframe.io.pictures.image_files import ToSrgb, profile_name, srgb_conversion

P3_ORANGE, ORANGE = (200, 120, 60), (214, 116, 38)
"""Of a gamma of 2.2; computed with the matrices alone, to sRGB's own curve."""


def flat(pix_fmt: str, *values: int, color: Color | None = None) -> Picture:
    form = PixelFormat.parse(pix_fmt)
    dtype = torch.uint8 if form.bit_depth == 8 else torch.uint16
    planes = [
        torch.full(form.plane_size(8, 6, index)[::-1], value, dtype=torch.int32).to(dtype)
        for index, value in enumerate(values)
    ]
    alpha = torch.full((6, 8), 77, dtype=torch.int32).to(dtype) if form.has_alpha else None
    color = color or Color("pc", None, None, "gbr")
    return Picture(tuple(planes), pix_fmt, color, 3, 1, constant().time_base, alpha)


def test_a_profile_is_called_by_its_name() -> None:
    assert profile_name(icc_profile("Display P3")) == "Display P3"
    assert profile_name(bytes(200)) == ""


def test_colours_are_converted_in_every_depth() -> None:
    convert = ToSrgb(icc_profile())
    narrow = convert(flat("gbrp", *P3_ORANGE))
    wide = convert(flat("gbrp16le", *(value * 257 for value in P3_ORANGE)))
    got = [int(plane[0, 0]) for plane in narrow.planes]
    assert got == pytest.approx(ORANGE, abs=2)
    assert [int(plane.int()[0, 0]) / 257 for plane in wide.planes] == pytest.approx(got, abs=1)
    assert (narrow.pts, narrow.pix_fmt, wide.pix_fmt) == (3, "gbrp", "gbrp16le")


def test_alpha_stays() -> None:
    made = ToSrgb(icc_profile())(flat("gbrap", *P3_ORANGE))
    assert made.alpha is not None
    assert made.alpha.unique().tolist() == [77]


@pytest.mark.parametrize(
    "color",
    [
        Color("tv", "bt709", "bt709", "bt709"),
        Color("pc", None, None, "bt470bg"),
        Color("tv", "smpte170m", "smpte170m", "smpte170m"),
    ],
    ids=["709 tv", "601 pc", "601 tv"],
)
@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv420p", "yuv420p10le"])
def test_a_conversion_between_equal_profiles_changes_nothing(color: Color, pix_fmt: str) -> None:
    """So matrix and range are respected on both ways."""
    scale = 4 if "10" in pix_fmt else 1
    before = flat(pix_fmt, 120 * scale, 110 * scale, 140 * scale, color=color)
    after = ToSrgb(icc_profile(primaries=SRGB, gamma=2.2))(before)
    for plane, same in zip(after.planes, before.planes, strict=True):
        assert (plane.int() - same.int()).abs().max() <= 2 * scale


def test_gray_pictures_follow_their_curve() -> None:
    """A gray profile of gamma 1.0 is brighter than sRGB's curve shows."""
    convert = ToSrgb(icc_profile(space=b"GRAY", gamma=1.0))
    (plane,) = convert(flat("gray", 55)).planes
    assert int(plane[0, 0]) == pytest.approx(128, abs=2)
    (plane,) = convert(flat("gray16le", 55 * 257)).planes
    assert int(plane.int()[0, 0]) / 257 == pytest.approx(128, abs=2)
    rgb = convert(flat("gbrp", 55, 55, 55))
    assert [int(plane[0, 0]) for plane in rgb.planes] == pytest.approx([128] * 3, abs=2)


def test_other_profiles_are_refused() -> None:
    with pytest.raises(ValueError, match="describes CMYK, wanted RGB or GRAY"):
        ToSrgb(icc_profile(space=b"CMYK"))
    with pytest.raises(ValueError, match="cannot build transform"):
        ToSrgb(icc_profile()[:128] + bytes(200))


def test_a_conversion_is_said_and_done_only_where_it_changes_something(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert srgb_conversion(None, "bmp") is None
        assert srgb_conversion(icc_profile("sRGB IEC61966-2.1", primaries=SRGB), "bmp") is None
    assert caplog.messages == []
    assert srgb_conversion(icc_profile("Display P3"), "mp4") is not None
    assert caplog.messages == [
        "mp4 cannot hold ICC profile 'Display P3': converted to sRGB, in 8 bits"
    ]
    assert srgb_conversion(icc_profile(space=b"CMYK"), "mp4") is None
    assert "cannot be applied, colours stay as coded: it describes CMYK" in caplog.messages[1]

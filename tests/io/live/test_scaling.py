"""Pictures to another size on their planes."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from upframe.filters.frame import Color, Picture, PixelFormat
from upframe.io.live.fit import Method, Scaler

FORMATS = [
    *(f"yuv{chroma}p{depth}" for chroma in (420, 422, 444) for depth in ("", "10le", "12le")),
    *("yuva420p", "yuva444p10le", "yuv444p16le", "gray", "gray10le", "gray16le"),
    *("gbrp", "gbrp10le", "gbrp12le", "gbrap", "gbrap16le"),
]
COLOR = Color("tv", "bt2020", "smpte2084", "bt2020nc", "topleft")


def ramp(width: int, height: int, form: PixelFormat, index: int) -> Tensor:
    """A plane that rises from left to right, each plane of a picture by another amount."""
    top = (1 << form.bit_depth) - 1
    row = torch.linspace(0.1 + 0.1 * index, 0.9, width) * top
    plane = row.round().expand(height, width).contiguous()
    return plane.to(torch.uint8 if form.bit_depth == 8 else torch.uint16)


def picture(pix_fmt: str, width: int = 48, height: int = 32) -> Picture:
    form = PixelFormat.parse(pix_fmt)
    sizes = [form.plane_size(width, height, index) for index in range(form.num_planes)]
    planes = tuple(ramp(*size, form, index) for index, size in enumerate(sizes))
    alpha = ramp(width, height, form, 3) if form.has_alpha else None
    return Picture(planes, pix_fmt, COLOR, 7, 3, Fraction(1, 90_000), alpha=alpha)


def planes_of(given: Picture) -> list[Tensor]:
    return [*given.planes, *([] if given.alpha is None else [given.alpha])]


@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_every_planar_format_is_scaled_as_it_is(pix_fmt: str, method: Method) -> None:
    small = picture(pix_fmt)
    large = Scaler(96, 64, method)(small)
    assert (large.width, large.height, large.pix_fmt) == (96, 64, pix_fmt)
    top = (1 << small_depth(pix_fmt)) - 1
    for before, after in zip(planes_of(small), planes_of(large), strict=True):
        height, width = before.shape
        means = after.double().reshape(height, 2, width, 2).mean((1, 3))
        assert (means - before.double()).abs().max() / top < 0.01


def small_depth(pix_fmt: str) -> int:
    return PixelFormat.parse(pix_fmt).bit_depth


def test_colour_and_times_stay() -> None:
    large = Scaler(96, 64)(picture("yuv420p10le"))
    assert (large.color, large.pts, large.duration) == (COLOR, 7, 3)
    assert large.time_base == Fraction(1, 90_000)


@pytest.mark.parametrize("range_", ["tv", "pc", None])
def test_a_flat_picture_keeps_its_values_in_any_range(range_: str | None) -> None:
    flat = picture("yuv420p")
    planes = tuple(torch.full_like(plane, 3 + 200 * i) for i, plane in enumerate(flat.planes[:2]))
    planes = (*planes, torch.full_like(flat.planes[2], 255))
    color = Color(range_, matrix="bt709")  # type: ignore[arg-type]
    large = Scaler(90, 61)(replace(flat, planes=planes, color=color))
    assert [plane.unique().tolist() for plane in large.planes] == [[3], [203], [255]]


def test_sizes_that_are_odd_and_smaller_do_too() -> None:
    scaler = Scaler(31, 17)
    for width, height in ((48, 32), (49, 33), (640, 480)):
        small = scaler(picture("yuv420p", width, height))
        assert [tuple(plane.shape) for plane in small.planes] == [(17, 31), (9, 16), (9, 16)]


def test_a_picture_of_the_size_is_given_as_it_is() -> None:
    given = picture("yuv420p")
    assert Scaler(48, 32)(given) is given


def test_no_size_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1x1, got 0x5"):
        Scaler(0, 5)

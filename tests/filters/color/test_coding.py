"""The compiled way from R'G'B' to planes rounds what the filters of chroma say."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from upframe.filters.color.matrix import code_scale, rgb_to_yuv
from upframe.filters.color.planes import Phase, _can_encode, _encoded, downsample, from_rgb, phases
from upframe.filters.frame import Color, PixelFormat
from upframe.filters.kernels.native import kernels


@pytest.fixture(autouse=True)
def compiled() -> None:
    if kernels() is None:
        assert os.environ.get("UPFRAME_REQUIRE_NATIVE") != "1", "the kernels were not compiled"
        pytest.skip("the kernels were not compiled")


def picture(height: int, width: int) -> Tensor:
    noise = torch.rand(3, height, width, generator=torch.Generator().manual_seed(height * width))
    noise[:, : height // 3] = noise[:, :1]  # flat columns, hard edges
    return noise


def exact(pixels: Tensor, form: PixelFormat, color: Color) -> list[Tensor]:
    luma = code_scale(form.bit_depth, "tv")
    chroma = code_scale(form.bit_depth, "tv", chroma=True)
    scale, offset = torch.tensor((luma, chroma, chroma), dtype=torch.float64).T
    codes = torch.einsum("ij,jhw->ihw", rgb_to_yuv("bt709") * scale[:, None], pixels.double())
    codes += offset[:, None, None]
    across, down = phases(color.chroma_location)
    halved = downsample(codes[1:], -2, down) if form.chroma_shift_y else codes[1:]
    halved = downsample(halved, -1, across) if form.chroma_shift_x else halved
    return [plane.clamp(0, (1 << form.bit_depth) - 1) for plane in (codes[0], *halved)]


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "yuv422p", "yuv444p"])
@pytest.mark.parametrize("location", ["left", "center", "topleft", "bottom"])
@pytest.mark.parametrize("size", [(6, 6), (64, 96), (90, 162)])
def test_every_code_is_the_nearest(pix_fmt: str, location: str, size: tuple[int, int]) -> None:
    form = PixelFormat.parse(pix_fmt)
    color = Color(matrix="bt709", range="tv", chroma_location=location)
    pixels = picture(*size)
    for found, wanted in zip(
        from_rgb(pixels, form, color), exact(pixels, form, color), strict=True
    ):
        assert found.shape == wanted.shape
        assert (found.double() - wanted).abs().max() <= 0.501


def test_values_beyond_the_codes_are_the_last_code() -> None:
    form = PixelFormat.parse("yuv444p")
    matrix = torch.eye(3, dtype=torch.float64)
    offset = torch.zeros(3, dtype=torch.float64)
    pixels = torch.tensor([-70000.0, -1, 254.4, 255.6, 70000.0, 3]).expand(3, 6, 6)
    luma, _, _ = _encoded(pixels, form.bit_depth, (matrix, offset), None, None)
    assert luma[0].tolist() == [0, 0, 254, 255, 255, 3]


@pytest.mark.parametrize(
    ("height", "width", "across", "down"),
    [(5, 8, "first", "between"), (8, 4, None, None), (8, 8, "second", None), (8, 8, None, "first")],
)
def test_what_the_kernel_does_not_know_is_left_to_torch(
    height: int, width: int, across: Phase | None, down: Phase | None
) -> None:
    assert not _can_encode(torch.zeros(3, height, width), across, down)


def test_frames_that_are_views_are_read_right() -> None:
    form, color = PixelFormat.parse("yuv420p"), Color(matrix="bt709", range="tv")
    whole = picture(40, 50)
    part = whole[:, 2:38, 4:46]
    for found, wanted in zip(
        from_rgb(part, form, color), from_rgb(part.clone(), form, color), strict=True
    ):
        assert found.equal(wanted)

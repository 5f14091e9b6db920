"""The kernels of colours against the plain way; without a card in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from support.kernels.devices import kernel_device

from upframe.filters.color.convert import ToFrame
from upframe.filters.color.cuda import YuvDecoder, YuvEncoder
from upframe.filters.color.planes import from_rgb, rounding_of
from upframe.filters.frame import Color, Frame, Picture, PixelFormat

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Triton's own, of its next version

CPU = torch.device("cpu")
CASES = [
    ("yuv420p", "left", 19, 45),
    ("yuv420p10le", "center", 6, 8),
    ("yuv422p10le", "topleft", 6, 9),
    ("yuv444p", None, 5, 7),
]


def random_picture(pix_fmt: str, location: str | None, height: int, width: int) -> Picture:
    form = PixelFormat.parse(pix_fmt)
    dtype = torch.uint8 if form.bit_depth == 8 else torch.uint16
    sizes = [form.plane_size(width, height, index)[::-1] for index in range(3)]
    planes = (torch.randint(0, 1 << form.bit_depth, size, dtype=torch.int32) for size in sizes)
    color = Color(range="tv", matrix="bt709", chroma_location=location)
    coded = tuple(plane.to(dtype) for plane in planes)
    return Picture(coded, pix_fmt, color, 0, 1, Fraction(1, 25))


def unused() -> torch.Tensor:
    raise AssertionError("the plain way was taken")


@pytest.mark.parametrize(("pix_fmt", "location", "height", "width"), CASES)
def test_pictures_are_decoded_as_the_plain_way_does(
    pix_fmt: str, location: str | None, height: int, width: int
) -> None:
    device = kernel_device()
    picture = random_picture(pix_fmt, location, height, width)
    plain = ToFrame(CPU)
    wanted = plain(picture).pixels
    outside = torch.zeros(1, dtype=torch.int64, device=device)
    there = replace(picture, planes=tuple(plane.to(device) for plane in picture.planes))
    result = YuvDecoder()(there, rounding_of(picture), outside, lambda: wanted.to(device))
    assert result is not None
    torch.testing.assert_close(result.cpu(), wanted, rtol=0, atol=1e-6)
    assert abs(int(outside) - plain.statistics()["clipped_values"]) <= 2  # at the very border


@pytest.mark.parametrize(("pix_fmt", "location", "height", "width"), CASES)
def test_frames_are_coded_as_the_plain_way_does(
    pix_fmt: str, location: str | None, height: int, width: int
) -> None:
    device, form = kernel_device(), PixelFormat.parse(pix_fmt)
    height, width = height - height % 2, width - width % 2
    color = Color(range="tv", matrix="bt709", chroma_location=location)
    pixels = (torch.rand(3, height + 1, width + 1) * 1.2 - 0.1)[:, :height, :width]
    wanted = from_rgb(pixels.clamp(0, 1), form, color)
    outside = torch.zeros(1, dtype=torch.int64, device=device)
    there = pixels.to(device)
    result = YuvEncoder()(there, form, color, outside)
    assert result is not None
    for ours, theirs in zip(result, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        assert (ours.cpu().int() - theirs.int()).abs().max() <= 1
        assert (ours.cpu().int() != theirs.int()).float().mean() <= 0.002  # near a half
    assert int(outside) == int(((pixels < 0) | (pixels > 1)).sum())


def test_kernels_that_disagree_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    device = kernel_device()
    picture = random_picture("yuv444p", None, 4, 4)
    there = replace(picture, planes=tuple(plane.to(device) for plane in picture.planes))
    outside = torch.zeros(1, dtype=torch.int64, device=device)
    decoder = YuvDecoder()
    other = torch.full((3, 4, 4), 2.0, device=device)
    assert decoder(there, 0.0, outside, lambda: other) is None
    assert decoder(there, 0.0, outside, unused) is None
    assert sum("colours are decoded" in record.message for record in caplog.records) == 1
    assert int(outside) == 0


def test_gray_and_rgb_are_left_to_the_plain_way() -> None:
    outside = torch.zeros(1, dtype=torch.int64)
    gray = Picture((torch.zeros(4, 4, dtype=torch.uint8),), "gray", Color(), 0, 1, Fraction(1))
    assert YuvDecoder()(gray, 0.0, outside, unused) is None
    form = PixelFormat.parse("gbrp")
    assert YuvEncoder()(torch.zeros(3, 4, 4), form, Color(), outside) is None


@pytest.mark.needs_cuda
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "yuv422p", "yuv444p10le"])
def test_a_stream_on_a_card_looks_as_on_the_cpu(pix_fmt: str) -> None:
    from upframe.filters.color.convert import ToPicture

    picture = random_picture(pix_fmt, "left", 1080, 1920)
    frames = [ToFrame(torch.device(name))(picture) for name in ("cpu", "cuda")]
    torch.testing.assert_close(frames[1].pixels.cpu(), frames[0].pixels, rtol=0, atol=2e-6)
    ways = [ToPicture(pix_fmt, picture.color) for _ in range(2)]
    shown = [
        way(Frame(frame.pixels, 0, 1, Fraction(1))) for way, frame in zip(ways, frames, strict=True)
    ]
    for a, b in zip(*(picture.planes for picture in shown), strict=True):
        assert (a.int() - b.int()).abs().max() <= 1
        assert (a.int() != b.int()).float().mean() <= 0.002

"""The whole way of a picture through the compute thread, with filters that change nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from upframe.daemon.convert.compute import Compute
from upframe.filters.chain import Chain
from upframe.filters.frame import Color, Frame, Picture, StreamInfo

CPU = torch.device("cpu")
MATRICES = {"601": "smpte170m", "709": "bt709", "2020": "bt2020nc"}
WEIGHTS = {"smpte170m": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020nc": (0.2627, 0.0593)}


class Nothing:
    """A filter that gives what it takes."""

    def open(self, info: StreamInfo) -> StreamInfo:
        return info

    def __call__(self, frame: Frame) -> Iterable[Frame]:
        yield frame

    def flush(self) -> Iterable[Frame]:
        return ()

    def statistics(self) -> dict[str, int]:
        return {"passed": 0}


def coded(rgb: Tensor, matrix: str, limited: bool, depth: int) -> list[Tensor]:
    """Code (3, H, W) R'G'B' as 4:4:4 by the formulas of BT.601/709/2020, in float64."""
    red, green, blue = rgb.double()
    kr, kb = WEIGHTS[matrix]
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))
    step = 1 << (depth - 8)
    peak = (1 << depth) - 1
    if limited:
        codes = [16 * step + 219 * step * luma, *(128 * step + 224 * step * c for c in (cb, cr))]
    else:
        codes = [peak * luma, *(128 * step + peak * c for c in (cb, cr))]
    dtype = torch.uint8 if depth == 8 else torch.int32
    return [code.round().clamp(0, peak).to(dtype) for code in codes]


def fields(kind: str) -> Tensor:
    """(3, 32, 64) R'G'B' inside the gamut."""
    if kind == "flat":
        return torch.tensor([0.8, 0.35, 0.1]).view(3, 1, 1).expand(3, 32, 64)
    ramp = torch.linspace(0.05, 0.95, 64).expand(32, 64)
    return torch.stack((ramp, 0.2 + 0.5 * ramp, 0.9 - 0.6 * ramp))


def picture_of(planes: list[Tensor], pix_fmt: str, color: Color) -> Picture:
    if pix_fmt.startswith("yuv420p"):
        planes = [planes[0], *(plane[::2, ::2].contiguous() for plane in planes[1:])]
    if not pix_fmt.endswith("p"):
        planes = [plane.to(torch.uint16) for plane in planes]
    return Picture(tuple(planes), pix_fmt, color, 0, 1, Fraction(1, 25))


CASES = list(
    itertools.product(
        MATRICES,
        ("tv", "pc"),
        ("yuv420p", "yuv444p", "yuv420p10le", "yuv444p10le"),
        ("flat", "ramp"),
    )
)


@pytest.mark.parametrize(("matrix", "color_range", "pix_fmt", "kind"), CASES)
def test_colours_inside_the_gamut_come_back_within_one_code(
    matrix: str, color_range: str, pix_fmt: str, kind: str
) -> None:
    depth = 10 if "10" in pix_fmt else 8
    color = Color(range=color_range, matrix=MATRICES[matrix])  # pyright: ignore[reportArgumentType]
    codes = coded(fields(kind), MATRICES[matrix], color_range == "tv", depth)
    picture = picture_of(codes, pix_fmt, color)
    info = StreamInfo(64, 32, pix_fmt, Fraction(1, 25), color=color)
    compute = Compute(info, {"full": Chain([Nothing()])}, pix_fmt=pix_fmt, device=CPU)
    (result,) = [*compute(picture), *compute.flush()]
    assert result.color == color
    assert compute.info.color == color
    for before, after in zip(picture.planes, result.planes, strict=True):
        difference = after.int() - before.int()
        assert difference.abs().max() <= 1
        assert difference.float().mean().abs() <= 0.1
    assert compute.statistics()["clipped_values"] == 0


def test_values_outside_the_gamut_are_clipped_and_counted() -> None:
    color = Color(range="tv", matrix="bt709")
    planes = [torch.full((32, 64), value, dtype=torch.uint8) for value in (235, 240, 240)]
    picture = Picture(tuple(planes), "yuv444p", color, 0, 1, Fraction(1, 25))
    info = StreamInfo(64, 32, "yuv444p", Fraction(1, 25), color=color)
    compute = Compute(info, {"full": Chain([Nothing()])}, pix_fmt="yuv444p", device=CPU)
    (result,) = compute(picture)
    assert compute.statistics()["clipped_values"] == 2 * 32 * 64  # red and blue are over 1
    assert result.planes[0].max() <= 235


def test_no_picture_is_lost_or_moved_by_filters_that_change_nothing() -> None:
    info = StreamInfo(64, 32, "yuv420p", Fraction(1, 25))
    compute = Compute(info, {"full": Chain([Nothing(), Nothing()])}, pix_fmt="yuv420p", device=CPU)
    base = picture_of(coded(fields("ramp"), "bt709", True, 8), "yuv420p", Color())
    pictures = [replace(base, pts=pts) for pts in (0, 1, 5, 6)]
    results = [out for picture in pictures for out in compute(picture)]
    assert [out.pts for out in [*results, *compute.flush()]] == [0, 1, 5, 6]


def test_an_odd_size_is_cropped_to_what_the_chroma_needs() -> None:
    info = StreamInfo(63, 31, "yuv420p", Fraction(1, 25))
    compute = Compute(info, {"full": Chain([])}, pix_fmt="yuv420p", device=CPU)
    assert (compute.info.width, compute.info.height) == (62, 30)


def test_a_size_class_that_changes_names_the_matrix_that_was_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Larger(Nothing):
        def open(self, info: StreamInfo) -> StreamInfo:
            return replace(info, width=info.width * 4, height=info.height * 4)

    info = StreamInfo(640, 480, "yuv420p", Fraction(1, 25))
    compute = Compute(info, {"full": Chain([Larger()])}, pix_fmt="yuv420p", device=CPU)
    assert compute.info.color.matrix == "smpte170m"
    assert "does not name its colour matrix" in caplog.text

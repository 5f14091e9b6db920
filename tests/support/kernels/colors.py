"""Colours and the code values that ITU's recommendations give them, in plain float64 numpy."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt
import torch

from upframe.filters.frame import Color, Picture, PixelFormat

Array = npt.NDArray[np.float64]

# Recommendation: (matrix tag, kr, kg, kb, divisor of B - Y, divisor of R - Y), as printed there.
RECOMMENDATIONS = {
    "601": ("smpte170m", 0.299, 0.587, 0.114, 1.772, 1.402),  # BT.601-7, 2.5.1 to 2.5.2
    "709": ("bt709", 0.2126, 0.7152, 0.0722, 1.8556, 1.5748),  # BT.709-6, 3.2 to 3.3
    "2020": ("bt2020nc", 0.2627, 0.6780, 0.0593, 1.8814, 1.4746),  # BT.2020-2, table 4
}


def codes_of(
    rgb: Array, recommendation: str, color_range: str, bit_depth: int
) -> tuple[npt.NDArray[np.int64], ...]:
    """Y, Cb and Cr codes of R'G'B' in [0, 1], (3, H, W), rounded to nearest."""
    _, kr, kg, kb, blue, red = RECOMMENDATIONS[recommendation]
    luma = kr * rgb[0] + kg * rgb[1] + kb * rgb[2]
    differences = (rgb[2] - luma) / blue, (rgb[0] - luma) / red
    if color_range == "tv":
        unit = 2 ** (bit_depth - 8)
        values = (219 * luma + 16) * unit, *((224 * c + 128) * unit for c in differences)
    else:
        top = 2**bit_depth - 1
        values = luma * top, *(c * top + 2 ** (bit_depth - 1) for c in differences)
    codes = (np.clip(np.floor(value + 0.5), 0, 2**bit_depth - 1) for value in values)
    return tuple(plane.astype(np.int64) for plane in codes)


def lattice(steps: int = 9) -> Array:
    """Every colour of a lattice in the RGB cube, its faces included: (3, steps, steps²)."""
    axis = np.linspace(0, 1, steps)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij")).reshape(3, steps, -1)


def ramp(width: int = 96, height: int = 64) -> Array:
    """A smooth ramp of colours, well inside the cube, slanted through it: (3, H, W)."""
    y, x = np.mgrid[0:height, 0:width]
    across, down = x / max(width - 1, 1), y / max(height - 1, 1)
    return np.stack((0.1 + 0.7 * across, 0.2 + 0.5 * down, 0.8 - 0.3 * across - 0.3 * down))


def picture(
    planes: tuple[npt.NDArray[np.int64], ...], pix_fmt: str, color: Color, pts: int = 0
) -> Picture:
    """A picture of the full-size planes; chroma is taken from every n-th sample."""
    form = PixelFormat.parse(pix_fmt)
    dtype = np.uint8 if form.bit_depth == 8 else np.uint16
    steps = (1, 1 << form.chroma_shift_y), (1, 1 << form.chroma_shift_x)
    sampled = [
        torch.as_tensor(np.ascontiguousarray(plane[:: steps[0][i > 0], :: steps[1][i > 0]], dtype))
        for i, plane in enumerate(planes[: form.num_planes])
    ]
    top = (1 << form.bit_depth) - 1
    height, width = planes[0].shape
    alpha = torch.as_tensor(np.linspace(0, top, height * width).astype(dtype))
    return Picture(
        tuple(sampled),
        pix_fmt,
        color,
        pts,
        1,
        Fraction(1, 25),
        alpha=alpha.reshape(height, width) if form.has_alpha else None,
    )


def code_difference(first: Picture, second: Picture) -> tuple[int, float]:
    """Largest difference of any code, and largest difference of a plane's mean."""
    pairs = [
        (one.numpy().astype(np.int64), other.numpy().astype(np.int64))
        for one, other in zip(first.planes, second.planes, strict=True)
    ]
    largest = max(int(np.abs(one - other).max()) for one, other in pairs)
    return largest, max(abs(float((one - other).mean())) for one, other in pairs)

"""The maths of colour: coded planes to R'G'B' tensors and back, in fp32 on any device.

A value is ``(code - offset) / scale``; YUV's three then go through the inverse of a matrix. Both
are one affine map, made in float64 and applied once. What the colour differences add to R, G and B
is computed at chroma's own size and enlarged, so that full-size planes are few.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..frame import Color, Picture, PixelFormat
from ..kernels.native import kernels, run, structure
from .chroma import HALVING_TAPS, Phase, downsample, phases, upsample
from .matrix import arithmetic_matrix, arithmetic_range, code_scale, rgb_to_yuv


def to_rgb(picture: Picture, device: torch.device) -> Tensor:
    """Decode a picture's planes to R'G'B', not clipped.

    Returns:
        (3, H, W), or (1, H, W) for gray, fp32, on `device`; inside the gamut it is in [0, 1].
    """
    form = PixelFormat.parse(picture.pix_fmt)
    if form.family == "yuv":
        return _yuv_to_rgb(picture, form, device)
    scale, offset = code_scale(form.bit_depth, arithmetic_range(picture.color, form))
    planes = torch.stack([plane.to(device).float() for plane in picture.planes])
    return planes.sub_(offset).div_(scale)


def rounding_of(picture: Picture) -> float:
    """How far the rounding of its codes may have moved an R, G or B value of a picture."""
    form = PixelFormat.parse(picture.pix_fmt)
    if form.family == "yuv":
        inverse, _ = rgb_of_codes(form, picture.color, picture.width, picture.height)
        return 0.5 * float(inverse.abs().sum(1).max())
    return 0.5 / code_scale(form.bit_depth, arithmetic_range(picture.color, form))[0]


def _yuv_to_rgb(picture: Picture, form: PixelFormat, device: torch.device) -> Tensor:
    """Luma plus what the colour differences add to it, made before they are enlarged."""
    inverse, bias = rgb_of_codes(form, picture.color, picture.width, picture.height)
    chroma = torch.stack([plane.to(device).float() for plane in picture.planes[1:]])
    rgb = _transform(chroma, inverse[:, 1:], bias)
    across, down = phases(picture.color.chroma_location)
    if form.chroma_shift_y:
        rgb = upsample(rgb, picture.height, -2, down)
    if form.chroma_shift_x:
        rgb = upsample(rgb, picture.width, -1, across)
    luma = picture.planes[0].to(device).float()
    return rgb.add_(luma, alpha=float(inverse[0, 0]))  # it counts in R, G and B alike


def from_rgb(pixels: Tensor, form: PixelFormat, color: Color) -> tuple[Tensor, ...]:
    """Encode R'G'B' to planes on the same device.

    Args:
        pixels: (3, H, W), fp32, [0, 1]; even sizes where chroma is halved.
        form: the planes to make.
        color: how; what it leaves open is taken from the size.

    Raises:
        MemoryError: if the buffer of a few rows cannot be allocated.
    """
    if form.family == "rgb":
        scale, offset = code_scale(form.bit_depth, arithmetic_range(color, form))
        return tuple(to_codes(pixels * scale + offset, form.bit_depth))
    height, width = pixels.shape[1:]
    codes = codes_of_rgb(form, color, width, height)
    across, down = _halvings(form, color)
    if form.family == "yuv" and _can_encode(pixels, across, down):
        return _encoded(pixels, form.bit_depth, codes, across, down)
    made = _transform(pixels, *codes)
    if form.family == "gray":
        return (to_codes(made[0], form.bit_depth),)
    chroma = made[1:]
    if down:
        chroma = downsample(chroma, -2, down)
    if across:
        chroma = downsample(chroma, -1, across)
    return tuple(to_codes(plane, form.bit_depth) for plane in (made[0], *chroma))


def _halvings(form: PixelFormat, color: Color) -> tuple[Phase | None, Phase | None]:
    """How a format's chroma is halved across and down; None where it is not."""
    across, down = phases(color.chroma_location)
    return across if form.chroma_shift_x else None, down if form.chroma_shift_y else None


@lru_cache(maxsize=32)
def codes_of_rgb(form: PixelFormat, color: Color, width: int, height: int) -> tuple[Tensor, Tensor]:
    """R'G'B' to YUV code values: a matrix (3, 3) and an offset (3,), float64."""
    color_range = arithmetic_range(color, form)
    luma = code_scale(form.bit_depth, color_range)
    chroma = code_scale(form.bit_depth, color_range, chroma=True)
    scale, offset = torch.tensor((luma, chroma, chroma), dtype=torch.float64).unbind(1)
    matrix = rgb_to_yuv(arithmetic_matrix(color, width, height))
    return matrix * scale[:, None], offset


@lru_cache(maxsize=32)
def rgb_of_codes(form: PixelFormat, color: Color, width: int, height: int) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`codes_of_rgb`, of the same shapes."""
    matrix, offset = codes_of_rgb(form, color, width, height)
    inverse = matrix.inverse()
    return inverse, -(inverse @ offset)


def _transform(planes: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """``matrix @ planes + offset`` a pixel, never in TF32 or bf16 as a matrix product might be."""
    made = planes.new_empty(len(matrix), *planes.shape[1:])
    for row, weights, constant in zip(made, matrix, offset, strict=True):
        row.fill_(float(constant))
        for plane, weight in zip(planes, weights, strict=True):
            row.add_(plane, alpha=float(weight))
    return made


def to_codes(values: Tensor, bit_depth: int) -> Tensor:
    """Round to nearest inside the container's codes; writes into `values`."""
    codes = values.round_().clamp_(0, (1 << bit_depth) - 1)
    return codes.to(torch.uint8 if bit_depth == 8 else torch.uint16)


def alpha_to_float(picture: Picture, device: torch.device) -> Tensor | None:
    """Decode a picture's alpha, always full range: (1, H, W), fp32, [0, 1]."""
    if picture.alpha is None:
        return None
    scale, _ = code_scale(PixelFormat.parse(picture.pix_fmt).bit_depth, "pc")
    return picture.alpha.to(device).float().div_(scale)[None]


# R'G'B' to coded YUV planes in one pass on a CPU; see `color.c`.

_ACROSS: dict[Phase | None, int] = {None: 0, "first": 1, "between": 2}
"""The kernel's numbers for halving a row; None keeps it whole."""
_DOWN: tuple[Phase | None, ...] = (None, "between")
"""Supported ways to halve columns: those of everything but some HDR."""
_SMALLEST = 6
"""Pixels; a row or column is mirrored so far."""


_Coding = structure(
    "void *pixels; int height, width, halved_down, across;"
    "float most, matrix[9], offset[3], taps[12]; void *planes[3]"
)


def _can_encode(pixels: Tensor, across: Phase | None, down: Phase | None) -> bool:
    """Return whether the kernel is available and supports these arguments."""
    height, width = pixels.shape[-2:]
    ours = pixels.device.type == "cpu" and pixels.dtype == torch.float32
    whole = (across is None or not width % 2) and (down is None or not height % 2)
    large = min(height, width) >= _SMALLEST
    known = across in _ACROSS and down in _DOWN
    return ours and whole and large and known and kernels() is not None


def _encoded(
    pixels: Tensor,
    bit_depth: int,
    codes: tuple[Tensor, Tensor],
    across: Phase | None,
    down: Phase | None,
) -> tuple[Tensor, ...]:
    """Encode to YUV by the kernel, with the matrix and the offset of `codes_of_rgb`."""
    pixels = pixels.contiguous()
    _, height, width = pixels.shape
    dtype = torch.uint8 if bit_depth == 8 else torch.uint16
    chroma = height // (1 if down is None else 2), width // (1 if across is None else 2)
    planes = tuple(torch.empty(size, dtype=dtype) for size in ((height, width), chroma, chroma))
    job = _Coding(
        pixels.data_ptr(),
        height,
        width,
        down is not None,
        _ACROSS[across],
        (1 << bit_depth) - 1,
        *(tuple(map(float, each.flatten())) for each in codes),
        HALVING_TAPS,
        tuple(plane.data_ptr() for plane in planes),
    )
    if run("code", job):
        raise MemoryError(f"no memory is left to encode a frame of {width}x{height}")
    return planes

"""The maths of colour: coded planes to R'G'B' tensors and back, in fp32 on any device.

A value is ``(code - offset) / scale``; YUV's three then go through the inverse of a matrix. Both
are one affine map, made in float64 and applied once. What the colour differences add to R, G and B
is computed at chroma's own size and enlarged, so that full-size planes are few.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from ..frame import Color, Picture, PixelFormat
from ..kernels.native import kernels, run, structure
from .matrix import arithmetic_matrix, arithmetic_range, code_scale, rgb_to_yuv

# Chroma planes to full size and back, for every siting, so that there and back changes nothing.
#
# Both directions are linear and separable, and what they do on an axis depends on where a chroma
# sample lies. *On* a luma sample: the lifting scheme of Deslauriers and Dubuc's wavelet. Missing
# samples are interpolated by a cubic, and shrinking adds the smoothed differences from that same
# cubic to the samples that stay, so it undoes enlarging exactly. *Between* two luma samples:
# enlarging is Catmull and Rom's cubic at a quarter of a sample, and shrinking is its inverse of
# twelve taps with the least aliasing; together they are the identity to 1e-4 of a value. (With an
# odd size they are not at its last samples, for one that they need is not there.)
#
# Content that has more detail than chroma can hold is low-passed by shrinking.
#
# Source: Sweldens 1996, The Lifting Scheme; Deslauriers, Dubuc 1989, Symmetric Iterative
# Interpolation Processes; Catmull, Rom 1974, A Class of Local Interpolating Splines.

Phase = Literal["first", "between", "second"]
"""Where a chroma sample lies in its pair of luma samples."""

_MIDDLE = (-1 / 16, 9 / 16, 9 / 16, -1 / 16)
_QUARTER = (-3 / 128, 29 / 128, 111 / 128, -9 / 128)
# a such that a(z)A(z) + a(1/z)A(1/z) = 1 to 1e-4, where A is _QUARTER; of these solutions, which
# span a plane, one of little energy above half the band
_QUARTER_INVERSE = (0.0465727, -0.14588524, 0.55284898, 0.04720547, 0.01421929, -0.0149612)
HALVING_TAPS = tuple(
    tap for pair in zip(_QUARTER_INVERSE[::-1], _QUARTER_INVERSE, strict=True) for tap in pair
)
"""Of halving where a sample lies between two, as one filter on the samples 2k - 5 to 2k + 6."""
_PHASES: dict[str, tuple[Phase, Phase]] = {  # horizontal, vertical
    "left": ("first", "between"),
    "center": ("between", "between"),
    "topleft": ("first", "first"),
    "top": ("between", "first"),
    "bottomleft": ("first", "second"),
    "bottom": ("between", "second"),
}


def phases(chroma_location: str | None) -> tuple[Phase, Phase]:
    """Horizontal and vertical phase of a chroma location; None is ``left``, as in FFmpeg.

    Raises:
        ValueError: if there is no such location.
    """
    try:
        return _PHASES[chroma_location or "left"]
    except KeyError:
        raise ValueError(
            f"chroma location must be one of {', '.join(_PHASES)}, got {chroma_location}"
        ) from None


def upsample(chroma: Tensor, size: int, dim: int, phase: Phase) -> Tensor:
    """Double an axis of chroma planes.

    Planes are of float and any shape. The axis, -1 or -2, becomes `size`, one or two for each of
    its samples; `phase` says where in its pair each lies.
    """
    count = chroma.shape[dim]
    if phase == "second":  # the mirror image of "first"
        return upsample(chroma.flip(dim), 2 * count, dim, "first").flip(dim).narrow(dim, 0, size)
    shape = list(chroma.shape)
    shape[dim] = size
    full = chroma.new_empty(shape)
    if phase == "first":
        _every_second(full, dim, 0).copy_(chroma)
        _every_second(full, dim, 1).copy_(_midpoints(chroma, dim, size // 2))
        return full
    padded = _mirrored(chroma, dim, 2, 2)
    _every_second(full, dim, 0).copy_(_correlate(padded, _QUARTER, dim, 0, count))
    _every_second(full, dim, 1).copy_(_correlate(padded, _QUARTER[::-1], dim, 1, size // 2))
    return full


def downsample(full: Tensor, dim: int, phase: Phase) -> Tensor:
    """Halve an axis, rounding up: the inverse of :func:`upsample`."""
    if full.shape[dim] == 1:
        return full
    if phase == "first":
        return _downsample_on_samples(full, dim)
    if full.shape[dim] % 2:
        full = torch.cat((full, full.narrow(dim, -1, 1)), dim)
    if phase == "second":
        return _downsample_on_samples(full.flip(dim), dim).flip(dim)
    size = full.shape[dim] // 2
    even, odd = _mirrored_pairs(full, dim, 3)
    shrunk = _correlate(even, _QUARTER_INVERSE, dim, 1, size)
    return _correlate(odd, _QUARTER_INVERSE[::-1], dim, 0, size, onto=shrunk)


def _downsample_on_samples(full: Tensor, dim: int) -> Tensor:
    even = _every_second(full, dim, 0).contiguous()
    odd = _every_second(full, dim, 1)
    difference = odd - _midpoints(even, dim, odd.shape[dim])
    border = torch.zeros_like(difference.narrow(dim, 0, 1))
    padded = torch.cat((border, border, difference, border, border), dim)
    update = tuple(weight / 2 for weight in _MIDDLE)
    return _correlate(padded, update, dim, 0, even.shape[dim]).add_(even)


def _midpoints(samples: Tensor, dim: int, size: int) -> Tensor:
    """Interpolate halfway after each of the first `size` samples."""
    return _correlate(_mirrored(samples, dim, 1, 2), _MIDDLE, dim, 0, size)


def _correlate(
    samples: Tensor,
    weights: tuple[float, ...],
    dim: int,
    first: int,
    size: int,
    onto: Tensor | None = None,
) -> Tensor:
    """Weighted sums of neighbours: output k is made of the samples from `first` + k on."""
    for shift, weight in enumerate(weights, first):
        neighbours = samples.narrow(dim, shift, size)
        onto = neighbours * weight if onto is None else onto.add_(neighbours, alpha=weight)
    assert onto is not None
    return onto


def _every_second(samples: Tensor, dim: int, first: int) -> Tensor:
    """View every second sample of an axis."""
    behind = (slice(None),) * (-1 - dim)
    return samples[(..., slice(first, None, 2), *behind)]


def _mirrored_pairs(full: Tensor, dim: int, margin: int) -> tuple[Tensor, Tensor]:
    """Even and odd samples of the mirrored axis; what mirrors an even sample is an odd one."""
    even, odd = _every_second(full, dim, 0), _every_second(full, dim, 1)
    count = even.shape[dim]
    if count < margin:
        padded = _mirrored(full, dim, 2 * margin, 2 * margin)
        return _every_second(padded, dim, 0), _every_second(padded, dim, 1)
    heads = (half.narrow(dim, 0, margin).flip(dim) for half in (odd, even))
    tails = (half.narrow(dim, count - margin, margin).flip(dim) for half in (odd, even))
    padded = zip(heads, (even, odd), tails, strict=True)
    return torch.cat(next(padded), dim), torch.cat(next(padded), dim)


def _mirrored(samples: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Extend an axis by its mirror image, the border sample repeated."""
    count = samples.shape[dim]
    if count >= max(before, after):
        head = samples.narrow(dim, 0, before).flip(dim)
        tail = samples.narrow(dim, count - after, after).flip(dim)
        return torch.cat((head, samples, tail), dim)
    index = torch.arange(-before, count + after, device=samples.device) % (2 * count)
    return samples.index_select(dim, torch.where(index < count, index, 2 * count - 1 - index))


def to_rgb(picture: Picture, device: torch.device) -> Tensor:
    """Decode a picture's planes to R'G'B', not clipped.

    Returns:
        (3, H, W), or (1, H, W) for gray, fp32, on `device`; inside the gamut it is in [0, 1].
    """
    form = PixelFormat.parse(picture.pix_fmt)
    if form.family == "yuv":
        # luma plus what the colour differences add to it, made before they are enlarged
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
    across, down = phases(color.chroma_location)
    across, down = across if form.chroma_shift_x else None, down if form.chroma_shift_y else None
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

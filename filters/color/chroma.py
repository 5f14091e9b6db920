"""Chroma planes to full size and back, for every siting, so that there and back changes nothing.

Both directions are linear and separable, and what they do on an axis depends on where a chroma
sample lies. *On* a luma sample: the lifting scheme of Deslauriers and Dubuc's wavelet. Missing
samples are interpolated by a cubic, and shrinking adds the smoothed differences from that same
cubic to the samples that stay, so it undoes enlarging exactly. *Between* two luma samples:
enlarging is Catmull and Rom's cubic at a quarter of a sample, and shrinking is its inverse of
twelve taps with the least aliasing; together they are the identity to 1e-4 of a value. (With an odd
size they are not at its last samples, for one that they need is not there.)

Content that has more detail than chroma can hold is low-passed by shrinking.

Source: Sweldens 1996, The Lifting Scheme; Deslauriers, Dubuc 1989, Symmetric Iterative
Interpolation Processes; Catmull, Rom 1974, A Class of Local Interpolating Splines.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

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

    Args:
        chroma: float, any shape.
        size: what the axis becomes, one or two per sample it has.
        dim: the axis, counted from the end: -1, -2.
        phase: where in its pair each sample lies.
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

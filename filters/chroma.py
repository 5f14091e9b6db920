"""Chroma planes to full size and back, for every siting, so that there and back changes nothing.

Both directions are linear and separable. Along an axis where a chroma sample lies *on* a luma
sample, the pair is the lifting scheme of Deslauriers and Dubuc's interpolating wavelet: missing
samples are interpolated by a cubic, and shrinking adds the smoothed differences from that same
cubic to the samples that stay. Along an axis where it lies *between* two luma samples, enlarging is
a cubic at a quarter of a sample, and shrinking the shortest filter that inverts it exactly.

So ``shrink(enlarge(c)) == c`` for any c (but for the last rows or columns of an odd size), while
full-resolution content is low-passed: both shrinking filters are zero at the highest frequency.

Source: Sweldens 1996, The Lifting Scheme; Deslauriers, Dubuc 1989, Symmetric Iterative
Interpolation Processes. The quarter-sample inverse is solved from the equation beside it.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Phase = Literal["first", "between", "second"]
"""Where a chroma sample lies in its pair of luma samples."""

_CUBIC_MIDDLE = (-1 / 16, 9 / 16, 9 / 16, -1 / 16)
_CUBIC_QUARTER = (-5 / 128, 35 / 128, 105 / 128, -7 / 128)  # three quarters of the way
# a with a(z)A(z) + a(1/z)A(1/z) = 1, where A is the cubic above: the shortest there is
_SHRINK_QUARTER = (-133 / 2304, 1505 / 2304, -315 / 2304, 95 / 2304)
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


def enlarge(chroma: Tensor, size: int, dim: int, phase: Phase) -> Tensor:
    """Double an axis of chroma planes.

    Args:
        chroma: float, any shape.
        size: what the axis becomes, one or two per sample it has.
        dim: the axis.
        phase: where in its pair each sample lies.
    """
    chroma = chroma.movedim(dim, 0)
    if phase == "second":  # the mirror image of "first"
        full = enlarge(chroma.flip(0), 2 * len(chroma), 0, "first").flip(0)[:size]
        return full.movedim(0, dim)
    full = chroma.new_empty(size, *chroma.shape[1:])
    if phase == "first":
        full[0::2] = chroma
        full[1::2] = _between(chroma, size // 2)
    else:
        padded = _mirror(chroma, 2, 2)
        full[0::2] = _filter(padded, _CUBIC_QUARTER, len(chroma))
        full[1::2] = _filter(padded[1:], _CUBIC_QUARTER[::-1], size // 2)
    return full.movedim(0, dim)


def shrink(full: Tensor, dim: int, phase: Phase) -> Tensor:
    """Halve an axis, rounding up: the inverse of :func:`enlarge`."""
    full = full.movedim(dim, 0)
    if len(full) == 1:
        return full.movedim(0, dim)
    if phase == "first":
        return _shrink_on_samples(full).movedim(0, dim)
    if len(full) % 2:
        full = torch.cat((full, full[-1:]))
    if phase == "second":
        return _shrink_on_samples(full.flip(0)).flip(0).movedim(0, dim)
    size = len(full) // 2
    even, odd = _mirrored_pairs(full)
    shrunk = _filter(even[1:], _SHRINK_QUARTER, size)
    shrunk += _filter(odd, _SHRINK_QUARTER[::-1], size)
    return shrunk.movedim(0, dim)


def _shrink_on_samples(full: Tensor) -> Tensor:
    even, odd = full[0::2], full[1::2]
    difference = odd - _between(even, len(odd))
    padded = torch.cat(
        (
            difference.new_zeros(2, *difference.shape[1:]),
            difference,
            difference.new_zeros(2, *difference.shape[1:]),
        )
    )
    return _filter(padded, tuple(weight / 2 for weight in _CUBIC_MIDDLE), len(even)).add_(even)


def _between(samples: Tensor, size: int) -> Tensor:
    """Interpolate the first `size` midpoints of samples, those after the last included."""
    return _filter(_mirror(samples, 1, 2), _CUBIC_MIDDLE, size)


def _filter(samples: Tensor, weights: tuple[float, ...], size: int) -> Tensor:
    """Correlate along the first axis; the first output begins at the first sample."""
    result = samples[:size] * weights[0]
    for shift, weight in enumerate(weights[1:], 1):
        result.add_(samples[shift : shift + size], alpha=weight)
    return result


def _mirror(samples: Tensor, before: int, after: int) -> Tensor:
    """Extend the first axis by its mirror image, the border sample repeated."""
    count = len(samples)
    index = torch.arange(-before, count + after, device=samples.device)
    return samples.index_select(0, _mirrored(index, count))


def _mirrored_pairs(full: Tensor) -> tuple[Tensor, Tensor]:
    """Even and odd samples of an even axis, each extended by 2 on both sides."""
    count = len(full)
    index = torch.arange(-4, count + 4, device=full.device)
    index = _mirrored(index, count)
    return full.index_select(0, index[0::2]), full.index_select(0, index[1::2])


def _mirrored(index: Tensor, count: int) -> Tensor:
    index = torch.where(index < 0, -1 - index, index)
    index = torch.where(index >= count, 2 * count - 1 - index, index)
    return index.clamp(0, count - 1)

"""From the network's own size to the size that was asked for."""

from __future__ import annotations

from fractions import Fraction
from math import floor

from torch import Tensor
from torch.nn import functional as F


def scaled_size(width: int, height: int, scale: float) -> tuple[int, int]:
    """Multiply a size by a scale as it is written, and round down.

    1.1 is taken as 11/10, not as the nearest binary number, so that 10 pixels become 11.
    """
    exact = Fraction(str(scale))
    return floor(width * exact), floor(height * exact)


def resize(x: Tensor, width: int, height: int) -> Tensor:
    """Resize bicubically with half-pixel centres; unchanged where the size is right.

    Where it shrinks, the kernel is stretched so that nothing aliases (a = -0.5); where it
    enlarges, it is the plain one (a = -0.75).

    Args:
        x: (N, C, H, W), float32.
        width: pixels wanted.
        height: pixels wanted.

    Returns:
        (N, C, height, width), not clamped: the kernel overshoots at edges.
    """
    if x.shape[2:] == (height, width):
        return x
    shrinks = height < x.shape[2] or width < x.shape[3]
    return F.interpolate(x, size=(height, width), mode="bicubic", antialias=shrinks)

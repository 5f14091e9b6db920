"""From the network's own size to the size that was asked for."""

from __future__ import annotations

from dataclasses import dataclass
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


# Cutting an axis into overlapping spans.


@dataclass(frozen=True, slots=True)
class Span:
    """A part of an axis: the output range and the wider input range; pixels, half open."""

    start: int
    stop: int
    seen_from: int
    seen_to: int

    def own(self, scale: int) -> slice:
        """Find its own part in what is computed, `scale` times as large, from what it sees."""
        return slice((self.start - self.seen_from) * scale, (self.stop - self.seen_from) * scale)


def cut(length: int, edge: int, margin: int, multiple: int = 1) -> tuple[Span, ...]:
    """Cut an axis into the fewest spans of at most `edge` pixels, of about equal length.

    What a span sees begins at a multiple of `multiple`; so does a span itself if `edge` allows.
    """
    edge = max(edge // multiple, 1) * multiple
    num = -(-length // edge)
    step = -(-length // (num * multiple)) * multiple
    margin = -(-margin // multiple) * multiple
    return tuple(
        Span(i, min(i + step, length), max(i - margin, 0), min(i + step + margin, length))
        for i in range(0, length, step)
    )

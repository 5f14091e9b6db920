"""Detect results that failed in reduced precision: NaN, Inf, or black without a black source.

Some devices return black or NaN pictures in half precision. A filter checks every result before
it clamps (clamping turns Inf into a harmless looking white) and redoes a damaged one in fp32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .kernels.cuda import remembering_faults

_BLACK = 1 / 255
"""A picture without a value above this is black."""
_NOT_BLACK = 8 / 255
"""A picture with a value above this is not; a network may smooth fainter noise away."""


@remembering_faults()
def is_damaged(result: Tensor, *sources: Tensor) -> bool:
    """Return whether a network's result must be redone: NaN, Inf, or black though no source is.

    Reads the result once; on CUDA this waits for it. The sources are only read if it is black.

    Args:
        result: any shape, float, nominally [0, 1], not clamped yet.
        sources: the frames it was made from, any shape, float, [0, 1]. A result between a black
            and a bright frame may rightly be black.

    Raises:
        ValueError: if no source is given.
    """
    if not sources:
        raise ValueError("is_damaged wants at least one source, got none")
    low, high = _extremes(result)
    if not (math.isfinite(low) and math.isfinite(high)):
        return True
    return high <= _BLACK and all(_extremes(source)[1] > _NOT_BLACK for source in sources)


def _extremes(picture: Tensor) -> tuple[float, float]:
    """Find the smallest and largest value in one pass; both are NaN where one value is."""
    both = torch.stack(torch.aminmax(picture)).cpu()  # one synchronisation
    return float(both[0]), float(both[1])

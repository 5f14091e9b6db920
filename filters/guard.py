"""Detect results that failed in reduced precision: NaN, Inf, or black without a black source.

Some devices return black or NaN pictures in half precision. A filter checks every result before
it clamps (clamping turns Inf into a harmless looking white) and redoes a damaged one in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .color.staging import Download
from .kernels.cuda import remembering_faults

_BLACK = 1 / 255
"""A picture without a value above this is black."""
_NOT_BLACK = 8 / 255
"""A picture with a value above this is not; a network may smooth fainter noise away."""


class Verdict:
    """Whether one of a network's results must be redone: NaN, Inf, or black though no source is.

    On a CUDA card the results are only queued to be read; asking waits for them. On a CPU they are
    read at once, and the sources only if a result is black.

    Args:
        results: any shape, float, nominally [0, 1], not clamped yet.
        sources: the frames they were made from, any shape, float, [0, 1]. A result between a black
            and a bright frame may rightly be black.

    Raises:
        ValueError: if no source is given.
    """

    @remembering_faults()
    def __init__(self, results: Sequence[Tensor], *sources: Tensor) -> None:
        if not sources:
            raise ValueError("a verdict wants at least one source, got none")
        self._num_results = len(results)
        self._unread = () if results[0].device.type == "cuda" else sources
        read = [*results, *sources] if not self._unread else results
        self._extremes = Download()([torch.stack([_extremes(picture) for picture in read])])

    def __call__(self) -> bool:
        """Return whether the results are damaged."""
        if not self.is_finite:
            return True
        if all(high > _BLACK for _, high in self._rows[: self._num_results]):
            return False
        highest = [high for _, high in self._rows[self._num_results :]]
        highest += [float(_extremes(source)[1]) for source in self._unread]
        return all(high > _NOT_BLACK for high in highest)

    @property
    def is_finite(self) -> bool:
        """Whether no value of the results is NaN or Inf."""
        results = self._rows[: self._num_results]
        return all(math.isfinite(low) and math.isfinite(high) for low, high in results)

    @property
    def _rows(self) -> list[tuple[float, float]]:
        """Smallest and largest value of each picture that was read; NaN where one value is."""
        return [(float(low), float(high)) for low, high in self._extremes.wait()[0]]


def _extremes(picture: Tensor) -> Tensor:
    """Find the smallest and largest value in one pass: (2,), float32."""
    return torch.stack(torch.aminmax(picture)).float()

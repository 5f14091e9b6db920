"""Linear maps along an axis, read off the plain functions that do them.

So the plain functions stay the only place where a kernel's weights and its edges are written down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_IMPULSES = 512
"""That are sent through a function at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """Each result is the sum of `weights[k] * x[starts[k] : starts[k] + T]`."""

    starts: Tensor
    """(results,), int32."""
    weights: Tensor
    """(results, T), float32."""

    @property
    def num_taps(self) -> int:
        """T: how many neighbours a result may be made of."""
        return self.weights.shape[1]


def band_of(function: Callable[[Tensor], Tensor], size: int, device: torch.device) -> Band:
    """Read off a linear function of the last axis what it does to an axis of `size` samples.

    Args:
        function: (N, size), float32 → (N, results).
        size: samples.
        device: where it is run and the band will lie.
    """
    columns: list[Tensor] = []
    for first in range(0, size, _IMPULSES):
        last = min(first + _IMPULSES, size)
        impulses = torch.zeros(last - first, size, device=device)
        impulses.diagonal(first).fill_(1)
        columns.append(function(impulses))
    matrix = torch.cat(columns)  # (size, results)
    there = matrix != 0
    index = torch.arange(size, device=device)[:, None]
    starts = torch.where(there, index, size).amin(0)
    ends = torch.where(there, index + 1, 0).amax(0)
    num_taps = int((ends - starts).amax())
    starts = starts.clamp(max=size - num_taps)
    taps = starts + torch.arange(num_taps, device=device)[:, None]
    return Band(starts.int(), matrix.gather(0, taps).T.contiguous())


def identity(size: int, device: torch.device) -> Band:
    """Make the band that changes nothing."""
    starts = torch.arange(size, dtype=torch.int32, device=device)
    return Band(starts, torch.ones(size, 1, device=device))

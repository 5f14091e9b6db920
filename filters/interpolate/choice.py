"""Which of two ways computes a layer faster, found out on the device for each size.

Not yet seen on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..cuda.proof import Proof

_RUNS = 8
_HEAD_START = 1_500_000
"""Clock cycles for which the device is kept busy while what is timed is being called."""
_MOST_SIZES = 64
_MOST_ERROR = 1e-5
"""Mean square, of that of the result: rounding to fp16 makes 1e-7 of it."""

Way = Callable[[Tensor], Tensor]


class Faster:
    """The faster one of two ways, on a CUDA device; on any other the plain one.

    Args:
        plain: what is right.
        kernel: gives the same; it must prove that on the first input.
    """

    def __init__(self, plain: Way, kernel: Way) -> None:
        self.plain, self.kernel = plain, kernel
        self._proof = Proof("convolutions of the interpolation are computed by cuDNN")
        self._ways: dict[torch.Size, Way] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Compute (N, …) → (N, …)."""
        if x.device.type != "cuda":
            return self.plain(x)
        way = self._ways.get(x.shape)
        if way is None:
            if torch.cuda.is_current_stream_capturing():  # what takes long was done before
                return self.plain(x)
            way = self._choose(x)
            if len(self._ways) >= _MOST_SIZES:
                self._ways.clear()
            self._ways[x.shape] = way
        return way(x)

    def _choose(self, x: Tensor) -> Way:
        if not self._proof.holds(lambda: self._trial(x)):
            return self.plain
        return min((self.plain, self.kernel), key=lambda way: _milliseconds(way, x))

    def _trial(self, x: Tensor) -> str | None:
        wanted, given = self.plain(x).float(), self.kernel(x).float()
        if given.shape != wanted.shape:
            return f"a layer gives {tuple(given.shape)}, wanted {tuple(wanted.shape)}"
        error, power = float((given - wanted).square().mean()), float(wanted.square().mean())
        if error <= _MOST_ERROR * power:  # false where either is NaN
            return None
        return f"a layer disagrees: mean square error {error:.2g} of {power:.2g}"


def _milliseconds(way: Way, x: Tensor) -> float:
    """Time a way on the device alone: all is called while the device still does something else."""
    way(x)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(_HEAD_START)  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
    begin.record()
    for _ in range(_RUNS):
        way(x)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)

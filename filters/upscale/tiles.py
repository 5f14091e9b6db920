"""Running a network on frames of any size: whole where memory allows, else cut into tiles.

Every tile sees `margin` pixels beyond its own edge and gives only its own part of the result. How
large tiles may be is estimated from the memory that is free; where the estimate was too bold the
allocation fails, the tiles are halved, and the same frame is done again.
"""

from __future__ import annotations

import logging
from itertools import product
from math import isqrt

import torch
from torch import Tensor

from ..device import is_out_of_memory
from ..errors import TooLarge
from ..memory import GIB, available_bytes
from .network import Upscaler
from .spans import cut

SMALLEST_EDGE = 32
"""Pixels; where tiles of this size do not fit, nothing will."""

MOST_CPU_BYTES = GIB
"""For activations on a CPU: memory should stay flat."""
_CPU_FAST_BYTES = 192 << 20
"""Above it activations leave a CPU's caches: 64 features at 1280x720 took 1.37 times as long
whole as in tiles of 640 pixels, although these compute what overlaps twice."""
_MARGINS_PER_EDGE = 16
"""Tiles smaller than this many margins compute more than a quarter twice: no cache is worth it."""
_SHARE = 0.6
"""Of the free memory for activations; the rest is for results, copies and workspaces."""
_MAX_VALUES = 2**31 - 1
"""In one tensor: convolutions index with 32 bits."""

_logger = logging.getLogger(__name__)


class Tiles:
    """A network that takes frames of any size.

    Args:
        network: on its device, in its dtype.
        edge: the most pixels of a tile's edge, without margins; 0 lets memory decide.
    """

    def __init__(self, network: Upscaler, edge: int = 0) -> None:
        self.network = network
        self.num_halved = 0
        """How often memory did not suffice and the tiles were halved."""
        self._most = edge  # 0: no limit known
        self._edges: dict[tuple[int, int], int] = {}  # by size of frame

    def __call__(self, x: Tensor) -> Tensor:
        """Enlarge a picture by the network's scale.

        Args:
            x: (1, 3, H, W), float32, on the network's device.

        Returns:
            (1, 3, H * scale, W * scale), float32, not clamped.

        Raises:
            TooLarge: if it does not fit in memory, not even in the smallest tiles.
        """
        height, width = x.shape[2:]
        while True:
            edge = self._edge(height, width)
            result = self._try(x, edge)
            if result is not None:
                return result
            self._halve(min(edge, max(height, width)), height, width)

    def _try(self, x: Tensor, edge: int) -> Tensor | None:
        """Enlarge in tiles; None if memory did not suffice."""
        try:
            return self._assemble(x, edge)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return None  # outside of the clause: the error holds on to every tensor of the attempt

    def _assemble(self, x: Tensor, edge: int) -> Tensor:
        network, scale = self.network, self.network.scale
        rows = cut(x.shape[2], edge, network.margin, network.multiple)
        columns = cut(x.shape[3], edge, network.margin, network.multiple)
        if len(rows) == len(columns) == 1:
            return network(x)
        result = x.new_empty(1, 3, x.shape[2] * scale, x.shape[3] * scale)
        for row, column in product(rows, columns):
            seen = x[:, :, row.seen_from : row.seen_to, column.seen_from : column.seen_to]
            own = network(seen)[:, :, row.own(scale), column.own(scale)]
            top, left = row.start * scale, column.start * scale
            result[:, :, top : top + own.shape[2], left : left + own.shape[3]] = own
        return result

    def _edge(self, height: int, width: int) -> int:
        """Find the edge for a size of frame, once: it stays while memory comes and goes."""
        if (height, width) not in self._edges:
            longest = max(height, width)
            fits = self._most or self._fitting_edge(height, width)
            self._edges[height, width] = min(fits, longest)
        edge = self._edges[height, width]
        return min(edge, self._most) if self._most else edge

    def _fitting_edge(self, height: int, width: int) -> int:
        area = self._fitting_area()
        if height * width <= area:
            return max(height, width)
        return max(isqrt(area) - 2 * self.network.margin, SMALLEST_EDGE)

    def _fitting_area(self) -> int:
        """Find how many pixels of input, margins included, the network should take at once."""
        weight, margin = self.network.weight, self.network.margin
        values = self.network.values_per_pixel
        bytes_per_pixel = values * weight.element_size()
        free = available_bytes(weight.device)
        if weight.device.type == "cuda" and free is not None:
            return min(int(free * _SHARE) // bytes_per_pixel, _MAX_VALUES // values)
        most = MOST_CPU_BYTES if free is None else min(MOST_CPU_BYTES, int(free * _SHARE))
        fast = max(_CPU_FAST_BYTES // bytes_per_pixel, ((_MARGINS_PER_EDGE + 2) * margin) ** 2)
        return min(most // bytes_per_pixel, fast)

    def _halve(self, edge: int, height: int, width: int) -> None:
        if edge // 2 < SMALLEST_EDGE:
            raise TooLarge(
                f"a frame of {width}x{height} does not fit in the memory of "
                f"{self.network.weight.device}, not even in tiles of {edge} pixels"
            )
        self._most = edge // 2
        self.num_halved += 1
        _logger.warning(
            "out of memory on a frame of %dx%d: doing it again in tiles of %d pixels",
            width,
            height,
            self._most,
        )
        if self.network.weight.device.type == "cuda":
            torch.cuda.empty_cache()

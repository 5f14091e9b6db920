"""A network made ready to enlarge pictures: on its device, in tiles, and guarded."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable
from functools import partial
from itertools import product
from math import isqrt

import torch
from torch import Tensor

from ..device import GIB, available_bytes, exact_convolutions, unless_out_of_memory
from ..errors import FilterError, TooLarge, is_out_of_memory
from ..frame import Deferred
from ..guard import Verdict
from ..kernels.cuda import on_device
from ..options import Way
from .cpu import on_cpu
from .network import ReducedSRVGG, SRVGGNetCompact, Upscaler, can_reduce, cut, resize, scaled_size

_logger = logging.getLogger("upframe.filters.upscale.tiles")


# Running a network on frames of any size: whole where memory allows, else cut into tiles.
#
# Every tile reads `margin` pixels beyond its own edge and contributes only its own part of the
# result. The size of tiles is estimated from the free memory; where the estimate was too large,
# the allocation fails, the tiles are halved, and the same frame is computed again.

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
            result = unless_out_of_memory(partial(self._assemble, x, edge))
            if result is not None:
                return result
            self._halve(min(edge, max(height, width)), height, width)

    def _assemble(self, x: Tensor, edge: int) -> Tensor:
        """Enlarge in tiles."""
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
            self._edges[height, width] = self.edge_now(height, width)
        edge = self._edges[height, width]
        return min(edge, self._most) if self._most else edge

    def edge_now(self, height: int, width: int) -> int:
        """Find the edge that tiles of such a frame would have by the memory that is free now."""
        return min(self._most or self._fitting_edge(height, width), max(height, width))

    def _fitting_edge(self, height: int, width: int) -> int:
        area = self._fitting_area()
        if height * width <= area:
            return max(height, width)
        return max(isqrt(area) - 2 * self.network.margin, SMALLEST_EDGE)

    def _fitting_area(self) -> int:
        """Find how many pixels of input, margins included, the network should process at once."""
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
        text = "out of memory on a frame of %dx%d: doing it again in tiles of %d pixels"
        _logger.warning(text, width, height, self._most)


class Enlarger:
    """Enlarges single pictures: the network at its own scale, then bicubic to any other.

    Several threads may call it at the same time.

    Args:
        network: in float32; it stays as it is, what computes is a copy.
        device: where to compute, and where the results lie.
        precision: dtype of the convolutions; sums and resizing are in float32.
        tile: the most pixels of a tile's edge; 0 lets memory decide.
        way: how the network is computed on a CPU; the fastest if None.
    """

    def __init__(
        self,
        network: Upscaler,
        device: torch.device,
        precision: torch.dtype = torch.float32,
        *,
        tile: int = 0,
        way: Way | None = None,
    ) -> None:
        self.device = device
        self.num_redone_in_fp32 = 0
        self._lock = threading.Lock()  # of the counter above, and of what is made once
        self._network = network
        self._precision = precision
        self._tile = tile
        self._way: Way | None = way
        self._tiles: dict[tuple[torch.dtype, float], Tiles] = {}  # made when they are needed

    @property
    def num_halved(self) -> int:
        """How often tiles were halved because memory did not suffice."""
        return sum(tiles.num_halved for tiles in tuple(self._tiles.values()))

    def way_at(self, scale: float) -> Way | None:
        """Return how the network is computed where it enlarges by `scale`; None on a card.

        Raises:
            DeviceUnavailable: if this CPU does not have the given way.
        """
        on_cpu = self.device.type == "cpu"
        return self._ready(self._precision, scale).network.way if on_cpu else None

    def check_size(self, width: int, height: int, scale: float) -> None:
        """Make sure that the result alone can fit in memory, before any work.

        Raises:
            TooLarge: if it cannot.
        """
        wanted = scaled_size(width, height, scale)
        needed = self._result_bytes(width, height, scale)
        free = available_bytes(self.device)
        if free is not None and needed > free:
            raise TooLarge(
                f"enlarging {width}x{height} to {wanted[0]}x{wanted[1]} needs "
                f"{needed / GIB:.1f} GiB of memory for a single frame, but {self.device} has "
                f"{free / GIB:.1f} GiB free; ask for a smaller scale"
            )

    def tile_edge(self, width: int, height: int, scale: float) -> int | None:
        """Return the edge of the tiles as memory is now; None where a picture stays whole."""
        edge = self._ready(self._precision, scale).edge_now(height, width)
        return None if edge >= max(width, height) else edge

    def needed_bytes(self, width: int, height: int, scale: float) -> int:
        """Estimate the memory that one picture takes at most: its results and activations."""
        values = width * height * self._network.values_per_pixel
        activations = min(values * self._precision.itemsize, MOST_CPU_BYTES)
        return self._result_bytes(width, height, scale) + activations

    def __call__(self, pixels: Tensor, scale: float) -> Tensor:
        """Enlarge a picture.

        Args:
            pixels: (3, H, W), any float dtype and device, [0, 1].
            scale: how much larger, 1 to 8.

        Returns:
            (3, ⌊H·scale⌋, ⌊W·scale⌋), float32, [0, 1], on the device.

        Raises:
            TooLarge: if it does not fit in memory, not even in the smallest tiles.
            FilterError: if the network returns NaN or Inf, in float32 too.
        """
        return self.deferred(pixels, scale)()

    def deferred(self, pixels: Tensor, scale: float) -> Deferred[Tensor]:
        """Enlarge a picture when it is asked for; its check waits for the device. See `__call__`.

        What is `begun` may be damaged: NaN, or black.
        """
        verdicts: list[Verdict] = []

        def compute() -> Tensor:
            source = self._source(pixels)
            result = self._ready(self._precision, scale)(source)
            verdicts.append(Verdict([result], source))
            return _sized(result, pixels, scale)

        return Deferred(
            lambda: self._run(compute, pixels),
            lambda made: self._run(
                lambda: self._checked(made, verdicts[-1], pixels, scale), pixels
            ),
        )

    def _run(self, work: Callable[[], Tensor], pixels: Tensor) -> Tensor:
        try:
            with torch.inference_mode(), exact_convolutions(self.device), on_device(self.device):
                return work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            _, height, width = pixels.shape
            raise TooLarge(
                f"no memory is left on {self.device} for the enlarged {width}x{height} frame"
            ) from error

    def _checked(self, enlarged: Tensor, verdict: Verdict, pixels: Tensor, scale: float) -> Tensor:
        """Run the network again in float32 where its result is damaged."""
        if not verdict():
            return enlarged
        is_finite = verdict.is_finite
        if self._precision != torch.float32:
            with self._lock:
                self.num_redone_in_fp32 += 1
            result = self._ready(torch.float32, scale)(self._source(pixels))
            is_finite = bool(torch.isfinite(result).all())
            enlarged = _sized(result, pixels, scale)
        # black in float32 is what the network means; NaN and Inf are no picture
        if not is_finite:
            raise FilterError(
                "the upscaling network returned NaN or Inf in fp32 too, for a frame of "
                f"{pixels.shape[2]}x{pixels.shape[1]}: its weights or the frame are damaged"
            )
        return enlarged

    def _source(self, pixels: Tensor) -> Tensor:
        return pixels[None].to(self.device, torch.float32)

    def _ready(self, precision: torch.dtype, scale: float) -> Tiles:
        """Return the network in a precision, by which it enlarges by `scale` or by its own."""
        at_once = can_reduce(self._network, scale)
        key = precision, scale if at_once else self._network.scale
        with self._lock:
            if key not in self._tiles:
                self._tiles[key] = Tiles(self._copied(precision, int(key[1])), self._tile)
            return self._tiles[key]

    def _copied(self, precision: torch.dtype, scale: int) -> Upscaler:
        network: Upscaler = copy.deepcopy(self._network)
        if isinstance(network, SRVGGNetCompact) and scale != network.scale:
            network = ReducedSRVGG(network, scale)
        network.to(self.device, precision)
        # torch's stub of `to` forgets this argument
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if self.device.type == "cuda":
            from .cuda import on_cuda

            return on_cuda(network)
        # what is done again in float32 is too seldom to measure it
        return on_cpu(network, self._way if precision == self._precision else "torch")

    def _result_bytes(self, width: int, height: int, scale: float) -> int:
        """Sum up a frame's results in float32: the network's, resized where needed, clamped."""
        factor = int(scale) if can_reduce(self._network, scale) else self._network.scale
        own = (width * factor, height * factor)
        wanted = scaled_size(width, height, scale)
        num = own[0] * own[1] + (1 if own == wanted else 2) * wanted[0] * wanted[1]
        return num * 3 * torch.float32.itemsize


def _sized(result: Tensor, pixels: Tensor, scale: float) -> Tensor:
    """Bring the network's result for a picture to the size that is wanted, and into [0, 1]."""
    _, height, width = pixels.shape
    return resize(result, *scaled_size(width, height, scale)).clamp_(0, 1)[0]

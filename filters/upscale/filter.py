"""The filter that enlarges every frame with Real-ESRGAN, to any size."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from math import isqrt

import torch
from torch import Tensor

from ..device import GIB, Runtime, available_bytes, exact_convolutions, unless_out_of_memory
from ..errors import FilterError, TooLarge, is_out_of_memory
from ..frame import Counts, Deferred, Frame, Pending, PlannedFilter, StreamInfo
from ..guard import Verdict
from ..kernels.cuda import on_device
from ..options import UpscaleOptions, Way
from ..weights import REAL_ESRGAN, Weights, load, resolve_weights
from .checkpoint import load_upscaler
from .cpu import on_cpu
from .network import ReducedSRVGG, SRVGGNetCompact, Upscaler, can_reduce, cut, resize, scaled_size

# A network made ready to enlarge pictures: on its device, in tiles, and guarded.

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
    """A network that takes frames of any size, by tiles of at most `edge` pixels without margins.

    With 0 memory decides.
    """

    def __init__(self, network: Upscaler, edge: int = 0) -> None:
        self.network = network
        self.num_halved = 0
        """How often memory did not suffice and the tiles were halved."""
        self._most = edge  # 0: no limit known
        self._edges: dict[tuple[int, int], int] = {}  # by size of frame

    def __call__(self, x: Tensor) -> Tensor:
        """Enlarge a picture by the network's scale.

        (1, 3, H, W), float32, on the network's device → (1, 3, H * scale, W * scale), float32, not
        clamped.

        Raises:
            TooLarge: if it does not fit in memory, not even in the smallest tiles.
        """
        height, width = x.shape[2:]
        while True:
            # once for a size of frame: it stays while memory comes and goes
            if (height, width) not in self._edges:
                self._edges[height, width] = self.edge_now(height, width)
            edge = self._edges[height, width]
            edge = min(edge, self._most) if self._most else edge
            result = unless_out_of_memory(partial(self._assemble, x, edge))
            if result is not None:
                return result
            edge = min(edge, max(height, width))
            if edge // 2 < SMALLEST_EDGE:
                raise TooLarge(
                    f"a frame of {width}x{height} does not fit in the memory of "
                    f"{self.network.weight.device}, not even in tiles of {edge} pixels"
                )
            self._most = edge // 2
            self.num_halved += 1
            text = "out of memory on a frame of %dx%d: doing it again in tiles of %d pixels"
            _logger.warning(text, width, height, self._most)

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


class Enlarger:
    """Enlarges single pictures: the network at its own scale, then bicubic to any other.

    Several threads may call it at the same time. The network, in float32, stays as it is: what
    computes on the device is a copy, whose convolutions are of `precision`; sums and resizing are
    in float32. `tile` is the most pixels of a tile's edge, 0 lets memory decide; a `way` of None on
    a CPU is the fastest.
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

        (3, H, W), any float dtype and device, [0, 1] → (3, ⌊H·scale⌋, ⌊W·scale⌋), float32, [0, 1],
        on the device; scale is 1 to 8.

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


COUNTERS = ("upscaled", "reused")


def build_upscale(options: UpscaleOptions, runtime: Runtime) -> tuple[Upscale, Weights]:
    """Find and load the weights that the options name, and build the filter.

    Raises:
        CheckpointRejected: if the file is not an SRVGGNetCompact or RRDBNet.
        WeightsUnavailable: if it is not available.
    """
    weights = resolve_weights(
        options.upscaling_model_path, REAL_ESRGAN, runtime.policy, most_bytes=runtime.most_bytes
    )
    network, way = load(weights, load_upscaler), runtime.ways.get("upscale")
    tile, device = options.upscaling_tile, runtime.device
    enlarger = Enlarger(network, device, runtime.precision, tile=tile, way=way)
    return Upscale(enlarger, options.upscaling_scale), weights


@dataclass(frozen=True, slots=True, eq=False)
class _Enlarged:
    """A frame, and what became of it."""

    source: Frame
    result: Frame
    pixels: Deferred[Tensor]
    """Of the result; its check may replace them."""
    is_reused: bool
    """Whether they are those of the frame before."""


class Upscale(PlannedFilter):
    """Enlarge every frame by a factor of 1 to 8, sizes rounded down; time and flags stay."""

    def __init__(self, enlarger: Enlarger, scale: float) -> None:
        if not 1 <= scale <= 8:
            raise ValueError(f"scale must be from 1 to 8, got {scale}")
        self._enlarger = enlarger
        self._scale = scale
        self._last: Deferred[_Enlarged] | None = None
        self._counts = Counts(COUNTERS)
        self._before = self._counted()
        self.way: Way | None = enlarger.way_at(scale)

    def open(self, info: StreamInfo) -> StreamInfo:
        """Begin a stream; the last frame and the counters of the one before are dropped.

        Raises:
            TooLarge: if one result alone cannot fit in memory.
        """
        self._last = None
        self._counts = Counts(COUNTERS)
        self._before = self._counted()
        self._enlarger.check_size(info.width, info.height, self._scale)
        self.frame_bytes = self._enlarger.needed_bytes(info.width, info.height, self._scale)
        width, height = scaled_size(info.width, info.height, self._scale)
        return replace(info, width=width, height=height)

    def tile_edge(self, width: int, height: int) -> int | None:
        """Return the edge in pixels of the tiles of a frame; None where it stays whole."""
        return self._enlarger.tile_edge(width, height, self._scale)

    def plan(self, pending: Pending) -> tuple[Pending]:
        """Return the frame enlarged; a duplicate gets the result of the frame before it.

        Raises:
            TooLarge: from the frame, if it does not fit in memory, not even in the smallest tiles.
            FilterError: likewise, if the network gives NaN or Inf, in float32 too.
        """
        before = self._last
        made = Deferred(
            lambda: self._begun(pending, before), lambda made: self._checked(made, pending, before)
        )
        self._last = made
        return (Pending(made.then(lambda made: made.result), pending.duplicate),)

    def flush(self) -> tuple[()]:
        """Drop the last frame; nothing is held back."""
        self._last = None
        return ()

    def statistics(self) -> Mapping[str, int]:
        """Count frames enlarged, reused and done again in fp32, and halvings of the tiles."""
        return {
            **self._counts.all(),
            **{name: count - self._before[name] for name, count in self._counted().items()},
        }

    def _counted(self) -> Mapping[str, int]:
        """Return the counters of the enlarger, over all streams since it was made."""
        return {
            "redone_in_fp32": self._enlarger.num_redone_in_fp32,
            "tiles_halved": self._enlarger.num_halved,
        }

    def _begun(self, pending: Pending, before: Deferred[_Enlarged] | None) -> _Enlarged:
        frame, last = pending.frame.begun(), None
        if before is not None:  # only a duplicate is worth waiting for what another thread makes
            last = before.begun() if frame.duplicate else before.peek()
        made = self._made(frame, last)
        self._counts.add("reused" if made.is_reused else "upscaled")
        return made

    def _checked(
        self, made: _Enlarged, pending: Pending, before: Deferred[_Enlarged] | None
    ) -> _Enlarged:
        """Enlarge again what was made of a damaged frame, or is damaged itself."""
        frame = pending.frame()
        last = before() if before is not None and made.is_reused else None
        if frame is not made.source or (last is not None and last.pixels is not made.pixels):
            made = self._made(frame, last)
        pixels = made.pixels()
        if pixels is made.result.pixels:
            return made
        return replace(made, result=replace(made.result, pixels=pixels))

    def _made(self, frame: Frame, last: _Enlarged | None) -> _Enlarged:
        pixels, is_reused = self._enlarger.deferred(frame.pixels, self._scale), False
        if frame.duplicate and last and last.source.pixels.shape == frame.pixels.shape:
            pixels, is_reused = last.pixels, True
        result = replace(frame, pixels=pixels.begun(), alpha=self._alpha(frame, last))
        return _Enlarged(frame, result, pixels, is_reused)

    def _alpha(self, frame: Frame, last: _Enlarged | None) -> Tensor | None:
        """Enlarge alpha as a gray picture, so that its edges agree with those of the pixels."""
        alpha = frame.alpha
        if alpha is None:
            return None
        if last and last.source.alpha is not None and torch.equal(last.source.alpha, alpha):
            return last.result.alpha
        low, high = torch.aminmax(alpha)
        if low == high:  # what is opaque throughout stays exactly so
            width, height = scaled_size(frame.width, frame.height, self._scale)
            return torch.full((1, height, width), float(low), device=self._enlarger.device)
        return self._enlarger(alpha.expand(3, -1, -1), self._scale).mean(0, keepdim=True)

"""The filter that enlarges every frame with Real-ESRGAN, to any size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..device import Runtime
from ..frame import Counts, Deferred, Frame, Pending, PlannedFilter, StreamInfo
from ..options import UpscaleOptions, Way
from ..weights import REAL_ESRGAN, Weights, load, resolve_weights
from .checkpoint import load_upscaler
from .enlarger import Enlarger
from .network import scaled_size

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
    """Enlarge every frame; time and flags stay.

    Args:
        enlarger: does the work; its counters are reported.
        scale: how much larger, 1 to 8; sizes are rounded down.
    """

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

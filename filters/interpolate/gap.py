"""Fill the gap between two frames: which moments are asked of the network, and in which batches.

`recursive` halves every gap at t = 0.5, `exp` times; all pairs of one round are one batch.
`direct` asks for every t = k/2^exp; all of them are one batch. A batch that would need much
memory is computed in parts, and when memory runs out all the same, in smaller parts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ..device import GIB, available_bytes, exact_convolutions, unless_out_of_memory
from ..errors import TooLarge
from ..options import Way
from .cpu import engine_on_cpu
from .network import Engine, IFNet, PlainEngine, pad, padding_multiple

Method = Literal["recursive", "direct"]

_BATCH_PIXELS = {"cpu": 2**19, "cuda": 2**23}
"""Padded pixels in one batch at scale 1: enough to keep the device busy, and no more memory. On
CUDA four pairs of 1920x1080, which plain torch computes in less than 5 GiB."""
_BYTES_PER_PIXEL = (270, 330)
"""Memory for one pair, per padded pixel: at any scale, and times scale². Measured on a CPU in fp32
from 0.5 to 4, where 335, 557, 1591 and 4818 were needed; half precision needs a tenth less."""


class GapFiller:
    """Computes all in-betweens of a gap with one network, in that network's precision."""

    def __init__(
        self, network: IFNet, exp: int, scale: float, method: Method, way: Way | None = None
    ) -> None:
        self._device = network.device
        self._engine = engine_for(network, scale, way)
        self.way: Way | None = self._engine.way
        self._exp = exp
        self._scale = scale
        self._method = method
        pixels = _BATCH_PIXELS.get(network.device.type, _BATCH_PIXELS["cuda"])
        self._batch_pixels = int(pixels / max(1, scale) ** 2)

    def with_exp(self, exp: int) -> GapFiller:
        """Return the same for another exponent; both share the engine and so its weights."""
        other = copy.copy(self)
        other._exp = exp
        return other

    def check_size(self, width: int, height: int) -> None:
        """Make sure that one pair of frames can fit in memory, before any work.

        Raises:
            TooLarge: if it cannot.
        """
        needed = self.needed_bytes(width, height)
        free = available_bytes(self._device)
        if free is not None and needed > free:
            raise TooLarge(
                f"interpolating {width}x{height} at scale {self._scale:g} needs about "
                f"{needed / GIB:.1f} GiB of memory, but {self._device} has "
                f"{free / GIB:.1f} GiB free; a smaller interpolation scale needs less"
            )

    def needed_bytes(self, width: int, height: int) -> int:
        """Estimate the most bytes that one pair of frames needs."""
        multiple = padding_multiple(self._scale)
        padded = (width + -width % multiple) * (height + -height % multiple)
        fixed, growing = _BYTES_PER_PIXEL
        return int(padded * (fixed + growing * self._scale**2))

    def source(self, image: Tensor) -> Tensor:
        """Compute the network's input from one frame, to be kept for both its gaps.

        Args:
            image: (C, H, W), float, [0, 1], any device; C is 3, or 4 with alpha.

        Returns:
            (…, H', W') on the network's device, padded; only this filler reads it.

        Raises:
            TooLarge: if it does not fit in memory.
        """
        with torch.inference_mode(), exact_convolutions(self._device):
            image = image.to(self._device, torch.float32)
            multiple = padding_multiple(self._scale)
            return self._sources([pad(image.unsqueeze(0), multiple)[0]])[0]

    def __call__(self, left: Tensor, right: Tensor, height: int, width: int) -> list[Tensor]:
        """Compute the in-betweens of two frames.

        Args:
            left: `source` of the earlier frame.
            right: `source` of the later frame.
            height: of the frames without padding, pixels.
            width: of the frames without padding, pixels.

        Returns:
            2^exp - 1 times (C, H, W), fp32, in order of time.

        Raises:
            TooLarge: if not even a single pair fits in memory.
        """
        fill = self._recursive if self._method == "recursive" else self._direct
        with torch.inference_mode(), exact_convolutions(self._device):
            return [image[:, :height, :width] for image in fill(left, right, height, width)]

    def _recursive(self, left: Tensor, right: Tensor, height: int, width: int) -> list[Tensor]:
        sources, images = [left, right], list[Tensor]()
        for level in range(self._exp):
            halves = [0.5] * (len(sources) - 1)
            middles = self._middles(sources[:-1], sources[1:], halves)
            images = _alternate(middles, images)
            if level + 1 < self._exp:
                for middle in middles:  # their padding is no part of the picture
                    middle[:, height:] = 0
                    middle[:, :, width:] = 0
                sources = _alternate(sources, self._sources(middles))
        return images

    def _direct(self, left: Tensor, right: Tensor, height: int, width: int) -> list[Tensor]:
        count = 2**self._exp - 1
        times = [index / 2**self._exp for index in range(1, count + 1)]
        return self._middles([left] * count, [right] * count, times)

    def _sources(self, images: list[Tensor]) -> list[Tensor]:
        def sources(part: slice) -> Tensor:
            batch = images[part]  # of a single picture without a copy
            return self._engine.sources(torch.stack(batch) if len(batch) > 1 else batch[0][None])

        return self._in_batches(images, sources)

    def _middles(
        self, lefts: list[Tensor], rights: list[Tensor], times: Sequence[float]
    ) -> list[Tensor]:
        """Compute one in-between per pair, with its padding."""

        def middles(part: slice) -> Tensor:
            return self._engine.middles(lefts[part], rights[part], times[part], self._scale)

        return self._in_batches(lefts, middles)

    def _in_batches(self, items: list[Tensor], compute: Callable[[slice], Tensor]) -> list[Tensor]:
        count, (height, width) = len(items), items[0].shape[-2:]
        results: list[Tensor] = []
        while len(results) < count:
            batch = max(1, self._batch_pixels // (height * width))
            done = len(results)
            part = slice(done, done + batch)
            result = unless_out_of_memory(partial(compute, part))
            if result is not None:
                results += result.unbind()
            elif batch == 1:
                raise TooLarge(f"frames of {width}x{height} (padded) need more memory than is free")
            else:  # the same frames again, in smaller parts, also from now on
                self._batch_pixels = min(batch, count) // 2 * height * width
        return results


def _alternate(outer: list[Tensor], inner: list[Tensor]) -> list[Tensor]:
    """Put one of `inner` between every two of `outer`."""
    merged = outer[:1]
    for between, after in zip(inner, outer[1:], strict=True):
        merged += (between, after)
    return merged


def engine_for(network: IFNet, scale: float, way: Way | None = None) -> Engine:
    """Choose the fastest engine for a network, where it is, in its precision; or that of a way.

    Raises:
        DeviceUnavailable: if a CPU does not have the way.
    """
    if network.device.type == "cpu":
        return engine_on_cpu(network, scale, way)
    if network.device.type == "cuda":
        from .cuda import ProvenEngine, can_use_kernels

        if can_use_kernels(network, scale):
            return ProvenEngine(network, scale)
    return PlainEngine(network)

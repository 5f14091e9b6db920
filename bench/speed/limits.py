"""What the device can do at most: its best convolution, and how fast it copies.

The convolution is the one that the networks consist of, 64 to 64 channels, 3x3, as torch offers
it, at a few sizes and in every layout of memory; the best of them is a network's limit. Its input
is a real picture: on zeros a device clocks higher than on what it will have to work on.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from networks import convolution_flop
from rounds import Variant, runs_for
from torch import Tensor, nn
from torch.nn import functional as F

from upframe.filters.device import exact_convolutions
from upframe.filters.errors import is_out_of_memory

_CHANNELS = 64
_SIZES = {"cpu": ((180, 320), (360, 640)), "cuda": ((360, 640), (720, 1280), (1080, 1920))}
"""Height and width, in pixels."""
_SHORT_SIZES = ((90, 160),)
_READINGS = 5
_HOPELESS = 3.0
"""So many times slower than the best at once is not read again: some take seconds."""
_COPY_BYTES = 256 * 2**20
"""Much more than any cache holds."""
_SHORT_COPY_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Convolution:
    """One way to compute the convolution."""

    precision: str
    size: str
    """Of the pictures, as ``640x360``."""
    layout: str
    flop: int
    run: Callable[[int], float]
    """So many times; gives seconds for all."""

    def as_variant(self) -> Variant:
        """The same, to be interleaved with what it is a limit for."""
        seconds = self.run(1)
        return Variant(f"convolution {self.precision}", self.run, runs_for(seconds))


def timed(device: torch.device, work: Callable[[], object]) -> Callable[[int], float]:
    """Make a clock for some work on a device: runs it so many times, gives seconds for all."""

    def run(count: int) -> float:
        """Give the seconds of `count` times the work, the device waited for."""
        _wait(device)
        began = time.perf_counter()
        with torch.inference_mode(), exact_convolutions(device):
            for _ in range(count):
                work()
        _wait(device)
        return time.perf_counter() - began

    return run


def find_best_convolution(
    picture: Tensor,
    device: torch.device,
    precision: str,
    dtype: torch.dtype,
    *,
    short: bool = False,
) -> Convolution | None:
    """Try sizes and layouts, and give the fastest; None where the device can do none of them.

    Args:
        picture: (3, H, W), [0, 1], a real one.
        device: where.
        precision: as users name it, for the results.
        dtype: of picture and weights.
        short: only see whether it works, at one small size.
    """
    sizes = _SHORT_SIZES if short else _SIZES.get(device.type, _SIZES["cuda"])
    readings = 1 if short else _READINGS
    best: Convolution | None = None
    best_rate = 0.0
    for one in _convolutions(picture, sizes, device, precision, dtype):
        if one.flop / one.run(1) < best_rate / _HOPELESS:
            continue
        rate = one.flop / statistics.median(one.run(1) for _ in range(readings))
        if rate > best_rate:
            best, best_rate = one, rate
    return best


def _convolutions(
    picture: Tensor,
    sizes: Sequence[tuple[int, int]],
    device: torch.device,
    precision: str,
    dtype: torch.dtype,
) -> Iterator[Convolution]:
    """Give every way that works, warm."""
    for height, width in sizes:
        layer = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1).requires_grad_(False)
        flop = convolution_flop(layer.weight) * height * width
        layer = layer.to(device, dtype)
        x = _features(picture, height, width).to(device, dtype)
        for layout, work in _layouts(layer, x, dtype).items():
            run = timed(device, work)
            if _works(run):
                yield Convolution(precision, f"{width}x{height}", layout, flop, run)


def _layouts(layer: nn.Conv2d, x: Tensor, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """The convolution in each layout of memory that torch has."""
    last = torch.channels_last
    last_weight = layer.weight.contiguous(memory_format=last)
    last_x = x.contiguous(memory_format=last)
    ways: dict[str, Callable[[], object]] = {
        "contiguous": lambda: layer(x),
        "channels_last": lambda: F.conv2d(last_x, last_weight, layer.bias, padding=1),
    }
    if x.device.type == "cpu" and torch.backends.mkldnn.is_available() and dtype != torch.float16:
        # blocked as oneDNN likes best, weights and picture beforehand
        parts = (x, layer.weight, layer.bias)
        blocked, weight, bias = (cast("Tensor", part).to_mkldnn(dtype) for part in parts)
        ways["blocked"] = lambda: F.conv2d(blocked, weight, bias, padding=1)
    return ways


def _works(run: Callable[[int], float]) -> bool:
    """Whether torch can compute it here at all: not every layout is there in every precision."""
    try:
        run(1)
    except RuntimeError as error:
        if is_out_of_memory(error) or "implement" in str(error) or "support" in str(error):
            return False
        raise
    return True


def _features(picture: Tensor, height: int, width: int) -> Tensor:
    """64 channels of real content: a picture's, moved by a pixel for every three of them."""
    resized = F.interpolate(picture[None].cpu(), (height, width), mode="bilinear")
    moved = [resized.roll((step, 2 * step), (2, 3)) for step in range(-(-_CHANNELS // 3))]
    return torch.cat(moved, 1)[:, :_CHANNELS].contiguous()


def copy_rates(device: torch.device, *, short: bool = False) -> list[float]:
    """Copy within the device's memory a few times; bytes a second, read and written ones."""
    size = _SHORT_COPY_BYTES if short else _COPY_BYTES
    source = torch.arange(size // 4, dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    run = timed(device, lambda: target.copy_(source))
    run(1)
    return [2 * source.nbytes / run(1) for _ in range(_READINGS)]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

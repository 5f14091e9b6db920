"""A 3x3 convolution, its activation and what follows it, as one kernel on a CUDA card.

Values are fp32 until they are stored. Each call names its plain equivalent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cuda import GuardedKernels, Launch, card_of, launch_of, rows_each

_LEAST_COLUMNS = 16
"""A product of matrices wants at least so many rows and columns."""


kernels = cache(partial(GuardedKernels, f"{__package__}.convolution_kernels"))
_TAPS = 9


@dataclass(frozen=True, slots=True, eq=False)
class Residual:
    """What is added to a result: ``result * gain + to``."""

    to: Tensor
    """(1, C, H, W), channels_last."""
    gain: float


class Convolution:
    """A convolution with its weights laid out for the kernels.

    The layer is 3x3, with padding 1, a bias and a multiple of 32 channels in. `slope` is that of
    negative results: one for all channels, (C,) for each, or None to leave them.
    """

    def __init__(self, layer: nn.Conv2d, slope: Tensor | float | None) -> None:
        weight = layer.weight.detach()
        self.num_out, self.num_in = weight.shape[:2]
        assert layer.bias is not None  # the networks here have one everywhere
        self._padded = max(_LEAST_COLUMNS, 1 << (self.num_out - 1).bit_length())
        packed = weight.permute(2, 3, 1, 0).reshape(_TAPS, self.num_in, self.num_out)
        wide = (0, self._padded - self.num_out)
        self.weight = F.pad(packed, wide).contiguous()
        self.bias = F.pad(layer.bias.detach().float(), wide)
        self.slope = F.pad(_slopes(slope, self.bias, self.num_out), wide)
        self.launch: Launch | None = None
        """Another layout than the one that is chosen by the numbers of channels."""

    def into(self, x: Tensor, out: Tensor, *residuals: Residual, doubled: bool = False) -> Tensor:
        """Convolve one picture into `out`, see :meth:`.cpu_convolution.CompiledConv.into`."""
        return self._run(x, out, residuals, x, 0, int(doubled))

    def with_detail(self, x: Tensor, base: Tensor, out: Tensor, scale: int) -> Tensor:
        """Convolve to details, lay them out as squares and add the enlarged picture.

        Plain: :func:`~upframe.filters.upscale.network.add_detail`.

        Args:
            x: (1, C, H, W), channels_last.
            base: (1, 3, H, W), float32, of any strides.
            out: (1, 3, H * scale, W * scale), float32, contiguous.
            scale: edge of the squares, a power of two; there are 3 * scale² output channels.
        """
        return self._run(x, out, (), base, scale, 0)

    def _run(
        self,
        x: Tensor,
        out: Tensor,
        residuals: tuple[Residual, ...],
        base: Tensor,
        scale: int,
        up: int,
    ) -> Tensor:
        height, width = x.shape[2] << up, x.shape[3] << up
        first, second = (*residuals, *[Residual(out, 1.0)] * 2)[:2]
        strides = [0 if scale else _stride(each) for each in (out, first.to, second.to)]
        card = card_of(x.device)
        how = self.launch or launch_of(self.num_in, self._padded, card)
        rows = rows_each(width, height, how.columns, card.num_processors)
        kernels().convolve_rows[-(-width // how.columns), -(-height // rows)](
            x, self.weight, self.bias, self.slope, out, first.to, second.to, base,
            width, height, rows, _stride(x), *strides,
            base.stride(1), base.stride(2), base.stride(3), first.gain, second.gain,
            IN=self.num_in, OUT=self.num_out, PADDED=self._padded, COLUMNS=how.columns,
            BLOCK=how.block, SCALE=scale, RESIDUALS=len(residuals), UP=up, RESIDENT=how.is_resident,
            # laying out details takes registers, and the memory that a second stage would take
            num_warps=how.num_warps, num_stages=1 if scale and how.is_resident else how.num_stages,
        )  # fmt: skip
        return out


class FirstConvolution:
    """The convolution from the three channels of a picture; see :class:`Convolution`."""

    def __init__(self, layer: nn.Conv2d, slope: Tensor | float | None) -> None:
        weight = layer.weight.detach()
        assert layer.bias is not None
        self.num_out = weight.shape[0]
        self.weight = F.pad(weight.flatten(1).T, (0, 0, 0, 32 - 27)).contiguous()
        self.bias = layer.bias.detach().float()
        self.slope = _slopes(slope, self.bias, self.num_out)

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """Convolve (1, 3, H, W) of any float dtype and strides; out: channels_last."""
        height, width = x.shape[2:]
        pixels = 128
        kernels().first_of_three[(-(-height * width // pixels),)](
            x, self.weight, self.bias, self.slope, out, width, height * width,
            x.stride(1), x.stride(2), x.stride(3), height,
            PADDED=self.num_out, PIXELS=pixels, num_warps=4, num_stages=1,
        )  # fmt: skip
        return out


def fits(layer: nn.Conv2d) -> bool:
    """Return whether :class:`Convolution` can stand for a layer."""
    return layer.in_channels % 32 == 0 and layer.bias is not None and layer.out_channels <= 128


def empty_channels_last(
    channels: int, height: int, width: int, like: Tensor, num: int = 1
) -> Tensor:
    """Allocate an uninitialised (N, C, H, W) tensor in channels_last layout."""
    return like.new_empty(num, height, width, channels).permute(0, 3, 1, 2)


def _stride(x: Tensor) -> int:
    """Find how far one pixel lies from the next."""
    stride = x.stride(3)
    # a single column or row may have any stride: what the tensor was cut from is not known then
    assert x.stride(1) == 1, f"channels must lie together, got strides {x.stride()}"
    assert x.shape[2] == 1 or x.stride(2) == stride * x.shape[3]
    return stride


def _slopes(slope: Tensor | float | None, like: Tensor, num: int) -> Tensor:
    if isinstance(slope, Tensor):
        return slope.detach().float()
    return like.new_full((num,), 1.0 if slope is None else slope)


# Linear maps along an axis, read off the plain functions that do them: these stay the only place
# where a kernel's weights and its edges are written down.

_IMPULSES = 512
"""Samples that are sent through a function at once."""


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

    The function, (N, size), float32 → (N, results), runs on the CPU, though the band will lie on
    `device`: its matrix is larger than a picture, which a small card has no memory for.
    """
    columns: list[Tensor] = []
    for first in range(0, size, _IMPULSES):
        last = min(first + _IMPULSES, size)
        impulses = torch.zeros(last - first, size, device="cpu")
        impulses.diagonal(first).fill_(1)
        columns.append(function(impulses))
    matrix = torch.cat(columns)  # (size, results)
    there = (matrix != 0).to(torch.uint8)
    starts, ends = there.argmax(0), size - there.flip(0).argmax(0)  # first and last one of each
    num_taps = int((ends - starts).amax())
    starts = starts.clamp(max=size - num_taps)
    taps = starts + torch.arange(num_taps, device="cpu")[:, None]
    weights = matrix.gather(0, taps).T.contiguous()
    return Band(starts.int().to(device), weights.to(device))


def identity(size: int, device: torch.device) -> Band:
    """Make the band that changes nothing."""
    starts = torch.arange(size, dtype=torch.int32, device=device)
    return Band(starts, torch.ones(size, 1, device=device))

"""The convolutions of the interpolation network as a CUDA card likes them.

Channels come in multiples of eight, with zeros where there are none, in the order in which `glue`
writes and reads them. Each layer is computed by cuDNN, or by a kernel that ends with the activation
where that is faster. Not yet seen on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cuda.launching import card_of
from .choice import Faster
from .glue import DETAIL_ORDER, FIRST_ORDER, LAST_CHANNELS, NEXT_ORDER
from .network import SLOPE, Block, Encoder

_PIXELS = (128, 64)
"""Of one program: on many pixels, on few."""
_MOST_CHANNELS = 64
"""Of one program's result."""
_MOST_BLOCK = 64
"""Channels that are read at once."""


class Kernels(Protocol):
    """The module `layer_kernels`, whose functions are called as ``kernel[grid](…)``."""

    convolve: Any
    convolve_colors: Any


@cache
def kernels() -> Kernels:
    """Import the kernels.

    Raises:
        ImportError: where Triton is missing.
    """
    from . import layer_kernels as module

    return cast("Kernels", module)


class Convolution(Faster):
    """A 3x3 convolution with padding 1, and its leaky ReLU where there is one.

    Takes (N, C, h, w), gives (N, C', h/stride, w/stride), channels lying together.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, *, stride: int = 1, leaky: bool = True
    ) -> None:
        super().__init__(self._plain, self._kernel)
        self._weight = weight.contiguous(memory_format=torch.channels_last)
        self._packed = weight.permute(2, 3, 1, 0).contiguous()  # (3, 3, in, out)
        self._bias, self._stride, self._leaky = bias, stride, leaky

    def _plain(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self._weight, self._bias, self._stride, padding=1)
        return F.leaky_relu_(x, SLOPE) if self._leaky else x

    def _kernel(self, x: Tensor) -> Tensor:
        count, _, height, width = x.shape
        size = height // self._stride, width // self._stride
        out = _together(x, count, len(self._bias), *size)
        _convolve(x, self._packed, self._bias, out, size, stride=self._stride, leaky=self._leaky)
        return out


class Doubling(Faster):
    """A transposed 4x4 convolution with stride 2 and padding 1.

    Takes (N, C, h, w), gives (N, C', 2h, 2w), channels lying together.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__(self._plain, self._kernel)
        self._weight = weight.contiguous(memory_format=torch.channels_last)
        self._packed = _by_pixel(weight)
        self._bias = bias

    def _plain(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self._weight, self._bias, stride=2, padding=1)

    def _kernel(self, x: Tensor) -> Tensor:
        count, _, height, width = x.shape
        out = _together(x, count, len(self._bias), 2 * height, 2 * width)
        _convolve(x, self._packed, self._bias, out, (height, width), doubling=True)
        return out


class ColorConvolution(Faster):
    """The first convolution of frames, 3x3 with stride 2, and its leaky ReLU.

    Takes (N, 3 or 4, H, W), fp32, contiguous, gives (N, C', H/2, W/2), channels lying together.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(self._plain, self._kernel)
        assert layer.bias is not None
        weight = layer.weight.detach()
        self._wide = _widened(layer, (0, 1, 2, *[-1] * 5))
        self._packed = F.pad(weight.flatten(1).T, (0, 0, 0, 32 - 27)).contiguous()
        self._bias = layer.bias.detach()

    def _plain(self, images: Tensor) -> Tensor:
        count, _, height, width = images.shape
        x = self._bias.new_zeros(count, height, width, 8).permute(0, 3, 1, 2)
        x[:, :3] = images[:, :3]
        return self._wide.plain(x)

    def _kernel(self, images: Tensor) -> Tensor:
        count, planes, height, width = images.shape
        out = _together(self._bias, count, len(self._bias), height // 2, width // 2)
        num_pixels = count * (height // 2) * (width // 2)
        kernels().convolve_colors[(-(-num_pixels // _PIXELS[0]),)](
            images, self._packed, self._bias, out, planes, height, width, num_pixels,
            CHANNELS=len(self._bias), PIXELS=_PIXELS[0], num_warps=4,
        )  # fmt: skip
        return out


class EncoderLayers:
    """Features of frames: see :class:`.network.Encoder`."""

    def __init__(self, encoder: Encoder) -> None:
        self.layers = [
            ColorConvolution(encoder.cnn0),
            _of(encoder.cnn1),
            _of(encoder.cnn2),
            _as_convolution(encoder.cnn3),
        ]

    def __call__(self, images: Tensor) -> Tensor:
        """Give the features of four pixels together.

        Args:
            images: (N, 3 or 4, H, W), fp32, contiguous.

        Returns:
            (N, 16, H/2, W/2): the four pixels of a square in reading order, four features each.
        """
        x = images
        for layer in self.layers:
            x = layer(x)
        return x


class BlockLayers:
    """One refinement: see :class:`.network.Block`."""

    def __init__(self, block: Block, index: int, num_blocks: int) -> None:
        convs = [cast("nn.Conv2d", conv) for conv in (*block.conv0, *block.convblock)]
        first = _widened(convs[0], NEXT_ORDER if index else FIRST_ORDER)
        is_last = index == num_blocks - 1
        order = DETAIL_ORDER[:LAST_CHANNELS] if is_last else DETAIL_ORDER
        self.layers = [first, *map(_of, convs[1:]), _pixel_by_pixel(block.lastconv, order)]

    def __call__(self, x: Tensor) -> Tensor:
        """Turn what `glue` made, (N, C, h, w), into a detail, (N, 64 or 32, h/2, w/2)."""
        for layer in self.layers:
            x = layer(x)
        return x


def _convolve(
    x: Tensor,
    packed: Tensor,
    bias: Tensor,
    out: Tensor,
    size: tuple[int, int],
    *,
    stride: int = 1,
    leaky: bool = False,
    doubling: bool = False,
) -> None:
    count, num_in, height, width = x.shape
    num_pixels, num_out = count * size[0] * size[1], len(bias)
    channels = math.gcd(num_out, _MOST_CHANNELS)
    phases = 4 if doubling else 1
    tiles = -(-num_pixels // _PIXELS[0]) * (num_out // channels) * phases
    is_small = tiles < 2 * card_of(x.device).num_processors
    pixels = _PIXELS[1] if is_small else _PIXELS[0]
    kernels().convolve[(-(-num_pixels // pixels), num_out // channels, phases)](
        x, packed, bias, out, height, width, *size, num_pixels, num_in, num_out, stride,
        BLOCK=math.gcd(num_in, _MOST_BLOCK), CHANNELS=channels, PIXELS=pixels,
        DOUBLING=doubling, LEAKY=leaky, num_warps=4, num_stages=3,
    )  # fmt: skip


def _together(like: Tensor, count: int, channels: int, height: int, width: int) -> Tensor:
    """Make (N, C, h, w), not filled, whose channels lie together."""
    return like.new_empty(count, height, width, channels).permute(0, 3, 1, 2)


def _of(layer: nn.Conv2d) -> Convolution:
    assert layer.bias is not None
    return Convolution(layer.weight.detach(), layer.bias.detach(), stride=layer.stride[0])


def _widened(layer: nn.Conv2d, order: Sequence[int]) -> Convolution:
    """Take input channels in another order, with zeros for -1."""
    assert layer.bias is not None
    weight = _picked(layer.weight.detach(), 1, order)
    return Convolution(weight, layer.bias.detach(), stride=layer.stride[0])


def _pixel_by_pixel(last: nn.ConvTranspose2d, order: Sequence[int]) -> Doubling:
    """Order outputs, four pixels of each channel, so that a pixel's channels lie together."""
    assert last.bias is not None
    inputs, outputs = last.weight.shape[:2]
    weight = last.weight.detach().view(inputs, outputs // 4, 4, 4, 4).transpose(1, 2)
    bias = last.bias.detach().view(-1, 4).T
    return Doubling(_picked(weight, 2, order).flatten(1, 2), _picked(bias, 1, order).flatten())


def _as_convolution(last: nn.ConvTranspose2d) -> Convolution:
    """Turn a transposed convolution, 4x4 with stride 2, into one that gives the four pixels."""
    inputs, outputs = last.weight.shape[:2]
    weight = last.weight.new_zeros(2, 2, outputs, inputs, 3, 3)
    taps = ((0, -1, 3), (0, 0, 1), (1, 0, 2), (1, 1, 0))  # side of the pixel, offset, kernel's row
    for down, dy, ky in taps:
        for right, dx, kx in taps:
            weight[down, right, :, :, dy + 1, dx + 1] = last.weight.detach()[:, :, ky, kx].T
    assert last.bias is not None
    bias = last.bias.detach().repeat(4)
    return Convolution(weight.view(4 * outputs, inputs, 3, 3), bias, leaky=False)


def _by_pixel(weight: Tensor) -> Tensor:
    """Take a transposed kernel, (in, out, 4, 4), apart: (4 pixels, 4 taps, in, out)."""
    rows = torch.tensor(((3, 1), (2, 0)), device=weight.device)  # of each side's two taps
    picked = weight[:, :, rows[:, None, :, None], rows[None, :, None, :]]
    return picked.permute(2, 3, 4, 5, 0, 1).flatten(2, 3).flatten(0, 1).contiguous()


def _picked(values: Tensor, axis: int, order: Sequence[int]) -> Tensor:
    """Take what lies at some places of an axis; zeros for -1."""
    places = torch.tensor(order, device=values.device)
    picked = values.index_select(axis, places.clamp(min=0))
    shape = [1] * values.ndim
    shape[axis] = -1
    return picked * (places >= 0).view(shape).to(values.dtype)

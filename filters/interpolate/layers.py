"""The convolutions of the interpolation network as a CUDA card likes them.

Channels come in multiples of eight, with zeros where there are none, in the order in which `glue`
writes and reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .glue import DETAIL_ORDER, FIRST_ORDER, LAST_CHANNELS, NEXT_ORDER
from .network import SLOPE, Block, Encoder


class Convolution:
    """A 3x3 convolution with padding 1, and its leaky ReLU where there is one."""

    def __init__(
        self, weight: Tensor, bias: Tensor, *, stride: int = 1, leaky: bool = True
    ) -> None:
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        self.bias = bias
        self.stride, self.leaky = stride, leaky

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, h, w) → (N, C', h/stride, w/stride), channels lying together."""
        x = F.conv2d(x, self.weight, self.bias, self.stride, padding=1)
        return F.leaky_relu_(x, SLOPE) if self.leaky else x


class Doubling:
    """A transposed 4x4 convolution with stride 2 and padding 1."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, h, w) → (N, C', 2h, 2w), channels lying together."""
        return F.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=1)


class EncoderLayers:
    """Features of frames: see :class:`.network.Encoder`."""

    def __init__(self, encoder: Encoder) -> None:
        self._layers = [
            _widened(encoder.cnn0, (0, 1, 2, *[-1] * 5)),
            _of(encoder.cnn1),
            _of(encoder.cnn2),
            _as_convolution(encoder.cnn3),
        ]

    def __call__(self, images: Tensor) -> Tensor:
        """Give the features of four pixels together.

        Args:
            images: (N, 3 or 4, H, W), fp32.

        Returns:
            (N, 16, H/2, W/2): the four pixels of a square in reading order, four features each.
        """
        count, _, height, width = images.shape
        weight = self._layers[0].weight
        x = weight.new_zeros(count, height, width, 8).permute(0, 3, 1, 2)
        x[:, :3] = images[:, :3]
        for layer in self._layers:
            x = layer(x)
        return x


class BlockLayers:
    """One refinement: see :class:`.network.Block`."""

    def __init__(self, block: Block, index: int, num_blocks: int) -> None:
        convs = [cast("nn.Conv2d", conv) for conv in (*block.conv0, *block.convblock)]
        first = _widened(convs[0], NEXT_ORDER if index else FIRST_ORDER)
        is_last = index == num_blocks - 1
        order = DETAIL_ORDER[:LAST_CHANNELS] if is_last else DETAIL_ORDER
        self._layers = [first, *map(_of, convs[1:]), _pixel_by_pixel(block.lastconv, order)]

    def __call__(self, x: Tensor) -> Tensor:
        """Turn what `glue` made, (N, C, h, w), into a detail, (N, 64 or 32, h/2, w/2)."""
        for layer in self._layers:
            x = layer(x)
        return x


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


def _picked(values: Tensor, axis: int, order: Sequence[int]) -> Tensor:
    """Take what lies at some places of an axis; zeros for -1."""
    places = torch.tensor(order, device=values.device)
    picked = values.index_select(axis, places.clamp(min=0))
    shape = [1] * values.ndim
    shape[axis] = -1
    return picked * (places >= 0).view(shape).to(values.dtype)

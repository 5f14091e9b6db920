"""The dense blocks of an `RRDBNet`, where each convolution writes where the next one reads.

A dense block uses one tensor, as wide as the input of its last convolution; each convolution writes
its channels after those that it has read, so nothing is concatenated. Three such tensors alternate,
because a block ends with its own input added. The kernels of CPUs and of CUDA cards share this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..kernels.convolution import Convolution, Residual, empty_channels_last
from ..kernels.winograd import CompiledConv
from .network import RESIDUAL, SLOPE, DenseBlock, ResidualBlock, RRDBNet

Make = Callable[[nn.Conv2d, float | None], Convolution | CompiledConv]
"""Makes a convolution by a kernel."""


class DenseTrunk:
    """An `RRDBNet`, all but its last convolution.

    Args:
        network: its weights are used.
        make: returns the kernel of a layer; its slope of negative values, or None, comes second.
    """

    def __init__(self, network: RRDBNet, make: Make) -> None:
        blocks = [cast("ResidualBlock", block) for block in network.body]
        self._first = network.conv_first
        self._blocks = [
            [_Dense(part, make) for part in (block.rdb1, block.rdb2, block.rdb3)]
            for block in blocks
        ]
        self._after = make(network.conv_body, None)
        self._up = [make(layer, SLOPE) for layer in (network.conv_up1, network.conv_up2)]
        self._smooth = make(network.conv_hr, SLOPE)

    @property
    def num_values(self) -> int:
        """Values for each pixel that `features` allocates."""
        return 3 * self._blocks[0][0].width + self._after.num_out

    def features(self, x: Tensor) -> Tensor:
        """(1, 3 * folding², h, w) → (1, num_feat, h, w), channels_last."""
        first = self._first(x)
        num_feat, height, width = first.shape[1:]
        wide = self._blocks[0][0].width
        buffers = [empty_channels_last(wide, height, width, first) for _ in range(3)]
        buffers[0][:, :num_feat] = first
        for block in self._blocks:
            _run_block(block, buffers, num_feat)
        out = empty_channels_last(num_feat, height, width, first)
        return self._after.into(buffers[0][:, :num_feat], out, Residual(first, 1.0))

    def enlarged(self, x: Tensor) -> Tensor:
        """(1, num_feat, h, w) → (1, num_feat, 4h, 4w), channels_last, for the last convolution."""
        for layer in self._up:
            num, channels, height, width = x.shape
            assert num == 1
            out = empty_channels_last(channels, 2 * height, 2 * width, x)
            x = layer.into(x, out, doubled=True)
        return self._smooth.into(x, torch.empty_like(x))


class _Dense:
    """The five convolutions of a dense block."""

    def __init__(self, block: DenseBlock, make: Make) -> None:
        grow = (block.conv1, block.conv2, block.conv3, block.conv4)
        self._grow = [make(layer, SLOPE) for layer in grow]
        self._last = make(block.conv5, None)
        self.width = block.conv5.in_channels

    def __call__(self, seen: Tensor, out: Tensor, *residuals: Residual) -> None:
        """Fill `seen`, whose first channels are the input, and write the result."""
        for layer in self._grow:
            end = layer.num_in + layer.num_out
            layer.into(seen[:, : layer.num_in], seen[:, layer.num_in : end])
        self._last.into(seen, out, *residuals)


def _run_block(parts: Sequence[_Dense], buffers: Sequence[Tensor], num_feat: int) -> None:
    """Run three dense blocks; input and result are the first channels of the first buffer."""
    a, b, c = (buffer[:, :num_feat] for buffer in buffers)
    parts[0](buffers[0], b, Residual(a, RESIDUAL))
    parts[1](buffers[1], c, Residual(b, RESIDUAL))
    # in place is safe: each pixel of a is only added to itself
    parts[2](buffers[2], a, Residual(c, RESIDUAL), Residual(a, RESIDUAL))

"""RRDBNet by kernels that write where the next one reads: nothing is put together by copying.

A dense block works in one tensor, as wide as all that its last convolution sees; each convolution
writes its channels behind those that it has read. Three such tensors take turns, because a block
ends with its own input added. The trunk is started as one graph where it fits; what that gives is
read by the tail before the next frame. Not yet seen on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..cuda.convolution import Convolution, Residual, channels_together, fits
from ..cuda.graphs import Graphs
from .network import Upscaler
from .rrdb import RESIDUAL, SLOPE, Block, DenseBlock, RRDBNet, enlarged_in_bands


def can_fuse_blocks(network: Upscaler) -> bool:
    """Tell whether the kernels can stand for the layers of a network."""
    if not isinstance(network, RRDBNet):
        return False
    layers = [layer for layer in network.body.modules() if isinstance(layer, nn.Conv2d)]
    return bool(layers) and all(fits(layer) for layer in (*layers, network.conv_up1))


class FusedRRDB(Upscaler):
    """An `RRDBNet`; see above.

    Args:
        network: on its device and in its dtype; its attributes and weights are shared.
    """

    def __init__(self, network: RRDBNet) -> None:
        super().__init__()
        self.plain = network
        self.take_form_of(network)
        blocks = [cast("Block", block) for block in network.body]
        self._blocks = [[_Dense(part) for part in _parts(block)] for block in blocks]
        self._width = self._blocks[0][0].width
        self._after = Convolution(network.conv_body, None)
        self._up = [Convolution(layer, SLOPE) for layer in (network.conv_up1, network.conv_up2)]
        self._smooth = Convolution(network.conv_hr, SLOPE)
        self._graphs = Graphs(self._trunk)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge (N, 3, H, W) float32; see :class:`Upscaler`."""
        made = [enlarged_in_bands(self, self._graphs, self._tail, one[None]) for one in x]
        return made[0] if len(made) == 1 else torch.cat(made)

    def _trunk(self, x: Tensor) -> Tensor:
        first = self.plain.conv_first(x)
        num_feat, height, width = first.shape[1:]
        buffers = [channels_together(self._width, height, width, first) for _ in range(3)]
        buffers[0][:, :num_feat] = first
        for block in self._blocks:
            _run_block(block, buffers, num_feat)
        out = channels_together(num_feat, height, width, first)
        return self._after(buffers[0][:, :num_feat], out, near=Residual(first, 1.0))

    def _tail(self, x: Tensor) -> Tensor:
        for layer in self._up:
            num, channels, height, width = x.shape
            assert num == 1
            x = layer(x, channels_together(channels, 2 * height, 2 * width, x), doubled=True)
        return self.plain.conv_last(self._smooth(x, torch.empty_like(x)))


class _Dense:
    """The five convolutions of a dense block."""

    def __init__(self, block: DenseBlock) -> None:
        grow = (block.conv1, block.conv2, block.conv3, block.conv4)
        self._grow = [Convolution(layer, SLOPE) for layer in grow]
        self._last = Convolution(block.conv5, None)
        self.width = block.conv5.in_channels

    def __call__(
        self, seen: Tensor, out: Tensor, near: Residual, far: Residual | None = None
    ) -> None:
        """Fill up `seen`, whose first channels are the input, and write the result."""
        for layer in self._grow:
            end = layer.num_in + layer.num_out
            layer(seen[:, : layer.num_in], seen[:, layer.num_in : end])
        self._last(seen, out, near=near, far=far)


def _run_block(parts: Sequence[_Dense], buffers: Sequence[Tensor], num_feat: int) -> None:
    """Run three dense blocks; input and result are the first channels of the first buffer."""
    a, b, c = (buffer[:, :num_feat] for buffer in buffers)
    parts[0](buffers[0], b, Residual(a, RESIDUAL))
    parts[1](buffers[1], c, Residual(b, RESIDUAL))
    # what is overwritten is read by nobody else: each pixel of a is added to itself
    parts[2](buffers[2], a, Residual(c, RESIDUAL), Residual(a, RESIDUAL))


def _parts(block: Block) -> tuple[DenseBlock, ...]:
    return block.rdb1, block.rdb2, block.rdb3

"""RRDBNet: residual-in-residual dense blocks, then two doublings of the size.

Sources: Wang et al. 2018, ESRGAN, section 3.1; Wang et al. 2021, Real-ESRGAN, section 3.4 (for
enlarging by 2 and 1 the picture is first folded into a smaller one with more channels).
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .network import Upscaler
from .spans import cut

NUM_IN_BY_SCALE = {4: 3, 2: 12, 1: 48}
"""Channels of the first convolution: 3 times the square of the folding."""

SLOPE = 0.2
"""Of negative values."""
RESIDUAL = 0.2
"""What of a block's result is added to its input."""
_MARGIN_OF_ONE_BLOCK = 26.5

# The tail works on 16 times as many pixels as the trunk, but sees only two pixels around: it is
# run in bands of rows, exactly, so that the trunk alone decides about memory.
_TAIL_MARGIN = 2
_BAND_PIXELS = 1 << 16
_MIN_BAND_ROWS = 32


class RRDBNet(Upscaler):
    """A trunk of blocks at the (folded) input's size, enlarged by 4 behind it.

    Args:
        num_feat: channels of the trunk.
        num_block: blocks of three dense blocks each.
        num_grow: channels that each convolution of a dense block adds.
        scale: 4, 2 or 1.
    """

    def __init__(self, num_feat: int, num_block: int, num_grow: int, scale: int) -> None:
        super().__init__()
        self.conv_first = _conv(NUM_IN_BY_SCALE[scale], num_feat)
        self.body = nn.Sequential(*(Block(num_feat, num_grow) for _ in range(num_block)))
        self.conv_body = _conv(num_feat, num_feat)
        self.conv_up1 = _conv(num_feat, num_feat)
        self.conv_up2 = _conv(num_feat, num_feat)
        self.conv_hr = _conv(num_feat, num_feat)
        self.conv_last = _conv(num_feat, 3)
        self.scale = scale
        self.multiple = 4 // scale
        self.margin = _margin(num_block) * self.multiple
        folded = 5 * num_feat + 8 * num_grow + 96  # in a dense block; and the float32 result
        self.values_per_pixel = -(-folded // self.multiple**2)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge (N, 3, H, W) float32; see :class:`Upscaler`."""
        return enlarged_in_bands(self, self._trunk, self._tail, x)

    def _trunk(self, x: Tensor) -> Tensor:
        """(N, 3 * folding², h, w) → (N, num_feat, h, w)."""
        first = self.conv_first(x)
        return first + self.conv_body(self.body(first))

    def _tail(self, x: Tensor) -> Tensor:
        """(N, num_feat, h, w) → (N, 3, 4h, 4w)."""
        y = _leaky(self.conv_up1(_doubled(x)))
        y = _leaky(self.conv_up2(_doubled(y)))
        return self.conv_last(_leaky(self.conv_hr(y)))


class Block(nn.Module):
    """Three dense blocks and a scaled residual around them."""

    def __init__(self, num_feat: int, num_grow: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(num_feat, num_grow)
        self.rdb2 = DenseBlock(num_feat, num_grow)
        self.rdb3 = DenseBlock(num_feat, num_grow)

    def forward(self, x: Tensor) -> Tensor:
        """(N, num_feat, h, w) → the same shape."""
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=RESIDUAL)


class DenseBlock(nn.Module):
    """Five convolutions; each sees the input and the outputs of all before it."""

    def __init__(self, num_feat: int, num_grow: int) -> None:
        super().__init__()
        self.conv1 = _conv(num_feat, num_grow)
        self.conv2 = _conv(num_feat + num_grow, num_grow)
        self.conv3 = _conv(num_feat + 2 * num_grow, num_grow)
        self.conv4 = _conv(num_feat + 3 * num_grow, num_grow)
        self.conv5 = _conv(num_feat + 4 * num_grow, num_feat)

    def forward(self, x: Tensor) -> Tensor:
        """(N, num_feat, h, w) → the same shape."""
        seen = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen = torch.cat((seen, _leaky(conv(seen))), 1)
        return torch.add(x, self.conv5(seen), alpha=RESIDUAL)


def enlarged_in_bands(
    network: Upscaler,
    trunk: Callable[[Tensor], Tensor],
    tail: Callable[[Tensor], Tensor],
    x: Tensor,
) -> Tensor:
    """Run a trunk at the folded size, then a tail that enlarges by 4, in bands of rows.

    Args:
        network: whose scale, folding and dtype it is.
        trunk: (N, 3 * folding², h, w), channels lying together → (N, C, h, w).
        tail: (N, C, rows, w) → (N, 3, 4 * rows, 4 * w).
        x: (N, 3, H, W), float32.
    """
    num, _, height, width = x.shape
    folded = F.pixel_unshuffle(pad_to_multiple(x, network.multiple), network.multiple)
    features = trunk(folded.to(network.weight.dtype, memory_format=torch.channels_last))
    rows, columns = features.shape[2:]
    result = x.new_empty(num, 3, 4 * rows, 4 * columns)
    for band in cut(rows, max(_BAND_PIXELS // columns, _MIN_BAND_ROWS), _TAIL_MARGIN):
        enlarged = tail(features[:, :, band.seen_from : band.seen_to])
        result[:, :, 4 * band.start : 4 * band.stop] = enlarged[:, :, band.own(4)]
    return result[:, :, : height * network.scale, : width * network.scale].contiguous()


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad right and below to a multiple, by reflection; by the border where x is too small."""
    right, below = -x.shape[3] % multiple, -x.shape[2] % multiple
    if right:
        x = F.pad(x, (0, right, 0, 0), "reflect" if right < x.shape[3] else "replicate")
    if below:
        x = F.pad(x, (0, 0, 0, below), "reflect" if below < x.shape[2] else "replicate")
    return x


def _margin(num_block: int) -> int:
    """Choose how many folded pixels a tile must see around itself.

    Every one of a block's 15 convolutions sees a pixel further, but hardly anything comes from
    that far: with the published weights of 6 blocks tiles differ from the whole by 4/255 at 32
    pixels, 1/255 at 48 and 0.01/255 at 64, on video frames. What spreads in many random steps
    spreads with the square root of their number.
    """
    exact = 15 * num_block + 2 + _TAIL_MARGIN
    return min(exact, ceil(_MARGIN_OF_ONE_BLOCK * sqrt(num_block)))


def _conv(num_in: int, num_out: int) -> nn.Conv2d:
    return nn.Conv2d(num_in, num_out, 3, padding=1)


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu_(x, SLOPE)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")

"""The networks that enlarge, and what tiles and filter need to know about each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil, floor, sqrt
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels.convolution import Convolution, Residual, empty_channels_last
from ..kernels.cpu_convolution import CompiledConv
from ..options import Way


class Upscaler(nn.Module):
    """Base of the networks: R'G'B' in, R'G'B' `scale` times as large out.

    A subclass sets the attributes and defines `forward`, which accepts (N, 3, H, W) float32 of any
    size, [0, 1], and returns (N, 3, H * scale, W * scale) float32, not clamped. Convolutions are
    computed in the dtype of the weights.
    """

    scale: int
    """Pixels of the result for each of the input, in each direction."""
    margin: int
    """Pixels of the input beyond its own edge that a tile must see to fit its neighbours."""
    multiple: int
    """Tiles must begin at a multiple of this."""
    values_per_pixel: int
    """The most activation values that are alive at once, for each pixel of the input."""
    way: Way = "torch"
    """How it is computed on a CPU."""

    def take_form_of(self, other: Upscaler) -> None:
        """Set the attributes to those of the network that this one stands for."""
        self.scale, self.margin = other.scale, other.margin
        self.multiple, self.values_per_pixel = other.multiple, other.values_per_pixel

    @property
    def weight(self) -> Tensor:
        """Any one weight: its dtype and device are those of the network."""
        return next(self.parameters())


# SRVGGNetCompact: a plain stack of convolutions at the input's size that adds detail to it.
#
# Source: Wang et al. 2021, Real-ESRGAN; the compact network of its release 0.2.5.


class SRVGGNetCompact(Upscaler):
    """Convolutions with PReLU, then each pixel's detail is laid out as a square of pixels.

    There are `num_conv` convolutions of `num_feat` channels; one more comes before and behind.
    """

    def __init__(self, num_feat: int, num_conv: int, scale: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for num_in in (3, *[num_feat] * num_conv):
            layers += [nn.Conv2d(num_in, num_feat, 3, padding=1), nn.PReLU(num_feat)]
        layers.append(nn.Conv2d(num_feat, 3 * scale**2, 3, padding=1))
        self.body = nn.Sequential(*layers)
        self.scale = scale
        self.margin = num_conv + 2  # each convolution sees one pixel further: tiles are exact
        self.multiple = 1
        # a layer's input and output; behind the last one also the float32 result
        self.values_per_pixel = max(2 * num_feat, num_feat + 3 * scale**2) + 6 * scale**2

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge (N, 3, H, W) float32; see :class:`Upscaler`."""
        detail = self.body(x.to(self.weight.dtype, memory_format=torch.channels_last))
        return add_detail(x, detail, self.scale)  # detail: (N, 3 * scale², H, W)


def add_detail(x: Tensor, detail: Tensor, scale: int) -> Tensor:
    """Enlarge x to squares of equal pixels and add to each pixel its own detail.

    The same as ``pixel_shuffle(detail) + interpolate(x, mode="nearest")``, in one pass and with the
    sum in float32 whatever the detail was computed in. (N, 3, H, W), float32, and (N, 3 * scale²,
    H, W), any float dtype and memory format → (N, 3, H * scale, W * scale), float32, contiguous.
    """
    num, channels, height, width = x.shape
    result = x.new_empty(num, channels, height * scale, width * scale)
    squares = detail.view(num, channels, scale, scale, height, width).permute(0, 1, 4, 2, 5, 3)
    out = result.view(num, channels, height, scale, width, scale)
    torch.add(squares, x[:, :, :, None, :, None], out=out)
    return result


# RRDBNet: residual-in-residual dense blocks, then two doublings of the size.
#
# Sources: Wang et al. 2018, ESRGAN, section 3.1; Wang et al. 2021, Real-ESRGAN, section 3.4 (for
# enlarging by 2 and 1 the picture is first folded into a smaller one with more channels).

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

    It has `num_feat` channels, and `num_block` blocks of three dense blocks, in which each
    convolution adds `num_grow` channels. The scale is 4, 2 or 1.
    """

    def __init__(self, num_feat: int, num_block: int, num_grow: int, scale: int) -> None:
        super().__init__()
        self.conv_first = _conv(NUM_IN_BY_SCALE[scale], num_feat)
        self.body = nn.Sequential(*(ResidualBlock(num_feat, num_grow) for _ in range(num_block)))
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


class ResidualBlock(nn.Module):
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
        trunk: (1, 3 * folding², h, w), channels_last → (1, C, h, w).
        tail: (1, C, rows, w) → (1, 3, 4 * rows, 4 * w).
        x: (N, 3, H, W), float32; pictures are computed one after the other.
    """
    if len(x) > 1:
        return torch.cat([enlarged_in_bands(network, trunk, tail, one[None]) for one in x])
    height, width = x.shape[2:]
    folded = F.pixel_unshuffle(pad_to_multiple(x, network.multiple), network.multiple)
    features = trunk(folded.to(network.weight.dtype, memory_format=torch.channels_last))
    rows, columns = features.shape[2:]
    result = x.new_empty(1, 3, 4 * rows, 4 * columns)
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


# A compact network that enlarges by less than its own scale, without its own size in between.
#
# `SRVGGNetCompact` ends in channels: each pixel's detail, to be laid out as a square. Where a
# smaller whole factor is asked for, the picture of its own size would only be made to be shrunk
# again. But laying out, adding the enlarged picture and shrinking are all linear and the same for
# every pixel, so they are one 3x3 convolution of the channels: the same arithmetic, a quarter of
# the memory and hardly any time. The kernel is read off the function that would have shrunk.

_CELLS = 5
"""Pixels of the input in the strip from which a kernel is read: one, its neighbours, and theirs."""
_CHANNELS = 3


def can_reduce(network: Upscaler, scale: float) -> bool:
    """Return whether a network can be made to enlarge by `scale` at once."""
    return isinstance(network, SRVGGNetCompact) and scale in range(2, network.scale)


class ReducedSRVGG(Upscaler):
    """An `SRVGGNetCompact` and the shrinking to a smaller scale, 2 or more, as one network."""

    def __init__(self, network: SRVGGNetCompact, scale: int) -> None:
        super().__init__()
        own = network.scale
        if not 2 <= scale < own:
            raise ValueError(f"scale must be from 2 to {own - 1}, got {scale}")
        self.body = network.body
        self.scale = scale
        self.margin = network.margin + 1
        self.multiple = network.multiple
        self.values_per_pixel = max(
            network.values_per_pixel - 6 * own**2, _CHANNELS * (own**2 + 5 * scale**2)
        )
        rows = _rows(own, scale)
        # (scale, 3): how neighbours weigh; a plain attribute stays in float32
        self.of_pixels = rows.sum(2)
        kernel = torch.einsum("ayp,bxq->abpqyx", rows, rows)
        own_channel = torch.eye(_CHANNELS)[:, None, None, :, None, None, None, None]
        size = _CHANNELS * scale**2, _CHANNELS * own**2, 3, 3
        self.of_detail: Tensor
        of_detail = (own_channel * kernel[None, :, :, None]).reshape(size)
        self.register_buffer("of_detail", of_detail, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge (N, 3, H, W) float32; see :class:`Upscaler`."""
        detail = self.body(x.to(self.weight.dtype, memory_format=torch.channels_last))
        return self.downscaled(x, detail)

    def downscaled(self, x: Tensor, detail: Tensor) -> Tensor:
        """Add the details to the enlarged picture, and shrink both.

        The picture is (N, 3, H, W), float32, `detail`, which `body` makes of it, (N, C, H, W), of
        the weights' dtype.
        """
        shrunk = F.conv2d(detail, self.of_detail, padding=1)  # (N, 3 * scale², H, W)
        result = F.pixel_shuffle(self._base(x).add_(shrunk), self.scale)
        # beyond the edges there is nothing: divide by the weights that lay within
        scale = self.scale
        for axis in (2, 3):
            share = self._share_within(result.shape[axis] // scale).to(result.device)
            shape = (-1, 1) if axis == 2 else (1, -1)
            for start in dict.fromkeys((0, len(share) - scale)):
                result.narrow(axis, start, scale).div_(share[start : start + scale].view(shape))
        return result

    def _base(self, x: Tensor) -> Tensor:
        """Enlarge the picture itself, squares of equal pixels shrunk: (N, 3 * scale², H, W)."""
        weights = self.of_pixels.to(x.device)
        kernel = torch.einsum("ay,bx->abyx", weights, weights).reshape(-1, 1, 3, 3)
        return F.conv2d(x, kernel.repeat(_CHANNELS, 1, 1, 1), padding=1, groups=_CHANNELS)

    def _share_within(self, length: int) -> Tensor:
        """Sum up, for each pixel of a row of the result, the weights that lie within: (length,)."""
        ones = torch.ones(1, 1, length)
        weights = self.of_pixels.unsqueeze(1)  # (scale, 1, 3)
        return F.conv1d(ones, weights, padding=1)[0].T.flatten()


@lru_cache
def _rows(own: int, scale: int) -> Tensor:
    """Read off how a pixel's square becomes smaller, in one direction.

    Returns:
        (scale, 3, own): for each pixel of a result the weights of the pixels that the pixel below
        it and its two neighbours would be.
    """
    # two columns: torch 2.13 mistakes the strides of a single one for another layout
    impulses = torch.eye(_CELLS * own).view(1, -1, _CELLS * own, 1).repeat(1, 1, 1, 2)
    shrunk = resize(impulses, 2, _CELLS * scale)[0, :, :, 0]  # (5 * own, 5 * scale)
    middle = shrunk[:, 2 * scale : 3 * scale].T
    assert not middle[:, :own].any()  # the kernel reaches no further than the neighbours
    assert not middle[:, -own:].any()
    return middle[:, own:-own].reshape(scale, 3, own)


# Geometry: sizes by a scale, resizing, and overlapping spans of an axis.


def scaled_size(width: int, height: int, scale: float) -> tuple[int, int]:
    """Multiply a size by a scale as it is written, and round down.

    1.1 is taken as 11/10, not as the nearest binary number, so that 10 pixels become 11.
    """
    exact = Fraction(str(scale))
    return floor(width * exact), floor(height * exact)


def resize(x: Tensor, width: int, height: int) -> Tensor:
    """Resize bicubically with half-pixel centres; unchanged where the size is right.

    Where it shrinks, the kernel is stretched so that nothing aliases (a = -0.5); where it enlarges,
    it is the plain one (a = -0.75). (N, C, H, W), float32 → (N, C, height, width), not clamped: the
    kernel overshoots at edges.
    """
    if x.shape[2:] == (height, width):
        return x
    shrinks = height < x.shape[2] or width < x.shape[3]
    return F.interpolate(x, size=(height, width), mode="bicubic", antialias=shrinks)


@dataclass(frozen=True, slots=True)
class Span:
    """A part of an axis: the output range and the wider input range; pixels, half open."""

    start: int
    stop: int
    seen_from: int
    seen_to: int

    def own(self, scale: int) -> slice:
        """Find its own part in what is computed, `scale` times as large, from what it sees."""
        return slice((self.start - self.seen_from) * scale, (self.stop - self.seen_from) * scale)


def cut(length: int, edge: int, margin: int, multiple: int = 1) -> tuple[Span, ...]:
    """Cut an axis into the fewest spans of at most `edge` pixels, of about equal length.

    What a span sees begins at a multiple of `multiple`; so does a span itself if `edge` allows.
    """
    edge = max(edge // multiple, 1) * multiple
    num = -(-length // edge)
    step = -(-length // (num * multiple)) * multiple
    margin = -(-margin // multiple) * multiple
    return tuple(
        Span(i, min(i + step, length), max(i - margin, 0), min(i + step + margin, length))
        for i in range(0, length, step)
    )


# The dense blocks of an `RRDBNet`, where each convolution writes where the next one reads.
#
# A dense block uses one tensor, as wide as the input of its last convolution; each convolution
# writes its channels after those that it has read, so nothing is concatenated. Three such tensors
# alternate, because a block ends with its own input added. The kernels of CPUs and of CUDA cards
# share this.

Make = Callable[[nn.Conv2d, float | None], Convolution | CompiledConv]
"""Makes a convolution by a kernel."""


class DenseTrunk:
    """An `RRDBNet`, all but its last convolution.

    `make` returns the kernel of a layer; its slope of negative values, or None, comes second.
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
            a, b, c = (buffer[:, :num_feat] for buffer in buffers)
            block[0](buffers[0], b, Residual(a, RESIDUAL))
            block[1](buffers[1], c, Residual(b, RESIDUAL))
            # in place is safe: each pixel of a is only added to itself
            block[2](buffers[2], a, Residual(c, RESIDUAL), Residual(a, RESIDUAL))
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

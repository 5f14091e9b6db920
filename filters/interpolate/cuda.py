"""The interpolation network on a CUDA card: convolutions, and one kernel between every two blocks.

Where it is first used, a pair of pictures is computed by it, by plain torch and in fp32. Kernels
that cannot be had, that are off by more than plain torch in the same precision, or that are slower
are left alone from then on, with one warning. What comes again in the same size is started as one
CUDA graph.
"""

from __future__ import annotations

import copy
import math
import struct
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial, reduce
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import cuda
from ..kernels.convolution import empty_channels_last
from . import network
from .network import (
    BLOCK_CELLS,
    Engine,
    FeatureEncoder,
    FlowBlock,
    IFNet,
    PlainEngine,
    Sources,
    as_convolution,
    shape_of_all,
)

# The convolutions of the interpolation network as a CUDA card likes them.
#
# Channels come in multiples of eight, with zeros where there are none, in the order in which `glue`
# writes and reads them. Each layer is computed by cuDNN, or by a kernel that ends with the
# activation where that is faster.

_RUNS = 8
_HEAD_START = 1_500_000
"""Clock cycles for which the device is kept busy while what is timed is being called."""
_READINGS = 3

Layer = Callable[[Tensor], Tensor]


class FastestLayer:
    """The faster one of two ways, timed for each size on a CUDA device; the plain one on others.

    What is right is `plain`; that `kernel` computes the same is verified on the first input.
    """

    def __init__(self, plain: Layer, kernel: Layer) -> None:
        self.plain, self.kernel = plain, kernel
        self._self_test = cuda.KernelSelfTest(
            "convolutions of the interpolation are computed by cuDNN"
        )
        self._ways: dict[torch.Size, Layer] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Compute (N, …) → (N, …)."""
        if x.device.type != "cuda":
            return self.plain(x)
        way = self._ways.get(x.shape)
        if way is None:
            if torch.cuda.is_current_stream_capturing():  # the slow part was done before
                return self.plain(x)
            way = self._choose(x)
            if len(self._ways) >= 64:
                self._ways.clear()
            self._ways[x.shape] = way
        return way(x)

    def _choose(self, x: Tensor) -> Layer:
        if not self._self_test.passed(lambda: cuda.disagrees(self.kernel(x), self.plain(x))):
            return self.plain
        ways = self.plain, self.kernel
        readings = [[_milliseconds(way, x) for way in ways] for _ in range(_READINGS)]
        plain, kernel = map(min, zip(*readings, strict=True))
        return self.kernel if kernel < plain else self.plain


def _milliseconds(way: Layer, x: Tensor) -> float:
    """Time a way on the device alone: all is called while the device still does something else."""
    way(x)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(_HEAD_START)  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
    begin.record()
    for _ in range(_RUNS):
        way(x)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


# What lies between the convolutions: the kernels of `glue_kernels` over whole batches of pairs.

GROUP = 4
"""Values of 16 bits that travel as one of 64."""
SOURCE_DTYPE = torch.int64
SOURCE_PLANES = 2
"""Of a frame: features; R, G, B and alpha. A third is there, unused, where alpha counts."""
DETAIL_ORDER = (
    *range(network.FLOW_CHANNELS + 1),
    -1,
    -1,
    -1,
    *range(network.FLOW_CHANNELS + 1, network.OUT_CHANNELS),
)
"""Outputs of a block for a pixel: flow, mask, features; -1 stands for zeros."""
LAST_CHANNELS = 8
"""Outputs of the last block: only flow, mask and zeros."""
_RIGHT = range(network.SOURCE_CHANNELS, 2 * network.SOURCE_CHANNELS)
_LEFT = range(network.SOURCE_CHANNELS)
FIRST_ORDER = (*_LEFT, 14, *_RIGHT, -1)
"""Of the first block's input channels as `network` has them, how they lie here."""
NEXT_ORDER = (*_LEFT, 23, *_RIGHT, 14, *range(15, 23), *range(24, 28), -1, -1, -1, -1)
"""The same of the other blocks' input: the moment and the mask fill up R, G, B."""
MOST_PIXELS = 1 << 28
"""Of a padded frame: the kernels count within it in 32 bits."""
_TILE = (32, 4)
"""Pixels of a program, across and down."""
_INTERPRETED_TILE = (128, 32)
"""The same where Triton's interpreter runs the kernels, on a CPU, for tests."""


glue_kernels = cache(partial(cuda.GuardedKernels, f"{__package__}.cuda_kernels"))


def empty_sources(
    count: int, height: int, width: int, device: torch.device, *, has_alpha: bool
) -> Tensor:
    """Make room for frames: (N, 2, H, W) groups, or (N, 3, H, W) where alpha counts."""
    planes = SOURCE_PLANES + has_alpha
    return torch.empty((count, planes, height, width), dtype=SOURCE_DTYPE, device=device)


def pack(features: Tensor, images: Tensor, out: Tensor) -> None:
    """Fill `empty_sources`.

    Features are (N, 16, H/2, W/2), halves, channels_last: four pixels of four. Images are (N, 3 or
    4, H, W), fp32, contiguous, [0, 1].
    """
    count, channels, height, width = images.shape
    out[:, 0] = groups(features).view(count, height, width)
    grid, tile = _tiled(height, width, count, images.device)
    glue_kernels().pack[grid](images, out, height, width, out.shape[1], CHANNELS=channels, **tile)


def table_of(
    lefts: Sequence[Tensor], rights: Sequence[Tensor], out: Sequence[Tensor], times: Sequence[float]
) -> Tensor:
    """Tell the kernels of a batch of pairs: one row of addresses and bits each.

    The frames and the result are read and written wherever they lie, at every start of a graph
    elsewhere. They must live until the kernels are done, which tensors do that were allocated on
    the stream where these run.
    """
    bits = (int.from_bytes(struct.pack("<f", time), "little") for time in times)
    places = zip(lefts, rights, out, bits, strict=True)
    rows = [(left.data_ptr(), right.data_ptr(), to.data_ptr(), t) for left, right, to, t in places]
    # asynchronous copy from pinned memory; torch keeps the memory until the copy is done
    table = torch.tensor(rows, dtype=torch.int64, pin_memory=lefts[0].is_cuda)
    return table.to(lefts[0].device, non_blocking=True)


def begin(table: Tensor, height: int, width: int, cell: int) -> Tensor:
    """Return the first block's input, (N, 16, H/cell, W/cell), halves, channels_last."""
    out = _empty(table, height // cell, width // cell, len(FIRST_ORDER))
    grid, tile = _tiled(height // cell, width // cell, len(table), table.device)
    glue_kernels().begin[grid](table, out, height, width, CELL=cell, **tile)
    return _as_channels(out)


def following(
    table: Tensor, details: Sequence[Tensor], height: int, width: int, cell: int
) -> Tensor:
    """Return a later block's input, (N, 32, H/cell, W/cell), halves, channels_last.

    `table` is that of `table_of`; details are outputs of one to three earlier blocks, (N, 64, h/2,
    w/2) each. The size is that of the padded frames, in pixels.
    """
    out = _empty(table, height // cell, width // cell, len(NEXT_ORDER))
    grid, tile = _tiled(height // cell, width // cell, len(table), table.device)
    taps = 1 if cell == 1 else 4
    glue_kernels().following[grid](
        table, *_three(details), out, height, width, taps, CELL=cell, BLOCKS=len(details), **tile
    )
    return _as_channels(out)


def blend(
    table: Tensor, details: Sequence[Tensor], height: int, width: int, cell: int, channels: int
) -> None:
    """Write the in-betweens, (C, H, W), fp32, to the addresses in a table: see `table_of`.

    The details are of the four blocks, the cell of the last one; the size is that of the padded
    frames, in pixels. There are 3 channels, or 4 with alpha.
    """
    before, last = _three(details[:3]), groups(details[3])
    grid, tile = _tiled(height, width, len(table), table.device)
    glue_kernels().blend[grid](
        table, *before, last, height, width, CELL=cell, CHANNELS=channels, **tile
    )


def groups(x: Tensor) -> Tensor:
    """See (N, C, H, W) halves, channels_last, as (N, H, W, C/4) groups."""
    return x.permute(0, 2, 3, 1).contiguous().view(torch.int64)


def _as_channels(x: Tensor) -> Tensor:
    """See (N, H, W, C/4) groups as (N, C, H, W) halves."""
    return x.view(torch.float16).permute(0, 3, 1, 2)


def _empty(table: Tensor, high: int, wide: int, channels: int) -> Tensor:
    shape = (len(table), high, wide, channels // GROUP)
    return torch.empty(shape, dtype=torch.int64, device=table.device)


def _tiled(
    height: int, width: int, count: int, device: torch.device
) -> tuple[tuple[int, int], dict[str, int]]:
    """Return the number of programs and the arguments that locate each one's pixels."""
    across, down = _TILE if device.type == "cuda" else _INTERPRETED_TILE
    grid = -(-width // across) * -(-height // down), count
    return grid, {"TILE_X": across, "TILE_Y": down, "num_warps": 4}


def _three(details: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Pad to three arguments; the padding is never read."""
    seen = [groups(detail) for detail in details]
    return (*seen, *seen[-1:] * (3 - len(seen)))


_PIXELS = (128, 64)
"""Of one program: on many pixels, on few."""
_MOST_CHANNELS = 64
"""Of one program's result."""
_MOST_BLOCK = 64
"""Channels that are read at once."""


class FusedConvolution(FastestLayer):
    """A 3x3 convolution with padding 1, and its leaky ReLU where there is one.

    (N, C, h, w) to (N, C', h/stride, w/stride), channels_last.
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
        return F.leaky_relu_(x, network.SLOPE) if self._leaky else x

    def _kernel(self, x: Tensor) -> Tensor:
        count, _, height, width = x.shape
        size = height // self._stride, width // self._stride
        out = empty_channels_last(len(self._bias), *size, x, count)
        _convolve(x, self._packed, self._bias, out, size, stride=self._stride, leaky=self._leaky)
        return out


class FusedTransposedConvolution(FastestLayer):
    """A transposed 4x4 convolution with stride 2 and padding 1.

    (N, C, h, w) to (N, C', 2h, 2w), channels_last.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__(self._plain, self._kernel)
        self._weight = weight.contiguous(memory_format=torch.channels_last)
        # (in, out, 4, 4) → (4 pixels, 4 taps, in, out)
        rows = torch.tensor(((3, 1), (2, 0)), device=weight.device)  # of each side's two taps
        picked = weight[:, :, rows[:, None, :, None], rows[None, :, None, :]]
        self._packed = picked.permute(2, 3, 4, 5, 0, 1).flatten(2, 3).flatten(0, 1).contiguous()
        self._bias = bias

    def _plain(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self._weight, self._bias, stride=2, padding=1)

    def _kernel(self, x: Tensor) -> Tensor:
        count, _, height, width = x.shape
        out = empty_channels_last(len(self._bias), 2 * height, 2 * width, x, count)
        _convolve(x, self._packed, self._bias, out, (height, width), doubling=True)
        return out


class ColorConvolution(FastestLayer):
    """The first convolution of frames, 3x3 with stride 2, and its leaky ReLU.

    (N, 3 or 4, H, W), fp32, contiguous, to (N, C', H/2, W/2), channels_last.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(self._plain, self._kernel)
        assert layer.bias is not None
        weight = layer.weight.detach()
        self._wide = _of(layer, (0, 1, 2, *[-1] * 5))
        self._packed = F.pad(weight.flatten(1).T, (0, 0, 0, 32 - 27)).contiguous()
        self._bias = layer.bias.detach()

    def _plain(self, images: Tensor) -> Tensor:
        count, _, height, width = images.shape
        x = self._bias.new_zeros(count, height, width, 8).permute(0, 3, 1, 2)
        x[:, :3] = images[:, :3]
        return self._wide.plain(x)

    def _kernel(self, images: Tensor) -> Tensor:
        count, planes, height, width = images.shape
        out = empty_channels_last(len(self._bias), height // 2, width // 2, self._bias, count)
        num_pixels = count * (height // 2) * (width // 2)
        glue_kernels().convolve_colors[(-(-num_pixels // _PIXELS[0]),)](
            images, self._packed, self._bias, out, planes, height, width, num_pixels,
            CHANNELS=len(self._bias), PIXELS=_PIXELS[0], num_warps=4,
        )  # fmt: skip
        return out


class EncoderLayers:
    """Features of frames: see :class:`.network.FeatureEncoder`."""

    def __init__(self, encoder: FeatureEncoder) -> None:
        self.layers = [
            ColorConvolution(encoder.cnn0),
            _of(encoder.cnn1),
            _of(encoder.cnn2),
            FusedConvolution(*as_convolution(encoder.cnn3), leaky=False),
        ]

    def __call__(self, images: Tensor) -> Tensor:
        """Return the features of four pixels together.

        (N, 3 or 4, H, W), fp32, contiguous → (N, 16, H/2, W/2): the four pixels of a square in
        reading order, four features each.
        """
        return reduce(lambda x, layer: layer(x), self.layers, images)


class BlockLayers:
    """One refinement: see :class:`.network.FlowBlock`."""

    def __init__(self, block: FlowBlock, index: int, num_blocks: int) -> None:
        convs = [cast("nn.Conv2d", conv) for conv in (*block.conv0, *block.convblock)]
        first = _of(convs[0], NEXT_ORDER if index else FIRST_ORDER)
        is_last = index == num_blocks - 1
        order = DETAIL_ORDER[:LAST_CHANNELS] if is_last else DETAIL_ORDER
        self.layers = [first, *map(_of, convs[1:]), _pixel_by_pixel(block.lastconv, order)]

    def __call__(self, x: Tensor) -> Tensor:
        """Turn what `glue` made, (N, C, h, w), into a detail, (N, 64 or 32, h/2, w/2)."""
        return reduce(lambda x, layer: layer(x), self.layers, x)


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
    is_small = tiles < 2 * cuda.card_of(x.device).num_processors
    pixels = _PIXELS[1] if is_small else _PIXELS[0]
    glue_kernels().convolve[(-(-num_pixels // pixels), num_out // channels, phases)](
        x, packed, bias, out, height, width, *size, num_pixels, num_in, num_out, stride,
        BLOCK=math.gcd(num_in, _MOST_BLOCK), CHANNELS=channels, PIXELS=pixels,
        DOUBLING=doubling, LEAKY=leaky, num_warps=4, num_stages=3,
    )  # fmt: skip


def _of(layer: nn.Conv2d, order: Sequence[int] = ()) -> FusedConvolution:
    """Reorder input channels where an order is given; -1 stands for zeros."""
    assert layer.bias is not None
    weight = layer.weight.detach()
    weight = _picked(weight, 1, order) if order else weight
    return FusedConvolution(weight, layer.bias.detach(), stride=layer.stride[0])


def _pixel_by_pixel(last: nn.ConvTranspose2d, order: Sequence[int]) -> FusedTransposedConvolution:
    """Order outputs, four pixels of each channel, so that a pixel's channels lie together."""
    assert last.bias is not None
    inputs, outputs = last.weight.shape[:2]
    weight = last.weight.detach().view(inputs, outputs // 4, 4, 4, 4).transpose(1, 2)
    bias = last.bias.detach().view(-1, 4).T
    return FusedTransposedConvolution(
        _picked(weight, 2, order).flatten(1, 2), _picked(bias, 1, order).flatten()
    )


def _picked(values: Tensor, axis: int, order: Sequence[int]) -> Tensor:
    """Select indices of an axis; -1 selects zeros."""
    padded = torch.cat((values, torch.zeros_like(values.narrow(axis, 0, 1))), axis)
    places = torch.tensor(order, device=values.device) % padded.shape[axis]
    return padded.index_select(axis, places)


_COMPARED = 128, 128
"""Rows and columns that are compared: multiples of what any scale wants."""
_TIMED = 640, 1152
"""The most that is timed, and compared with plain torch in the same precision."""
_SHIFT = 2, 5
"""Motion of the pictures that are compared, in pixels, down and right."""
_BLOB = 8
"""Size of their blobs, in pixels."""
_MOST_SIZES = 2
"""Sizes of frames whose graphs are kept."""
_MOST_BYTES = 1 << 31
"""Of device memory for the graphs of one size."""


def can_use_kernels(network: IFNet, scale: float) -> bool:
    """Return whether the kernels do what is asked: fp16, at scales of at most 1."""
    return network.device.type == "cuda" and network.dtype == torch.float16 and scale <= 1


class ProvenEngine:
    """Kernels once they have proved themselves, plain torch otherwise: a :class:`.network.Engine`.

    The dtype of sources tells which engine made them; they are never mixed.
    """

    way = None

    def __init__(self, network: IFNet, scale: float) -> None:
        self._network = network
        self._scale = scale
        self._plain = PlainEngine(network)
        self._kernels: KernelEngine | None = None
        self._self_test = cuda.KernelSelfTest("frames are interpolated by plain torch")

    def sources(self, images: Tensor) -> Tensor:
        """Compute what is kept of frames, by whom the first of them was found best."""
        height, width = images.shape[2:]
        with cuda.on_device(images.device):
            if not self._self_test.passed(lambda: self._trial(height, width)):
                return self._plain.sources(images)
            assert self._kernels is not None
            fits = height * width < MOST_PIXELS
            return (self._kernels if fits else self._plain).sources(images)

    def middles(
        self, lefts: Sources, rights: Sources, times: Sequence[float], scale: float
    ) -> Tensor:
        """Compute one in-between per pair of sources, see :meth:`.engine.Engine.middles`."""
        if all(source.dtype != SOURCE_DTYPE for source in (*lefts, *rights)):
            return self._plain.middles(lefts, rights, times, scale)
        assert self._kernels is not None
        with cuda.on_device(lefts[0].device):
            ours = [list(map(self._taken_over, side)) for side in (lefts, rights)]
            return self._kernels.middles(ours[0], ours[1], times, scale)

    def _taken_over(self, source: Tensor) -> Tensor:
        """Return a source as the kernels want it, also where they were found best only after it."""
        if source.dtype == SOURCE_DTYPE:
            return source
        assert self._kernels is not None
        return self._kernels.sources(source[None, network.NUM_FEATURES :])[0]

    def _trial(self, height: int, width: int) -> str | None:
        """Compute a pair both ways and return why the kernels cannot be used, or None."""
        kernels = KernelEngine(self._network)
        kernels.is_recorded = False
        images = _two_pictures(*_COMPARED, self._network.device)
        exact = PlainEngine(copy.deepcopy(self._network).float())
        fault = cuda.mismatch(*(self._middle(e, images) for e in (kernels, self._plain, exact)))
        if fault is None and self._network.device.type == "cuda":
            images = _two_pictures(*_timed(height, width), images.device)
            fast, plain = (partial(self._middle, e, images) for e in (kernels, self._plain))
            fault = cuda.disagrees(fast(), plain(), *cuda.OF_PICTURES) or cuda.slower(fast, plain)
        if fault is None:
            self._kernels, kernels.is_recorded = kernels, True
        return fault

    def _middle(self, engine: Engine, images: Tensor) -> Tensor:
        left, right = (tuple(engine.sources(image[None])) for image in images)
        return engine.middles(left, right, (0.5,), self._scale)


class KernelEngine:
    """`IFNet`, in fp16, with everything between its convolutions in Triton kernels.

    Its sources are groups, see `empty_sources`. At a scale of at most 1.
    """

    is_recorded = True
    """Whether what comes again is started as a CUDA graph, where there are any."""
    way = None

    def __init__(self, network: IFNet) -> None:
        self._has_graphs = network.device.type == "cuda"
        self._encode = EncoderLayers(network.encode)
        blocks = [cast("FlowBlock", block) for block in network.blocks]
        self._blocks = [BlockLayers(b, i, len(blocks)) for i, b in enumerate(blocks)]
        self._graphs = lru_cache(_MOST_SIZES)(self._recorded)

    def sources(self, images: Tensor) -> Tensor:
        """Compute the features of frames and pack them with their pixels."""
        images = images.contiguous()
        count, channels, height, width = images.shape
        size = count, height, width, images.device
        out = empty_sources(*size, has_alpha=channels == 4)
        pack(self._encode(images), images, out)
        return out

    def middles(
        self, lefts: Sources, rights: Sources, times: Sequence[float], scale: float
    ) -> Tensor:
        """Compute one in-between per pair of sources, see :meth:`.engine.Engine.middles`."""
        planes, height, width = shape_of_all([*lefts, *rights])
        channels = 3 + planes - SOURCE_PLANES
        out = torch.empty((len(lefts), channels, height, width), device=lefts[0].device)
        table = table_of(lefts, rights, tuple(out), times)
        size = height, width, channels, scale
        if self.is_recorded and self._has_graphs:
            self._graphs(*size)(table)
        else:
            self._compute(*size, table)
        return out

    def _recorded(self, height: int, width: int, channels: int, scale: float) -> cuda.Graphs:
        compute = partial(self._compute, height, width, channels, scale)
        return cuda.Graphs(compute, most_bytes=_MOST_BYTES)

    def _compute(
        self, height: int, width: int, channels: int, scale: float, table: Tensor
    ) -> Tensor:
        """Write the in-betweens to the addresses in the table; return the last block's output."""
        cell = round(BLOCK_CELLS[0] / scale)
        details = [self._blocks[0](begin(table, height, width, cell))]
        for block in self._blocks[1:]:
            cell //= 2
            details.append(block(following(table, details, height, width, cell)))
        blend(table, details, height, width, cell, channels)
        return details[-1]


def _timed(height: int, width: int) -> tuple[int, int]:
    """Cut a size to at most `_TIMED`, and to multiples valid for any scale."""
    step = _COMPARED[0]
    rows, columns = min(height, _TIMED[0]), min(width, _TIMED[1])
    return max(step, rows - rows % step), max(step, columns - columns % step)


def _two_pictures(height: int, width: int, device: torch.device) -> Tensor:
    """Return (2, 3, H, W): smooth blobs that move."""
    down, right = _SHIFT
    rows, columns = height + down, width + right
    noise = torch.rand(
        (1, 3, rows // _BLOB + 1, columns // _BLOB + 1), generator=torch.Generator().manual_seed(0)
    ).to(device)
    wide = F.interpolate(noise, size=(rows, columns), mode="bilinear")[0]
    return torch.stack((wide[:, down:, right:], wide[:, :height, :width]))

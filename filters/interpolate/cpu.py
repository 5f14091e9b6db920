"""The interpolation network on a CPU with everything between its convolutions in compiled kernels.

The same arithmetic as :mod:`.network`, and a third of its memory traffic: a frame and its features
lie pixel by pixel, so that a sample is four loads of eight values; a block's input is written once,
in the layout and dtype of its first convolution; outputs of blocks are read in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from ctypes import Structure
from functools import partial
from typing import NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.cpu_convolution import CompiledConv, in_a_row
from ..kernels.native import Adding, Blending, Detail, Joining, PackedSources, kernels, run
from ..kernels.ways import CONVOLUTIONS, Trial, choose
from ..options import Way
from . import network as ifnet
from .network import Engine, FlowBlock, IFNet, PlainEngine, Sources

_PACKED = 8
"""Values of a source's pixel: features, R, G, B, alpha."""
_DTYPES = (torch.float32, torch.bfloat16)
_Conv = TypeVar("_Conv", nn.Conv2d, nn.ConvTranspose2d)
_SMALLEST = 96
"""Pixels to measure with: below that nearly all time goes into starting the work."""


def engine_on_cpu(network: IFNet, scale: float, given: Way | None = None) -> Engine:
    """Make the fastest engine for a network on the CPU, or the one of a given way."""
    ways: list[Way] = ["torch"]
    if network.dtype in _DTYPES and scale <= 1 and kernels() is not None:
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
        ways.append("compiled")
        for way, own in CONVOLUTIONS.items():
            if any(map(own.fits, layers)):
                ways.append(way)
    name = f"RIFE 4.22.lite at scale {scale:g} in {str(network.dtype).removeprefix('torch.')}"
    trials: dict[Way, Trial] = {way: partial(_trial, network, scale, way) for way in ways}
    way = choose(name, trials, given, smallest=_SMALLEST)
    return PlainEngine(network) if way == "torch" else FusedIFNet(network, way)


def _trial(network: IFNet, scale: float, way: Way, edge: int) -> Callable[[], object]:
    """Make what computes an in-between, and then a convolution of each block on larger maps.

    On a picture that is small enough, coarse blocks have too few pixels to tell what their
    convolutions cost: so all have torch's, and one of eight is computed for eight times the area.
    """
    engine = PlainEngine(network) if way == "torch" else FusedIFNet(network, "compiled")
    multiple, work = ifnet.padding_multiple(scale), list[Callable[[], Tensor]]()
    for block, channels, cell in zip(
        network.blocks, ifnet.BLOCK_CHANNELS, ifnet.BLOCK_CELLS, strict=True
    ):
        layer = cast("FlowBlock", block).convblock[0]
        side = round(edge * ifnet.NUM_RESIDUALS**0.5 / cell / 4)
        x = torch.full((1, channels, side, side), 0.5, dtype=network.dtype)
        x = x.to(memory_format=torch.channels_last)
        work.append(partial(_layer(layer, CONVOLUTIONS.get(way)), x))
    side = -(-edge // multiple) * multiple
    image = torch.linspace(0, 1, side).expand(1, 3, side, side)
    left = engine.sources(image)[0]

    def run() -> None:
        engine.middles([left], [engine.sources(image)[0]], [0.5], scale)
        for layer in work:
            layer()

    return run


class FusedIFNet:
    """`IFNet` for frames on the CPU at a scale of at most 1; see :class:`.network.Engine`.

    The way's convolutions stand for the layers that they fit; the others are shared with `network`.
    """

    def __init__(self, network: IFNet, way: Way = "winograd") -> None:
        self.way: Way = way
        own = CONVOLUTIONS.get(way)
        self._blocks = [cast("FlowBlock", block) for block in network.blocks]
        self._dtype = network.dtype
        self._run = partial(run, is_bf16=network.dtype == torch.bfloat16)
        encode = network.encode
        layers = [_layer(conv, own) for conv in (encode.cnn0, encode.cnn1, encode.cnn2)]
        self._features = in_a_row([*layers, _layer(_as_convolution(encode.cnn3), own, leaky=False)])
        self._layers = [
            [
                *(_layer(conv, own) for conv in (*block.conv0, *block.convblock)),
                _layer(_pixel_by_pixel(block.lastconv), own, leaky=False),
            ]
            for block in self._blocks
        ]
        self._others = [in_a_row(layers[1:]) for layers in self._layers]

    def sources(self, images: Tensor) -> Tensor:
        """Put features and pixels of padded frames side by side.

        (N, 3 or 4, H, W), fp32, [0, 1] → (N, 4 + C, H, W), fp32: a pixel's values together, 8
        floats from one pixel to the next.
        """
        images = images.contiguous()
        count, channels, height, width = images.shape
        x = images[:, :3].to(self._dtype, memory_format=torch.channels_last)
        features = self._features(x)
        packed = torch.empty((count, _PACKED, height, width), memory_format=torch.channels_last)
        for index in range(count):
            image, source = images[index].data_ptr(), packed[index].data_ptr()
            self._run("pack", PackedSources(_detail(features[index]), image, channels, source))
        return packed[:, : ifnet.NUM_FEATURES + channels]

    def middles(
        self, lefts: Sources, rights: Sources, times: Sequence[float], scale: float
    ) -> Tensor:
        """Compute one in-between per pair of sources, see :meth:`.engine.Engine.middles`."""
        _, height, width = ifnet.shape_of_all([*lefts, *rights])
        flow = torch.empty(len(lefts), height, width, ifnet.FLOW_CHANNELS)
        pairs = _Pairs(lefts, rights, flow, times)
        cell = round(ifnet.BLOCK_CELLS[0] / scale)
        detail = self._detail(0, [self._first_input(pairs, cell)])
        for index in range(1, len(self._blocks)):
            self._add(pairs, detail, cell, begins=index == 1)
            cell //= 2
            detail = self._detail(index, self._next_inputs(pairs, detail, cell))
        count, height, width, _ = pairs.flow.shape
        channels = len(pairs.lefts[0]) - ifnet.NUM_FEATURES
        images = torch.empty(count, channels, height, width)
        for index in range(count):
            size, image = (cell, channels, height, width), images[index].data_ptr()
            self._run("blend", Blending(*pairs.at(index), _detail(detail[index]), *size, image))
        return images

    def _detail(self, index: int, inputs: Iterable[Tensor]) -> Tensor:
        """Run a block on its input, which comes in parts: (n, C, h, w), of several pairs or one."""
        first = self._layers[index][0]
        made = [first(x) for x in inputs]
        x = made[0] if len(made) == 1 else torch.cat(made)
        return self._others[index](x)

    def _first_input(self, pairs: _Pairs, cell: int) -> Tensor:
        x = self._empty_input(pairs, len(pairs.lefts), ifnet.FIRST_CHANNELS, cell)
        for index, own in enumerate(x):
            self._run("first", pairs.joining(index, Detail(), cell, own))
        return x

    def _next_inputs(self, pairs: _Pairs, detail: Tensor, cell: int) -> Iterator[Tensor]:
        """Make the input of a block for one pair after the other, always in the same place.

        In fp32 those of two 640x360 frames are more than the allocator keeps: half the time to make
        them went into pages that the system cleared.
        """
        x = self._empty_input(pairs, 1, ifnet.NEXT_CHANNELS, cell)
        for index in range(len(pairs.lefts)):
            self._run("next", pairs.joining(index, _detail(detail[index]), cell, x))
            yield x

    def _empty_input(self, pairs: _Pairs, count: int, channels: int, cell: int) -> Tensor:
        _, height, width, _ = pairs.flow.shape
        size = count, channels, height // cell, width // cell
        return torch.empty(size, dtype=self._dtype, memory_format=torch.channels_last)

    def _add(self, pairs: _Pairs, detail: Tensor, cell: int, *, begins: bool) -> None:
        count, height, width, _ = pairs.flow.shape
        for index in range(count):
            flow = pairs.flow[index].data_ptr()
            self._run("add", Adding(_detail(detail[index]), cell, begins, height, width, flow))


def _layer(
    conv: nn.Module, own: type[CompiledConv] | None, *, leaky: bool = True
) -> Callable[[Tensor], Tensor]:
    """Make a convolution with its leaky ReLU, or with nothing behind it."""
    assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
    if own and own.fits(conv):
        return own(conv, torch.full((conv.out_channels,), ifnet.SLOPE) if leaky else None)
    return (lambda x: F.leaky_relu_(conv(x), ifnet.SLOPE)) if leaky else conv


class _Pairs(NamedTuple):
    """Sources of pairs of frames, the flow between them, (N, H, W, 4), and their moments."""

    lefts: Sources
    rights: Sources
    flow: Tensor
    times: Sequence[float]

    def at(self, index: int) -> tuple[int, int, int]:
        """Addresses of both frames of a pair, and of its flow."""
        left, right, flow = self.lefts[index], self.rights[index], self.flow[index]
        return left.data_ptr(), right.data_ptr(), flow.data_ptr()

    def joining(self, index: int, state: Structure, cell: int, x: Tensor) -> Structure:
        """Describe how the pair `index` becomes a block's input `x`."""
        _, height, width, _ = self.flow.shape
        moment = self.times[index], x.data_ptr()
        return Joining(*self.at(index), state, height, width, cell, *moment)


def _detail(found: Tensor) -> Structure:
    """Describe (4 * channels, h, w), a pixel's values together."""
    values, height, width = found.shape
    assert found.stride() == (1, width * values, values), found.stride()
    return Detail(found.data_ptr(), 2 * height, 2 * width, values // 4)


def _pixel_by_pixel(last: nn.ConvTranspose2d) -> nn.ConvTranspose2d:
    """Order outputs, four pixels of each channel, so that a pixel's channels lie together."""
    inputs, outputs = last.weight.shape[:2]
    weight = last.weight.view(inputs, outputs // 4, 4, 4, 4).transpose(1, 2).flatten(1, 2)
    assert last.bias is not None
    bias = last.bias.view(-1, 4).T.flatten()
    made = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, device="meta")
    return _filled(made, weight, bias)


def _as_convolution(last: nn.ConvTranspose2d) -> nn.Conv2d:
    weight, bias = ifnet.as_convolution(last)
    made = nn.Conv2d(weight.shape[1], weight.shape[0], 3, 1, 1, device="meta")
    return _filled(made, weight, bias)


def _filled(made: _Conv, weight: Tensor, bias: Tensor) -> _Conv:
    kernel = weight.contiguous(memory_format=torch.channels_last)
    made.weight = nn.Parameter(kernel, requires_grad=False)
    made.bias = nn.Parameter(bias, requires_grad=False)
    return made

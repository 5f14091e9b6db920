"""The compact network on a CPU, with what lies between and behind its convolutions compiled."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels.cpu_convolution import CompiledConv, in_a_row
from ..kernels.native import Activation, DetailShuffle, kernels, run
from ..kernels.ways import CONVOLUTIONS, Trial, choose
from ..options import Way
from .network import DenseTrunk, ReducedSRVGG, RRDBNet, SRVGGNetCompact, Upscaler, enlarged_in_bands


class DenseOnCpu(Upscaler):
    """An `RRDBNet` in fp32 or bf16 by a way's convolutions; see `DenseTrunk`."""

    def __init__(self, plain: RRDBNet, way: Way) -> None:
        super().__init__()
        self.take_form_of(plain)
        self.way = way
        make = CONVOLUTIONS[way]

        def kernel(layer: nn.Conv2d, slope: float | None) -> CompiledConv:
            return make(layer, None if slope is None else torch.full((layer.out_channels,), slope))

        self._first = plain.conv_first  # a module, so that its weight is that of this one
        self._trunk = DenseTrunk(plain, kernel)
        self._last = make(plain.conv_last)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge (N, 3, H, W) float32; see :class:`Upscaler`."""
        return enlarged_in_bands(self, self._trunk.features, self._tail, x)

    def _tail(self, x: Tensor) -> Tensor:
        return self._last.to_rgb(self._trunk.enlarged(x))


_LANES = 8
"""Channels that the kernel processes at once."""


def on_cpu(network: Upscaler, given: Way | None = None) -> Upscaler:
    """Compute a network by a given way, or the fastest on this CPU; the network stays as it is.

    Raises:
        DeviceUnavailable: if the network cannot be computed here by the given way.
    """
    ways = ways_of(network)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    widths = "-".join(dict.fromkeys(str(layer.out_channels) for layer in layers))
    dtype = str(network.weight.dtype).removeprefix("torch.")
    name = f"{type(network).__name__} {widths} by {network.scale} in {dtype}"
    trials: dict[Way, Trial] = {way: partial(_trial, network, way) for way in ways}
    return ways[choose(name, trials, given)]()


def ways_of(network: Upscaler) -> dict[Way, Callable[[], Upscaler]]:
    """Return every way in which a network can be computed on this machine, and what makes it so."""
    ways: dict[Way, Callable[[], Upscaler]] = {"torch": lambda: network}
    if network.weight.dtype not in (torch.float32, torch.bfloat16) or kernels() is None:
        return ways
    if isinstance(network, RRDBNet):  # all layers but the first
        outer = (network.conv_body, network.conv_up1, network.conv_up2, network.conv_hr)
        inner = [layer for layer in network.body.modules() if isinstance(layer, nn.Conv2d)]
        for way, own in CONVOLUTIONS.items():
            if all(map(own.fits, (*outer, *inner))) and own.fits_rgb(network.conv_last):
                ways[way] = partial(DenseOnCpu, network, way)
    if isinstance(network, SRVGGNetCompact | ReducedSRVGG):
        activations = [layer for layer in network.body if isinstance(layer, nn.PReLU)]
        if all(layer.num_parameters % _LANES == 0 for layer in activations):
            layers = [layer for layer in network.body if isinstance(layer, nn.Conv2d)]
            ways["compiled"] = partial(CompactOnCpu, network, "compiled")
            for way, own in CONVOLUTIONS.items():
                if any(map(own.fits, layers)):
                    ways[way] = partial(CompactOnCpu, network, way)
    return ways


_MEASURED = 10
"""Layers of a compact network: five convolutions with their activations."""


def _trial(network: Upscaler, way: Way, edge: int) -> Callable[[], object]:
    """Make what computes a picture by some of the layers, as the others have the same widths."""
    layers = list(cast("nn.Sequential", network.body))
    is_dense = isinstance(network, RRDBNet)
    kept = layers[:1] if is_dense else [*layers[:-1][:_MEASURED], layers[-1]]
    short, row = copy.copy(network), torch.linspace(0, 1, edge)
    short._modules = {**network._modules, "body": nn.Sequential(*kept)}  # pyright: ignore[reportPrivateUsage]
    return partial(ways_of(short)[way](), (row * row[:, None]).expand(1, 3, edge, edge))


class CompactOnCpu(Upscaler):
    """`SRVGGNetCompact`, or it reduced, with a way's convolutions for the layers that they fit."""

    def __init__(self, plain: SRVGGNetCompact | ReducedSRVGG, way: Way) -> None:
        super().__init__()
        self.plain = plain
        self.way = way
        own = CONVOLUTIONS.get(way)
        self.take_form_of(plain)
        layers = plain.body
        convs = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        slopes = [layer.weight for layer in layers if isinstance(layer, nn.PReLU)]
        pairs = zip(convs, [*slopes, None], strict=True)
        self._chained = in_a_row([_layer(conv, slope, own) for conv, slope in pairs])

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge (N, 3, H, W) float32; see :class:`Upscaler`."""
        detail = self._chained(x.to(self.weight.dtype, memory_format=torch.channels_last))
        if isinstance(self.plain, ReducedSRVGG):
            detail = F.conv2d(detail, self.plain.of_detail, padding=1)
            weights = tuple(map(float, self.plain.of_pixels.flatten()))
            return _laid("shrink", x, detail, self.scale, weights)
        return _laid("lay", x, detail, self.scale)


def _layer(
    conv: nn.Conv2d, slope: Tensor | None, own: type[CompiledConv] | None
) -> Callable[[Tensor], Tensor]:
    """Make a convolution with its PReLU, or with nothing behind it."""
    if own and own.fits(conv):
        return own(conv, slope)
    if slope is None:
        return conv
    slopes = slope.detach().float()

    def activated(x: Tensor) -> Tensor:
        y = conv(x)
        num, channels, height, width = y.shape
        assert y.is_contiguous(memory_format=torch.channels_last)
        job = Activation(y.data_ptr(), slopes.data_ptr(), num * height, width, channels)
        run("activate", job, is_bf16=y.dtype == torch.bfloat16)
        return y

    return activated


def _laid(
    name: str, x: Tensor, detail: Tensor, scale: int, weights: tuple[float, ...] = ()
) -> Tensor:
    """Lay out (N, 3 * scale², H, W), channels together, onto the enlarged (N, 3, H, W)."""
    num, channels, height, width = x.shape
    x = x.contiguous()
    detail = detail.contiguous(memory_format=torch.channels_last)
    result = x.new_empty(num, channels, height * scale, width * scale)
    for index in range(num):
        image, own, out = (each[index].data_ptr() for each in (x, detail, result))
        job = DetailShuffle(image, own, height, width, scale, weights, out)
        run(name, job, is_bf16=detail.dtype == torch.bfloat16)
    return result

"""SRVGGNetCompact by kernels in which a convolution ends with its activation.

The layers of a frame are a chain: every one reads what the one before has written, once, and the
last one writes the enlarged picture. All but the last are started as one graph; its output is
read by the last one before the next frame.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from ..kernels.convolution import Convolution, FirstConvolution, empty_channels_last, fits
from ..kernels.cuda import OF_PICTURES, Graphs, KernelSelfTest, disagrees, mismatch, slower
from .network import DenseTrunk, ReducedSRVGG, RRDBNet, SRVGGNetCompact, Upscaler, enlarged_in_bands

_FEATURES = (32, 64, 128)
"""Channels that the kernels know between the convolutions."""


class FusedSRVGG(Upscaler):
    """An `SRVGGNetCompact`, the laying out and adding of details in its last kernel.

    Or it reduced: then that last step is plain. It shares its attributes and weights.
    """

    def __init__(self, network: SRVGGNetCompact | ReducedSRVGG) -> None:
        super().__init__()
        self.plain = network
        self.take_form_of(network)
        layered = list(network.body.children())
        layers = [cast("nn.Conv2d", layer) for layer in layered[::2]]
        slopes = [cast("nn.PReLU", layer).weight for layer in layered[1::2]]
        self._first = FirstConvolution(layers[0], slopes[0])
        self._middle = [Convolution(*pair) for pair in zip(layers[1:-1], slopes[1:], strict=True)]
        self._last = Convolution(layers[-1], None)
        self._features = Graphs(self._run, needed_bytes=self._needed_bytes)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge (N, 3, H, W) float32; see :class:`Upscaler`."""
        if len(x) > 1:
            return torch.cat([self(one[None]) for one in x])
        height, width = x.shape[2:]
        with self._features.turn:
            y = self._features(x)
            if not isinstance(self.plain, ReducedSRVGG):
                out = x.new_empty(1, 3, height * self.scale, width * self.scale)
                return self._last.with_detail(y, x, out, self.scale)
            detail = empty_channels_last(self._last.num_out, height, width, y)
            self._last.into(y, detail)
        return self.plain.downscaled(x, detail)

    def _needed_bytes(self, x: Tensor) -> int:
        values = 2 * self._first.num_out * x.shape[2] * x.shape[3]
        return values * self._first.weight.element_size()

    def _run(self, x: Tensor) -> Tensor:
        """(1, 3, H, W) → (1, num_feat, H, W); two tensors take turns."""
        height, width = x.shape[2:]
        here, there = (
            empty_channels_last(self._first.num_out, height, width, self._first.weight)
            for _ in range(2)
        )
        self._first(x, here)
        for layer in self._middle:
            layer.into(here, there)
            here, there = there, here
        return here


class FusedRRDB(Upscaler):
    """An `RRDBNet`; see `DenseTrunk`. The trunk is started as one graph where it fits.

    Its output is read by the tail before the next frame. It shares its attributes and weights.
    """

    def __init__(self, network: RRDBNet) -> None:
        super().__init__()
        self.plain = network
        self.take_form_of(network)
        self._trunk = DenseTrunk(network, Convolution)
        self._graphs = Graphs(self._trunk.features, needed_bytes=self._needed_bytes)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge (N, 3, H, W) float32; see :class:`Upscaler`."""
        with self._graphs.turn:
            return enlarged_in_bands(self, self._graphs, self._tail, x)

    def _needed_bytes(self, x: Tensor) -> int:
        return self._trunk.num_values * x.shape[2] * x.shape[3] * self.weight.element_size()

    def _tail(self, x: Tensor) -> Tensor:
        return self.plain.conv_last(self._trunk.enlarged(x))


# The networks as they run on a CUDA card: with our own kernels where these pass their self-test.
#
# On first use, a part of the first frame is computed both ways and in fp32. Kernels that are not
# available, less accurate than plain torch in the same precision, or slower than it are not used
# from then on, with one warning.

_COMPARED = 157, 263
"""Rows and columns of the first frame that are compared: no whole number of anything."""
_TIMED = 720, 1280
"""The same that are timed, and compared with plain torch in the same precision."""


def on_cuda(network: Upscaler) -> Upscaler:
    """Make a network fast on the CUDA card where it lies; it stays the one that is right.

    It is in its dtype, and channels_last.
    """
    known = isinstance(network, SRVGGNetCompact | ReducedSRVGG | RRDBNet)
    if not known or network.weight.dtype == torch.float32:  # which is exact as it is
        return network
    if isinstance(network, SRVGGNetCompact) and network.scale == 3:
        return network  # squares of a kernel have a power of two as their edge
    layers = [layer for layer in network.body.modules() if isinstance(layer, nn.Conv2d)]
    if isinstance(network, RRDBNet):
        fit, build = bool(layers), partial(FusedRRDB, network)
        layers.append(network.conv_up1)
    else:
        fit = layers.pop(0).out_channels in _FEATURES and len(layers) > 1
        build = partial(FusedSRVGG, network)
    return Proven(network, build) if fit and all(map(fits, layers)) else network


class Proven(Upscaler):
    """A network by the kernels of `build`, once they have proved themselves, else plain."""

    def __init__(self, plain: Upscaler, build: Callable[[], Upscaler]) -> None:
        super().__init__()
        self.plain = plain
        self.take_form_of(plain)
        self._build = build
        self._fused: list[Upscaler] = []  # a list, for modules are no attributes to hide
        self._self_test = KernelSelfTest(f"{type(plain).__name__} is computed by plain torch")

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge (N, 3, H, W) float32; see :class:`Upscaler`."""
        if self._self_test.passed(lambda: self._trial(x)):
            return self._fused[0](x)
        return self.plain(x)

    def _trial(self, x: Tensor) -> str | None:
        """Compute a part of a frame both ways; return why the kernels cannot be used, or None."""
        fused = self._build()
        part = x[:1, :, : _COMPARED[0], : _COMPARED[1]]
        exact = copy.deepcopy(self.plain).float()(part)
        fault = mismatch(fused(part), self.plain(part), exact)
        if fault is None and x.device.type == "cuda":
            part = x[:1, :, : _TIMED[0], : _TIMED[1]]
            fault = disagrees(fused(part), self.plain(part), *OF_PICTURES)
            fault = fault or slower(lambda: fused(part), lambda: self.plain(part))
        if fault is None:
            self._fused.append(self._build())  # the tried one has recorded graphs of the part
        return fault

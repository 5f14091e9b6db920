"""SRVGGNetCompact by kernels in which a convolution ends with its activation.

The layers of a frame are a chain: every one reads what the one before has written, once, and the
last one writes the enlarged picture. All but the last are started as one graph; what that gives is
read by the last one before the next frame. Not yet seen on a GPU.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..cuda.convolution import Convolution, FirstConvolution, channels_together, fits
from ..cuda.graphs import Graphs
from .network import Upscaler
from .reduced import ReducedSRVGG
from .srvgg import SRVGGNetCompact

_FEATURES = (32, 64, 128)
"""Channels that the kernels know between the convolutions."""


def can_fuse_body(body: nn.Module) -> bool:
    """Tell whether the kernels can stand for the layers of an `SRVGGNetCompact`."""
    if not isinstance(body, nn.Sequential) or len(body) < 5:
        return False
    convolutions = [layer for layer in body.children() if isinstance(layer, nn.Conv2d)]
    features = convolutions[0].out_channels
    return features in _FEATURES and all(fits(layer) for layer in convolutions[1:])


class FusedBody:
    """The convolutions of an `SRVGGNetCompact`, each with its activation.

    Args:
        body: of the network, on its device and in its dtype; not kept.
    """

    def __init__(self, body: nn.Sequential) -> None:
        layered = list(body.children())
        layers = [cast("nn.Conv2d", layer) for layer in layered[::2]]
        slopes = [cast("nn.PReLU", layer).weight for layer in layered[1::2]]
        self._first = FirstConvolution(layers[0], slopes[0])
        self._middle = [Convolution(*pair) for pair in zip(layers[1:-1], slopes[1:], strict=True)]
        self._last = Convolution(layers[-1], None)
        self._features = Graphs(self._run)

    def __call__(self, x: Tensor) -> Tensor:
        """Give the details, (N, C, H, W), channels lying together."""
        if len(x) > 1:
            return torch.cat([self(one[None]) for one in x])
        height, width = x.shape[2:]
        y = self._features(x)
        return self._last(y, channels_together(self._last.num_out, height, width, y))

    def laid_out(self, x: Tensor, scale: int) -> Tensor:
        """Give (1, 3, H * scale, W * scale), float32: the picture x with its details."""
        height, width = x.shape[2:]
        out = x.new_empty(1, 3, height * scale, width * scale)
        return self._last.laid_out(self._features(x), x, out, scale)

    def _run(self, x: Tensor) -> Tensor:
        """(1, 3, H, W) → (1, num_feat, H, W); two tensors take turns."""
        height, width = x.shape[2:]
        here, there = (
            channels_together(self._first.num_out, height, width, self._first.weight)
            for _ in range(2)
        )
        self._first(x, here)
        for layer in self._middle:
            layer(here, there)
            here, there = there, here
        return here


class FusedSRVGG(Upscaler):
    """An `SRVGGNetCompact`, the laying out and adding of details in its last kernel.

    Args:
        network: on its device and in its dtype; its attributes and weights are shared.
    """

    def __init__(self, network: SRVGGNetCompact) -> None:
        super().__init__()
        self.plain = network
        self.take_form_of(network)
        self._body = FusedBody(network.body)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge (N, 3, H, W) float32; see :class:`Upscaler`."""
        made = [self._body.laid_out(one[None], self.scale) for one in x]
        return made[0] if len(made) == 1 else torch.cat(made)


class FusedReducedSRVGG(Upscaler):
    """A `ReducedSRVGG`, but for its last step, which is plain.

    Args:
        network: on its device and in its dtype; its attributes and weights are shared.
    """

    def __init__(self, network: ReducedSRVGG) -> None:
        super().__init__()
        self.plain = network
        self.take_form_of(network)
        self._body = FusedBody(network.body)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge (N, 3, H, W) float32; see :class:`Upscaler`."""
        return self.plain.shrunk(x, self._body(x))

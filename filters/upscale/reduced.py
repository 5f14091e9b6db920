"""A compact network that enlarges by less than its own scale, without its own size in between.

`SRVGGNetCompact` ends in channels: each pixel's detail, to be laid out as a square. Where a smaller
whole factor is asked for, the picture of its own size would only be made to be shrunk again. But
laying out, adding the enlarged picture and shrinking are all linear and the same for every pixel,
so they are one 3x3 convolution of the channels: the same arithmetic, a quarter of the memory and
hardly any time. The kernel is read off the function that would have shrunk.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from .network import Upscaler
from .resize import resize
from .srvgg import SRVGGNetCompact

_CELLS = 5
"""Pixels of the input in the strip from which a kernel is read: one, its neighbours, and theirs."""
_CHANNELS = 3


def can_reduce(network: Upscaler, scale: float) -> bool:
    """Tell whether a network can be made to enlarge by `scale` at once."""
    return isinstance(network, SRVGGNetCompact) and scale in range(2, network.scale)


class ReducedSRVGG(Upscaler):
    """An `SRVGGNetCompact` and the shrinking of its result as one network.

    Args:
        network: shares its layers with this one.
        scale: 2 or more, less than the network's.
    """

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
        self.of_pixels = rows.sum(
            2
        )  # (scale, 3): how neighbours weigh; a plain attribute stays in float32
        kernel = torch.einsum("ayp,bxq->abpqyx", rows, rows)
        own_channel = torch.eye(_CHANNELS)[:, None, None, :, None, None, None, None]
        self.of_detail: Tensor
        self.register_buffer(
            "of_detail",
            (own_channel * kernel[None, :, :, None]).reshape(
                _CHANNELS * scale**2, _CHANNELS * own**2, 3, 3
            ),
            persistent=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge (N, 3, H, W) float32; see :class:`Upscaler`."""
        detail = self.body(x.to(self.weight.dtype, memory_format=torch.channels_last))
        return self.shrunk(x, detail)

    def shrunk(self, x: Tensor, detail: Tensor) -> Tensor:
        """Add the details to the enlarged picture, and shrink both.

        Args:
            x: (N, 3, H, W), float32: the picture.
            detail: (N, C, H, W), dtype of the weights: what `body` makes of it.
        """
        shrunk = F.conv2d(detail, self.of_detail, padding=1)  # (N, 3 * scale², H, W)
        result = F.pixel_shuffle(self._base(x).add_(shrunk), self.scale)
        return self._whole_at_edges(result)

    def _base(self, x: Tensor) -> Tensor:
        """Enlarge the picture itself, squares of equal pixels shrunk: (N, 3 * scale², H, W)."""
        weights = self.of_pixels.to(x.device)
        kernel = torch.einsum("ay,bx->abyx", weights, weights).reshape(-1, 1, 3, 3)
        return F.conv2d(x, kernel.repeat(_CHANNELS, 1, 1, 1), padding=1, groups=_CHANNELS)

    def _whole_at_edges(self, x: Tensor) -> Tensor:
        """Divide by the weights that lay within the picture: beyond its edges there is nothing."""
        scale = self.scale
        for axis in (2, 3):
            share = self._share_within(x.shape[axis] // scale).to(x.device)
            shape = (-1, 1) if axis == 2 else (1, -1)
            for start in dict.fromkeys((0, len(share) - scale)):
                x.narrow(axis, start, scale).div_(share[start : start + scale].view(shape))
        return x

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
    # two columns: of a single one torch 2.13 takes the strides for those of another layout
    impulses = torch.eye(_CELLS * own).view(1, -1, _CELLS * own, 1).repeat(1, 1, 1, 2)
    shrunk = resize(impulses, 2, _CELLS * scale)[0, :, :, 0]  # (5 * own, 5 * scale)
    middle = shrunk[:, 2 * scale : 3 * scale].T
    assert not middle[:, :own].any()  # the kernel reaches no further than the neighbours
    assert not middle[:, -own:].any()
    return middle[:, own:-own].reshape(scale, 3, own)

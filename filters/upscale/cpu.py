"""The compact network on a CPU, with what lies between and behind its convolutions compiled."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_float

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels.native import Activation, DetailShuffle, kernels, run
from ..kernels.winograd import WinogradConv, can_convolve, supports_rgb_output
from .dense import DenseTrunk
from .network import SLOPE, ReducedSRVGG, RRDBNet, SRVGGNetCompact, Upscaler, enlarged_in_bands


def can_write_in_place(network: RRDBNet) -> bool:
    """Return whether the kernel can stand for the layers of a network, all but the first."""
    own = (network.conv_body, network.conv_up1, network.conv_up2, network.conv_hr)
    inner = [layer for layer in network.body.modules() if isinstance(layer, nn.Conv2d)]
    return all(can_convolve(layer) for layer in (*own, *inner)) and supports_rgb_output(
        network.conv_last
    )


class DenseOnCpu(Upscaler):
    """An `RRDBNet` in fp32 or bf16; see :mod:`.dense`.

    Args:
        plain: its attributes and first layer are shared.
    """

    def __init__(self, plain: RRDBNet) -> None:
        super().__init__()
        self.take_form_of(plain)
        self._first = plain.conv_first
        self._trunk = DenseTrunk(plain, _kernel)
        self._smooth = _kernel(plain.conv_hr, SLOPE)
        self._last = WinogradConv(plain.conv_last)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge (N, 3, H, W) float32; see :class:`Upscaler`."""
        made = [enlarged_in_bands(self, self._features, self._tail, one[None]) for one in x]
        return made[0] if len(made) == 1 else torch.cat(made)

    def _features(self, x: Tensor) -> Tensor:
        return self._trunk.features(self._first(x))

    def _tail(self, x: Tensor) -> Tensor:
        return self._last.to_rgb(self._smooth(self._trunk.doubled_twice(x)))


def _kernel(layer: nn.Conv2d, slope: float | None) -> WinogradConv:
    slopes = None if slope is None else torch.full((layer.out_channels,), slope)
    return WinogradConv(layer, slopes)


_LANES = 8
"""Channels that the kernel processes at once."""
_NO_WEIGHTS = (0.0,) * 12


def on_cpu(network: Upscaler) -> Upscaler:
    """Make a network fast on the CPU, where the kernels are there and do what it wants.

    Args:
        network: in its dtype, channels_last; it stays as it is.
    """
    known = network.weight.dtype in (torch.float32, torch.bfloat16) and kernels() is not None
    if isinstance(network, SRVGGNetCompact | ReducedSRVGG) and known:
        activations = [layer for layer in network.body if isinstance(layer, nn.PReLU)]
        if all(layer.num_parameters % _LANES == 0 for layer in activations):
            return CompactOnCpu(network)
    if isinstance(network, RRDBNet) and can_write_in_place(network):
        return DenseOnCpu(network)
    return network


class CompactOnCpu(Upscaler):
    """`SRVGGNetCompact`, or it reduced: the same convolutions.

    Args:
        plain: shares its layers with this one.
    """

    def __init__(self, plain: SRVGGNetCompact | ReducedSRVGG) -> None:
        super().__init__()
        self.plain = plain
        self.take_form_of(plain)
        layers = plain.body
        convs = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        slopes = (layer.weight for layer in layers if isinstance(layer, nn.PReLU))
        self._layers = [
            _layer(conv, slope.detach().float()) for conv, slope in zip(convs, slopes, strict=False)
        ]
        last = convs[-1]
        self._last = WinogradConv(last) if can_convolve(last) else last

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge (N, 3, H, W) float32; see :class:`Upscaler`."""
        detail = self._last(self._features(x))
        if isinstance(self.plain, ReducedSRVGG):
            detail = F.conv2d(detail, self.plain.of_detail, padding=1)
            return _laid("shrink", x, detail, self.scale, self.plain.of_pixels)
        return _laid("lay", x, detail, self.scale, None)

    def _features(self, x: Tensor) -> Tensor:
        """Run all convolutions but the last, alternating between two tensors where possible.

        From 400x300 pixels on, 64 channels in fp32 are more than the allocator keeps: each new
        tensor would be pages that the system has to clear.
        """
        y = x.to(self.weight.dtype, memory_format=torch.channels_last)
        spare = y  # its three channels are no layer's result: it is not written on
        for layer in self._layers:
            if isinstance(layer, WinogradConv) and spare.shape[1] == layer.num_out:
                y, spare = layer.into(y, spare), y
            else:
                y, spare = layer(y), y
        return y


def _layer(conv: nn.Conv2d, slopes: Tensor) -> Callable[[Tensor], Tensor]:
    """Make a convolution with its PReLU."""
    if can_convolve(conv):
        return WinogradConv(conv, slopes)

    def activated(x: Tensor) -> Tensor:
        y = conv(x)
        num, channels, height, width = y.shape
        assert y.is_contiguous(memory_format=torch.channels_last)
        job = Activation(y.data_ptr(), slopes.data_ptr(), num * height, width, channels)
        run("activate", job, is_bf16=y.dtype == torch.bfloat16)
        return y

    return activated


def _laid(name: str, x: Tensor, detail: Tensor, scale: int, weights: Tensor | None) -> Tensor:
    """Lay out (N, 3 * scale², H, W), channels together, onto the enlarged (N, 3, H, W)."""
    num, channels, height, width = x.shape
    x = x.contiguous()
    detail = detail.contiguous(memory_format=torch.channels_last)
    result = x.new_empty(num, channels, height * scale, width * scale)
    of_pixels = _NO_WEIGHTS if weights is None else tuple(map(float, weights.flatten()))
    for index in range(num):
        job = DetailShuffle(
            x[index].data_ptr(),
            detail[index].data_ptr(),
            height,
            width,
            scale,
            (c_float * 12)(*of_pixels),
            result[index].data_ptr(),
        )
        run(name, job, is_bf16=detail.dtype == torch.bfloat16)
    return result

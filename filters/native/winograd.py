"""3x3 convolutions in bf16 with a quarter of the multiplications; see `winograd.c`.

What a tile's pixels are turned into, and back, are Toom-Cook's matrices for the points 0, ±√½, ±√2
and infinity. Weights are turned once, in float64, and rounded to bf16 then.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_void_p
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..device import cpu_has
from .compiled import kernels, run

_POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))
_LANES = 16
"""Channels that the kernel takes at once."""
_FEWEST_CHANNELS = 32
"""With 16, turning costs what multiplying saves."""
_SUMS = 36


class _Convolution(ctypes.Structure):
    _fields_: ClassVar = [
        ("input", c_void_p),
        ("weights", c_void_p),
        ("bias", c_void_p),
        ("slopes", c_void_p),
        ("output", c_void_p),
        ("height", c_int),
        ("width", c_int),
        ("in_channels", c_int),
        ("out_channels", c_int),
    ]


@lru_cache(maxsize=1)
def is_fast() -> bool:
    """Tell whether the kernel is there and this CPU has what it needs.

    A CPU that multiplies whole matrices (AMX) is left to torch: it wins there without savings.
    """
    if kernels() is None or cpu_has("amx_bf16"):
        return False
    return run("convolve", _Convolution(in_channels=_LANES, out_channels=_LANES)) == 0


def can_convolve(layer: nn.Conv2d) -> bool:
    """Tell whether the kernel does what a layer does, and faster."""
    plain = (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (1, 1), (1, 1))
    plain = plain and (layer.dilation, layer.groups, layer.padding_mode) == ((1, 1), 1, "zeros")
    channels = layer.in_channels, layer.out_channels
    fits = min(channels) >= _FEWEST_CHANNELS and not any(count % _LANES for count in channels)
    ours = layer.weight.dtype == torch.bfloat16 and layer.weight.device.type == "cpu"
    return plain and fits and ours and is_fast()


class WinogradConv:
    """A convolution and its activation, where `can_convolve` says so.

    Args:
        layer: 3x3 in bf16.
        slopes: of PReLU, (out,); None for no activation.
    """

    def __init__(self, layer: nn.Conv2d, slopes: Tensor | None = None) -> None:
        self._weights = _turned(layer.weight.detach())
        bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias.detach()
        self._bias = bias.float()
        self._slopes = None if slopes is None else slopes.detach().float().contiguous()
        self._channels = layer.in_channels, layer.out_channels

    def __call__(self, x: Tensor) -> Tensor:
        """Turn (N, in, H, W), bf16, channels together, into (N, out, H, W) of the same kind.

        Raises:
            MemoryError: if there is none for a few tiles.
        """
        num, _, height, width = x.shape
        x = x.contiguous(memory_format=torch.channels_last)
        result = torch.empty(
            (num, self._channels[1], height, width),
            dtype=torch.bfloat16,
            memory_format=torch.channels_last,
        )
        for index in range(num):
            job = _Convolution(
                x[index].data_ptr(),
                self._weights.data_ptr(),
                self._bias.data_ptr(),
                None if self._slopes is None else self._slopes.data_ptr(),
                result[index].data_ptr(),
                height,
                width,
                *self._channels,
            )
            if run("convolve", job):
                raise MemoryError(f"no memory is left to convolve {width}x{height}")
        return result


def _turned(weight: Tensor) -> Tensor:
    """Turn (out, in, 3, 3) into (36, in/2, out, 2), bf16: G g G^T."""
    num_out, num_in = weight.shape[:2]
    matrix = _weights_matrix()
    turned = torch.einsum("ij,ocjk,lk->ilco", matrix, weight.double(), matrix)
    pairs = turned.reshape(_SUMS, num_in // 2, 2, num_out).transpose(2, 3)
    return pairs.to(torch.bfloat16).contiguous()


def _weights_matrix() -> Tensor:
    """Toom-Cook's matrix for three weights: (6, 3), float64."""
    rows: list[list[float]] = []
    for point in _POINTS:
        others = [other for other in _POINTS if other != point]
        scale = torch.tensor([point - other for other in others], dtype=torch.float64).prod()
        rows.append([point**power / float(scale) for power in range(3)])
    return torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64)

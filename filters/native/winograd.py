"""3x3 convolutions in bf16 with a quarter of the multiplications; see `winograd.c`."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int, c_int64, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..device import cpu_has
from .compiled import kernels, run
from .turned import LANES, turned

_FEWEST_CHANNELS = 32
"""With 16, turning costs what multiplying saves."""
_PLANES = 3


class _Pixels(ctypes.Structure):
    _fields_: ClassVar = [("values", c_void_p), ("step", c_int64)]


class _Residual(ctypes.Structure):
    _fields_: ClassVar = [("to", _Pixels), ("gain", c_float)]


class _Convolution(ctypes.Structure):
    _fields_: ClassVar = [
        ("input", _Pixels),
        ("weights", c_void_p),
        ("bias", c_void_p),
        ("slopes", c_void_p),
        ("output", _Pixels),
        ("picture", c_void_p),
        ("near", _Residual),
        ("far", _Residual),
        ("present", c_int),
        ("height", c_int),
        ("width", c_int),
        ("in_channels", c_int),
        ("out_channels", c_int),
        ("doubled", c_int),
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Residual:
    """What is added to a result: ``result * gain + to``."""

    to: Tensor
    """(1, C, H, W), bf16, channels lying together."""
    gain: float


@lru_cache(maxsize=1)
def is_fast() -> bool:
    """Tell whether the kernel is there and this CPU has what it needs.

    A CPU that multiplies whole matrices (AMX) is left to torch: it wins there without savings.
    """
    if kernels() is None or cpu_has("amx_bf16"):
        return False
    return run("convolve", _Convolution(in_channels=LANES, out_channels=LANES)) == 0


def can_convolve(layer: nn.Conv2d) -> bool:
    """Tell whether the kernel does what a layer does, and faster."""
    channels = layer.in_channels, layer.out_channels
    fits = min(channels) >= _FEWEST_CHANNELS and not any(count % LANES for count in channels)
    return fits and _is_plain(layer)


def can_draw(layer: nn.Conv2d) -> bool:
    """Tell whether `WinogradConv.drawn` does what a layer does, and faster."""
    fits = layer.in_channels >= _FEWEST_CHANNELS and layer.in_channels % LANES == 0
    return fits and layer.out_channels == _PLANES and _is_plain(layer)


def _is_plain(layer: nn.Conv2d) -> bool:
    plain = (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (1, 1), (1, 1))
    plain = plain and (layer.dilation, layer.groups, layer.padding_mode) == ((1, 1), 1, "zeros")
    ours = layer.weight.dtype == torch.bfloat16 and layer.weight.device.type == "cpu"
    return plain and ours and is_fast()


class WinogradConv:
    """A convolution and its activation, where `can_convolve` or `can_draw` says so.

    Args:
        layer: 3x3 in bf16.
        slopes: of PReLU, (out,); None for no activation.
    """

    def __init__(self, layer: nn.Conv2d, slopes: Tensor | None = None) -> None:
        self.num_in, self.num_out = layer.in_channels, layer.out_channels
        self._weights = turned(layer.weight.detach())
        self._bias = torch.zeros(self._weights.shape[2])
        if layer.bias is not None:
            self._bias[: self.num_out] = layer.bias.detach()
        self._slopes = None if slopes is None else slopes.detach().float().contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        """Turn (N, in, H, W), bf16, channels together, into (N, out, H, W) of the same kind.

        Raises:
            MemoryError: if there is none for a few tiles.
        """
        num, _, height, width = x.shape
        x = x.contiguous(memory_format=torch.channels_last)
        result = torch.empty(
            (num, self.num_out, height, width),
            dtype=torch.bfloat16,
            memory_format=torch.channels_last,
        )
        for index in range(num):
            self.into(x[index : index + 1], result[index : index + 1])
        return result

    def into(
        self,
        x: Tensor,
        out: Tensor,
        *,
        near: Residual | None = None,
        far: Residual | None = None,
        doubled: bool = False,
    ) -> Tensor:
        """Convolve into `out`, which may be some channels of a larger tensor.

        Plain: ``y = prelu(conv(x)); y = y * near.gain + near.to; y = y * far.gain + far.to``,
        rounded to bf16 once.

        Args:
            x: (1, in, H, W), bf16, channels lying together, may be some of more.
            out: (1, out, H, W), likewise; not what is read, but a residual may be it.
            near: added first.
            far: added then.
            doubled: whether x stands for squares of two by two equal pixels; out is twice as large.

        Raises:
            MemoryError: if there is none for a few tiles.
        """
        job = self._job(x, out.shape[2:], doubled=doubled)
        job.output = _pixels(out)
        if near is not None:
            job.near = _Residual(_pixels(near.to), near.gain)
        if far is not None:
            job.far = _Residual(_pixels(far.to), far.gain)
        _run(job)
        return out

    def drawn(self, x: Tensor) -> Tensor:
        """Turn (1, in, H, W), bf16, channels lying together, into (1, 3, H, W), float32.

        Raises:
            MemoryError: if there is none for a few tiles.
        """
        result = torch.empty(1, _PLANES, *x.shape[2:])
        job = self._job(x, x.shape[2:])
        job.picture = result.data_ptr()
        _run(job)
        return result

    def _job(self, x: Tensor, size: torch.Size, *, doubled: bool = False) -> _Convolution:
        _, pairs, num_out, _ = self._weights.shape[0:4]
        return _Convolution(
            input=_pixels(x),
            weights=self._weights.data_ptr(),
            bias=self._bias.data_ptr(),
            slopes=None if self._slopes is None else self._slopes.data_ptr(),
            present=self.num_in,
            height=size[0],
            width=size[1],
            in_channels=2 * pairs,
            out_channels=num_out,
            doubled=doubled,
        )


def _pixels(x: Tensor) -> _Pixels:
    """Say where the pixels of (1, C, H, W) lie, a row right behind the other."""
    _, channels, _, width = x.shape
    assert x.dtype == torch.bfloat16
    assert channels == 1 or x.stride(1) == 1
    step = x.stride(3) if width > 1 else x.stride(2)
    assert x.shape[2] == 1 or x.stride(2) == width * step
    return _Pixels(x.data_ptr(), step)


def _run(job: _Convolution) -> None:
    if run("convolve", job):
        raise MemoryError(f"no memory is left to convolve {job.width}x{job.height}")

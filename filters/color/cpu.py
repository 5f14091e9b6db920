"""R'G'B' to coded YUV planes in one pass; see `color.c`."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int, c_void_p
from typing import ClassVar

import torch
from torch import Tensor

from ..frame import PixelFormat
from ..kernels.native import kernels, run
from .chroma import HALVING_TAPS, Phase

_ACROSS: dict[Phase | None, int] = {None: 0, "first": 1, "between": 2}
"""The kernel's numbers for halving a row; None keeps it whole."""
_DOWN: tuple[Phase | None, ...] = (None, "between")
"""Supported ways to halve columns: those of everything but some HDR."""
_SMALLEST = 6
"""Pixels; a row or column is mirrored so far."""


class _Coding(ctypes.Structure):
    _fields_: ClassVar = [
        ("pixels", c_void_p),
        ("height", c_int),
        ("width", c_int),
        ("halved_down", c_int),
        ("across", c_int),
        ("most", c_float),
        ("matrix", c_float * 9),
        ("offset", c_float * 3),
        ("taps", c_float * 12),
        ("planes", c_void_p * 3),
    ]


def can_encode(pixels: Tensor, across: Phase | None, down: Phase | None) -> bool:
    """Return whether the kernel is available and supports these arguments."""
    height, width = pixels.shape[-2:]
    ours = pixels.device.type == "cpu" and pixels.dtype == torch.float32
    whole = (across is None or not width % 2) and (down is None or not height % 2)
    large = min(height, width) >= _SMALLEST
    known = across in _ACROSS and down in _DOWN
    return ours and whole and large and known and kernels() is not None


def encode(
    pixels: Tensor,
    form: PixelFormat,
    matrix: Tensor,
    offset: Tensor,
    across: Phase | None,
    down: Phase | None,
) -> tuple[Tensor, ...]:
    """Encode R'G'B' to planes, where `can_encode` is true.

    Args:
        pixels: (3, H, W), fp32, CPU, [0, 1]; even sizes where chroma is halved.
        form: the planes to make, of YUV.
        matrix: (3, 3), from R, G, B to codes.
        offset: (3,), codes.
        across: how rows of chroma are halved, None if not.
        down: the same of columns.

    Returns:
        Y, Cb and Cr, uint8 or uint16, on the CPU.

    Raises:
        MemoryError: if the buffer of a few rows cannot be allocated.
    """
    pixels = pixels.contiguous()
    _, height, width = pixels.shape
    dtype = torch.uint8 if form.bit_depth == 8 else torch.uint16
    chroma = height // (1 if down is None else 2), width // (1 if across is None else 2)
    planes = tuple(torch.empty(size, dtype=dtype) for size in ((height, width), chroma, chroma))
    job = _Coding(
        pixels.data_ptr(),
        height,
        width,
        down is not None,
        _ACROSS[across],
        (1 << form.bit_depth) - 1,
        (c_float * 9)(*map(float, matrix.flatten())),
        (c_float * 3)(*map(float, offset)),
        (c_float * 12)(*HALVING_TAPS),
        (c_void_p * 3)(*(plane.data_ptr() for plane in planes)),
    )
    if run("code", job):
        raise MemoryError(f"no memory is left to encode a frame of {width}x{height}")
    return planes

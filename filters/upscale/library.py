"""Enlarging lists of arrays: a drop-in for the upscaling step of diffusion pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from ..device import resolve_device, resolve_precision
from ..frame import Frame
from ..weights import REAL_ESRGAN, resolve_weights
from .enlarger import Enlarger
from .filter import Upscale, load_network

_MOST_LOADED = 4
"""Networks that stay loaded."""


def upscale_frames(
    frames: Sequence[NDArray[np.uint8]],
    model_path: str | None = None,
    scale: float = 4,
    half_precision: bool = False,
    *,
    precision: str | None = None,
    device: str = "auto",
) -> list[NDArray[np.uint8]]:
    """Enlarge frames with Real-ESRGAN. Weights stay loaded between calls.

    Args:
        frames: uint8 (H, W, 3), R, G, B; sizes may differ.
        model_path: a file, a folder, a hub repository, ``builtin``, or None for the default.
        scale: how much larger, any number from 1 to 8; sizes are rounded down.
        half_precision: without `precision`: fp16 on CUDA, bf16 on a CPU.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``; None means fp32.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        As many uint8 (⌊H·scale⌋, ⌊W·scale⌋, 3) arrays, rounded to the nearest.

    Raises:
        ValueError: if a frame is not uint8 (H, W, 3), or scale or precision are out of range.
        FilterError: one of :mod:`upframe.filters.errors`.
    """
    for index, frame in enumerate(frames):
        _check(index, frame)
    where = resolve_device(device)
    dtype = _dtype(precision, half_precision, where)
    if not frames:
        return []
    upscale = Upscale(_enlarger(model_path, where, dtype), scale)
    results: list[NDArray[np.uint8]] = []
    for index, array in enumerate(frames):
        same = index > 0 and np.array_equal(array, frames[index - 1])
        results += [_to_array(result) for result in upscale(_to_frame(array, index, same))]
    return results


@lru_cache(maxsize=_MOST_LOADED)
def _enlarger(model_path: str | None, device: torch.device, dtype: torch.dtype) -> Enlarger:
    return Enlarger(load_network(resolve_weights(model_path, REAL_ESRGAN)), device, dtype)


def _check(index: int, frame: NDArray[np.uint8]) -> None:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise ValueError(f"frame {index} must be uint8 (H, W, 3), got {frame.dtype} {frame.shape}")


def _dtype(precision: str | None, half_precision: bool, device: torch.device) -> torch.dtype:
    if precision is None:
        half = "fp16" if device.type == "cuda" else "bf16"
        precision = half if half_precision else "fp32"
    return resolve_precision(precision, device)


def _to_frame(array: NDArray[np.uint8], index: int, same: bool) -> Frame:
    pixels = torch.tensor(np.ascontiguousarray(array)).permute(2, 0, 1).float() / 255
    return Frame(pixels, index, 1, Fraction(1), duplicate=same)


def _to_array(frame: Frame) -> NDArray[np.uint8]:
    codes = (frame.pixels * 255).round().to(torch.uint8)
    return codes.permute(1, 2, 0).contiguous().cpu().numpy()

"""Enlarging of a list of pictures, for pipelines that make whole clips at once."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..device import Precision, resolve_device, resolve_precision
from ..frame import Frame
from ..weights import REAL_ESRGAN, Weights, resolve_weights
from .enlarger import Enlarger
from .filter import Upscale, load_network

Image = npt.NDArray[np.uint8]
_ONE = Fraction(1)
"""Time does not matter here."""


def upscale_frames(
    frames: Sequence[Image],
    model_path: str | Path | None = None,
    scale: float = 4,
    half_precision: bool = False,
    *,
    precision: Precision | None = None,
    device: str = "auto",
) -> list[Image]:
    """Enlarge every frame of a clip with Real-ESRGAN.

    Weights stay loaded between calls.

    Args:
        frames: (H, W, 3) each, uint8, R'G'B'; sizes may differ.
        model_path: a file, a folder, a hub repository (``owner/name`` or ``owner/name:file``) or
            ``builtin``; None for the default weights.
        scale: how much larger, any number from 1 to 8; sizes are rounded down.
        half_precision: where `precision` is None: fp16 on CUDA, bf16 on a CPU.
        precision: of the convolutions; None means fp32, ``auto`` what the device is best at.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        As many arrays (⌊H·scale⌋, ⌊W·scale⌋, 3), uint8, rounded to the nearest level.

    Raises:
        ValueError: if a frame is of another kind, or an option is none of those above.
        CheckpointRejected: if the weights are not an SRVGGNetCompact or RRDBNet.
        WeightsUnavailable: if they are not available.
        DeviceUnavailable: if the device is not there.
        TooLarge: if a frame does not fit in memory.
    """
    _check(frames)
    target = resolve_device(device)
    half = "fp16" if target.type == "cuda" else "bf16"
    dtype = resolve_precision(precision or (half if half_precision else "fp32"), target)
    if not frames:
        return []
    weights = _weights(None if model_path is None else str(model_path))
    upscale = Upscale(_enlarger(weights, target, dtype), scale)
    return [_enlarge(upscale, frames, index, target) for index in range(len(frames))]


def _enlarge(upscale: Upscale, frames: Sequence[Image], index: int, device: torch.device) -> Image:
    array = frames[index]
    same = index > 0 and np.array_equal(array, frames[index - 1])
    # torch takes no negative strides, and copies, so that read-only arrays are welcome
    image = torch.tensor(np.ascontiguousarray(array), device=device)
    pixels = image.permute(2, 0, 1).float() / 255
    (result,) = upscale(Frame(pixels, index, 1, _ONE, duplicate=same))
    levels = (result.pixels * 255).round().to(torch.uint8)
    return levels.permute(1, 2, 0).contiguous().cpu().numpy()


def _check(frames: Sequence[Image]) -> None:
    for index, array in enumerate(frames):
        found: Any = array  # what callers promise and what they give may differ
        shape = getattr(found, "shape", ())
        if (
            getattr(found, "dtype", None) != np.uint8
            or len(shape) != 3
            or shape[2] != 3
            or 0 in shape
        ):
            raise ValueError(
                f"frame {index} must be a uint8 array (H, W, 3), "
                f"got {getattr(found, 'dtype', type(found).__name__)} {shape or ''}"
            )


def _weights(name: str | None) -> Weights:
    if name is not None and Path(name).expanduser().exists():
        return resolve_weights(name, REAL_ESRGAN)  # a file may have changed
    return _lasting_weights(name)


@lru_cache(maxsize=8)
def _lasting_weights(name: str | None) -> Weights:
    """Ask the hub, and warn of built-in weights, once."""
    return resolve_weights(name, REAL_ESRGAN)


@lru_cache(maxsize=4)
def _enlarger(weights: Weights, device: torch.device, precision: torch.dtype) -> Enlarger:
    return Enlarger(load_network(weights), device, precision)

"""Interpolation and enlarging of lists of pictures, for programs that process whole clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .device import Precision, resolve_device, resolve_precision
from .frame import Frame, StreamInfo
from .interpolate.filter import Interpolate, load_networks
from .options import InterpolateOptions
from .upscale.enlarger import Enlarger
from .upscale.filter import Upscale, load_network
from .weights import REAL_ESRGAN, RIFE, DefaultWeights, Weights, resolve_weights

Image = npt.NDArray[np.uint8]
_ONE = Fraction(1)
"""Time base and rate: time does not matter, and every gap is alike."""


def interpolate_frames(
    frames: Sequence[Image],
    exp: int = 1,
    scale: float = 1.0,
    model_path: str | Path | None = None,
    *,
    precision: Precision | None = None,
    device: str = "auto",
) -> tuple[list[Image], int]:
    """Insert 2^exp - 1 frames into every gap of a clip, cuts included.

    Weights stay loaded between calls.

    Args:
        frames: (H, W, 3) each, uint8, R'G'B', all of one size.
        exp: 1 to 6.
        scale: 0.25, 0.5, 1, 2 or 4; size at which motion is estimated.
        model_path: a file, a folder, a hub repository (``owner/name`` or ``owner/name:file``) or
            ``builtin``; None for the default weights.
        precision: of the convolutions; None means fp32, ``auto`` the device's best.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        The frames with their in-betweens, and the factor of the rate: 2^exp, or 1 without a gap.
        The originals are the given arrays.

    Raises:
        ValueError: if the frames are not alike, or an option is none of those above.
        CheckpointRejected: if the weights are not a RIFE 4.22.lite checkpoint.
        WeightsUnavailable: if they are not available.
        DeviceUnavailable: if the device is not available.
    """
    InterpolateOptions.model_validate(
        {"frame_interpolation_exp": exp, "frame_interpolation_scale": scale}
    )
    _check(frames, alike=True)
    if len(frames) < 2:
        return list(frames), 1
    target = resolve_device(device)
    network, exact = _networks(
        _weights(model_path, RIFE), target, resolve_precision(precision or "fp32", target)
    )
    built = Interpolate(network, exact=exact, exp=exp, scale=scale)
    factor = 2**exp
    results = enumerate(_interpolated(built, frames, target))
    return [frames[i // factor] if i % factor == 0 else _array(f) for i, f in results], factor


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
        model_path: as for `interpolate_frames`.
        scale: factor of the size, any number from 1 to 8; sizes are rounded down.
        half_precision: if `precision` is None: fp16 on CUDA, bf16 on a CPU.
        precision: of the convolutions; None means fp32, ``auto`` the device's best.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        As many arrays (⌊H·scale⌋, ⌊W·scale⌋, 3), uint8, rounded to the nearest level.

    Raises:
        ValueError: if a frame is of another kind, or an option is none of those above.
        CheckpointRejected: if the weights are not an SRVGGNetCompact or RRDBNet.
        WeightsUnavailable: if they are not available.
        DeviceUnavailable: if the device is not available.
        TooLarge: if a frame does not fit in memory.
    """
    _check(frames, alike=False)
    target = resolve_device(device)
    half = "fp16" if target.type == "cuda" else "bf16"
    dtype = resolve_precision(precision or (half if half_precision else "fp32"), target)
    if not frames:
        return []
    upscale = Upscale(_enlarger(_weights(model_path, REAL_ESRGAN), target, dtype), scale)
    return [_array(frame) for frame in _enlarged(upscale, frames, target)]


def _interpolated(
    built: Interpolate, frames: Sequence[Image], device: torch.device
) -> Iterator[Frame]:
    height, width = frames[0].shape[:2]
    built.open(StreamInfo(width, height, "gbrp", _ONE, rate=_ONE, average_rate=_ONE))
    for pts, array in enumerate(frames):
        yield from built(_frame(array, pts, device))
    yield from built.flush()


def _enlarged(upscale: Upscale, frames: Sequence[Image], device: torch.device) -> Iterator[Frame]:
    for pts, array in enumerate(frames):
        same = pts > 0 and np.array_equal(array, frames[pts - 1])
        yield from upscale(_frame(array, pts, device, duplicate=same))


def _frame(array: Image, pts: int, device: torch.device, *, duplicate: bool = False) -> Frame:
    # torch rejects negative strides, and copies, so that read-only arrays are allowed
    image = torch.tensor(np.ascontiguousarray(array), device=device)
    return Frame(image.permute(2, 0, 1).float() / 255, pts, 1, _ONE, duplicate=duplicate)


def _array(frame: Frame) -> Image:
    levels = (frame.pixels * 255).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(1, 2, 0).contiguous().cpu().numpy()


def _check(frames: Sequence[Image], *, alike: bool) -> None:
    for index, array in enumerate(frames):
        found: Any = array  # callers may pass anything
        shape = getattr(found, "shape", ())
        is_image = len(shape) == 3 and shape[2] == 3 and 0 not in shape
        if getattr(found, "dtype", None) != np.uint8 or not is_image:
            raise ValueError(
                f"frame {index} must be a uint8 array (H, W, 3), "
                f"got {getattr(found, 'dtype', type(found).__name__)} {shape or ''}"
            )
        if alike and shape != frames[0].shape:
            raise ValueError(f"frame {index} must be {frames[0].shape} as the first, got {shape}")


def _weights(path: str | Path | None, default: DefaultWeights) -> Weights:
    if path is not None and Path(path).expanduser().exists():
        return resolve_weights(str(path), default)  # a file may have changed
    return _lasting_weights(None if path is None else str(path), default)


@lru_cache(maxsize=8)
def _lasting_weights(name: str | None, default: DefaultWeights) -> Weights:
    """Ask the hub, and warn of built-in weights, once."""
    return resolve_weights(name, default)


_networks = lru_cache(maxsize=4)(load_networks)


@lru_cache(maxsize=4)
def _enlarger(weights: Weights, device: torch.device, precision: torch.dtype) -> Enlarger:
    return Enlarger(load_network(weights), device, precision)

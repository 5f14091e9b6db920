"""Interpolation of a list of pictures, for pipelines that make whole clips at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..device import Precision, resolve_device, resolve_precision
from ..frame import Frame, StreamInfo
from ..options import InterpolateOptions
from ..weights import RIFE, Weights, resolve_weights
from .filter import Interpolate, load_networks
from .network import IFNet

Image = npt.NDArray[np.uint8]
_ONE = Fraction(1)
"""Any rate does: every gap is alike."""


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
        scale: 0.25, 0.5, 1, 2 or 4; size at which motion is sought.
        model_path: a file, a folder, a hub repository (``owner/name`` or ``owner/name:file``) or
            ``builtin``; None for the default weights.
        precision: of the convolutions; None means fp32, ``auto`` what the device is best at.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        The frames with their in-betweens, and how many times the rate became higher: 2^exp, or 1
        where there was no gap. The originals are the arrays that were given.

    Raises:
        ValueError: if the frames are not alike, or an option is none of those above.
        CheckpointRejected: if the weights are not a RIFE 4.22.lite checkpoint.
        WeightsUnavailable: if they are not available.
        DeviceUnavailable: if the device is not there.
    """
    InterpolateOptions.model_validate(
        {"frame_interpolation_exp": exp, "frame_interpolation_scale": scale}
    )
    _check(frames)
    if len(frames) < 2:
        return list(frames), 1
    target = resolve_device(device)
    network, exact = _networks(
        _weights(None if model_path is None else str(model_path)),
        target,
        resolve_precision(precision or "fp32", target),
    )
    built = Interpolate(network, exact=exact, exp=exp, scale=scale)
    factor = 2**exp
    results = enumerate(_filtered(built, frames, target))
    return [frames[i // factor] if i % factor == 0 else _array(f) for i, f in results], factor


def _filtered(built: Interpolate, frames: Sequence[Image], device: torch.device) -> Iterator[Frame]:
    height, width = frames[0].shape[:2]
    built.open(StreamInfo(width, height, "gbrp", _ONE, rate=_ONE, average_rate=_ONE))
    for pts, array in enumerate(frames):
        # torch takes no negative strides, and copies, so that read-only arrays are welcome
        image = torch.tensor(np.ascontiguousarray(array), device=device)
        pixels = image.permute(2, 0, 1).float() / 255
        yield from built(Frame(pixels, pts, 1, _ONE))
    yield from built.flush()


def _array(frame: Frame) -> Image:
    levels = (frame.pixels * 255).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(1, 2, 0).contiguous().cpu().numpy()


def _check(frames: Sequence[Image]) -> None:
    for index, array in enumerate(frames):
        found: Any = array  # what callers promise and what they give may differ
        if getattr(found, "dtype", None) != np.uint8 or found.ndim != 3 or found.shape[2] != 3:
            raise ValueError(
                f"frame {index} must be a uint8 array (H, W, 3), "
                f"got {getattr(found, 'dtype', type(found).__name__)} {getattr(found, 'shape', '')}"
            )
        if found.shape != frames[0].shape:
            raise ValueError(
                f"frame {index} must be {frames[0].shape} as the first, got {found.shape}"
            )


def _weights(name: str | None) -> Weights:
    if name is not None and Path(name).expanduser().exists():
        return resolve_weights(name, RIFE)  # a file may have changed
    return _lasting_weights(name)


@lru_cache(maxsize=8)
def _lasting_weights(name: str | None) -> Weights:
    """Ask the hub, and warn of built-in weights, once."""
    return resolve_weights(name, RIFE)


@lru_cache(maxsize=4)
def _networks(
    weights: Weights, device: torch.device, precision: torch.dtype
) -> tuple[IFNet, IFNet | None]:
    return load_networks(weights, device, precision)

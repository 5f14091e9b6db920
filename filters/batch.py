"""Interpolation and enlarging of whole clips in memory, for programs that make or process them.

Frames are a list or tuple of arrays, PIL images or tensors, or one array (N, H, W, C), or one
tensor (N, C, H, W). Values are uint8, or floats in [0, 1]; a frame is gray, gray with alpha, R'G'B'
or R'G'B' with alpha. Results are of the same kind, dtype and device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL.Image import Image as PILImage
from PIL.Image import fromarray
from torch import Tensor

from .device import Precision, resolve_device, resolve_precision
from .frame import Frame, StreamInfo
from .interpolate.filter import Interpolate, load_networks
from .options import SCALES
from .upscale.checkpoint import load_upscaler
from .upscale.filter import Enlarger, Upscale
from .weights import (
    REAL_ESRGAN,
    RIFE,
    DefaultWeights,
    Weights,
    load,
    resolve_weights,
    warn_of_builtin,
)

_ONE = Fraction(1)
"""Time base and rate: time does not matter, and every gap is alike."""


def interpolate_frames(
    frames: Any,
    exp: int = 1,
    scale: float = 1.0,
    model_path: str | Path | None = None,
    *,
    precision: Precision | None = None,
    device: str = "auto",
) -> tuple[Any, int]:
    """Insert 2^exp - 1 frames into every gap of a clip, cuts included.

    Weights stay loaded between calls.

    Args:
        frames: as this module describes them, all alike.
        exp: 1 to 6.
        scale: 0.25, 0.5, 1, 2 or 4; size at which motion is estimated.
        model_path: a file, a folder, a hub repository (``owner/name`` or ``owner/name:file``) or
            ``builtin``; None for the default weights.
        precision: of the convolutions; None means fp32, ``auto`` the device's best.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; ``auto`` is that of given tensors.

    Returns:
        The frames with their in-betweens, and the factor of the rate: 2^exp, or 1 without a gap.
        The originals in a list are the given objects.

    Raises:
        TypeError: if `frames` is a generator or something else that is no clip.
        ValueError: if there is no frame, they are not alike, or an option is none of those above.
        CheckpointRejected: if the weights are not a RIFE 4.22.lite checkpoint.
        WeightsUnavailable: if they are not available.
        DeviceUnavailable: if the device is not available.
    """
    if type(exp) is not int or not 1 <= exp <= 6:
        raise ValueError(f"exp must be a whole number from 1 to 6, got {exp!r}")
    if scale not in SCALES:
        raise ValueError(f"scale must be 0.25, 0.5, 1, 2 or 4, got {scale!r}")
    images = _images(frames)
    for index, image in enumerate(images):
        if image.form != images[0].form:
            wanted = f"{images[0].form} as the first"
            raise ValueError(f"frame {index} must be {wanted}, got {image.form}")
    if len(images) < 2:
        return _gathered([image.given for image in images], frames), 1
    target = _device(device, images)
    network, exact = _networks(
        _weights(model_path, RIFE), target, resolve_precision(precision or "fp32", target)
    )
    built = Interpolate(network, exact=exact, exp=exp, scale=scale)
    height, width = images[0].planes().shape[1:]
    built.open(StreamInfo(width, height, "gbrp", _ONE, rate=_ONE, average_rate=_ONE))
    factor: int = 2**exp
    results: list[Any] = [
        images[i // factor].given if i % factor == 0 else images[0].like(frame)
        for i, frame in enumerate(_filtered(built, images, target))
    ]
    return _gathered(results, frames), factor


def upscale_frames(
    frames: Any,
    model_path: str | Path | None = None,
    scale: float = 4,
    half_precision: bool = False,
    *,
    precision: Precision | None = None,
    device: str = "auto",
) -> Any:
    """Enlarge every frame of a clip with Real-ESRGAN.

    Weights stay loaded between calls.

    Args:
        frames: as this module describes them; in a list, sizes and kinds may differ.
        model_path: as for `interpolate_frames`.
        scale: factor of the size, any number from 1 to 8; sizes are rounded down.
        half_precision: if `precision` is None: fp16 on CUDA, bf16 on a CPU.
        precision: of the convolutions; None means fp32, ``auto`` the device's best.
        device: as for `interpolate_frames`.

    Returns:
        As many frames of the same kind, ⌊H·scale⌋ by ⌊W·scale⌋; uint8 is rounded to the nearest
        level.

    Raises:
        TypeError: if `frames` is a generator or something else that is no clip.
        ValueError: if there is no frame, one is of another kind, or an option is none of those
            above.
        CheckpointRejected: if the weights are not an SRVGGNetCompact or RRDBNet.
        WeightsUnavailable: if they are not available.
        DeviceUnavailable: if the device is not available.
        TooLarge: if a frame does not fit in memory.
    """
    images = _images(frames)
    target = _device(device, images)
    half = "fp16" if target.type == "cuda" else "bf16"
    dtype = resolve_precision(precision or (half if half_precision else "fp32"), target)
    upscale = Upscale(_enlarger(_weights(model_path, REAL_ESRGAN), target, dtype), scale)
    enlarged = zip(images, _filtered(upscale, images, target), strict=True)
    return _gathered([image.like(frame) for image, frame in enlarged], frames)


def interpolate_video_tensor(
    frames: Tensor, exp: int = 1, scale: float = 1.0, model_path: str | Path | None = None
) -> tuple[Tensor, int]:
    """Do as `interpolate_frames` does, with a tensor (N, 3, H, W), float in [0, 1] or uint8.

    Returns:
        ((N - 1)·2^exp + 1, 3, H, W), float32 in [0, 1], on its device; and 2^exp, or 1 for N = 1.
    """
    return interpolate_frames(_floats(frames), exp, scale, model_path)


def upscale_tensor(
    frames: Tensor,
    model_path: str | Path | None = None,
    scale: float = 4,
    half_precision: bool = False,
) -> Tensor:
    """Do as `upscale_frames` does, with a tensor (N, 3, H, W), float in [0, 1] or uint8.

    Returns:
        (N, 3, ⌊H·scale⌋, ⌊W·scale⌋), float32 in [0, 1], on its device.
    """
    return upscale_frames(_floats(frames), model_path, scale, half_precision)


def batch_upscale_frames(
    frames: Sequence[Any], model_path: str | Path | None = None, scale: float = 4
) -> list[Any]:
    """Do as `upscale_frames` does, with frames of any sizes, those of one size in a row.

    Returns:
        As many frames, in the order in which they were given; none for none.
    """
    order = sorted(range(len(frames)), key=lambda index: np.shape(frames[index]))
    results: list[Any] = (
        upscale_frames([frames[i] for i in order], model_path, scale) if order else []
    )
    return [result for _, result in sorted(zip(order, results, strict=True), key=lambda x: x[0])]


def _floats(frames: Any) -> Tensor:
    if not isinstance(frames, Tensor) or frames.ndim != 4 or frames.shape[1] != 3:
        got = tuple(frames.shape) if isinstance(frames, Tensor) else type(frames).__name__
        raise ValueError(f"frames must be a tensor (N, 3, H, W), got {got}")
    return frames.float() / (255 if frames.dtype == torch.uint8 else 1)


_SLACK = 0.01
"""Floats may leave [0, 1] by this, as codecs of images let them, and are clipped."""


@dataclass(frozen=True, slots=True, eq=False)
class _Image:
    """A frame as it was given."""

    given: Any
    form: str
    """``uint8 array (48, 64, 3)``: equal for frames that are alike."""
    num_channels: int

    @classmethod
    def of(cls, given: Any, index: int) -> _Image:
        """Check what a caller gave.

        Raises:
            ValueError: if it is no picture, or its values are none that we know.
        """
        is_pil, is_tensor = isinstance(given, PILImage), isinstance(given, Tensor)
        kind = "tensor" if is_tensor else f"PIL image of mode {given.mode}" if is_pil else "array"
        seen = np.asarray(given) if is_pil else given
        shape: tuple[int, ...] = tuple(getattr(seen, "shape", ()))
        dtype = str(getattr(seen, "dtype", type(given).__name__)).removeprefix("torch.")
        channels = 1 if len(shape) == 2 else shape[0 if is_tensor else -1] if shape else 0
        is_known = dtype == "uint8" or (not is_pil and "float" in dtype)
        is_known &= not is_pil or given.mode in ("L", "LA", "RGB", "RGBA")
        if len(shape) not in (2, 3) or min(shape) < 1 or not 1 <= channels <= 4 or not is_known:
            raise ValueError(
                f"frame {index} must be uint8 or float: an array or PIL image (H, W, C) or a "
                f"tensor (C, H, W), with C from 1 to 4; got {dtype} {kind} {shape}"
            )
        low, high = float(seen.min()), float(seen.max())
        if dtype != "uint8" and not -_SLACK <= low <= high <= 1 + _SLACK:
            raise ValueError(f"frame {index} must be in [0, 1], got {low:g} to {high:g}")
        return cls(given, f"{dtype} {kind} {shape}", channels)

    def planes(self) -> Tensor:
        """Return (C, H, W), as it was given."""
        if isinstance(self.given, Tensor):
            planes = self.given.detach()
            return planes[None] if planes.ndim == 2 else planes
        # torch rejects negative strides, and copies, so that read-only arrays are allowed
        values = torch.tensor(np.ascontiguousarray(self.given))
        return values[None] if values.ndim == 2 else values.permute(2, 0, 1)

    def frame(self, planes: Tensor, pts: int, *, duplicate: bool = False) -> Frame:
        """Return planes as filters expect them."""
        whole = planes.dtype == torch.uint8
        values = planes.float() / 255 if whole else planes.float().clamp(0, 1)
        colors = values[:3] if self.num_channels >= 3 else values[:1].repeat(3, 1, 1)
        alpha = None if self.num_channels % 2 else values[-1:]
        return Frame(colors, pts, 1, _ONE, alpha=alpha, duplicate=duplicate)

    def like(self, frame: Frame) -> Any:
        """Return what a filter made in the form of this one."""
        colors = frame.pixels if self.num_channels >= 3 else frame.pixels.mean(0, keepdim=True)
        values = colors if frame.alpha is None else torch.cat((colors, frame.alpha))
        if self.form.startswith("uint8"):
            values = (values * 255).round().clamp(0, 255).to(torch.uint8)
        plain = np.ndim(self.given) == 2  # gray without an axis of channels
        if isinstance(self.given, Tensor):
            return (values[0] if plain else values).to(self.given.device, self.given.dtype)
        array = (values[0] if plain else values.permute(1, 2, 0)).contiguous().cpu().numpy()
        if isinstance(self.given, PILImage):
            return fromarray(array)
        return array.astype(self.given.dtype, copy=False)


def _images(frames: Any) -> list[_Image]:
    """Check a clip, and return its frames; raises as `upscale_frames` does."""
    kind = cast("type[object]", type(frames))
    if not issubclass(kind, list | tuple | np.ndarray | Tensor):
        raise TypeError(f"frames must be a list, an array or a tensor, got {kind.__name__}")
    if not issubclass(kind, list | tuple) and frames.ndim != 4:
        axes = "(N, C, H, W)" if issubclass(kind, Tensor) else "(N, H, W, C)"
        raise ValueError(f"frames must be {axes}, or a list, got {tuple(frames.shape)}")
    if not len(frames):
        raise ValueError("frames is empty, wanted at least one")
    return [_Image.of(given, index) for index, given in enumerate(frames)]


def _device(name: str, images: Sequence[_Image]) -> torch.device:
    given = images[0].given
    return given.device if name == "auto" and isinstance(given, Tensor) else resolve_device(name)


def _gathered(results: list[Any], frames: Any) -> Any:
    """Return results in the container in which the frames came."""
    if isinstance(frames, Tensor):
        return torch.stack(results)
    return np.stack(results) if isinstance(frames, np.ndarray) else results


def _filtered(
    stage: Interpolate | Upscale, images: Sequence[_Image], device: torch.device
) -> Iterator[Frame]:
    for frame in _frames(images, device):
        yield from stage(frame)
    yield from stage.flush()


def _frames(images: Sequence[_Image], device: torch.device) -> Iterator[Frame]:
    before: Tensor | None = None
    for pts, image in enumerate(images):
        planes = image.planes().to(device)
        same = before is not None and before.dtype == planes.dtype and torch.equal(before, planes)
        yield image.frame(planes, pts, duplicate=same)
        before = planes


def _weights(path: str | Path | None, default: DefaultWeights) -> Weights:
    if path is not None and Path(path).expanduser().exists():
        return resolve_weights(str(path), default)  # a file may have changed
    return _lasting_weights(None if path is None else str(path), default)


@lru_cache(maxsize=8)
def _lasting_weights(name: str | None, default: DefaultWeights) -> Weights:
    """Ask the hub, and warn of built-in weights, once."""
    found = resolve_weights(name, default)
    warn_of_builtin([found])
    return found


_networks = lru_cache(maxsize=4)(load_networks)


@lru_cache(maxsize=4)
def _enlarger(weights: Weights, device: torch.device, precision: torch.dtype) -> Enlarger:
    return Enlarger(load(weights, load_upscaler), device, precision)

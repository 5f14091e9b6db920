"""upframe's own filters, as a chain runs them: built, opened, and given frame after frame."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import torch
from contests import SCALE, Contestant, Setting
from quality import Picture
from torch import Tensor

from upframe.filters.chain import build_filters
from upframe.filters.device import Runtime
from upframe.filters.frame import Frame, StreamInfo
from upframe.filters.options import FilterOptions

_RATE = Fraction(24)


def synchronize(device: torch.device) -> Callable[[], None]:
    """Give what waits for a device."""
    if device.type == "cuda":
        return torch.cuda.synchronize
    return lambda: None


def as_picture(pixels: Tensor) -> Picture:
    """Turn (3, H, W) or (1, 3, H, W) on any device into an array."""
    return pixels.float().cpu().numpy().reshape(pixels.shape[-3:])


def filtering(setting: Setting, precision: torch.dtype) -> Contestant:
    """Enlarge, or interpolate in the steady state, where every frame is encoded once."""
    (built,) = build_filters(_options(setting), Runtime(setting.device, precision))
    contest, stage = setting.contest, built.filter
    stage.open(StreamInfo(contest.width, contest.height, "yuv420p", 1 / _RATE, _RATE, _RATE))
    frames = setting.tensors

    def work(index: int) -> Tensor:
        pixels = frames[index % len(frames)]
        # no frame is marked as a duplicate or a cut: each has its full work
        given = list(stage(Frame(pixels, index, 1, 1 / _RATE)))
        return given[-1].pixels if given else pixels

    return Contestant(work, as_picture, synchronize(setting.device))


def _options(setting: Setting) -> FilterOptions:
    path = str(setting.weights_path)
    if setting.contest.network == "rife":
        return FilterOptions(enable_frame_interpolation=True, frame_interpolation_model_path=path)
    return FilterOptions(enable_upscaling=True, upscaling_scale=SCALE, upscaling_model_path=path)

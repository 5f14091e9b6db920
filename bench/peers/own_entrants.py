"""upframe's own filters, as a chain runs them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import torch
from contests import SCALE, Contestant, Setting
from quality import Picture
from torch import Tensor

from upframe.filters.chain import Runtime, build_filters
from upframe.filters.frame import Filter, Frame, StreamInfo
from upframe.filters.options import FilterOptions
from upframe.filters.upscale.checkpoint import load_upscaler
from upframe.filters.upscale.enlarger import Enlarger
from upframe.filters.weights import load_state_dict

_RATE = Fraction(24)


def synchronize(device: torch.device) -> Callable[[], None]:
    """Give what waits for a device."""
    if device.type == "cuda":
        return torch.cuda.synchronize
    return lambda: None


def as_picture(pixels: Tensor) -> Picture:
    """Turn (3, H, W) or (1, 3, H, W) on any device into an array."""
    return pixels.float().cpu().numpy().reshape(pixels.shape[-3:])


def upscaling(setting: Setting, precision: torch.dtype) -> Contestant:
    """Enlarge by `Enlarger`, as the upscale filter does with every frame."""
    network = load_upscaler(load_state_dict(setting.weights_path))
    enlarger = Enlarger(network, setting.device, precision)
    frames = setting.tensors

    def work(index: int) -> Tensor:
        return enlarger(frames[index % len(frames)], SCALE)

    return Contestant(work, as_picture, synchronize(setting.device))


def interpolation(setting: Setting, precision: torch.dtype) -> Contestant:
    """Interpolate by the filter itself, in its steady state: every frame is encoded once."""
    stage = _opened(setting, precision)
    frames = setting.tensors

    def work(index: int) -> Tensor:
        pixels = frames[index % len(frames)]
        # duplicates and cuts are marked before the filters: here are none
        given = list(stage(Frame(pixels, index, 1, 1 / _RATE)))
        return given[1].pixels if given else pixels

    return Contestant(work, as_picture, synchronize(setting.device))


def _opened(setting: Setting, precision: torch.dtype) -> Filter:
    options = FilterOptions(
        enable_frame_interpolation=True,
        frame_interpolation_model_path=str(setting.weights_path),
    )
    (built,) = build_filters(options, Runtime(setting.device, precision))
    contest = setting.contest
    built.filter.open(StreamInfo(contest.width, contest.height, "yuv420p", 1 / _RATE, _RATE, _RATE))
    return built.filter

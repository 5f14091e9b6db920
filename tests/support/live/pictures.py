"""Small moving pictures, and what computes them at the levels of a live stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import torch

from upframe.daemon.live.compute_stage import LiveCompute
from upframe.daemon.live.levels import Level, parse_levels
from upframe.daemon.specification import DEFAULT_LEVELS
from upframe.filters.device import Runtime
from upframe.filters.frame import Picture, PixelFormat, StreamInfo
from upframe.filters.options import FilterOptions

CPU = torch.device("cpu")
RUNTIME = Runtime(CPU, torch.float32, "builtin")
WIDTH, HEIGHT = 64, 32
INTERVAL = 3000
INFO = StreamInfo(
    WIDTH,
    HEIGHT,
    "yuv420p",
    Fraction(1, 90_000),
    rate=Fraction(30),
    average_rate=Fraction(30),
)


def options(exp: int = 2, scale: float | None = 2, **more: Any) -> FilterOptions:
    chosen: dict[str, Any] = dict(more)
    if exp:
        chosen |= {"enable_frame_interpolation": True, "frame_interpolation_exp": exp}
    if scale:
        chosen |= {"enable_upscaling": True, "upscaling_scale": scale}
    return FilterOptions.model_validate(chosen)


def live(
    filters: FilterOptions,
    info: StreamInfo = INFO,
    pix_fmt: str | None = None,
    now: Callable[[], float] = time.monotonic,
) -> tuple[LiveCompute, dict[str, Level]]:
    levels = parse_levels(DEFAULT_LEVELS, filters)
    compute = LiveCompute(info, filters, RUNTIME, levels=levels, pix_fmt=pix_fmt, now=now)
    return compute, {level.name: level for level in levels}


def picture(index: int, info: StreamInfo = INFO, *, pts: int | None = None) -> Picture:
    """A smooth slope of colours that moves a pixel with each index."""
    form = PixelFormat.parse(info.pix_fmt)
    planes: list[torch.Tensor] = []
    for plane in range(form.num_planes):
        width, height = form.plane_size(info.width, info.height, plane)
        step = 1 if plane == 0 or form.family == "rgb" else 1 + form.chroma_shift_x
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        slope = torch.sin((x * step + index) / 14 + plane) * torch.cos(y * step / 11)
        codes = (120 + 60 * slope / (1 + plane)) * (1 << (form.bit_depth - 8))
        planes.append(codes.to(torch.uint8 if form.bit_depth == 8 else torch.uint16))
    time = index * INTERVAL if pts is None else pts
    alpha = planes[0].clone() if form.has_alpha else None
    return Picture(
        tuple(planes), info.pix_fmt, info.color, time, INTERVAL, info.time_base, alpha=alpha
    )


def computed(compute: LiveCompute, source: Picture, *, breaks: bool = False) -> list[Picture]:
    return [*compute(source, breaks=breaks), *compute.settle()]


def feed(compute: LiveCompute, indices: Iterable[int]) -> list[Picture]:
    return [out for index in indices for out in computed(compute, picture(index))]


def seconds(pictures: Iterable[Picture]) -> list[Fraction]:
    return [out.pts * out.time_base for out in pictures]

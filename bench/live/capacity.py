"""What size of pictures is how many times too much for this machine."""

from __future__ import annotations

import statistics
from fractions import Fraction

import paths  # noqa: F401  # finds what is imported next

from upframe.daemon.live.compute_stage import LiveCompute
from upframe.daemon.live.levels import parse_levels
from upframe.filters.device import Runtime, resolve_device, resolve_precision
from upframe.filters.frame import StreamInfo
from upframe.filters.options import FilterOptions

DOUBLED = {
    "enable_frame_interpolation": True,
    "frame_interpolation_exp": 1,
    "enable_upscaling": True,
    "upscaling_scale": 2,
}
_FIRST = (320, 180)


def size_for(times: float, rate: int, device: str = "auto") -> tuple[str, float]:
    """Find a size for which all filters take so many times as long as a frame lasts.

    Returns:
        The size, and by how much it is really too much, measured with it.
    """
    width, height = _FIRST
    load = load_of(width, height, rate, device)
    for _ in range(3):
        width, height = _scaled(width, height, times * 1.05 / load)
        load = load_of(width, height, rate, device)
        if load >= times:
            break
    return f"{width}x{height}", load


def load_of(width: int, height: int, rate: int, device: str) -> float:
    """Measure how long all filters take for one frame, in intervals of the rate."""
    filters = FilterOptions.model_validate(DOUBLED)
    where = resolve_device(device)
    runtime = Runtime(where, resolve_precision("auto", where), "builtin")
    info = StreamInfo(width, height, "yuv420p", Fraction(1, 90_000), rate=Fraction(rate))
    costs: list[float] = []
    for _ in range(3):
        compute = LiveCompute(info, filters, runtime, levels=parse_levels(("full",), filters))
        costs.append(compute.warm_up(most_seconds=60.0)["full"])
    return statistics.median(costs) * rate


def _scaled(width: int, height: int, area: float) -> tuple[int, int]:
    """So many times the area, in even numbers, of about the same shape."""
    edge = area**0.5
    return 16 * max(1, round(width * edge / 16)), 2 * max(8, round(height * edge / 2))

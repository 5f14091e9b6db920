"""`upframe bench`: how fast the filters are on this machine, at a few sizes.

`bench/speed/measure.py` in a checkout measures each filter in every precision, the whole way around
them and the start; this command answers the one question that users have.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
from torch.nn.functional import interpolate

from ...filters.chain import BuiltFilter, Chain, build_filters
from ...filters.color.convert import ToFrame
from ...filters.device import Runtime, exact_convolutions
from ...filters.errors import TooLarge
from ...filters.frame import Frame, StreamInfo
from ...io.demo import write_demo_clip
from ...io.redaction import json_text
from ...io.source import open_source
from ..errors import UsageError
from .arguments import filter_options_of, runtime_of

_DRAWN = (640, 360)
"""Width and height of the scene whose frames are resized: larger ones take long to draw."""
_NUM_FRAMES = 6
_RATE = 25
_LEAST_READINGS = 3
_MOVED = ("filters", "pipeline", "start", "all", "table")


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast some filters are at one size, by the median."""

    size: str
    """Of the input, such as ``640x360``."""
    filters: str
    frames_in_per_second: float | None = None
    """None where it could not be measured."""
    frames_out_per_second: float | None = None
    reason: str | None = None
    """Why it could not be measured."""


def command(arguments: argparse.Namespace) -> int:
    """Do what the command line asks, and return the exit code."""
    if moved := arguments.moved:
        if moved[0] not in _MOVED:
            raise UsageError(f"unrecognized arguments: {' '.join(moved)}")
        raise UsageError(
            f"`upframe bench {moved[0]}` is `python bench/speed/measure.py {moved[0]}` now, with "
            "the same options, in a checkout of upframe; `upframe bench` alone prints one table"
        )
    sizes = [_size_of(text) for text in arguments.sizes.split(",")]
    if not arguments.seconds >= 0:
        raise UsageError(f"--seconds must be at least 0, got {arguments.seconds}")
    enabled = (arguments.enable_frame_interpolation, arguments.enable_upscaling)
    if not any((*enabled, arguments.interpolate, arguments.upscale)):
        arguments.interpolate, arguments.upscale = 1, 2.0
    options, runtime = filter_options_of(arguments), runtime_of(arguments)

    built = build_filters(options, runtime)
    combinations = [*((one,) for one in built), *([built] if len(built) > 1 else [])]
    info, frames = _drawn_frames(runtime)
    speeds: list[Speed] = []
    for size in sizes:
        pixels = (interpolate(one.pixels[None], size[::-1], mode="bilinear")[0] for one in frames)
        resized = [replace(one, pixels=each) for one, each in zip(frames, pixels, strict=True)]
        scene = info, resized, runtime, arguments.seconds
        speeds += [_measure(chosen, *scene) for chosen in combinations]
    machine = {
        "upframe": version("upframe"),
        "device": str(runtime.device),
        "threads": torch.get_num_threads(),
        "precision": str(runtime.precision).removeprefix("torch."),
        **{f"{one.name} weights": one.weights.name for one in built if one.weights},
    }
    if arguments.json:
        sys.stdout.write(json_text(machine | {"speeds": list(map(asdict, speeds))}) + "\n")
    else:
        heading = ", ".join(f"{name} {value}" for name, value in machine.items())
        sys.stdout.write(f"{heading}\n\n{_table(speeds)}")
    return 0


def _size_of(text: str) -> tuple[int, int]:
    width, _, height = text.strip().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise UsageError(f"--sizes must be such as 640x360,1280x720, got {text!r}")
    return int(width), int(height)


def _drawn_frames(runtime: Runtime) -> tuple[StreamInfo, list[Frame]]:
    """Draw a moving scene; its frames are on the device, as the filters receive them."""
    with tempfile.TemporaryDirectory(prefix="upframe-bench-") as folder:
        clip, (width, height) = Path(folder) / "scene.mp4", _DRAWN
        rate = Fraction(_RATE)
        write_demo_clip(clip, width=width, height=height, rate=rate, num_frames=_NUM_FRAMES)
        with closing(open_source(str(clip))) as source:
            return source.info, list(map(ToFrame(runtime.device), source))


def _measure(
    built: Sequence[BuiltFilter],
    info: StreamInfo,
    frames: Sequence[Frame],
    runtime: Runtime,
    seconds: float,
) -> Speed:
    """Time the filters over frames that move to and fro, the first two of them unmeasured."""
    height, width = frames[0].pixels.shape[-2:]
    size, names = f"{width}x{height}", " + ".join(one.name for one in built)
    chain, readings, num_out = Chain([one.filter for one in built]), list[float](), 0
    endless = _to_and_fro(frames)
    try:
        chain.open(replace(info, width=width, height=height))
        with torch.inference_mode(), exact_convolutions(runtime.device):
            for _ in range(2):
                list(chain(next(endless)))
            _wait_for(runtime)
            while sum(readings) < seconds or len(readings) < _LEAST_READINGS:
                frame, began = next(endless), time.perf_counter()
                num_out += sum(1 for _ in chain(frame))
                _wait_for(runtime)
                readings.append(time.perf_counter() - began)
    except TooLarge as error:
        return Speed(size, names, reason=str(error))
    per_second = 1 / median(readings)
    return Speed(size, names, per_second, num_out / len(readings) * per_second)


def _to_and_fro(frames: Sequence[Frame]) -> Iterator[Frame]:
    """Yield frames for ever, forwards and backwards, so that motion never jumps."""
    for number in itertools.count():
        place = number % (2 * len(frames) - 2)
        frame = frames[min(place, 2 * len(frames) - 2 - place)]
        yield replace(frame, pts=number * frame.duration)


def _wait_for(runtime: Runtime) -> None:
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)


def _table(speeds: Sequence[Speed]) -> str:
    rows = [("input", "filters", "frames in/s", "frames out/s", "1 h at 25 fps takes")]
    for one in speeds:
        if one.frames_in_per_second and one.frames_out_per_second:
            hours = _RATE / one.frames_in_per_second
            takes = f"{hours:.1f} h" if hours >= 2 else f"{60 * hours:.0f} min"
            frames = f"{one.frames_in_per_second:.3g}", f"{one.frames_out_per_second:.3g}"
            rows.append((one.size, one.filters, *frames, takes))
        else:
            rows.append((one.size, one.filters, "-", "-", str(one.reason)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join("  ".join(map(str.ljust, row, widths)).rstrip() + "\n" for row in rows)

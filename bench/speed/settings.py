"""What a run of the benchmark measures, as the command line says it."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import torch
from clips import Size
from networks import shown_path

from upframe.daemon.errors import UsageError
from upframe.filters.device import Precision, cpu_has_bf16, resolve_device
from upframe.filters.options import Policy

T = TypeVar("T")

_UPFRAME = (sys.executable, "-m", "upframe.daemon")
SIZES = (Size(320, 180), Size(640, 360), Size(1280, 720), Size(1920, 1080))
PIPELINE_SIZES = (Size(640, 360),)
SHORT_SIZES = (Size(160, 90),)
_PRECISIONS = tuple(name for name in get_args(Precision) if name != "auto")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run measures, and how."""

    device: torch.device
    policy: Policy
    sizes: tuple[Size, ...]
    pipeline_sizes: tuple[Size, ...]
    precisions: tuple[str, ...]
    """Of the filters alone, fp32 first."""
    pipeline_precision: str
    preset: str
    """Of x264, which encodes what the pipeline makes."""
    exps: tuple[int, ...]
    """The pipeline and the start take the first one."""
    scales: tuple[float, ...]
    """Likewise."""
    interpolation_path: str | None
    upscaling_paths: tuple[str | None, ...]
    """Likewise."""
    repeats: int
    budget_seconds: float
    filter_frames: int
    """Different source frames that a filter alone is fed, to and fro, at most."""
    pipeline_frames: int
    clip: Path | None
    upframe: tuple[str, ...]
    """The command that is started: this installation's, or another one's."""
    short: bool
    """Only see whether everything works: the figures mean nothing."""

    def as_dict(self) -> dict[str, Any]:
        """For the results, without the folders of this machine."""
        return {
            "sizes": [str(size) for size in self.sizes],
            "pipeline_sizes": [str(size) for size in self.pipeline_sizes],
            "precisions": list(self.precisions),
            "pipeline_precision": self.pipeline_precision,
            "preset": self.preset,
            "exps": list(self.exps),
            "scales": list(self.scales),
            "weights": self.policy,
            "interpolation_model": shown_path(self.interpolation_path),
            "upscaling_models": [shown_path(path) for path in self.upscaling_paths],
            "repeats": self.repeats,
            "budget_seconds": self.budget_seconds,
            "pipeline_frames": self.pipeline_frames,
            "short": self.short,
        }


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Offer what `settings_of` reads."""
    group = parser.add_argument_group("what is measured")
    group.add_argument(
        "--sizes",
        metavar="WxH,…",
        help="of the input (320x180,640x360,1280x720,1920x1080; of the pipeline 640x360)",
    )
    group.add_argument(
        "--precision",
        metavar="NAME,…",
        help=f"{', '.join(_PRECISIONS)} (all that the device has hardware for; of the pipeline "
        "the fastest one, unless a single one is given)",
    )
    group.add_argument(
        "--interpolate",
        default="1,2,3",
        metavar="EXP,…",
        help="the pipeline takes the first (%(default)s)",
    )
    group.add_argument(
        "--upscale",
        default="2,4",
        metavar="SCALE,…",
        help="the pipeline takes the first (%(default)s)",
    )
    group.add_argument(
        "--preset", default="fast", help="of x264, at the end of the pipeline (%(default)s)"
    )
    group.add_argument("--frame-interpolation-model-path", metavar="PATH", help="weights of RIFE")
    group.add_argument(
        "--upscaling-model-path",
        action="append",
        metavar="PATH",
        help="weights of an upscaler; several may be given, the pipeline takes the first",
    )
    group.add_argument(
        "--clip",
        type=Path,
        metavar="FILE",
        help="whose frames to take (a moving scene that is drawn, and enlarged beyond 640x360)",
    )
    _add_efforts(parser)
    group = parser.add_argument_group("device and weights")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    group.add_argument(
        "--command",
        metavar="UPFRAME",
        help="start this command, such as /opt/old/bin/upframe, wherever whole processes are "
        "measured: the start, pipe to pipe, and memory (the upframe of this Python)",
    )
    group.add_argument(
        "--weights",
        default="builtin",
        choices=get_args(Policy),
        help="where weights come from that are not named (builtin)",
    )


def _add_efforts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how long")
    group.add_argument("--repeats", type=int, metavar="N", help="rounds of each case (7, short 1)")
    group.add_argument(
        "--budget-seconds",
        type=float,
        metavar="SECONDS",
        help="for each case, one filter at one size; the slowest modes are left out until the "
        "others fit; of the pipeline it only lowers the rounds, to 3 (60)",
    )
    group.add_argument(
        "--frames",
        type=int,
        metavar="N",
        help="that are taken of the clip (24, short 6); filters alone need no more than 6",
    )
    group.add_argument("--short", action="store_true", help="only see whether all works")


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Read the settings from parsed arguments.

    Raises:
        UsageError: for a wrong value.
        DeviceUnavailable: if the device is not there.
    """
    device = resolve_device(arguments.device)
    short = bool(arguments.short)
    sizes = None if arguments.sizes is None else _listed("--sizes", arguments.sizes, _size)
    asked = (
        None
        if arguments.precision is None
        else _listed("--precision", arguments.precision, _precision)
    )
    return Settings(
        device=device,
        policy=arguments.weights,
        sizes=sizes or (SHORT_SIZES if short else SIZES),
        pipeline_sizes=sizes or (SHORT_SIZES if short else PIPELINE_SIZES),
        precisions=_fp32_first(asked or precisions_of(device)),
        pipeline_precision=asked[0] if asked and len(asked) == 1 else "auto",
        preset=arguments.preset,
        exps=_listed("--interpolate", arguments.interpolate, _exp),
        scales=_listed("--upscale", arguments.upscale, _scale),
        interpolation_path=arguments.frame_interpolation_model_path,
        upscaling_paths=tuple(cast("list[str] | None", arguments.upscaling_model_path) or (None,)),
        repeats=_at_least("--repeats", arguments.repeats, 1, 1 if short else 7),
        budget_seconds=_at_least("--budget-seconds", arguments.budget_seconds, 0.0, 60.0),
        filter_frames=4 if short else 6,
        pipeline_frames=_at_least("--frames", arguments.frames, 2, 6 if short else 24),
        clip=arguments.clip,
        upframe=tuple(shlex.split(arguments.command)) if arguments.command else _UPFRAME,
        short=short,
    )


def precisions_of(device: torch.device) -> tuple[str, ...]:
    """Every precision for which a device has hardware; a CPU that lacks it is far slower."""
    if device.type == "cuda":
        return _PRECISIONS
    return ("fp32", "bf16") if cpu_has_bf16() else ("fp32",)


def precision_name(dtype: torch.dtype) -> str:
    """Name a precision as users do."""
    return {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(dtype, "fp32")


def _fp32_first(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: name != "fp32"))


def _listed(flag: str, text: str, read: Callable[[str], T]) -> tuple[T, ...]:
    """Read values between commas, each once, in order.

    Raises:
        UsageError: if one of them is wrong.
    """
    try:
        return tuple(dict.fromkeys(read(part.strip()) for part in text.split(",")))
    except ValueError as error:
        raise UsageError(f"{flag}: {error}, got {text!r}") from error


def _size(text: str) -> Size:
    width, x, height = text.partition("x")
    if not (x and width.isdigit() and height.isdigit()):
        raise ValueError("must be sizes such as 640x360,1280x720")
    if int(width) < 2 or int(height) < 2 or int(width) % 2 or int(height) % 2:
        raise ValueError("width and height must be even")
    return Size(int(width), int(height))


def _precision(text: str) -> str:
    if text not in _PRECISIONS:
        raise ValueError(f"must be of {', '.join(_PRECISIONS)}")
    return text


def _exp(text: str) -> int:
    if not (text.isdigit() and 1 <= int(text) <= 6):
        raise ValueError("must be whole numbers from 1 to 6")
    return int(text)


def _scale(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1 <= value <= 8:
        raise ValueError("must be numbers from 1 to 8")
    return value


def _at_least(flag: str, value: Any, least: T, default: T) -> T:
    if value is None:
        return default
    if value < least:
        raise UsageError(f"{flag} must be at least {least}, got {value}")
    return value

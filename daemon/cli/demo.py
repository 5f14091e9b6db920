"""`upframe demo`: draw a clip, make it smoother and larger, and a picture of both."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

from ...filters.device import Runtime, resolve_device, resolve_precision
from ...filters.options import FilterOptions
from ...io.demo import compare, read_pictures, write_demo_clip, write_png
from ...io.errors import SinkRefused
from ...io.redaction import one_line
from ..convert.conversion import run
from ..convert.preflight import RunRequest
from ..convert.progress import Display, display_for
from ..convert.report import Report
from ..specification import ConversionOptions

_SIZE = (384, 216)
_RATE = Fraction(15)
_NUM_FRAMES = 60
_SHOWN = 30
"""Number of the source frame in the picture; all moving objects are in it."""
_FILTERS = {"enable_frame_interpolation": True, "enable_upscaling": True, "upscaling_scale": 2}


@dataclass(frozen=True, slots=True)
class Demo:
    """The files of a demo."""

    source: Path
    result: Path
    picture: Path
    report: Report

    def lines(self) -> tuple[str, str, str]:
        """Describe the files in three lines."""
        before, after = self.report.input, self.report.output
        return (
            f"before   {self.source}: {before.width}x{before.height}, "
            f"{before.rate} fps, {self.report.frames_in} frames, with sound",
            f"after    {self.result}: {after.width}x{after.height}, "
            f"{after.rate} fps, {self.report.frames_out} frames, the same sound, "
            f"made in {self.report.seconds:.0f} s",
            f"compare  {self.picture}: both side by side, and an inserted frame",
        )


def command(arguments: argparse.Namespace) -> int:
    """Do what the command line asks, and return the exit code."""
    demo = make_demo(cast("Path", arguments.folder), display_for("auto"))
    sys.stdout.write("\n".join(map(one_line, demo.lines())) + "\n")
    return 0


def make_demo(
    folder: Path,
    display: Display | None = None,
    *,
    size: tuple[int, int] = _SIZE,
    num_frames: int = _NUM_FRAMES,
) -> Demo:
    """Draw, run and compare.

    Args:
        folder: Created if missing; `before.mp4`, `after.mp4` and `compare.png` are replaced.
        display: Shows the progress, if given.
        size: Width and height of the source, even.
        num_frames: Of the source, at least 2.

    Raises:
        SinkRefused: if the folder cannot be made or written.
        MediaError, FilterError, Stopped: as `run` does.
    """
    source, result, picture = (folder / name for name in ("before.mp4", "after.mp4", "compare.png"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkRefused(f"cannot make the folder {folder}: {error.strerror}") from error
    width, height = size
    write_demo_clip(source, width=width, height=height, rate=_RATE, num_frames=num_frames)
    report = run(demo_request(source, result), display, announce=False)
    shown = min(_SHOWN, num_frames - 2)
    before = read_pictures(source, shown, 1)[0]
    write_png(picture, compare(before, read_pictures(result, 2 * shown, 3)))
    return Demo(source, result, picture, report)


def demo_request(source: Path, result: Path) -> RunRequest:
    """Ask for twice the frame rate and twice the size, by the built-in weights."""
    device = resolve_device()
    runtime = Runtime(device, resolve_precision("auto", device), "builtin")
    options = ConversionOptions(filters=FilterOptions.model_validate(_FILTERS), overwrite=True)
    return RunRequest(str(source), str(result), options, runtime)

"""`upframe run`: a file, a sequence or a live stream in, the same but smoother and larger out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, cast

from .arguments import (
    add_encoder_arguments,
    add_filter_arguments,
    add_media_arguments,
    add_runtime_arguments,
    encoder_options_of,
    filter_options_of,
    runtime_of,
)
from .conversion import RunRequest, run
from .live.run import add_live_arguments, is_live_run, run_live
from .progress import STYLES, display_for

_EPILOG = """\
examples:
  upframe run film.mp4 smooth.mp4 --interpolate 1
  upframe run film.mkv large.mkv --interpolate 1 --upscale 2 --codec libx265 --crf 20
  upframe run photo.png large.png --upscale 4
  upframe run 'frames_%05d.png' film.mp4 --framerate 24 --upscale 2
  upframe run rtsp://camera/stream rtsp://server/smooth --interpolate 1
  upframe run rtsp://camera/stream '%Y%m%d-%H%M%S.mp4' --interpolate 1 --segment-seconds 3600

The output appears under its name only when it is complete and has been checked. Of a live stream
that is when it is stopped, by Ctrl-C, SIGTERM or --duration: its normal end, with code 0.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:  # pyright: ignore[reportPrivateUsage]
    """Offer the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "run",
        help="file, image, sequence or live stream → the same",
        description="Interpolate and enlarge a video file, a still, an image sequence or a live "
        "stream. Sound, subtitles, chapters and metadata are kept; of live streams the sound.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "input", help="a file, a sequence such as 'in_%%05d.png', or a live address"
    )
    parser.add_argument("output", help="a file, a numbered sequence, or where to publish to")
    add_filter_arguments(parser)
    add_encoder_arguments(parser)
    add_media_arguments(parser).add_argument(
        "--hwaccel",
        default="none",
        choices=("none", "auto", "cuda"),
        help="what decodes a file, whose frames then stay on the card: auto or cuda, an NVIDIA "
        "card where it can, else software, which is logged (none)",
    )
    add_live_arguments(parser)
    add_runtime_arguments(parser)
    add_progress_arguments(parser)
    parser.set_defaults(command=_command)


def add_progress_arguments(parser: argparse.ArgumentParser) -> None:
    """Offer how to watch the work and what to keep of it."""
    group = parser.add_argument_group("watching")
    group.add_argument("--progress", default="auto", choices=STYLES, help="on stderr (auto)")
    group.add_argument("--report", type=Path, metavar="FILE", help="write what was done, as JSON")


def _command(arguments: argparse.Namespace) -> int:
    if is_live_run(arguments):
        return run_live(arguments)
    filters = filter_options_of(arguments)
    request = RunRequest(
        source=arguments.input,
        sink=arguments.output,
        filters=filters,
        runtime=runtime_of(arguments),
        encoder=encoder_options_of(arguments),
        format=arguments.format,
        overwrite=arguments.overwrite,
        strict_streams=arguments.strict_streams,
        deinterlace=arguments.deinterlace,
        framerate=arguments.framerate,
        hwaccel=arguments.hwaccel,
    )
    report = run(request, display_for(arguments.progress))
    if arguments.report is not None:
        report.write(cast("Path", arguments.report))
    sys.stderr.write(f"upframe: {report.summary}\n")
    return 0

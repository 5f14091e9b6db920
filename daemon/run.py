"""`upframe run`: a file, an image or a sequence in, the same but smoother and larger out."""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

from ..filters.chain import Runtime, build_filters
from ..filters.options import FilterOptions
from ..io.encoder import EncoderOptions, output_pix_fmt
from ..io.files import refuse_same_file
from ..io.passthrough import StreamPlan, plan_streams
from ..io.sink import open_file_sink
from ..io.source import open_source
from .arguments import (
    add_encoder_arguments,
    add_filter_arguments,
    add_runtime_arguments,
    encoder_options_of,
    filter_options_of,
    rate,
    runtime_of,
)
from .compute import Compute
from .execute import execute
from .pipeline import Pipeline
from .progress import STYLES, Display, Silent, display_for
from .report import Report, WarningLog, kept_warnings, make_report

log = logging.getLogger("upframe.run")

_EPILOG = """\
examples:
  upframe run film.mp4 smooth.mp4 --interpolate 1
  upframe run film.mkv large.mkv --interpolate 1 --upscale 2 --codec libx265 --crf 20
  upframe run photo.png large.png --upscale 4
  upframe run 'frames_%05d.png' film.mp4 --framerate 24 --upscale 2

The output appears under its name only when it is complete and has been checked.
"""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One piece of work: what the command line, and later a job, asks for."""

    source: str
    sink: str
    filters: FilterOptions
    runtime: Runtime
    encoder: EncoderOptions = field(default_factory=lambda: EncoderOptions.model_validate({}))
    format: str | None = None
    """Container of the output, FFmpeg's name; None: by the output's extension."""
    overwrite: bool = False
    strict_streams: bool = False
    deinterlace: Literal["auto", "on", "off"] = "auto"
    framerate: Fraction | None = None
    """Of an image sequence."""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:  # pyright: ignore[reportPrivateUsage]
    """Offer the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "run",
        help="file, image or sequence → file, image or sequence",
        description="Interpolate and enlarge a video file, a still or an image sequence. "
        "Sound, subtitles, chapters and metadata are kept.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", help="a file, or a numbered sequence such as 'in_%%05d.png'")
    parser.add_argument("output", help="a file, or a numbered sequence")
    add_filter_arguments(parser)
    add_encoder_arguments(parser)
    add_media_arguments(parser)
    add_runtime_arguments(parser)
    add_progress_arguments(parser)
    parser.set_defaults(command=_command)


def add_media_arguments(parser: argparse.ArgumentParser) -> None:
    """Offer how to read the input and what the output may be."""
    group = parser.add_argument_group("input and output")
    group.add_argument("--format", metavar="NAME", help="container of the output (by extension)")
    group.add_argument("--overwrite", action="store_true", help="replace an existing output")
    group.add_argument(
        "--strict-streams",
        action="store_true",
        help="fail where a stream could not be copied or converted without loss",
    )
    group.add_argument(
        "--deinterlace", default="auto", choices=("auto", "on", "off"), help="(auto)"
    )
    group.add_argument(
        "--framerate",
        type=rate,
        metavar="RATE",
        help="of an image sequence, such as 24 or 24000/1001",
    )


def add_progress_arguments(parser: argparse.ArgumentParser) -> None:
    """Offer how to watch the work and what to keep of it."""
    group = parser.add_argument_group("watching")
    group.add_argument("--progress", default="auto", choices=STYLES, help="on stderr (auto)")
    group.add_argument("--report", type=Path, metavar="FILE", help="write what was done, as JSON")


def _command(arguments: argparse.Namespace) -> int:
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
    )
    report = run(request, display_for(arguments.progress))
    if arguments.report is not None:
        report.write(cast("Path", arguments.report))
    sys.stderr.write(f"upframe: {report.summary}\n")
    return 0


def run(request: RunRequest, display: Display | None = None, *, announce: bool = True) -> Report:
    """Do one piece of work: plan, load, stream, verify, rename.

    Args:
        request: What to do.
        display: Shows the progress; None: nobody does.
        announce: Whether to log, before the work, what becomes of each stream of the input.

    Raises:
        MediaError: if the input cannot be read or the output not be made.
        FilterError: if weights or the device are not to be had, or a frame is too large.
        Stopped: if a signal ended it. In every case nothing is left under the output's name.
    """
    with kept_warnings() as warned:
        return _run(request, display or Silent(), warned, announce=announce)


def _run(request: RunRequest, display: Display, warned: WarningLog, *, announce: bool) -> Report:
    refuse_same_file(request.source, request.sink)
    plan = plan_streams(request.source, request.sink, request.format, strict=request.strict_streams)
    _tell(plan, announce=announce)
    source = open_source(
        request.source, deinterlace=request.deinterlace, framerate=request.framerate
    )
    with closing(source):
        pix_fmt = output_pix_fmt(source.info, request.encoder, request.sink, request.format)
        filters = build_filters(request.filters, request.runtime)
        compute = Compute(
            source.info,
            (built.filter for built in filters),
            pix_fmt=pix_fmt,
            device=request.runtime.device,
            detect_cuts=request.filters.enable_frame_interpolation
            and request.filters.scene_detection,
        )
        sink = open_file_sink(
            Path(request.sink),
            compute.info,
            request.encoder,
            plan=plan,
            overwrite=request.overwrite,
            format=request.format,
        )
        flow = execute(Pipeline(source, compute, sink), compute.info.num_frames, display)
        for message in source.warnings():
            log.warning("%s", message)
        return make_report(
            source=request.source,
            sink=request.sink,
            flow=flow,
            counters=compute.statistics(),
            incoming=source.info,
            outgoing=compute.info,
            runtime=request.runtime,
            filters=filters,
            streams=plan.lines(),
            warnings=warned.messages,
        )


def _tell(plan: StreamPlan, *, announce: bool) -> None:
    for line in plan.lines() if announce else ():
        log.info("%s", line)
    for line in plan.warnings:
        log.warning("%s", line)

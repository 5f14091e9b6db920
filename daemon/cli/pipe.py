"""`upframe pipe`: convert video from stdin to stdout, which carries nothing but video."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import cast

from ...filters.chain import build_filters
from ...filters.device import Runtime
from ...io.errors import MediaError, ReaderGone, TruncatedMedia
from ...io.pipes import PipeSink, check_pipe_sink, open_pipe_sink, open_pipe_source
from ...io.rawvideo.bytestream import RawStream
from ...io.redaction import one_line
from ..convert.compute import FilmCompute
from ..convert.conversion import execute
from ..convert.pipeline import Pipeline
from ..convert.progress import Display, display_for
from ..convert.report import Report, check_report_path, kept_warnings, make_report
from ..errors import Stopped, UsageError
from ..specification import PipeOptions
from .arguments import runtime_of, specified

log = logging.getLogger("upframe.pipe")

_STDIN, _STDOUT, _STDERR = 0, 1, 2


@contextmanager
def standard_streams() -> Generator[tuple[FileIO, FileIO]]:
    """Yield stdin and stdout, unbuffered.

    Meanwhile descriptor 1 is stderr, so that no library prints between the frames.

    Raises:
        UsageError: if one of the two is a terminal, or closed.
    """
    if sys.__stdin__ is None or sys.__stdout__ is None:
        # its number is free, and the first file that is opened gets it
        name = "stdin" if sys.__stdin__ is None else "stdout"
        raise UsageError(f"{name} is closed, wanted a pipe or a file")
    if os.isatty(_STDIN):
        raise UsageError("stdin is a terminal, wanted video: ffmpeg -i … -f nut - | upframe pipe …")
    if os.isatty(_STDOUT):
        raise UsageError("stdout is a terminal, video would fill it: upframe pipe … | mpv -")
    stdin = FileIO(_STDIN, "rb", closefd=False)  # a thread may still be reading it at the end
    with FileIO(os.dup(_STDOUT), "wb") as stdout:
        try:
            os.dup2(_STDERR, _STDOUT)
        except OSError:  # there is no stderr
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), _STDOUT)
        try:
            yield stdin, stdout
        finally:
            os.dup2(stdout.fileno(), _STDOUT)


@dataclass(frozen=True, slots=True)
class PipeResult:
    """What a run of the pipe has done."""

    report: Report
    ended_by: MediaError | Stopped | None
    """What ended it early; the frames before that are whole and were written."""


def command(arguments: argparse.Namespace) -> int:
    """Do what the command line asks, and return the exit code."""
    if arguments.report is not None:
        check_report_path(arguments.report)
    options, runtime = specified(arguments, PipeOptions), runtime_of(arguments)
    with standard_streams() as (stdin, stdout):
        result = pipe(options, runtime, stdin, stdout, display_for(arguments.progress))
    if arguments.report is not None:
        result.report.write(cast("Path", arguments.report))
    if isinstance(result.ended_by, ReaderGone) and options.allow_early_close:
        sys.stderr.write(f"upframe: {one_line(result.ended_by)}\n")
        return 0
    if result.ended_by is not None:
        raise result.ended_by
    sys.stderr.write(f"upframe: {one_line(result.report.summary)}\n")
    return 0


def pipe(
    options: PipeOptions, runtime: Runtime, stdin: RawStream, stdout: RawStream, display: Display
) -> PipeResult:
    """Filter a stream: read its header, load the weights, write the header, then the frames.

    Raises:
        UnsupportedMedia: if the input cannot be read, or the output cannot hold it; nothing was
            written then.
        MediaError: if the output cannot be written.
        FilterError: if weights or the device are unavailable, or a frame is too large.
    """
    with kept_warnings() as warned, ExitStack() as stack:
        how, frames = options.deinterlace, options.expect_frames
        source = open_pipe_source(
            stdin, options.input_format, deinterlace=how, expected_frames=frames
        )
        stack.callback(source.close)
        format_name = options.container or source.format
        check_pipe_sink(format_name, source.info)
        filters = build_filters(options.filters, runtime)
        compute = FilmCompute(source.info, filters, options, runtime, source.info.pix_fmt)
        try:
            sink = open_pipe_sink(stdout, format_name, compute.info)
        except ReaderGone as error:
            raise _reader_gone(0, compute.info.num_frames) from error
        stack.pop_all()  # from here on the thread that reads the source closes it
        pipeline = Pipeline(source, compute, sink, keep_partial=True, interrupt=source.interrupt)
        ended_by = _execute(pipeline, sink, compute.info.num_frames, display)
        for message in source.warnings():
            log.warning("%s", message)
        about = source.info, compute.info, runtime, filters
        report = make_report(
            pipeline.flow,
            *about,
            source=f"stdin ({source.format})",
            sink=f"stdout ({format_name})",
            counters=compute.statistics(),
            warnings=[*warned.messages, *([] if ended_by is None else [str(ended_by)])],
        )
    return PipeResult(report, ended_by)


def _execute(
    pipeline: Pipeline, sink: PipeSink, total: int | None, display: Display
) -> MediaError | Stopped | None:
    """Run, and return what ended it early after whole frames were written."""
    try:
        execute(pipeline, total, display)
    except ReaderGone:
        return _reader_gone(sink.num_written, total)
    except (TruncatedMedia, Stopped) as error:
        return error
    return None


def _reader_gone(num_written: int, total: int | None) -> ReaderGone:
    due = " frames, more were due" if total is None else f" of {total} frames"
    return ReaderGone(f"the reader closed stdout after {num_written}{due}")

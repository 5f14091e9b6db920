"""`upframe run`: convert a file, an image sequence or a live stream."""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TextIO, cast
from urllib.parse import urlsplit

import torch

from ...io.errors import SinkRefused
from ...io.live.address import is_live
from ...io.live.target import is_live_target
from ...io.part import parse_time
from ...io.redaction import json_text, one_line, redacted
from ..convert.conversion import run, stoppable
from ..convert.crew import ClusterCrew, Crew, Setup
from ..convert.preflight import Keep, RunRequest
from ..convert.progress import display_for
from ..convert.report import check_report_path
from ..errors import UsageError
from ..jobs.client import writer_here
from ..live.live_pipeline import LiveRequest
from ..live.session import LiveReport, LiveSession, children_of
from ..live.status import STILL_SECONDS, LiveStatus
from ..specification import REFUSED, ConversionOptions, ProgressStyle, StreamSpec
from ..workers.ray import check_cluster, driver_of
from .arguments import flag_of, runtime_of, specified
from .commands import OF_STREAMS

log = logging.getLogger("upframe.run")

_NAME_CHARACTERS = 64
_LINE_SECONDS = 5.0


def is_live_run(arguments: argparse.Namespace) -> bool:
    """Return whether the command line asks for a live stream.

    Raises:
        UsageError: if it does not, but has options of one, or the other way round.
    """
    live = cast("bool | None", arguments.live)
    if live is None:
        live = is_live_target(arguments.output) or is_live(arguments.input)
    if live:
        refused = REFUSED["stream"].items()
        if arguments.executor != "local":
            raise UsageError("--executor is no option of live streams: one machine computes them")
        wrong = {name: f"is no option of live streams: {reason}" for name, reason in refused}
    else:
        text = "is an option of live streams, and neither input nor output is one (see --live)"
        wrong = dict.fromkeys(OF_STREAMS, text)
    for name, text in wrong.items():
        if getattr(arguments, name) is not None:
            raise UsageError(f"{flag_of(name)} {text}")
    return live


def run_live(arguments: argparse.Namespace) -> LiveReport:
    """Run a live stream until it is stopped, or its duration has passed.

    Raises:
        UsageError: for a wrong option.
        DeviceUnavailable: if the device is not there.
        MediaError, FilterError, Stopped: as `LiveSession.run`.
    """
    duration = _seconds_of(cast("str | None", arguments.duration))
    name = cast("str | None", arguments.name) or name_of(arguments.input)
    work = specified(arguments, StreamSpec, name=name), runtime_of(arguments)
    overwrite = bool(arguments.overwrite)
    request = LiveRequest(*work, overwrite=overwrite, duration_seconds=duration, give_up=True)
    style = cast("ProgressStyle", arguments.progress)
    display = None if style == "none" else LiveDisplay(style)
    session = LiveSession(request, on_status=display, still_seconds=STILL_SECONDS)
    with stoppable(session.stop, _kill_children):
        report = session.run()
    if display is not None:
        display.end()
    return report


def _seconds_of(duration: str | None) -> float | None:
    if duration is None:
        return None
    try:
        seconds = float(duration)  # also such as 1e3
    except ValueError:
        try:
            seconds = float(parse_time(duration))
        except ValueError as error:
            raise UsageError(f"--duration {error}") from error
    if not 0 < seconds < float("inf"):
        raise UsageError(f"--duration must be above 0, got {duration}")
    return seconds


def name_of(text: str) -> str:
    """Name a stream after its input: its host and path, or its file; never with a secret."""
    try:
        parts = urlsplit(redacted(text))
        words = [parts.hostname or "", *re.sub(r"\.\w+$", "", parts.path).split("/")]
    except ValueError:  # no URL after all
        words = []
    plain = (re.sub(r"[^A-Za-z0-9._]+", "-", word).strip("-._") for word in words)
    return "-".join([word for word in plain if word][-3:])[:_NAME_CHARACTERS] or "live"


def _kill_children() -> None:
    for child in children_of(os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


_CLEAR = "\r\x1b[K"


class LiveDisplay:
    """Writes statuses: JSON each, or text on changes and every five seconds.

    On a terminal, one line of text is rewritten every second.
    """

    def __init__(
        self,
        style: ProgressStyle,
        stream: TextIO | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream: TextIO = sys.stderr if stream is None else stream
        self._style = style
        if style == "auto":
            self._style = "bar" if self._stream.isatty() else "line"
        self._now = now
        self._shown_at = float("-inf")
        self._shown: tuple[str, ...] = ()
        self._before: tuple[float, int] | None = None
        self._fps = 0.0

    def __call__(self, status: LiveStatus) -> None:
        """Show a status; called on changes and every second."""
        if self._style == "json":
            self._write(json_text(status.to_json(), None) + "\n")
            return
        now, rewrites = self._now(), self._style == "bar"
        gist = (status.state, status.level, status.showing, str(status.output_state.connected))
        pause = 1.0 if rewrites else _LINE_SECONDS
        if gist == self._shown and now - self._shown_at < pause:
            return
        written, before = status.output_state.written, self._before
        if before is None:
            self._before = (now, written)
        elif now - before[0] >= 1.0:
            self._fps = (written - before[1]) / (now - before[0])
            self._before = (now, written)
        self._shown, self._shown_at = gist, now
        text = status_text(status, self._fps)
        self._write(f"{_CLEAR}{text}" if rewrites else f"upframe: {text}\n")

    def end(self) -> None:
        """End the line that was rewritten."""
        if self._style == "bar" and self._shown:
            self._write("\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def status_text(status: LiveStatus, fps: float) -> str:
    """Describe the status of a stream in one line."""
    sink = status.output_state
    parts = [f"{status.state}, level {status.level}, {fps:.1f} fps written"]
    if "p99" in status.delay_seconds:
        parts.append(f"delay {status.delay_seconds['p50']:.2f}/{status.delay_seconds['p99']:.2f} s")
    if dropped := status.counts.get("frames_dropped", 0):
        parts.append(f"{dropped} dropped")
    if status.showing not in ("input", "nothing"):
        parts.append(f"showing {status.showing}")
    if status.state == "reconnecting" and status.message:
        parts.append(status.message)
    if not sink.connected and sink.reason is not None:
        parts.append(f"output {sink.reason}: {sink.message}")
    return one_line(", ".join(parts))


def _keep(arguments: argparse.Namespace) -> Keep:
    threads = arguments.threads or os.environ.get("OMP_NUM_THREADS")
    given = (arguments.device, arguments.precision, threads)
    names = zip(("device", "precision", "threads"), given, strict=True)
    return Keep(
        resume=not arguments.no_resume,
        arguments={"words": arguments.words, "folder": os.getcwd()},
        asked=frozenset(name for name, value in names if value not in (None, "auto")),
    )


def command(arguments: argparse.Namespace) -> int:
    """Do what the command line asks, and return the exit code."""
    if arguments.report is not None:
        check_report_path(arguments.report, arguments.input, arguments.output)
    if is_live_run(arguments):
        report = run_live(arguments)
    else:
        options = specified(arguments, ConversionOptions)
        kind, _, address = cast("str", arguments.executor).partition(":")
        runtime = runtime_of(arguments, several=kind == "local")
        _refuse_output_of_a_job(arguments.output, options)
        work = arguments.input, arguments.output, options, runtime
        request = RunRequest(*work, keep=_keep(arguments))
        with nullcontext() if kind == "local" else _cluster(address) as crew:
            report = run(replace(request, crew=crew), display_for(arguments.progress))
    if arguments.report is not None:
        report.write(cast("Path", arguments.report))
    sys.stderr.write(f"upframe: {one_line(report.summary)}\n")
    return 0


@contextmanager
def _cluster(address: str) -> Generator[Callable[[Setup], Crew]]:
    """Have the nodes of a cluster make the segments."""
    with driver_of(check_cluster(address), torch.get_num_threads()) as driver:
        yield partial(ClusterCrew, connect=lambda: driver)


def _refuse_output_of_a_job(output: str, options: ConversionOptions) -> None:
    """Refuse an output that a daemon's job will write; with --overwrite, only warn."""
    if (text := None if "://" in output else writer_here(output)) is None:
        return
    if not options.overwrite:
        raise SinkRefused(f"{text}; wait for it, cancel it, or choose another name")
    log.warning("%s", text)

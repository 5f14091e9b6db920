"""`upframe run`: a file, a sequence or a live stream in, the same but smoother and larger out."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from ...io.live.address import is_live
from ...io.live.target import is_live_target
from ...io.redaction import one_line, redacted
from ..convert.conversion import RunRequest, run
from ..convert.progress import STYLES, Style, display_for
from ..errors import UsageError
from ..live.options import LiveOptions, Name
from ..live.report import children_of
from ..live.request import LiveRequest
from ..live.session import LiveSession
from .arguments import (
    add_encoder_arguments,
    add_filter_arguments,
    add_media_arguments,
    add_runtime_arguments,
    add_tls_argument,
    encoder_options_of,
    filter_options_of,
    flag_of,
    location,
    runtime_of,
    validated,
)
from .live_display import show_for

# `upframe run` for live streams: its options, its signals, what it shows meanwhile.

_OF_ALL = ("format", "tls_insecure")
_OPTIONS = tuple(name for name in LiveOptions.model_fields if name not in _OF_ALL)
"""Those that only live streams have; the others are of every input and output."""
_BESIDE = ("duration", "credentials_file", "output_credentials_file", "name")
_OF_FILES = {"strict_streams": False, "deinterlace": "auto", "framerate": None}
"""Options that live streams do not have, and what they are where nobody gave them."""
_NAME_CHARACTERS = 64


def add_live_arguments(parser: argparse.ArgumentParser) -> None:
    """Offer the options of live streams."""
    group = parser.add_argument_group(
        "live streams",
        "An input or output such as rtsp://… makes it one: in real time, until stopped.",
    )
    group.add_argument(
        "--live", action=argparse.BooleanOptionalAction, default=None,
        help="take it as one, or not, whatever the addresses say",
    )  # fmt: skip
    _add(group, "latency_seconds", "--latency", "--latency-seconds", metavar="SECONDS")
    _add(group, "levels", "--levels", metavar="NAME,NAME…")
    _add(group, "on_loss", "--on-loss", metavar="{slate,freeze,stop}")
    _add(group, "rtsp_transport", "--rtsp-transport", metavar="{tcp,udp,auto}")
    _add(group, "stall_seconds", "--stall-seconds", metavar="SECONDS")
    _add(group, "segment_seconds", "--segment-seconds", metavar="SECONDS")
    _add(group, "sound", "--sound", action=argparse.BooleanOptionalAction)
    group.add_argument(
        "--duration", type=float, metavar="SECONDS",
        help="of the output, after which it ends well (until stopped)",
    )  # fmt: skip
    group.add_argument("--name", help="on the slate and in the status (by the input)")
    for end in ("", "output-"):
        group.add_argument(
            f"--{end}credentials-file", type=Path, metavar="FILE",
            help=f"of the {'output' if end else 'input'}: one line USER:PASSWORD, "
            "readable by nobody else",
        )  # fmt: skip


def is_live_run(arguments: argparse.Namespace) -> bool:
    """Tell whether the command line asks for a live stream.

    Raises:
        UsageError: if it does not, but has options of one, or the other way round.
    """
    live = cast("bool | None", arguments.live)
    if live is None:
        live = is_live_target(arguments.output) or is_live(arguments.input)
    if live:
        wrong = [name for name, usual in _OF_FILES.items() if getattr(arguments, name) != usual]
        text = "is no option of live streams"
    else:
        given = (*_OPTIONS, *_BESIDE)
        wrong = [name for name in given if getattr(arguments, name) is not None]
        text = "is an option of live streams, and neither input nor output is one (see --live)"
    if wrong:
        raise UsageError(f"{_spelled(wrong[0])} {text}")
    return live


def run_live(arguments: argparse.Namespace) -> int:
    """Run a live stream until it is stopped, or its duration has passed.

    Raises:
        UsageError: for a wrong option.
        MediaError, FilterError, Stopped: as `LiveSession.run`.
    """
    request = request_of_arguments(arguments)
    show = show_for(cast("Style", arguments.progress))
    session = LiveSession(request, on_status=show)
    with _signals(session):
        report = session.run()
    show.end()
    if arguments.report is not None:
        report.write(cast("Path", arguments.report))
    sys.stderr.write(f"upframe: {one_line(report.summary)}\n")
    return 0


def request_of_arguments(arguments: argparse.Namespace) -> LiveRequest:
    """Read what is to be done.

    Raises:
        UsageError: for a wrong option.
        DeviceUnavailable: if the device is not there.
    """
    duration = cast("float | None", arguments.duration)
    if duration is not None and not 0 < duration < float("inf"):
        raise UsageError(f"--duration must be above 0, got {duration:g}")
    name = cast("str | None", arguments.name)
    return LiveRequest(
        name=name_of(arguments.input) if name is None else _checked_name(name),
        input=arguments.input,
        output=arguments.output,
        filters=filter_options_of(arguments),
        runtime=runtime_of(arguments),
        encoder=encoder_options_of(arguments),
        options=_options_of(arguments),
        credentials_file=arguments.credentials_file,
        output_credentials_file=arguments.output_credentials_file,
        overwrite=arguments.overwrite,
        duration_seconds=duration,
        give_up=True,
    )


def name_of(text: str) -> str:
    """Name a stream after its input: its host and path, or its file; never with a secret."""
    try:
        parts = urlsplit(redacted(text))
        words = [parts.hostname or "", *re.sub(r"\.\w+$", "", parts.path).split("/")]
    except ValueError:  # no URL after all
        words = []
    plain = (re.sub(r"[^A-Za-z0-9._]+", "-", word).strip("-._") for word in words)
    return "-".join([word for word in plain if word][-3:])[:_NAME_CHARACTERS] or "live"


def _add(group: Any, field: str, *flags: str, **more: Any) -> None:
    info = LiveOptions.model_fields[field]
    usual = ",".join(info.default) if field == "levels" else info.default
    text = (info.description or "").replace("%%", "%").replace("%", "%%")
    if usual is not None and "action" not in more:
        text += f" ({usual})"
    group.add_argument(*flags, dest=field, default=None, help=text, **more)


def _options_of(arguments: argparse.Namespace) -> LiveOptions:
    given = {name: getattr(arguments, name) for name in LiveOptions.model_fields}
    given = {name: value for name, value in given.items() if value is not None}
    if "levels" in given:
        given["levels"] = tuple(word.strip() for word in str(given["levels"]).split(","))
    return validated(LiveOptions, given)


def _checked_name(name: str) -> str:
    try:
        return TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise UsageError(
            f"--name must be letters, digits, '.', '_' or '-', at most {_NAME_CHARACTERS}, "
            f"got {name!r}"
        ) from error


def _spelled(name: str) -> str:
    return "--latency" if name == "latency_seconds" else flag_of(name)


@contextmanager
def _signals(session: LiveSession) -> Generator[None]:
    """Let the first SIGINT or SIGTERM end the stream well, and a second one at once."""
    seen: Iterator[bool] = iter((True,))

    def on_signal(number: int, _: object) -> None:
        """End well, or at once with all children."""
        if next(seen, False):
            session.stop(number)
            return
        for child in children_of(os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        os._exit(128 + number)  # threads may hang in a codec

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and its arguments."""
    parser.description = (
        "Interpolate and enlarge a video file, a still, an image sequence or a live "
        "stream. Sound, subtitles, chapters and metadata are kept; of live streams the sound."
    )
    parser.epilog = _EPILOG
    parser.add_argument(
        "input", type=location, help="a file, a sequence such as 'in_%%05d.png', or a live address"
    )
    parser.add_argument(
        "output", type=location, help="a file, a numbered sequence, or where to publish to"
    )
    add_filter_arguments(parser)
    add_encoder_arguments(parser)
    add_media_arguments(parser).add_argument(
        "--hwaccel",
        default="none",
        choices=("none", "auto", "cuda"),
        help="what decodes a file, whose frames then stay on the card: auto or cuda, an NVIDIA "
        "card where it can, else software, which is logged (none)",
    )
    add_tls_argument(parser)
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
    sys.stderr.write(f"upframe: {one_line(report.summary)}\n")
    return 0

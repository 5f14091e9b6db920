"""The command `upframe`: finds the module of a command, and catches all errors in one place."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from typing import NoReturn, cast

from ..io.redaction import one_line
from ..io.web import INSECURE, NetworkRules, network_rules
from .errors import ConfigError, UsageError
from .exits import Exit, exit_code_of, is_expected, text_of
from .logfields import record_text
from .startup import collector_resting, share_cores

COMMANDS: Mapping[str, str] = {
    "run": "Convert a file, an image, an image sequence or a live stream.",
    "pipe": "Convert video from stdin to stdout: y4m, nut or matroska.",
    "probe": "Show what an input is, what would be done with it, and what that costs.",
    "verify": "Check a result: its frames, duration, streams, tags and sound offset.",
    "models": "List, fetch and check weights.",
    "serve": "Run the daemon: watched folders, live streams, MQTT and `upframe jobs`.",
    "jobs": "Submit, list, follow and cancel jobs of the daemon.",
    "doctor": "Check this machine, and whether the main job runs on it.",
    "demo": "Draw a clip, and make it smoother and larger.",
    "bench": "Measure how fast the filters are on this machine.",
}
"""Each is a module with `add_arguments`, which sets `command` to a function of the arguments."""

_EPILOG = """\
examples:
  upframe run film.mp4 smooth.mp4 --interpolate 1 --upscale 2
  upframe run still.png large.png --upscale 4
  ffmpeg -i in.mkv -f yuv4mpegpipe - | upframe pipe --interpolate 1 | ffmpeg -i - out.mkv
  upframe probe film.mp4 --interpolate 2 --upscale 2
  upframe serve --config /etc/upframe/upframe.toml

exit codes:
  0 done · 64 usage · 65 undecodable, truncated or empty input, wrong weights file
  66 input or job missing · 69 weights, device or daemon unavailable · 70 internal error
  73 output exists or cannot be created · 74 no space, I/O
  75 too large for memory or the limits, or another daemon has the state directory
  78 configuration · 130/143 stopped by a signal · 141 the reader of stdout closed early
"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors end with our exit code for usage, not argparse's 2."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting, so that one place decides what is printed."""
        raise UsageError(f"{message} (see '{self.prog} --help')")


def make_parser(loaded: Iterable[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """Build the parser of all commands, with the arguments of those that are loaded.

    Loading a command imports its module, which may take a second.
    """
    parser = Parser(
        prog="upframe",
        description="Makes video smoother (RIFE 4.22.lite) and larger (Real-ESRGAN), "
        "frame by frame and in flat memory.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"upframe {version('upframe')}")
    parser.add_argument("--debug", action="store_true", help="Log everything and show tracebacks.")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for name, summary in COMMANDS.items():
        command = subparsers.add_parser(
            name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name in loaded:
            module = importlib.import_module(f".cli.{name}", __package__)
            module.add_arguments(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; without `argv`, exit if a thread hangs."""
    code = _run(argv)
    if argv is not None:
        return code
    # Python would unwind a daemon thread in C++, which aborts the process; every thread that can be
    # joined was joined, so this one is blocked in a read or in a library
    is_stuck = any(thread.daemon for thread in threading.enumerate())
    try:
        sys.stdout.flush()
    except AttributeError:  # there is no stdout
        pass
    except (OSError, ValueError) as error:  # full or closed: Python would exit with 120
        code = code or int(exit_code_of(error) if isinstance(error, OSError) else Exit.IO)
        is_stuck = True
    if is_stuck:
        os._exit(code)
    return code


def _run(argv: Sequence[str] | None) -> int:
    debug = False
    try:
        words = sys.argv[1:] if argv is None else list(argv)
        asked = [name for name in words if not name.startswith("-")][:1]
        if asked == ["run"] and any(word == "--live" or "://" in word for word in words):
            share_cores()  # before the command's module loads torch
        # with `argv`, the caller continues, and its objects must stay collectable
        with collector_resting() if argv is None else nullcontext():
            parser = make_parser(asked)
        arguments = parser.parse_args(words)
        debug = cast("bool", arguments.debug)
        _log_to_stderr(debug)
        insecure = bool(getattr(arguments, "tls_insecure", None))
        if insecure:
            logging.getLogger("upframe.tls").warning("--tls-insecure: %s", INSECURE)
        with network_rules(NetworkRules(tls_insecure=insecure)):
            return int(arguments.command(arguments))
    except (Exception, KeyboardInterrupt) as error:
        _explain(error, debug or "UPFRAME_DEBUG" in os.environ)
        return exit_code_of(error)


def _log_to_stderr(debug: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    logger = logging.getLogger("upframe")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.INFO)


class _Formatter(logging.Formatter):
    """Formats a record on one line for users."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        return f"upframe: {record.levelname}: {record_text(record)}"


def _explain(error: BaseException, debug: bool) -> None:
    """Print the error in one line; with a traceback for internal errors or --debug."""
    text = text_of(error)
    lines = error.lines if isinstance(error, ConfigError) else (text,)
    if isinstance(error, KeyboardInterrupt):
        lines = ("interrupted",)
    if exit_code_of(error) == Exit.INTERNAL and not is_expected(error):
        lines = (f"internal error: {type(error).__name__}: {text}",)
        debug = True
    if debug:
        trace = "".join(traceback.format_exception(error)).splitlines()
        sys.stderr.writelines(f"  {one_line(line)}\n" for line in trace)
    sys.stderr.write("upframe: " + "\n".join(map(one_line, lines)) + "\n")


if __name__ == "__main__":
    sys.exit(main())

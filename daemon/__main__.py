"""The command `upframe`: finds the module of a command, and catches all errors in one place."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from typing import cast

from ..io.redaction import one_line
from ..io.web import INSECURE, NetworkRules, network_rules
from .errors import ConfigError, UsageError
from .exits import Exit, exit_code_of, is_expected, text_of
from .hang import HangWatch, say_on_stderr
from .logfields import record_text
from .parser import COMMANDS, make_parser, no_command
from .startup import collector_resting, share_cores


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
    if "_ARGCOMPLETE" in os.environ:
        importlib.import_module(".cli.completion", __package__).offer()
    try:
        words = sys.argv[1:] if argv is None else list(argv)
        asked = [name for name in words if not name.startswith("-") or name == "-"][:1]
        if asked and asked[0] not in COMMANDS:
            raise UsageError(no_command(words, asked[0], COMMANDS))
        if asked == ["run"] and any(word == "--live" or "://" in word for word in words):
            share_cores()  # before the command's module loads torch
        # with `argv`, the caller continues, and its objects must stay collectable
        with collector_resting() if argv is None else nullcontext():
            arguments = make_parser(asked).parse_args(words)
            arguments.words = words
            debug = cast("bool", arguments.debug)
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(_Formatter())
            logger = logging.getLogger("upframe")
            logger.handlers[:] = [handler]
            logger.setLevel(logging.DEBUG if debug else logging.INFO)
            module = importlib.import_module(f".cli.{arguments.command}", __package__)
        insecure = bool(getattr(arguments, "tls_insecure", None))
        if insecure:
            logging.getLogger("upframe.tls").warning("--tls-insecure: %s", INSECURE)
        watch = HangWatch(say_on_stderr) if argv is None else nullcontext()
        with network_rules(NetworkRules(tls_insecure=insecure)), watch:
            return int(module.command(arguments))
    except (Exception, KeyboardInterrupt) as error:
        _explain(error, debug or "UPFRAME_DEBUG" in os.environ)
        return exit_code_of(error)


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

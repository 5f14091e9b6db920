"""Standard input and output as raw streams that hold nothing but video."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from io import FileIO

from .errors import UsageError

_STDIN, _STDOUT, _STDERR = 0, 1, 2


@contextmanager
def standard_streams() -> Generator[tuple[FileIO, FileIO]]:
    """Give stdin and stdout, unbuffered.

    Meanwhile descriptor 1 is stderr: whatever any library prints cannot get between the frames.

    Raises:
        UsageError: if one of the two is a terminal, or closed.
    """
    if sys.__stdin__ is None or sys.__stdout__ is None:
        # its number is free, and whatever is opened first gets it: do not look at that
        name = "stdin" if sys.__stdin__ is None else "stdout"
        raise UsageError(f"{name} is closed, wanted a pipe or a file")
    if os.isatty(_STDIN):
        raise UsageError("stdin is a terminal, wanted video: ffmpeg -i … -f nut - | upframe pipe …")
    if os.isatty(_STDOUT):
        raise UsageError("stdout is a terminal, video would fill it: upframe pipe … | mpv -")
    stdin = FileIO(_STDIN, "rb", closefd=False)  # a thread may still be reading it at the end
    with FileIO(os.dup(_STDOUT), "wb") as stdout:
        _send_prints_to_stderr()
        try:
            yield stdin, stdout
        finally:
            os.dup2(stdout.fileno(), _STDOUT)


def _send_prints_to_stderr() -> None:
    try:
        os.dup2(_STDERR, _STDOUT)
    except OSError:  # there is no stderr
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, _STDOUT)
        os.close(nowhere)

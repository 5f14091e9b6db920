"""The daemon's log: plain lines, the journal's fields, or JSON lines, written by a thread.

loggers → job ids → repeated warnings summed → thread → stderr or the journal
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TextIO

from .config import LogConfig
from .fields import JobFilter, fields_of, priority_of, subject_of
from .journal import JournalHandler, stream_is_journal
from .repeats import SummingHandler
from .writer import ThreadedHandler


class Logs:
    """The log of a running daemon.

    Args:
        config: How to log.
        stream: Where plain and JSON lines go.
    """

    def __init__(self, config: LogConfig, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._front: SummingHandler | None = None
        self._root = logging.getLogger()
        self._ours = logging.getLogger("upframe")
        self._before = (self._root.handlers[:], self._ours.handlers[:], self._ours.level)
        self.configure(config)

    def configure(self, config: LogConfig) -> None:
        """Log in this way from now on."""
        front = SummingHandler(
            ThreadedHandler(make_handler(config, self._stream)), config.repeat_seconds
        )
        front.addFilter(JobFilter())
        before, self._front = self._front, front
        self._root.handlers[:] = [front]
        self._ours.handlers[:] = []
        self._ours.setLevel(config.level.upper())
        if before is not None:
            before.close()

    def sum_up(self) -> None:
        """Write the counts of repeated warnings whose time is over; call it every second or so."""
        if self._front is not None:
            self._front.sum_up()

    def close(self) -> None:
        """Write what waits, and leave logging as it was found."""
        self._root.handlers[:], self._ours.handlers[:], level = self._before
        self._ours.setLevel(level)
        if self._front is not None:
            self._front.close()
        self._front = None


@contextmanager
def logging_as(config: LogConfig, stream: TextIO | None = None) -> Generator[Logs]:
    """Log in this way within."""
    logs = Logs(config, stream)
    try:
        yield logs
    finally:
        logs.close()


def make_handler(config: LogConfig, stream: TextIO) -> logging.Handler:
    """Make what writes the lines, as the configuration and systemd say."""
    to_journal = stream_is_journal(stream)
    plain = logging.StreamHandler(stream)
    plain.setFormatter(PrefixedFormatter() if to_journal else PlainFormatter())
    if config.format == "journal" or (config.format == "auto" and to_journal):
        return JournalHandler(plain)
    if config.format == "json":
        plain.setFormatter(JsonFormatter())
    return plain


class PlainFormatter(logging.Formatter):
    """`2026-11-23 12:00:00.123 WARNING watch [film-1] text`, in local time."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record; each of its lines stands on its own."""
        time = datetime.fromtimestamp(record.created).astimezone()
        head = f"{time:%Y-%m-%d %H:%M:%S}.{int(record.msecs):03d} {record.levelname:<7} "
        return _prefixed(head, self.formatMessage(record), _text(self, record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Write where it comes from, and the job or stream."""
        subject = subject_of(record)
        where = record.name.removeprefix("upframe.")
        return f"{where}: " if subject is None else f"{where} [{subject}]: "


class PrefixedFormatter(PlainFormatter):
    """For a stderr that is the journal: `<4>` tells the level of each line, the time is known."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        head = f"<{priority_of(record.levelno)}>"
        return _prefixed(head, self.formatMessage(record), _text(self, record))


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _text(self, record),
            **fields_of(record),
        }
        return json.dumps(line, ensure_ascii=False)


def _text(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    text = record.getMessage()
    return f"{text}\n{formatter.formatException(record.exc_info)}" if record.exc_info else text


def _prefixed(head: str, where: str, text: str) -> str:
    return "\n".join(f"{head}{where}{line}" for line in text.splitlines() or [""])

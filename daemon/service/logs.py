"""The daemon's log: plain lines, the journal's fields, or JSON lines, written by a thread.

loggers → job ids → repeated warnings summed → thread → stderr or the journal
"""

from __future__ import annotations

import array
import copy
import errno
import fcntl
import json
import logging
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO
from uuid import UUID, uuid5

from ..config import LogConfig
from ..fence import Fence
from ..logfields import JobFilter, fields_of, priority_of, record_text, subject_of
from ..queues import DropOldestQueue

JOURNAL_SOCKET = "/run/systemd/journal/socket"

_EVENTS = UUID("2c6a3f58-64a2-4d0d-9a0e-6a1c5e1a8f4b")
"""The namespace of our MESSAGE_ID fields: one for each kind of event."""
_SEALS = 0x0001 | 0x0002 | 0x0004 | 0x0008  # SEAL, SHRINK, GROW, WRITE

_VARIANTS = 20
"""Different texts of one warning that are written within the time."""
_MOST_KEYS = 1000
"""Remembered at most; then the oldest is summed up early."""

_MOST_WAITING = 10_000
"""Lines that wait for a stderr that is not read; further ones are counted and dropped."""
_PATIENCE_SECONDS = 1.0
"""For waiting lines at the end: a reader that sleeps must not keep the daemon from exiting."""

Key = tuple[str, int, str, str]


def stream_is_journal(stream: TextIO = sys.stderr, journal_stream: str | None = None) -> bool:
    """Return whether a stream is connected to the journal, by the inode that systemd names."""
    named = os.environ.get("JOURNAL_STREAM") if journal_stream is None else journal_stream
    if not named:
        return False
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return named == f"{found.st_dev}:{found.st_ino}"


class JournalHandler(logging.Handler):
    """Writes to the journal, or to `fallback` where that fails, so that no line is lost.

    By systemd's Native Journal Protocol: a datagram of fields for each line, so that
    ``journalctl -u upframe JOB_ID=film-1`` shows one job; a larger one as a sealed memory file.
    """

    def __init__(self, fallback: logging.Handler, address: str = JOURNAL_SOCKET) -> None:
        super().__init__()
        self._fallback = fallback
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line with its fields."""
        try:
            self._send(b"".join(_encode(name, text) for name, text in _fields(record)))
        except OSError:
            self._fallback.handle(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()

    def _send(self, message: bytes) -> None:
        try:
            self._socket.sendto(message, self._address)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_as_file(message)

    def _send_as_file(self, message: bytes) -> None:
        file = os.memfd_create("upframe-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with os.fdopen(os.dup(file), "wb") as writer:
                writer.write(message)
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]).tobytes())]
            self._socket.sendmsg([], passed, 0, self._address)
        finally:
            os.close(file)


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, str]]:
    yield "MESSAGE", record_text(record)
    yield "PRIORITY", str(priority_of(record.levelno))
    yield "SYSLOG_IDENTIFIER", "upframe"
    yield "LOGGER", record.name
    yield "CODE_FILE", record.pathname
    yield "CODE_LINE", str(record.lineno)
    yield "CODE_FUNC", record.funcName or ""
    for name, value in fields_of(record).items():
        if name == "event":
            yield "MESSAGE_ID", uuid5(_EVENTS, value).hex
        yield name.upper(), value


def _encode(name: str, text: str) -> bytes:
    value = text.encode(errors="replace")
    if b"\n" not in value:
        return name.encode() + b"=" + value + b"\n"
    return name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"


@dataclass(slots=True)
class _Run:
    """One warning since it was last written."""

    record: logging.LogRecord
    since: float
    written: int = 0
    held: int = 0


class SummingHandler(logging.Handler):
    """Passes records on, and sums up repeated warnings and errors: a sick camera fills no disk.

    The same warning of the same job or live stream is written once in a while, then with how often
    it was repeated. Of one whose text differs each time, as by a frame number, twenty are written.
    It is once in `seconds`; 0: everything is written. The clock is monotonic. `target` writes the
    lines.
    """

    def __init__(
        self, target: logging.Handler, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self.target = target
        self._seconds = seconds
        self._clock = clock
        self._runs: dict[Key, _Run] = {}
        self._lock_runs = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it."""
        with Fence("log"):
            if self._seconds <= 0 or record.levelno < logging.WARNING:
                self.target.handle(record)
                return
            for due in self._take(record):
                self.target.handle(due)

    def sum_up(self, *, everything: bool = False) -> None:
        """Write summaries whose time has come; call it regularly, and at the end."""
        with Fence("log"):
            with self._lock_runs:
                due = self._expired(everything=everything)
            for record in due:
                self.target.handle(record)

    def close(self) -> None:
        """Write all summaries, and close the target."""
        self.sum_up(everything=True)
        self.target.close()
        super().close()

    def _take(self, record: logging.LogRecord) -> list[logging.LogRecord]:
        """Count a record; return the records to write now."""
        subject = str(subject_of(record))
        exact = (record.name, record.levelno, "=" + record.getMessage(), subject)
        loose = (record.name, record.levelno, "~" + str(record.msg), subject)
        with self._lock_runs:
            due = self._expired()
            for key, limit in ((exact, 1), (loose, _VARIANTS)):
                run = self._runs.get(key)
                if run is not None and run.written >= limit:
                    run.held += 1
                    run.record = record
                    return due
            for key in (exact, loose):
                self._runs.setdefault(key, _Run(record, self._clock())).written += 1
        return [*due, record]

    def _expired(self, *, everything: bool = False) -> list[logging.LogRecord]:
        now = self._clock()
        excess = len(self._runs) - _MOST_KEYS
        gone = [
            self._runs.pop(key)
            for index, (key, run) in enumerate(list(self._runs.items()))
            if everything or index < excess or now - run.since >= self._seconds
        ]
        return [_summary(run, now - run.since) for run in gone if run.held]


def _summary(run: _Run, seconds: float) -> logging.LogRecord:
    record = copy.copy(run.record)
    times = "once" if run.held == 1 else f"{run.held} times"
    record.msg = f"{run.record.getMessage()} (repeated {times} within {seconds:.0f} s)"
    record.args = None
    record.exc_info = record.exc_text = None
    return record


class FencedHandler(logging.Handler):
    """Does not print a line that fails."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Raise it to the fence around the record."""
        raise


class ThreadedHandler(FencedHandler):
    """Passes records to another handler, closed with this, on a thread: writing may block."""

    def __init__(self, target: logging.Handler) -> None:
        super().__init__()
        self._waiting: DropOldestQueue[logging.LogRecord] = DropOldestQueue(_MOST_WAITING)
        self._target = target
        self._lost = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Add a line without waiting, its arguments formatted, since they may change."""
        record = copy.copy(record)
        record.msg, record.args = record.getMessage(), None
        self._waiting.put(record)

    def close(self) -> None:
        """Write waiting lines, unless that takes too long. Safe to call twice."""
        self._waiting.close()
        self._thread.join(_PATIENCE_SECONDS)
        if not self._thread.is_alive():
            self._target.close()
        super().close()

    def _write(self) -> None:
        while (record := self._waiting.take(None)) is not None:
            with Fence("log"):
                if lost := self._waiting.dropped - self._lost:
                    self._lost += lost
                    text = f"{lost} lines of the log were lost: they were not read in time"
                    about = "upframe.logs", logging.ERROR, __file__, 0, text, None, None
                    self._target.handle(logging.LogRecord(*about))
                self._target.handle(record)


class Logs:
    """The log of a running daemon, until it is closed; plain and JSON lines go to a stream."""

    def __init__(self, config: LogConfig, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._front: SummingHandler | None = None
        self._root = logging.getLogger()
        self._ours = logging.getLogger("upframe")
        self._before = (self._root.handlers[:], self._ours.handlers[:], self._ours.level)
        self.configure(config)

    def configure(self, config: LogConfig) -> None:
        """Apply a configuration."""
        target = ThreadedHandler(make_handler(config, self._stream))
        front = SummingHandler(target, config.repeat_seconds)
        front.addFilter(JobFilter())
        before, self._front = self._front, front
        self._root.handlers[:] = [front]
        self._ours.handlers[:] = []
        self._ours.setLevel(config.level.upper())
        if before is not None:
            before.close()

    def sum_up(self) -> None:
        """Write the summaries of repeated warnings; call it every second or so."""
        if self._front is not None:
            self._front.sum_up()

    def close(self) -> None:
        """Write waiting lines, and restore the former logging."""
        self._root.handlers[:], self._ours.handlers[:], level = self._before
        self._ours.setLevel(level)
        if self._front is not None:
            self._front.close()
        self._front = None


def make_handler(config: LogConfig, stream: TextIO) -> logging.Handler:
    """Make the handler that the configuration and systemd ask for."""
    to_journal = stream_is_journal(stream)
    plain = PlainHandler(stream)
    plain.setFormatter(PrefixedFormatter() if to_journal else PlainFormatter())
    if config.format == "journal" or (config.format == "auto" and to_journal):
        return JournalHandler(plain)
    if config.format == "json":
        plain.setFormatter(JsonFormatter())
    return plain


class PlainHandler(FencedHandler, logging.StreamHandler[TextIO]):
    """Writes lines."""


class PlainFormatter(logging.Formatter):
    """`2026-11-23 12:00:00.123 WARNING watch [film-1] text`, in local time."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record; each of its lines has the prefix, with its logger, job or stream."""
        subject, where = subject_of(record), record.name.removeprefix("upframe.")
        head = f"{self.head(record)}{where}{'' if subject is None else f' [{subject}]'}: "
        return "\n".join(f"{head}{line}" for line in record_text(record).splitlines() or [""])

    def head(self, record: logging.LogRecord) -> str:
        """Return time and level."""
        time = datetime.fromtimestamp(record.created).astimezone()
        return f"{time:%Y-%m-%d %H:%M:%S}.{int(record.msecs):03d} {record.levelname:<7} "


class PrefixedFormatter(PlainFormatter):
    """For a stderr that is the journal: `<4>` is the level of a line, which needs no time."""

    def head(self, record: logging.LogRecord) -> str:
        """Return the level."""
        return f"<{priority_of(record.levelno)}>"


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record_text(record),
            **fields_of(record),
        }
        return json.dumps(line, ensure_ascii=False)

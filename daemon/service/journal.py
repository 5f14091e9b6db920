"""The journal's own protocol: one datagram of fields for each line, so that they can be asked for.

`journalctl -u upframe JOB_ID=film-1` then shows one job. The format is systemd's "Native Journal
Protocol"; what is too large for a datagram goes as a sealed memory file.
"""

from __future__ import annotations

import array
import errno
import fcntl
import logging
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import TextIO
from uuid import UUID, uuid5

from .fields import fields_of, priority_of

JOURNAL_SOCKET = "/run/systemd/journal/socket"

_EVENTS = UUID("2c6a3f58-64a2-4d0d-9a0e-6a1c5e1a8f4b")
"""The name space of our MESSAGE_ID fields: one for each kind of event."""
_SEALS = 0x0001 | 0x0002 | 0x0004 | 0x0008  # SEAL, SHRINK, GROW, WRITE


def stream_is_journal(stream: TextIO = sys.stderr, journal_stream: str | None = None) -> bool:
    """Tell whether what is written to the stream ends in the journal: systemd names its inode."""
    named = os.environ.get("JOURNAL_STREAM") if journal_stream is None else journal_stream
    if not named:
        return False
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return named == f"{found.st_dev}:{found.st_ino}"


class JournalHandler(logging.Handler):
    """Writes to the journal; where that is impossible, to `fallback`, so that no line is lost."""

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
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    yield "MESSAGE", text
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

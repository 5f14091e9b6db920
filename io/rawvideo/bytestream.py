"""Raw byte streams with complete reads and writes: short reads, full pipes and closed readers.

A pipe may return and accept fewer bytes than requested, and its other end may have set it to
non-blocking mode. Nothing is buffered: what was written has been written, and what was not read is
still in the pipe.

FFmpeg's demuxers treat a stream that ends inside a frame as complete, and with FFV1 in NUT they
even return the torn frame (measured, 8.1). So NUT and Matroska are collected in units here, and a
torn one is withheld and reported. Unknown structures are passed on unchanged.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO, UnsupportedOperation
from typing import Protocol

from ..errors import MediaError, ReaderGone, SinkFull, TruncatedMedia, UnsupportedMedia, reason_of

PIPE_BYTES = 1 << 20
"""Requested capacity of a pipe; the kernel's default is 64 KiB."""

_POLL_MILLISECONDS = 100
"""How long a read may continue after it was interrupted."""


class RawStream(Protocol):
    """The methods needed of a raw stream, such as :class:`io.FileIO` or :class:`io.BytesIO`."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Read into `buffer`: the number of bytes, 0 at the end, None where it would block."""
        ...

    def write(self, data: memoryview, /) -> int | None:
        """Write from `data`: the number of bytes, None where it would block."""
        ...

    def fileno(self) -> int:
        """The file descriptor, if there is one."""
        ...


class ByteReader:
    """Reads a raw stream, with a way to peek ahead."""

    def __init__(self, stream: RawStream) -> None:
        self._stream = stream
        self._ahead = b""
        self._at_end = False
        self._interrupted = False
        descriptor = enlarge_pipe(stream)
        self._descriptor = None if descriptor is None or _write_only(descriptor) else descriptor

    @property
    def at_end(self) -> bool:
        """Whether the stream has ended."""
        return self._at_end and not self._ahead

    def interrupt(self) -> None:
        """End a waiting read as if the stream had ended; may be called from any thread."""
        self._interrupted = True

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes, or what is left, without consuming them."""
        while len(self._ahead) < size and not self._at_end:
            piece = memoryview(bytearray(size - len(self._ahead)))
            self._ahead += bytes(piece[: self._read_raw(piece)])
        return self._ahead[:size]

    def readinto(self, buffer: memoryview) -> int:
        """Read what is available, at most the whole buffer; 0 only at the end."""
        if not self._ahead:
            return self._read_raw(buffer)
        piece, self._ahead = self._ahead[: len(buffer)], self._ahead[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)

    def fill(self, buffer: memoryview) -> int:
        """Read until the buffer is full or the stream ends; return the number of bytes read."""
        got = 0
        while got < len(buffer) and (count := self.readinto(buffer[got:])):
            got += count
        return got

    def read(self, size: int = PIPE_BYTES) -> bytes:
        """Read at most `size` bytes, as a file object does; ``b""`` only at the end."""
        buffer = memoryview(bytearray(size))
        return bytes(buffer[: self.readinto(buffer)])

    def read_line(self, limit: int) -> bytes:
        """Read up to and including the next newline, at most `limit` bytes.

        Byte by byte: a line is short, and what follows it is read as a whole frame.
        """
        line = bytearray()
        while len(line) < limit and not line.endswith(b"\n") and (byte := self.read(1)):
            line += byte
        return bytes(line)

    def _read_raw(self, buffer: memoryview) -> int:
        count: int | None = None
        while count is None:
            if not self._wait_for_data():
                count = 0
                break
            try:
                count = self._stream.readinto(buffer)
            except OSError as error:
                raise UnsupportedMedia(f"cannot read the input: {reason_of(error)}") from error
        self._at_end = count == 0 and len(buffer) > 0
        return count

    def _wait_for_data(self) -> bool:
        """Wait until a read does not block; return False after an interruption."""
        if self._descriptor is not None:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLIN)
            while not self._interrupted and not poll.poll(_POLL_MILLISECONDS):
                pass
        return not self._interrupted


class ByteWriter:
    """Writes a raw stream. After a failure every later write fails the same way at once."""

    def __init__(self, stream: RawStream) -> None:
        self._stream = stream
        self.failure: MediaError | None = None
        """Why the stream accepts no more; PyAV hides what its callbacks raise."""
        enlarge_pipe(stream)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write all of `data`; blocks while the reader is slow.

        Raises:
            ReaderGone: if the reader has closed its end.
            SinkFull: if there is no space, or an I/O error.
        """
        if self.failure is not None:
            raise self.failure
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[self._write_some(rest) :]
        return memoryview(data).nbytes

    def _write_some(self, rest: memoryview) -> int:
        try:
            count = self._stream.write(rest)
        except OSError as error:
            self.failure = _failure(error)
            raise self.failure from error
        if count is None:
            poll = select.poll()
            poll.register(self._stream.fileno(), select.POLLOUT)
            poll.poll()
        return count or 0


def gone_after(num_frames: int) -> ReaderGone:
    """Return the error for a closed reader, with the number of frames it got."""
    return ReaderGone(f"the reader closed the stream after {num_frames} frames")


def enlarge_pipe(stream: RawStream) -> int | None:
    """Enlarge a pipe to 1 MiB; if that is not available, leave it.

    Returns:
        The stream's descriptor; None if it has none.
    """
    try:
        descriptor = stream.fileno()
    except (UnsupportedOperation, AttributeError):
        return None
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode) and hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(OSError):  # above the user's limit, or the pipe already holds more
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return descriptor


def _write_only(descriptor: int) -> bool:
    """Return whether reading can only fail, where a poll would wait for ever."""
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY


def _failure(error: OSError) -> MediaError:
    if error.errno in (errno.EPIPE, errno.ECONNRESET):
        return ReaderGone("the reader closed the stream")
    return SinkFull(f"cannot write the output: {reason_of(error)}")


_MAX_UNIT_BYTES = 1 << 31
_HEAD_BYTES = 64 << 10


class TornUnit(Exception):
    """The stream ended inside a unit."""

    def __init__(self, got: int, wanted: int) -> None:
        super().__init__(f"{got} of {wanted} bytes")
        self.got = got
        self.wanted = wanted


class UnknownStructure(Exception):
    """The stream's structure is not one that we know."""


class UnitReader:
    """Collects the bytes of one unit after the other."""

    def __init__(self, reader: ByteReader) -> None:
        self._reader = reader
        self._unit = bytearray()

    @property
    def at_end(self) -> bool:
        """Whether the stream ends before the next unit."""
        return not self._reader.peek(1)

    @property
    def size(self) -> int:
        """Bytes of the unit so far."""
        return len(self._unit)

    def take(self, size: int) -> bytes:
        """Collect `size` more bytes of the unit and return them."""
        self.gather(size)
        return bytes(self._unit[self.size - size :])

    def gather(self, size: int) -> None:
        """Collect `size` more bytes of the unit.

        Raises:
            TornUnit: if the stream ends before.
            UnknownStructure: if no valid unit is as large.
        """
        end = self.size + size
        if size < 0 or end > _MAX_UNIT_BYTES:
            raise UnknownStructure(f"a unit of {end} bytes")
        while self.size < end:
            piece = memoryview(bytearray(min(8 << 20, end - self.size)))
            got = self._reader.fill(piece)
            self._unit += piece[:got]
            if got < len(piece):
                raise TornUnit(self.size, end)

    def release(self) -> bytes:
        """Return the unit and begin the next."""
        unit, self._unit = bytes(self._unit), bytearray()
        return unit

    def rest(self) -> Iterator[bytes]:
        """Yield everything else unchanged."""
        yield self.release()
        while piece := self._reader.read():
            yield piece


def unit_of(data: bytes) -> UnitReader:
    """Return a reader for one unit that is in memory."""
    return UnitReader(ByteReader(BytesIO(data)))


Units = Callable[[UnitReader], Iterator[bytes]]


class PieceReader:
    """A file object for a demuxer, of pieces that are made when they are read."""

    def __init__(self, pieces: Iterator[bytes], name: str) -> None:
        self.name = name
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes; ``b""`` at the end."""
        while not self._rest and (piece := next(self._pieces, None)) is not None:
            self._rest = memoryview(piece)
        size = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:size], self._rest[size:]
        return bytes(data)


class WholeUnits(PieceReader):
    """The same, of a stream that always ends between units."""

    def __init__(self, reader: ByteReader, units: Units) -> None:
        super().__init__(self._whole(units(UnitReader(reader))), "the input")
        self.truncation: TruncatedMedia | None = None
        """Set when the stream has ended too early."""
        self.head = b""
        """The first units: the header, which has data that PyAV does not show."""

    def _whole(self, units: Iterator[bytes]) -> Iterator[bytes]:
        in_head = True
        try:
            for unit in units:
                in_head = in_head and len(self.head) + len(unit) <= _HEAD_BYTES
                self.head += unit if in_head else b""
                yield unit
        except TruncatedMedia as error:
            self.truncation = error

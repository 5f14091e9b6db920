"""Raw streams: short reads and writes, non-blocking pipes, readers that are gone."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from io import BytesIO, FileIO

import pytest

from upframe.io.errors import ReaderGone, SinkFull, UnsupportedMedia
from upframe.io.rawvideo.bytestream import PIPE_BYTES, ByteReader, ByteWriter


@pytest.fixture
def pipe() -> Iterator[tuple[FileIO, FileIO]]:
    """The reading and the writing end."""
    descriptors = os.pipe()
    ends = FileIO(descriptors[0], "rb"), FileIO(descriptors[1], "wb")
    yield ends
    for end in ends:
        end.close()


class Dribble(BytesIO):
    """Gives and takes three bytes at a time."""

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return super().readinto(buffer[:3])

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        return super().write(data[:3])


def test_fills_a_buffer_from_short_reads() -> None:
    buffer = bytearray(10)
    assert ByteReader(Dribble(b"0123456789ab")).fill(memoryview(buffer)) == 10
    assert bytes(buffer) == b"0123456789"


def test_writes_all_in_spite_of_short_writes() -> None:
    out = Dribble()
    assert ByteWriter(out).write(b"0123456789") == 10
    assert out.getvalue() == b"0123456789"


def test_what_was_peeked_at_is_read_again() -> None:
    reader = ByteReader(Dribble(b"0123456789"))
    assert reader.peek(7) == b"0123456"
    assert reader.peek(2) == b"01"
    assert b"".join(iter(lambda: reader.read(4), b"")) == b"0123456789"
    assert reader.at_end


def test_a_line_takes_nothing_of_what_follows() -> None:
    reader = ByteReader(BytesIO(b"one\ntwo"))
    assert reader.read_line(100) == b"one\n"
    assert reader.read_line(2) == b"tw"
    assert reader.read_line(100) == b"o"
    assert reader.read_line(100) == b""


def test_waits_for_a_slow_writer_of_a_non_blocking_pipe(pipe: tuple[FileIO, FileIO]) -> None:
    os.set_blocking(pipe[0].fileno(), False)
    later = threading.Timer(0.1, lambda: (pipe[1].write(b"late"), pipe[1].close()))
    later.start()
    assert ByteReader(pipe[0]).read(10) == b"late"
    later.join()


def test_an_interrupt_ends_a_read_that_waits(pipe: tuple[FileIO, FileIO]) -> None:
    reader = ByteReader(pipe[0])
    later = threading.Timer(0.1, reader.interrupt)
    later.start()
    assert reader.read(10) == b""
    assert reader.at_end
    later.join()


def test_waits_for_a_slow_reader_of_a_non_blocking_pipe(pipe: tuple[FileIO, FileIO]) -> None:
    os.set_blocking(pipe[1].fileno(), False)
    data = bytes(3 * PIPE_BYTES)
    got = bytearray()

    def read_slowly() -> None:
        while len(got) < len(data):
            time.sleep(0.01)
            got.extend(pipe[0].read(PIPE_BYTES) or b"")

    reader = threading.Thread(target=read_slowly)
    reader.start()
    assert ByteWriter(pipe[1]).write(data) == len(data)
    reader.join()
    assert got == data


def test_asks_for_a_large_pipe(pipe: tuple[FileIO, FileIO]) -> None:
    ByteWriter(pipe[1])
    assert fcntl.fcntl(pipe[1].fileno(), fcntl.F_GETPIPE_SZ) == PIPE_BYTES


def test_a_closed_reader_is_told_apart_and_stays_gone(pipe: tuple[FileIO, FileIO]) -> None:
    writer = ByteWriter(pipe[1])
    pipe[0].close()
    for _ in range(2):
        with pytest.raises(ReaderGone, match="closed the stream"):
            writer.write(b"x")


def test_a_full_device_is_not_a_closed_reader() -> None:
    with FileIO("/dev/full", "wb") as full, pytest.raises(SinkFull, match="No space left"):
        ByteWriter(full).write(b"x")


def test_an_unreadable_stream_says_why(pipe: tuple[FileIO, FileIO]) -> None:
    for_writing_only = FileIO(pipe[1].fileno(), "rb", closefd=False)
    with pytest.raises(UnsupportedMedia, match="cannot read the input: Bad file descriptor"):
        ByteReader(for_writing_only).read(1)

"""What fails in handling one unit of foreign work ends there, whatever else fails with it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from upframe.daemon.fence import Fence, internal_errors


class Failing(logging.Handler):
    """A log that cannot take anything."""

    def emit(self, record: logging.LogRecord) -> None:
        raise ValueError("the log is broken")


@contextmanager
def handled_by(handler: logging.Handler) -> Generator[None]:
    logger = logging.getLogger("upframe.fence")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def stderr_read() -> Generator[int]:
    """The reading end of what file descriptor 2 is within."""
    reader, writer = os.pipe()
    before = os.dup(2)
    os.dup2(writer, 2)
    try:
        yield reader
    finally:
        os.dup2(before, 2)
        for descriptor in (reader, writer, before):
            os.close(descriptor)


def test_an_error_ends_inside_and_is_counted_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = internal_errors["file"]
    with Fence("file", "film.mkv") as fenced:
        raise ZeroDivisionError("a bug")
    assert isinstance(fenced.error, ZeroDivisionError)
    assert internal_errors["file"] == before + 1
    (record,) = caplog.records
    assert "film.mkv" in record.getMessage()
    assert record.exc_info is not None


def test_what_goes_well_is_not_counted() -> None:
    before = internal_errors.total()
    with Fence("file") as fenced:
        pass
    assert fenced.error is None
    assert internal_errors.total() == before


@pytest.mark.parametrize("kind", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
def test_the_end_of_a_task_or_of_the_process_passes(kind: type[BaseException]) -> None:
    before = internal_errors.total()
    with pytest.raises(kind), Fence("mqtt"):
        raise kind
    assert internal_errors.total() == before


def test_errors_that_the_loop_acts_on_pass() -> None:
    with pytest.raises(ConnectionResetError), Fence("control", let=(ConnectionError,)):
        raise ConnectionResetError


def test_it_holds_where_the_log_fails_and_tells_stderr_no_text_of_others() -> None:
    secret = "".join(("ge", "heim"))  # not in the source, which a traceback shows
    with stderr_read() as reader:
        with handled_by(Failing()), Fence("mqtt", "message") as fenced:
            raise ValueError(f"rtsp://user:{secret}@camera")
        told = os.read(reader, 1 << 16).decode()
    assert fenced.error is not None
    assert "boundary mqtt: ValueError" in told
    assert __file__ in told
    assert "geheim" not in told


def test_it_holds_where_an_error_cannot_even_be_written() -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RecursionError

    with handled_by(logging.StreamHandler()), Fence("mqtt") as fenced:
        raise Unspeakable
    assert isinstance(fenced.error, Unspeakable)


def test_it_waits_for_nobody_who_reads_stderr() -> None:
    with stderr_read():
        os.set_blocking(2, False)
        try:
            while True:
                os.write(2, b"x" * 4096)
        except BlockingIOError:
            os.set_blocking(2, True)
        with Fence("log"):
            raise ValueError("nobody hears of it")

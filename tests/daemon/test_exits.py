from __future__ import annotations

import errno
import os

import av
import pytest
import torch

from upframe.daemon import errors as daemon_errors
from upframe.daemon.errors import JobRefused, StartFailed, Stopped, UsageError
from upframe.daemon.exits import exit_code_of, is_expected, text_of
from upframe.daemon.workers.messages import error_of
from upframe.filters import errors as filter_errors
from upframe.io import errors as media_errors
from upframe.io.errors import InputLost, OutputLost

CODES = {
    "UsageError": 64,
    "ConfigError": 78,
    "AlreadyRunning": 75,
    "Conflict": 64,
    "IllegalChange": 64,
    "UnknownJob": 66,
    "DaemonAbsent": 69,
    "BrokerAbsent": 69,
    "ClusterAbsent": 69,
    "StoreBroken": 74,
    "Hung": 70,
    "WorkersLost": 70,
    "FilterError": 70,
    "CheckpointRejected": 65,
    "WeightsUnavailable": 69,
    "DeviceUnavailable": 69,
    "UnsupportedPixels": 65,
    "TooLarge": 75,
    "MediaError": 74,
    "SourceMissing": 66,
    "UnsupportedMedia": 65,
    "TooLargeMedia": 75,
    "NotAsPlanned": 65,
    "TruncatedMedia": 65,
    "SameFile": 64,
    "SinkRefused": 73,
    "SinkFull": 74,
    "ReaderGone": 141,
    "InputLost": 74,
    "OutputLost": 74,
    "VerificationFailed": 70,
    "WrongLimits": 78,
    "WrongOption": 64,
}


def all_errors() -> dict[str, type[BaseException]]:
    """Every error class of the three rooms but those that carry their code."""
    return {
        name: value
        for module in (daemon_errors, filter_errors, media_errors)
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, Exception)
        and value not in (Stopped, StartFailed, JobRefused)
        and not name.startswith("_")
    }


def test_the_table_covers_every_error_class() -> None:
    assert all_errors().keys() == CODES.keys()


@pytest.mark.parametrize("name", sorted(CODES))
def test_every_error_has_the_code_of_the_design(name: str) -> None:
    kind = all_errors()[name]
    error = kind("failed", "text") if kind in (InputLost, OutputLost) else kind("text")
    assert exit_code_of(error) == CODES[name]
    assert is_expected(error)


@pytest.mark.parametrize(("error", "code"), [(Stopped(15), 143), (Stopped(2), 130)])
def test_a_signal_ends_as_in_the_shell(error: Stopped, code: int) -> None:
    assert exit_code_of(error) == code


@pytest.mark.parametrize("kind", [StartFailed, JobRefused])
def test_a_failed_start_and_a_refused_job_have_the_code_of_their_cause(
    kind: type[StartFailed],
) -> None:
    assert exit_code_of(kind("no weights", 69)) == 69
    assert is_expected(kind("no weights", 69))


def test_an_unknown_error_is_ours() -> None:
    assert exit_code_of(ZeroDivisionError()) == 70
    assert not is_expected(ZeroDivisionError())


def test_a_wrong_option_is_not_expected_to_show_a_traceback() -> None:
    assert is_expected(UsageError("text"))


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def test_error_that_is_its_own_cause_has_an_end() -> None:
    error = media_errors.UnsupportedMedia("cut off")
    assert exit_code_of(caused(error, error)) == 65


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory", "avcodec_open2()"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] CPUAllocator: can't allocate memory"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
        torch.OutOfMemoryError("Allocation on device"),
        caused(media_errors.UnsupportedMedia("cannot be decoded"), MemoryError()),
        caused(caused(ValueError("odd"), media_errors.SinkFull("cannot encode")), MemoryError()),
    ],
    ids=repr,
)
def test_missing_memory_is_a_75_wherever_it_shows(error: Exception) -> None:
    assert exit_code_of(error) == 75
    assert is_expected(error)
    assert "too large for memory" in text_of(error)
    told = error_of(error)
    assert (told.code, told.detail) == (75, None)
    assert "too large for memory" in told.message

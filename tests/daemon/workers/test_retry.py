"""Which errors are worth another attempt, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from upframe.daemon.config import JobsConfig
from upframe.daemon.jobs.model import JobError
from upframe.daemon.workers.messages import error_of
from upframe.daemon.workers.outcomes import next_attempt
from upframe.filters.errors import CheckpointRejected, TooLarge, WeightsUnavailable
from upframe.io.errors import (
    SinkFull,
    SinkRefused,
    SourceMissing,
    TruncatedMedia,
    UnsupportedMedia,
    VerificationFailed,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LOST = JobError(code=74, message="no space", retryable=True)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SinkFull("no space"), 74),
        (OSError(5, "I/O error"), 74),
        (TooLarge("out of memory"), 75),
        (MemoryError(), 75),
        (WeightsUnavailable("no hub"), 69),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), 69),
    ],
)
def test_what_time_may_mend_is_tried_again(error: BaseException, code: int) -> None:
    told = error_of(error)
    assert (told.code, told.retryable) == (code, True)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SourceMissing("gone"), 66),
        (UnsupportedMedia("text"), 65),
        (TruncatedMedia("short"), 65),
        (CheckpointRejected("hostile"), 65),
        (SinkRefused("exists"), 73),
        (VerificationFailed("wrong"), 70),
        (KeyError("bug"), 70),
    ],
)
def test_what_would_fail_again_fails_at_once(error: BaseException, code: int) -> None:
    told = error_of(error)
    assert (told.code, told.retryable) == (code, False)
    assert next_attempt(told, 1, JobsConfig(), NOW) is None


def test_a_bug_is_told_with_its_traceback() -> None:
    try:
        raise KeyError("frames")
    except KeyError as error:
        told = error_of(error)
    assert told.message == "internal error: KeyError: 'frames'"
    assert told.detail is not None
    assert "test_retry.py" in told.detail


def test_the_delays_are_taken_in_turn_and_the_last_repeats() -> None:
    config = JobsConfig(attempts=6, retry_delays=(5, 30))

    def delay(attempts: int) -> float:
        due = next_attempt(LOST, attempts, config, NOW, uniform=lambda low, high: (low + high) / 2)
        assert due is not None
        return (due - NOW).total_seconds()

    assert [delay(attempts) for attempts in (1, 2, 3, 5)] == [5, 30, 30, 30]
    assert next_attempt(LOST, 6, config, NOW) is None


def test_delays_differ_by_a_quarter_either_way() -> None:
    config = JobsConfig(retry_delays=(100,))
    due = {next_attempt(LOST, 1, config, NOW) for _ in range(50)}
    assert len(due) > 40
    for one in due:
        assert one is not None
        assert timedelta(seconds=75) <= one - NOW <= timedelta(seconds=125)


def test_no_error_tells_the_password_of_a_url() -> None:
    told = error_of(SourceMissing("rtsp://me:secret@camera/1: no answer"))
    assert told.message == "rtsp://***@camera/1: no answer"
    bug = error_of(KeyError("rtsp://me:secret@camera/1"))
    assert "secret" not in bug.message + (bug.detail or "")

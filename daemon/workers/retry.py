"""Which errors are worth another attempt, and when that is due."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable
from datetime import datetime, timedelta

from ...io.errors import UnsupportedMedia
from ...io.redaction import excerpt, one_line
from ..config import JobsConfig
from ..exits import Exit, exit_code_of, is_expected, text_of
from ..jobs.model import JobError

RETRYABLE = frozenset({Exit.UNAVAILABLE, Exit.IO, Exit.TRY_LATER})
"""Hub or device, I/O and space, memory: what time may mend. The rest fails the same way again."""

_JITTER = 0.25  # of the delay, either way: jobs that failed together do not come back together


def error_of(error: BaseException) -> JobError:
    """Say what an exception that ended an attempt means for the job."""
    code = Exit.UNAVAILABLE if _is_of_device(error) else exit_code_of(error)
    text = text_of(error)
    detail = None
    if not is_expected(error):
        text = f"internal error: {type(error).__name__}: {text}"
        detail = "".join(traceback.format_exception(error))
    return JobError(
        code=int(code),
        message=one_line(text, 4096),
        retryable=code in RETRYABLE and not isinstance(error, UnsupportedMedia),
        detail=detail and excerpt(detail, 16384),
    )


def _is_of_device(error: BaseException) -> bool:
    """Whether a CUDA device failed. Its process cannot use it any more; a new one may."""
    return isinstance(error, RuntimeError) and "CUDA" in str(error)


def next_attempt(
    error: JobError,
    attempts: int,
    config: JobsConfig,
    now: datetime,
    *,
    uniform: Callable[[float, float], float] = random.uniform,
) -> datetime | None:
    """Tell when a job that failed is tried again.

    Args:
        error: of the last attempt.
        attempts: begun so far.
        config: how often and how soon.
        now: when it failed.
        uniform: draws the jitter between two bounds.

    Returns:
        None where it is not.
    """
    if not error.retryable or attempts >= config.attempts:
        return None
    delays = config.retry_delays
    delay = delays[min(max(attempts, 1), len(delays)) - 1]
    return now + timedelta(seconds=delay * uniform(1 - _JITTER, 1 + _JITTER))

"""What a line of the log carries beside its text: above all the job it is about.

Work on a job is done within `about_job(id)`; every line that is logged in it, in coroutines and in
threads started by `asyncio.to_thread` too, then has the job's id. A single line can name others:
`log.info("…", extra={"job_id": …, "event": "job-failed", "source": …, "stage": …})`.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from ..io.redaction import one_line

_NAMES = ("job_id", "event", "source", "stage")

_job: ContextVar[str | None] = ContextVar("upframe_job", default=None)


@contextmanager
def about_job(job_id: str) -> Generator[None]:
    """Let every line that is logged within carry the id of a job."""
    token = _job.set(job_id)
    try:
        yield
    finally:
        _job.reset(token)


class JobFilter(logging.Filter):
    """Writes the id of the job into a record where it is made, before it changes threads."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything pass."""
        if getattr(record, "job_id", None) is None:
            record.job_id = _job.get()
        return True


def told(record: logging.LogRecord) -> str:
    """Write what a record says on one line, and where it was raised on lines below."""
    trace = record.exc_text or str(getattr(record, "trace", ""))
    if record.exc_info:
        trace = logging.Formatter().formatException(record.exc_info)
    return "\n".join(map(one_line, (record.getMessage(), *trace.splitlines())))


def fields_of(record: logging.LogRecord) -> Mapping[str, str]:
    """Give the fields that a record has."""
    found = ((name, getattr(record, name, None)) for name in _NAMES)
    return {name: one_line(value) for name, value in found if value is not None}


def subject_of(record: logging.LogRecord) -> str | None:
    """Name what a record is about: a job by its id, else a live stream by its name."""
    fields = fields_of(record)
    return fields.get("job_id") or fields.get("source")


def priority_of(level: int) -> int:
    """Give syslog's number: 2 critical, 3 error, 4 warning, 6 info, 7 debug."""
    bounds = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
    return next((number for bound, number in bounds if level >= bound), 7)

"""Fields of log records, above all the id of a job.

Within `about_job(id)` every record has the id of the job, also in coroutines and in threads started
by `asyncio.to_thread`. A single record can name further fields:
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
    """Add the id of a job to every record that is logged within."""
    token = _job.set(job_id)
    try:
        yield
    finally:
        _job.reset(token)


class JobFilter(logging.Filter):
    """Adds the id of the job to a record where it is made, before it changes threads."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Pass every record."""
        if getattr(record, "job_id", None) is None:
            record.job_id = _job.get()
        return True


def record_text(record: logging.LogRecord) -> str:
    """Format a record: its message on one line, a traceback on the lines below."""
    trace = record.exc_text or str(getattr(record, "trace", ""))
    if record.exc_info:
        trace = logging.Formatter().formatException(record.exc_info)
    return "\n".join(map(one_line, (record.getMessage(), *trace.splitlines())))


def fields_of(record: logging.LogRecord) -> Mapping[str, str]:
    """Return the fields of a record."""
    found = ((name, getattr(record, name, None)) for name in _NAMES)
    return {name: one_line(value) for name, value in found if value is not None}


def subject_of(record: logging.LogRecord) -> str | None:
    """Return the subject of a record: the id of a job, else the name of a live stream."""
    fields = fields_of(record)
    return fields.get("job_id") or fields.get("source")


def priority_of(level: int) -> int:
    """Return syslog's priority: 2 critical, 3 error, 4 warning, 6 info, 7 debug."""
    bounds = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
    return next((number for bound, number in bounds if level >= bound), 7)

"""A job as a row of the store, and back."""

from __future__ import annotations

import json
import os.path
import re
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from .errors import StoreBroken
from .model import Job

ALTERABLE = frozenset(
    {
        "attempts",
        "ended",
        "error",
        "not_before",
        "priority",
        "progress",
        "report",
        "started",
        "waits_for",
    }
)
"""What may be written into a job after it was added, beside its state."""


def altered(job: Job, **fields: object) -> Job:
    """Copy a job with other values in some fields, checked as new ones are.

    Raises:
        ValidationError: if a value is none that the field can have.
    """
    given: dict[str, Any] = {name: getattr(job, name) for name in Job.model_fields}
    return Job.model_validate(given | fields)


def row_of(job: Job) -> dict[str, object]:
    """Write a job as the columns of its row, all but `seq`."""
    return {
        "id": job.id,
        "key": job.idempotency_key,
        "digest": job.work.digest,
        "state": job.state,
        "priority": job.priority,
        "created": job.created.timestamp(),
        "due": job.not_before.timestamp() if job.not_before else 0.0,
        "ended": job.ended.timestamp() if job.ended else None,
        "sink": plain_path(job.sink),
        "body": job.model_dump_json(exclude={"report"}),
        "report": None if job.report is None else json.dumps(job.report, separators=(",", ":")),
    }


def job_of_row(body: str, report: str | None) -> Job:
    """Read a job from its two JSON columns.

    Raises:
        StoreBroken: if no job can be made of them.
    """
    whole = body if report is None else f'{body[:-1]},"report":{report}}}'
    try:
        return Job.model_validate_json(whole)
    except ValidationError as error:
        # without the values: one may be a URL with a password
        faults = error.errors(include_url=False, include_input=False)
        text = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
        raise StoreBroken(f"the record of {_name_in(body)} cannot be read: {text}") from None


def _name_in(body: str) -> str:
    named = re.search(r'"id":\s*("[^"]*")', body)
    return f"job {named[1]}" if named else "a job"


def plain_path(path: str) -> str:
    """Spell a path the one way by which it is looked up; URLs stay as they are."""
    return path if "://" in path else os.path.normpath(path)


def seconds_of(moment: datetime) -> float:
    """Tell a time as the columns have it."""
    return moment.timestamp()

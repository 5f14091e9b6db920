"""Jobs as they may be shown: no secret leaves the store."""

from __future__ import annotations

import json
from typing import Any, cast

from ...io.redaction import redacted_values
from .model import Job


def shown(job: Job, *, report: bool = True) -> dict[str, Any]:
    """Turn a job into JSON values, without secrets."""
    values = job.model_dump(mode="json", exclude={"confined"} if report else {"confined", "report"})
    return cast("dict[str, Any]", redacted_values(values))


def shown_body(body: str) -> str:
    """Take the secrets out of a job's JSON; most have none, and are passed on as they are."""
    if not any(mark in body for mark in (":/", ":\\\\/", "=")):
        return body
    return json.dumps(redacted_values(json.loads(body)), separators=(",", ":"))

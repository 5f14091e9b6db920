"""Requests and answers as JSON: strict in what is taken, and every refusal says what was wanted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, cast

from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json

from ...io.redaction import redacted, redacted_values
from ..jobs.model import Job, JobId, Work
from ..jobs.shown import shown
from .topics import Command

REQUEST_SCHEMA = "upframe.job/1"
REPLY_SCHEMA = "upframe.reply/1"
MAX_PAYLOAD_BYTES = 64 * 1024

_SUPPORTED = re.compile(r"upframe\.job/1(\.\d+)?")
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_PROBLEMS = 5
_MAX_TEXT = 200

ErrorCode = Literal[
    "malformed", "too_large", "unsupported_schema", "invalid", "refused", "retained", "expired",
    "conflict", "unknown_job", "illegal_change", "job_failed", "job_cancelled", "timeout",
    "busy", "internal",
]  # fmt: skip


class JobRequest(BaseModel, frozen=True, extra="forbid"):
    """`job/cancel` and `job/query`: which job is meant."""

    schema_: str = Field(alias="schema", description=f"{REQUEST_SCHEMA}")
    id: JobId


class SubmitRequest(Work, frozen=True, extra="forbid"):
    """`job/submit`: a new job, with the client's own id for it."""

    schema_: str = Field(alias="schema", description=f"{REQUEST_SCHEMA}")
    id: JobId = Field(description="the client's; the same id and content twice is one job")
    priority: int = Field(default=0, ge=-1000, le=1000, description="the highest goes first")


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a request was not done, as the answer says it."""

    code: ErrorCode
    message: str
    retryable: bool = False
    detail: str | None = None


class BadRequest(Exception):
    """A request cannot be done; nothing was changed."""

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        job_id: str | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(message)
        self.problem = Problem(code, redacted(message), retryable)
        self.job_id = job_id
        """Of the request, where it has a usable one."""


def parse(command: Command, payload: bytes) -> SubmitRequest | JobRequest:
    """Read a request.

    Raises:
        BadRequest: if it is too large, no JSON in UTF-8, of an unknown schema, or has unknown,
            missing or wrong keys.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise BadRequest(
            "too_large", f"at most {MAX_PAYLOAD_BYTES} bytes are taken, got {len(payload)}"
        )
    given = _object_of(payload)
    job_id = _id_of(given)
    _check_schema(given.get("schema"), job_id)
    model = SubmitRequest if command == "submit" else JobRequest
    try:
        return model.model_validate_json(payload, strict=True)
    except ValidationError as error:
        raise BadRequest("invalid", _problems_of(error), job_id=job_id) from error


def _object_of(payload: bytes) -> dict[str, object]:
    try:
        text = payload.decode("utf-8", errors="strict")
        given: object = from_json(text, allow_inf_nan=False)
    except UnicodeDecodeError as error:
        raise BadRequest("malformed", f"must be UTF-8: {error.reason} at {error.start}") from error
    except ValueError as error:
        raise BadRequest("malformed", f"must be JSON: {str(error)[:_MAX_TEXT]}") from error
    if not isinstance(given, dict):
        raise BadRequest("malformed", f"must be a JSON object, got {type(given).__name__}")
    return cast("dict[str, object]", given)


def _id_of(given: dict[str, object]) -> str | None:
    job_id = given.get("id")
    usable = isinstance(job_id, str) and _SAFE_ID.fullmatch(job_id)
    return cast("str", job_id) if usable else None


def _check_schema(schema: object, job_id: str | None) -> None:
    if isinstance(schema, str) and _SUPPORTED.fullmatch(schema):
        return
    got = "none" if schema is None else repr(schema)[:_MAX_TEXT]
    raise BadRequest(
        "unsupported_schema", f"schema: got {got}, supported is {REQUEST_SCHEMA}", job_id=job_id
    )


def _problems_of(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_context=False)
    lines = [_problem_of(detail) for detail in details[:_MAX_PROBLEMS]]
    more = len(details) - _MAX_PROBLEMS
    return "; ".join([*lines, f"and {more} more"] if more > 0 else lines)


def _problem_of(detail: ErrorDetails) -> str:
    place = ".".join(str(level) for level in detail["loc"])[:_MAX_TEXT]
    if detail["type"] == "extra_forbidden":
        return f"{place}: unknown key"
    if detail["type"] == "missing":
        return f"{place}: missing"
    got = detail["input"]
    shown = "" if isinstance(got, dict) else f", got {str(redacted_values(got))[:_MAX_TEXT]!r}"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{place}: {message}{shown}" if place else message


def job_answer(job: Job) -> bytes:
    """Answer with a job as it stands."""
    document = shown(job)
    if job.state in ("queued", "running"):
        return answer("accepted", job.id, document)
    if job.state == "done":
        return answer("done", job.id, document)
    if job.state == "cancelled":
        problem = Problem("job_cancelled", f"job {job.id} was cancelled")
    elif job.error is None:
        problem = Problem("job_failed", f"job {job.id} has failed")
    else:
        error = job.error
        problem = Problem("job_failed", error.message, error.retryable, error.detail)
    return answer("error", job.id, document, problem)


def answer(
    status: Literal["accepted", "done", "error"],
    job_id: str | None,
    data: object = None,
    problem: Problem | None = None,
) -> bytes:
    """Write the answer to a request."""
    error = None
    if problem is not None:
        error = {
            "code": problem.code,
            "message": redacted(problem.message),
            "retryable": problem.retryable,
            "detail": None if problem.detail is None else redacted(problem.detail),
        }
    return json_bytes(
        {"schema": REPLY_SCHEMA, "status": status, "id": job_id, "data": data, "error": error}
    )


def json_bytes(document: object) -> bytes:
    """Write JSON; what JSON has no form for is written as text."""
    return to_json(document, inf_nan_mode="null", fallback=str)


@cache
def request_schemas() -> dict[str, Any]:
    """Describe all requests as JSON Schema, by command. Takes a tenth of a second the first time.

    The result is shared: not to be changed.
    """
    job = JobRequest.model_json_schema()
    return {"submit": SubmitRequest.model_json_schema(), "cancel": job, "query": job}

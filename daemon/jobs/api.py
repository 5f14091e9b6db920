"""What can be asked of the jobs: typed requests and answers, and a function for each.

The control socket, HTTP and MQTT call these functions, and :meth:`JobQueue.get` and `cancel`, so
that a request means the same wherever it comes from. Every answer leaves without secrets. The
command line imports the requests and the errors from here: this module loads neither an event loop
nor a web framework.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import BaseModel, Field, PlainSerializer, ValidationError

from ...io.redaction import excerpt, one_line, redacted, redacted_values
from ..errors import Conflict, DaemonAbsent, IllegalChange, StoreBroken, UnknownJob, UsageError
from ..specification import ConversionSpec, Origin, Priority
from .model import Confinement, Job, JobError, JobId, State, job_of

if TYPE_CHECKING:
    from .queue import JobQueue, Subscription


def to_public_dict(job: Job, *, report: bool = True) -> dict[str, Any]:
    """Return a job as JSON values, without secrets."""
    values = job.model_dump(mode="json", exclude={"confined"} if report else {"confined", "report"})
    return cast("dict[str, Any]", redacted_values(values))


def to_public_json(body: str) -> str:
    """Remove the secrets from a job's JSON; most have none and are returned as they are."""
    if not any(mark in body for mark in (":/", ":\\\\/", "=")):
        return body
    return json.dumps(redacted_values(json.loads(body)), separators=(",", ":"))


def name_of(job: Job) -> str:
    """Name a job for people: by its source's file name, on one line and without secrets."""
    return one_line(PurePath(redacted(job.source)).name or job.id)


Check = Callable[[Job], Awaitable[JobError | None]]

PublicJob = Annotated[Job, PlainSerializer(to_public_dict)]
BriefJob = Annotated[Job, PlainSerializer(partial(to_public_dict, report=False))]


class NewJob(BaseModel, frozen=True, extra="forbid"):
    """A job to submit."""

    id: JobId
    work: ConversionSpec
    priority: Priority = 0


class JobQuery(BaseModel, frozen=True, extra="forbid"):
    """Which jobs to list."""

    state: tuple[State, ...] | None = None
    limit: int | None = Field(default=None, ge=0, lt=1 << 31)


class WriterQuery(BaseModel, frozen=True, extra="forbid"):
    """Which output's job to find."""

    sink: str


class FollowRequest(BaseModel, frozen=True, extra="forbid"):
    """Which jobs to follow until they have ended; None: all, without end."""

    ids: tuple[str, ...] | None = None


class Submitted(BaseModel, frozen=True):
    """The job as the store has it, whether it is new, and what the client should know of it."""

    job: PublicJob
    new: bool
    note: str | None = None


class JobEvent(BaseModel, frozen=True):
    """A change of a job; one of state also has the number of jobs in each state."""

    kind: Literal["state", "progress", "removed"]
    job: BriefJob
    counts: dict[State, int] | None = None


async def submit(
    queue: JobQueue, new: NewJob, *, origin: Origin, confined: Confinement | None = None
) -> Submitted:
    """Add a job, unless it is known already.

    Raises:
        Conflict: if its id stands for other work, or another job that has not ended writes the
            same output, which this one may not replace.
    """
    job = job_of(new.work, id=new.id, origin=origin, confined=confined, priority=new.priority)
    note = await _other_writer(queue, job)
    stored, is_new = await queue.submit(job)
    return Submitted(job=stored, new=is_new, note=note)


async def _other_writer(queue: JobQueue, job: Job) -> str | None:
    other = await queue.writer_of(job.sink, job.id)
    if other is None:
        return None
    note = f"job {other!r}, which has not ended, writes the same output: {excerpt(job.sink)}"
    if not job.overwrite:
        raise Conflict(note)
    return note


async def unchecked(_: Job) -> JobError | None:
    """Know nothing that speaks against a job."""


async def check(queue: JobQueue, new: NewJob, look: Check) -> JobError | None:
    """Look at a job that is not submitted yet; return why it can only fail.

    Raises:
        Conflict: as `submit`.
    """
    job = job_of(new.work, id=new.id, origin="cli")
    await _other_writer(queue, job)
    return await look(job)


async def retry(queue: JobQueue, id: str | None = None) -> list[Job]:  # noqa: A002
    """Queue a job again as :meth:`JobQueue.retry` does; without an id every failed one."""
    return await queue.retry_failed() if id is None else [await queue.retry(id)]


async def follow(
    queue: JobQueue, changes: Subscription, ids: Collection[str] | None
) -> AsyncGenerator[JobEvent]:
    """Yield jobs as they stand, then every change of them, until all of `ids` have ended.

    No `ids`: all jobs, without end. The subscription began before this call.

    Raises:
        UnknownJob: if there is no job of one of the ids.
        DaemonAbsent: if the subscription is closed before.
    """
    if ids is None:
        left = None
        jobs = await queue.jobs(("running",))
    else:
        jobs = [await queue.get(each) for each in ids]
        left = {job.id for job in jobs if not job.ended_for_good}
    for job in jobs:
        yield JobEvent(kind="state", job=job, counts=await queue.counts())
    while left is None or left:
        change = await anext(changes, None)
        if change is None:
            raise DaemonAbsent("the daemon stops")
        if left is None or change.job.id in left:
            counts = await queue.counts() if change.kind == "state" else None
            yield JobEvent(kind=change.kind, job=change.job, counts=counts)
        if left is not None and (change.job.ended_for_good or change.kind == "removed"):
            left.discard(change.job.id)


_MOST_FIELDS = 5
"""Described in one answer: a request of a mebibyte may have a hundred thousand wrong ones."""


class WrongField(BaseModel, frozen=True):
    """What is wrong with one field of a request."""

    field: str
    got: str
    wanted: str


class InvalidRequest(UsageError):
    """A request has wrong, missing or unknown fields."""

    def __init__(self, error: ValidationError) -> None:
        details = error.errors(include_url=False, include_context=False)
        self.fields = tuple(
            WrongField(
                field=excerpt(".".join(map(str, each["loc"]))),
                got="nothing" if each["type"] == "missing" else excerpt(repr(each["input"])),
                wanted=each["msg"],
            )
            for each in details[:_MOST_FIELDS]
        )
        texts = [f"{each.field}: {each.wanted}" for each in self.fields]
        if len(details) > _MOST_FIELDS:
            texts.append(f"and {len(details) - _MOST_FIELDS} more")
        super().__init__("; ".join(texts))


class RequestTooLarge(UsageError):
    """A request has more bytes than are accepted."""


@contextmanager
def invalid_request() -> Generator[None]:
    """Turn the errors of validation into those of a request."""
    try:
        yield
    except ValidationError as error:
        raise InvalidRequest(error) from error


class ProblemDetails(BaseModel, frozen=True):
    """An error as an answer (RFC 9457), with a code by which programs distinguish it."""

    title: str
    status: int
    detail: str
    code: str
    errors: tuple[WrongField, ...] = ()


# The first class that fits decides, so a subclass stands before its base.
_ERRORS: Mapping[str, tuple[type[Exception], HTTPStatus]] = {
    "too_large": (RequestTooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    "invalid": (UsageError, HTTPStatus.BAD_REQUEST),
    "unknown_job": (UnknownJob, HTTPStatus.NOT_FOUND),
    "conflict": (Conflict, HTTPStatus.CONFLICT),
    "illegal_change": (IllegalChange, HTTPStatus.CONFLICT),
    "store_broken": (StoreBroken, HTTPStatus.SERVICE_UNAVAILABLE),
    "timeout": (TimeoutError, HTTPStatus.GATEWAY_TIMEOUT),
    "absent": (DaemonAbsent, HTTPStatus.SERVICE_UNAVAILABLE),
}
"""The errors that an answer may carry, by their code; any other is `internal`."""

EXPECTED_ERRORS: tuple[type[Exception], ...] = tuple(kind for kind, _ in _ERRORS.values())


def problem(
    status: HTTPStatus, detail: str, code: str, errors: tuple[WrongField, ...] = ()
) -> ProblemDetails:
    """Describe an error; long texts are cut, secrets removed."""
    text = excerpt(detail, 4096)
    return ProblemDetails(title=status.phrase, status=status, detail=text, code=code, errors=errors)


def problem_of(error: Exception) -> ProblemDetails:
    """Describe an exception; of an unexpected one only its type."""
    for code, (kind, status) in _ERRORS.items():
        if isinstance(error, kind):
            fields = error.fields if isinstance(error, InvalidRequest) else ()
            return problem(status, str(error) or type(error).__name__, code, fields)
    text = f"an internal error, {type(error).__name__}; the daemon's log has more"
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, text, "internal")


def error_of(problem: Mapping[str, Any]) -> Exception:
    """Return the exception that a problem was made of; RuntimeError for an unexpected one."""
    kind, _ = _ERRORS.get(problem["code"], (RuntimeError, None))
    return kind(problem["detail"])

"""The values of a job, and the one table of the changes that its state may make."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    Field,
    StringConstraints,
    model_validator,
)

from ...filters.options import FilterOptions
from ...io.encode.options import EncoderOptions
from ...io.redaction import LOCATION_MAX_BYTES
from ...io.root import Identity, Root

State = Literal["queued", "running", "done", "failed", "cancelled"]
Origin = Literal["watch", "mqtt", "cli"]

LEGAL_CHANGES: Mapping[State, frozenset[State]] = {
    "queued": frozenset({"running", "failed", "cancelled"}),
    "running": frozenset({"queued", "done", "failed", "cancelled"}),
    "done": frozenset(),
    "failed": frozenset({"queued"}),
    "cancelled": frozenset({"queued"}),
}
"""To `queued` from `running`: given back or tried again; from an end: the user's retry."""

JobId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""Safe in a topic, in a file name and in a shell."""


def check_length(location: str) -> str:
    """Give a path or URL as it is; a ValueError if it is too long."""
    size = len(location.encode(errors="surrogateescape"))
    if size > LOCATION_MAX_BYTES:
        raise ValueError(f"must have at most {LOCATION_MAX_BYTES} bytes, got {size}")
    return location


Location = Annotated[str, AfterValidator(check_length)]


class Work(BaseModel, frozen=True, extra="forbid"):
    """What a job does: the part that a client writes, and by which two jobs are told to be one."""

    source: Location = Field(min_length=1, description="a file, a numbered sequence or a URL")
    sink: Location = Field(min_length=1, description="where the result shall be")
    filters: FilterOptions
    encoder: EncoderOptions = Field(default_factory=lambda: EncoderOptions.model_validate({}))
    container: str | None = Field(
        default=None, description="FFmpeg's name of the format (by the sink's extension)"
    )
    overwrite: bool = Field(default=False, description="replace an existing sink")
    strict_streams: bool = Field(
        default=False, description="fail where a stream could not be kept without loss"
    )
    deinterlace: Literal["auto", "on", "off"] = "auto"
    framerate: str | None = Field(
        default=None,
        pattern=r"^0{0,8}[1-9][0-9]{0,8}(/0{0,8}[1-9][0-9]{0,8})?$",
        description="of a sequence, such as 24000/1001",
    )

    @model_validator(mode="after")
    def _refuse_idleness(self) -> Self:
        if not self.filters.any_enabled:
            raise ValueError("no filter is enabled: give enable_frame_interpolation or another")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the content: equal for equal work, whatever the order of its keys."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class Confinement(BaseModel, frozen=True, extra="forbid"):
    """Where a job that others asked for may read and write; the user's own jobs have none."""

    source: Root | None = Field(default=None, description="beneath which it lies; null: a URL")
    path: Path | None = Field(
        default=None, description="the file beneath it, where the source is a link to one"
    )
    accepted: Identity | None = Field(
        default=None, description="the source as it was then; null: not there yet"
    )
    sink: Root | None = Field(default=None, description="beneath which the result is written")


class JobProgress(BaseModel, frozen=True):
    """Where a running job stands. Kept in memory while it runs, stored when its state changes."""

    stage: Literal["waiting", "loading", "streaming", "publishing"] = "waiting"
    frames: int = 0
    total: int | None = None
    fps: float = 0.0
    eta_seconds: float | None = None


class JobError(BaseModel, frozen=True):
    """Why an attempt failed."""

    code: int = Field(description="the exit code that `upframe run` would have given")
    message: str
    retryable: bool
    detail: str | None = Field(default=None, description="the last lines of the worker's stderr")


class Job(Work, frozen=True, extra="forbid"):
    """One piece of work and all that is known of it."""

    id: JobId
    origin: Origin
    idempotency_key: str = Field(description="two jobs with the same key are one")
    confined: Confinement | None = None
    priority: int = Field(default=0, ge=-1000, le=1000, description="the highest goes first")
    state: State = "queued"
    attempts: int = Field(default=0, description="begun so far, without those given back")
    not_before: AwareDatetime | None = Field(default=None, description="of the next attempt")
    waits_for: str | None = Field(default=None, description="why a queued job is not begun yet")
    created: AwareDatetime
    started: AwareDatetime | None = None
    ended: AwareDatetime | None = None
    progress: JobProgress = JobProgress()
    error: JobError | None = None
    report: dict[str, Any] | None = None

    @property
    def work(self) -> Work:
        """What it does, without its history."""
        return Work.model_validate({name: getattr(self, name) for name in Work.model_fields})

    @property
    def ended_for_good(self) -> bool:
        """Whether nothing happens to it any more unless somebody asks."""
        return self.state in ("done", "failed", "cancelled")


def job_of(
    work: Work,
    *,
    id: str,  # noqa: A002
    origin: Origin,
    idempotency_key: str | None = None,
    confined: Confinement | None = None,
    priority: int = 0,
    created: datetime | None = None,
) -> Job:
    """Make a queued job of some work; without a key of its own, its id is the key."""
    given = {name: getattr(work, name) for name in Work.model_fields}
    return Job(
        **given,
        id=id,
        origin=origin,
        idempotency_key=idempotency_key or id,
        confined=confined,
        priority=priority,
        created=created or datetime.now(UTC),
    )


def partial_token(job_id: str) -> str:
    """Name a job's temporary files: short, safe, and found again by whoever cleans up."""
    return "job-" + hashlib.sha256(job_id.encode()).hexdigest()[:12]


# What can go wrong with a job's record, and who acts on it.
#
# UnknownJob          no job of that id: the asker is told so Conflict            the id is taken
# by other work: the asker must choose another IllegalChange       the state does not allow it,
# such as cancelling what is done: the asker is told StoreBroken         the file is no store, or
# of a newer upframe: the daemon does not start DaemonAbsent        nobody listens on the control
# socket: the asker must start the daemon


class UnknownJob(Exception):
    """There is no job of that id."""


class Conflict(Exception):
    """Another job has that id already, with other content."""


class IllegalChange(Exception):
    """The table of changes does not have it."""


class StoreBroken(Exception):
    """The store cannot be used: damaged, locked, full, or written by a newer version."""


class DaemonAbsent(Exception):
    """No daemon answers where one was expected."""

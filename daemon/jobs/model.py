"""The values of a job, and the one table of the changes that its state may make."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    Field,
    StringConstraints,
)

from ...io.root import Identity, Root
from ..specification import ConversionSpec, Origin, part_of

State = Literal["queued", "running", "done", "failed", "cancelled"]

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


class Job(ConversionSpec, frozen=True, extra="forbid"):
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
    def work(self) -> ConversionSpec:
        """What it does, without its history."""
        return part_of(self, ConversionSpec)

    @property
    def ended_for_good(self) -> bool:
        """Whether nothing happens to it any more unless somebody asks."""
        return self.state in ("done", "failed", "cancelled")


def job_of(
    work: ConversionSpec,
    *,
    id: str,  # noqa: A002
    origin: Origin,
    idempotency_key: str | None = None,
    confined: Confinement | None = None,
    priority: int = 0,
    created: datetime | None = None,
) -> Job:
    """Make a queued job of some work; without a key of its own, its id is the key."""
    given = part_of(work, ConversionSpec)
    return Job(
        **dict(given),
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

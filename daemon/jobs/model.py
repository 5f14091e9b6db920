"""The values of a job, and the table of the changes that its state may make."""

from __future__ import annotations

import hashlib
import os.path
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, Field, StringConstraints

from ...io.redaction import redacted
from ...io.root import Identity, Root
from ..specification import ConversionSpec, Origin, Priority, part_of

State = Literal["queued", "running", "done", "failed", "cancelled"]

LEGAL_CHANGES: Mapping[State, frozenset[State]] = {
    "queued": frozenset({"running", "failed", "cancelled"}),
    "running": frozenset({"queued", "done", "failed", "cancelled"}),
    "done": frozenset(),
    "failed": frozenset({"queued"}),
    "cancelled": frozenset({"queued"}),
}
"""From `running` to `queued`: returned or retried; from an end state: retried by the user."""

JobId = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"),
    Field(description="Id of the job; `upframe jobs submit` makes one up where none is given."),
]
"""Safe in a topic, in a file name and in a shell."""


class Confinement(BaseModel, frozen=True, extra="forbid"):
    """Where a requested job may read and write; the user's own jobs have no confinement."""

    source: Root | None = Field(default=None, description="The root above it; null for a URL.")
    path: Path | None = Field(
        default=None, description="The file below it, if the source is a link to one."
    )
    accepted: Identity | None = Field(
        default=None,
        description="The identity of the source when accepted; null if it did not exist.",
    )
    sink: Root | None = Field(default=None, description="The root above the result.")


class ProbeVerdict(BaseModel, frozen=True):
    """What a file is, as far as a job can be made of it."""

    kind: Literal["video", "unfinished", "refused"]
    """`unfinished`: not video yet, it may still be arriving; `refused`: it never will be."""
    message: str
    """What was found, for people."""


class JobProgress(BaseModel, frozen=True):
    """The progress of a job: kept in memory while it runs, stored when its state changes."""

    stage: Literal["waiting", "loading", "streaming", "publishing"] = "waiting"
    frames: int = 0
    total: int | None = None
    fps: float = 0.0
    eta_seconds: float | None = None
    estimate_seconds: float | None = Field(
        default=None, description="For all of it, as estimated before the work."
    )
    memory: str | None = Field(default=None, description="What it needs of memory, for people.")


class JobError(BaseModel, frozen=True):
    """Why an attempt failed."""

    code: int = Field(description="The exit code of `upframe run` for this error.")
    message: str
    retryable: bool
    detail: str | None = Field(default=None, description="The last lines of the worker's stderr.")


class Job(ConversionSpec, frozen=True, extra="forbid"):
    """A conversion to do, and its history."""

    id: JobId
    origin: Origin
    idempotency_key: str = Field(description="Two jobs with the same key are one.")
    confined: Confinement | None = None
    priority: Priority = 0
    state: State = "queued"
    attempts: int = Field(
        default=0, description="Attempts so far, without those returned to the queue."
    )
    not_before: AwareDatetime | None = Field(
        default=None, description="Earliest time of the next attempt."
    )
    waits_for: str | None = Field(default=None, description="Why a queued job has not started.")
    created: AwareDatetime
    started: AwareDatetime | None = None
    ended: AwareDatetime | None = None
    progress: JobProgress = JobProgress()
    error: JobError | None = None
    report: dict[str, Any] | None = None

    @property
    def work(self) -> ConversionSpec:
        """The conversion without its history."""
        return part_of(self, ConversionSpec)

    @property
    def ended_for_good(self) -> bool:
        """Whether the job has reached an end state."""
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
    """Make a queued job of a conversion. Its key is its id, unless another one is given."""
    return Job(
        **dict(part_of(work, ConversionSpec)),
        id=id,
        origin=origin,
        idempotency_key=idempotency_key or id,
        confined=confined,
        priority=priority,
        created=created or datetime.now(UTC),
    )


def new_id(source: str) -> str:
    """Make a unique id that people recognise."""
    stem = os.path.splitext(os.path.basename(redacted(source)))[0]
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:40]
    return f"{slug or 'job'}-{secrets.token_hex(4)}"


def partial_token(job_id: str) -> str:
    """Return the mark of a job's temporary files: short, safe, and the same after a restart."""
    return "job-" + hashlib.sha256(job_id.encode()).hexdigest()[:12]

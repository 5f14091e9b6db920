"""The messages between the daemon and its workers: one JSON object a line, in both directions.

The end of stdin ends a worker: once an idle one, or one that warms up or probes, has answered; at
once one that runs a job; a live stream in order.

A worker that runs jobs, or probes files, gets one request at a time and sends any number of events,
of which the last answers it; only `CancelJob` may come in between. A worker of a live stream gets
one `RunStream` and sends `StreamReported` events, with `ExitMessage` as its last.
"""

from __future__ import annotations

import traceback
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, TypeAdapter

from ...filters.options import FilterOptions, Policy
from ...io.errors import UnsupportedMedia
from ...io.redaction import excerpt, one_line
from ...io.root import Root
from ..config import JobsConfig
from ..exits import Exit, exit_code_of, is_expected, text_of
from ..jobs.model import Confinement, Job, JobError, ProbeVerdict
from ..specification import ConversionSpec, Stage, StreamSpec

_RETRYABLE = frozenset({Exit.UNAVAILABLE, Exit.IO, Exit.TRY_LATER})
"""Hub or device, I/O and space, memory: what may pass. Other errors would only repeat."""


class Message(BaseModel, frozen=True, extra="forbid"):
    """One line."""

    @property
    def line(self) -> bytes:
        """The message as it is sent."""
        return self.model_dump_json(by_alias=True).encode() + b"\n"


class Warm(Message, frozen=True):
    """Load the models of some filters, run each once. Answered by `Warmed` or `RequestFailed`."""

    kind: Literal["warm"] = "warm"
    filters: FilterOptions


class AccessLimits(BaseModel, frozen=True, extra="forbid"):
    """What a worker may access for a request, whatever else was accepted."""

    hosts: tuple[str, ...]
    model_mebibytes: int

    @classmethod
    def of(cls, job: Job, config: JobsConfig) -> Self | None:
        """Return those of an MQTT request; None: the user's own job, without limits."""
        if job.origin != "mqtt":
            return None
        return cls(hosts=config.allowed_hosts, model_mebibytes=config.model_mebibytes)


class _OfJob(Message, frozen=True):
    id: str
    work: ConversionSpec
    confined: Confinement | None = None
    limits: AccessLimits | None = None


class RunJob(_OfJob, frozen=True):
    """Run a job. Answered by `JobDone`, `RequestFailed` or `JobStopped`."""

    kind: Literal["job"] = "job"


class CheckJob(_OfJob, frozen=True):
    """Check whether a job can only fail. Answered by `Checked` or `RequestFailed`."""

    kind: Literal["check"] = "check"
    may_come: bool
    """Whether its source need not be there, or be complete, before its turn."""


class ProbeFile(Message, frozen=True):
    """Check whether a file is video. Answered by `Probed`."""

    kind: Literal["probe"] = "probe"
    path: str
    root: Root | None = None
    """The folder that the file must be in."""


class CancelJob(Message, frozen=True):
    """Stop a job if it is still the one that runs; the answer is that of the job."""

    kind: Literal["cancel"] = "cancel"
    id: str


class RunStream(Message, frozen=True):
    """Keep a live stream up until stdin ends. Never on the command line: it may hold passwords."""

    kind: Literal["stream"] = "stream"
    spec: StreamSpec
    weights: Policy
    threads: int | None = Field(default=None, ge=1)
    """For computing on the CPU; None leaves the choice to torch."""


class Ready(Message, frozen=True):
    """The process has its lock and accepts requests."""

    kind: Literal["ready"] = "ready"
    device: str | None = None
    """Where it computes; None for a worker that does not."""


class Progressed(Message, frozen=True):
    """The progress of the job; sent at each new stage, and twice a second while frames flow."""

    kind: Literal["progress"] = "progress"
    stage: Stage
    frames_in: int = 0
    frames_out: int = 0
    total: int | None = None
    fps: float = 0.0
    eta_seconds: float | None = None
    estimate_seconds: float | None = None
    memory: str | None = None
    waits: bool = False
    """For a machine of a cluster."""


class StreamReported(Message, frozen=True):
    """The status of the live stream, as :mod:`upframe.daemon.live.status` writes and reads it."""

    kind: Literal["status"] = "status"
    status: dict[str, Any]


class Logged(Message, frozen=True):
    """A line for the log."""

    kind: Literal["log"] = "log"
    level: int
    logger: str
    message: str


class Warmed(Message, frozen=True):
    """The models are loaded and have run."""

    kind: Literal["warmed"] = "warmed"
    seconds: float


class JobDone(Message, frozen=True):
    """The job is done; its output has its final name."""

    kind: Literal["done"] = "done"
    report: dict[str, Any]


class RequestFailed(Message, frozen=True):
    """The request failed; the process can take the next one."""

    kind: Literal["failed"] = "failed"
    error: JobError


class JobStopped(Message, frozen=True):
    """The job was stopped as requested; nothing was published."""

    kind: Literal["stopped"] = "stopped"


class Probed(Message, frozen=True):
    """The file was probed."""

    kind: Literal["probed"] = "probed"
    verdict: ProbeVerdict


class Checked(Message, frozen=True):
    """Nothing is known that speaks against the job."""

    kind: Literal["checked"] = "checked"


class ExitMessage(Message, frozen=True):
    """How a live stream ended; the process ends too."""

    kind: Literal["exit"] = "exit"
    code: int
    """See the table in :mod:`upframe.daemon.exits`."""
    message: str


Request = Warm | RunJob | CheckJob | ProbeFile | CancelJob | RunStream
Answer = Ready | Warmed | JobDone | RequestFailed | JobStopped | Probed | Checked
Event = Answer | Progressed | StreamReported | Logged | ExitMessage

read_request = TypeAdapter[Request](Annotated[Request, Field(discriminator="kind")]).validate_json
"""Parses a line that the daemon sent. Raises ValidationError if it is no request."""
read_event = TypeAdapter[Event](Annotated[Event, Field(discriminator="kind")]).validate_json
"""Parses a line that a worker sent. Raises ValidationError if it is no event."""


def error_of(error: BaseException) -> JobError:
    """Describe an exception that ended an attempt, for the job and for people."""
    code = Exit.UNAVAILABLE if _is_of_device(error) else exit_code_of(error)
    text = text_of(error)
    detail = None
    if not is_expected(error):
        text = f"internal error: {type(error).__name__}: {text}"
        detail = "".join(traceback.format_exception(error))
    return JobError(
        code=int(code),
        message=one_line(text, 4096),
        retryable=code in _RETRYABLE and not isinstance(error, UnsupportedMedia),
        detail=detail and excerpt(detail, 16384),
    )


def _is_of_device(error: BaseException) -> bool:
    """Whether a CUDA device failed. Its process can no longer use it; a new one may."""
    return isinstance(error, RuntimeError) and "CUDA" in str(error)

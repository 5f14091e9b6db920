"""What the daemon and a worker say to each other: one JSON object a line, in both directions.

The daemon sends one request at a time and gets any number of events, of which the last answers it;
`Cancel` alone may come in between.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter

from ...filters.options import FilterOptions
from ...io.root import Root
from ..jobs.model import Confinement, JobError, Work

Stage = Literal["loading", "streaming", "publishing"]


class Message(BaseModel, frozen=True, extra="forbid"):
    """One line."""

    @property
    def line(self) -> bytes:
        """As it is sent."""
        return self.model_dump_json(by_alias=True).encode() + b"\n"


class Warm(Message, frozen=True):
    """Load the models of some filters and run each once. Answered by `Warmed` or `Failed`."""

    kind: Literal["warm"] = "warm"
    filters: FilterOptions


class Reach(BaseModel, frozen=True, extra="forbid"):
    """What the worker may reach for a request, whatever was accepted."""

    hosts: tuple[str, ...]
    model_mebibytes: int


class RunJob(Message, frozen=True):
    """Do a job. Answered by `Done`, `Failed` or `Stopped`."""

    kind: Literal["job"] = "job"
    id: str
    work: Work
    confined: Confinement | None = None
    reach: Reach | None = None
    """Of a request; None: the user's own words, which may reach all."""


class ProbeFile(Message, frozen=True):
    """Look whether a file is video. Answered by `Probed`."""

    kind: Literal["probe"] = "probe"
    path: str
    root: Root | None = None
    """Beneath which it must lie."""


class Cancel(Message, frozen=True):
    """Stop a job, if it is still the one that runs; the job itself is answered."""

    kind: Literal["cancel"] = "cancel"
    id: str


class Stop(Message, frozen=True):
    """End the process, when what runs has ended."""

    kind: Literal["stop"] = "stop"


class Ready(Message, frozen=True):
    """The process has its lock and takes requests."""

    kind: Literal["ready"] = "ready"
    device: str | None = None
    """Where it computes; None for one that does not."""


class StageBegun(Message, frozen=True):
    """The job has come to another stage."""

    kind: Literal["stage"] = "stage"
    stage: Stage


class Progressed(Message, frozen=True):
    """Where the job stands; sent now and then, also where nothing has moved."""

    kind: Literal["progress"] = "progress"
    frames_in: int
    frames_out: int
    total: int | None
    fps: float
    eta_seconds: float | None


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


class Done(Message, frozen=True):
    """The job is done; its output has its name."""

    kind: Literal["done"] = "done"
    report: dict[str, Any]


class Failed(Message, frozen=True):
    """The request failed; the process is well."""

    kind: Literal["failed"] = "failed"
    error: JobError


class Stopped(Message, frozen=True):
    """The job was stopped as asked; nothing was published."""

    kind: Literal["stopped"] = "stopped"


class Verdict(BaseModel, frozen=True):
    """What a file is, for who thinks of making a job of it."""

    kind: Literal["video", "unfinished", "refused"]
    """`unfinished`: not yet, it may still be arriving; `refused`: not, and time will not help."""
    message: str
    """What was found, for people."""


class Probed(Message, frozen=True):
    """The file was looked at."""

    kind: Literal["probed"] = "probed"
    verdict: Verdict


Request = Warm | RunJob | ProbeFile | Cancel | Stop
Event = Ready | StageBegun | Progressed | Logged | Warmed | Done | Failed | Stopped | Probed
Answer = Ready | Warmed | Done | Failed | Stopped | Probed

_REQUESTS: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="kind")])
_EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def read_request(line: bytes) -> Request:
    """Read what the daemon sent.

    Raises:
        ValidationError: if it is no request.
    """
    return _REQUESTS.validate_json(line)


def read_event(line: bytes) -> Event:
    """Read what a worker sent.

    Raises:
        ValidationError: if it is no event.
    """
    return _EVENTS.validate_json(line)

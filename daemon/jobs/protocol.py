"""What is said over the control socket: a JSON object a line, each way.

A request is answered by any number of ``{"item": …}`` and then one ``{"end": …}``, or at any time
by ``{"error": {"kind": …, "message": …}}``. After that the next request may follow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter

from ..errors import UsageError
from .model import (
    Conflict,
    DaemonAbsent,
    IllegalChange,
    JobId,
    State,
    StoreBroken,
    UnknownJob,
    Work,
)

SOCKET_NAME = "upframe.sock"
"""Of the control socket in the state directory."""

REQUEST_BYTES = 1 << 20
"""Of one request, at most."""

ERRORS: Mapping[str, type[Exception]] = {
    "usage": UsageError,
    "unknown_job": UnknownJob,
    "conflict": Conflict,
    "illegal_change": IllegalChange,
    "store_broken": StoreBroken,
    "timeout": TimeoutError,
    "absent": DaemonAbsent,
    "internal": RuntimeError,
}
"""The errors that an answer may carry, by their kind."""

_ADDRESS_BYTES = 107  # of a path in sockaddr_un, without its last zero


class Submit(BaseModel, frozen=True, extra="forbid"):
    """Take a job; ends with `{"job": …, "new": bool}`."""

    op: Literal["submit"] = "submit"
    id: JobId
    work: Work
    priority: int = Field(default=0, ge=-1000, le=1000)


class List(BaseModel, frozen=True, extra="forbid"):
    """List jobs, one an item without its report; ends with how many there are in each state."""

    op: Literal["list"] = "list"
    states: tuple[State, ...] | None = None
    limit: int | None = Field(default=None, ge=0, lt=1 << 31)


class Show(BaseModel, frozen=True, extra="forbid"):
    """Ends with the whole job."""

    op: Literal["show"] = "show"
    id: str


class Cancel(BaseModel, frozen=True, extra="forbid"):
    """Stop a job; ends with it as it is then."""

    op: Literal["cancel"] = "cancel"
    id: str


class Retry(BaseModel, frozen=True, extra="forbid"):
    """Queue a job, or all failed ones, again; each is an item."""

    op: Literal["retry"] = "retry"
    id: str | None = None


class Watch(BaseModel, frozen=True, extra="forbid"):
    """Follow jobs: an item for each change, first as they stand.

    With `ids` it ends when all of them have ended, without when somebody hangs up. An item is
    `{"kind": "state" | "progress" | "removed", "job": …}`, of a state also with the `counts` of
    jobs by their states.
    """

    op: Literal["watch"] = "watch"
    ids: tuple[str, ...] | None = None


class Status(BaseModel, frozen=True, extra="forbid"):
    """Ends with what the daemon says of itself."""

    op: Literal["status"] = "status"


Request = Annotated[
    Submit | List | Show | Cancel | Retry | Watch | Status, Field(discriminator="op")
]
REQUESTS: TypeAdapter[Request] = TypeAdapter(Request)


def line_of(message: Mapping[str, Any]) -> bytes:
    """Write a message."""
    return json.dumps(message, separators=(",", ":"), default=str).encode() + b"\n"


def kind_of(error: Exception) -> str:
    """Name an error as an answer does; what is not expected is `internal`."""
    return next((kind for kind, known in ERRORS.items() if type(error) is known), "internal")


@contextmanager
def address_of(path: Path) -> Generator[str]:
    """Name a socket to the kernel, which takes no path of more than 107 bytes, by a short one.

    Raises:
        OSError: if the folder is not there.
    """
    if len(os.fsencode(path)) <= _ADDRESS_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)

"""The other end of the control socket, for the command line: blocking, and light to load."""

from __future__ import annotations

import json
import socket
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel

from .errors import DaemonAbsent
from .wire import ERRORS, address_of


class Answer:
    """What comes back for one request: iterate over its items, then look at its `end`."""

    def __init__(self, lines: BinaryIO) -> None:
        self._lines = lines
        self.end: Any = None
        """The result; there once the iteration is over."""

    def __iter__(self) -> Iterator[Any]:
        """Yield the items as they come.

        Raises:
            UnknownJob, Conflict, IllegalChange, UsageError, StoreBroken, TimeoutError: as the
                daemon refused.
            DaemonAbsent: if it went away.
        """
        while line := self._next():
            message: dict[str, Any] = json.loads(line)
            if "error" in message:
                error = ERRORS.get(message["error"]["kind"], RuntimeError)
                raise error(message["error"]["message"])
            if "end" in message:
                self.end = message["end"]
                return
            yield message["item"]
        raise DaemonAbsent("the daemon went away before its answer was complete")

    def _next(self) -> bytes:
        try:
            return self._lines.readline()
        except ConnectionError:  # broken off: no better than ended
            return b""

    def result(self) -> Any:
        """Pass over the items, and give what ends them.

        Raises:
            Exception: as the iteration does.
        """
        for _ in self:
            pass
        return self.end


@contextmanager
def asked(path: Path, request: BaseModel) -> Generator[Answer]:
    """Send one request to the daemon that listens on a socket.

    Raises:
        DaemonAbsent: if nobody does, or not to us.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            with address_of(path) as address:
                connection.connect(address)
            connection.sendall(request.model_dump_json().encode() + b"\n")
        except (FileNotFoundError, NotADirectoryError, ConnectionError) as error:
            raise DaemonAbsent(
                f"no daemon listens on {path} (is `upframe serve` running? its socket is found by "
                "--config or --socket)"
            ) from error
        except OSError as error:
            raise DaemonAbsent(f"cannot speak with the daemon: {path}: {error.strerror}") from error
        with connection.makefile("rb") as lines:
            yield Answer(lines)

"""The other end of the control socket, for the command line: blocking, and light to load."""

from __future__ import annotations

import json
import socket
import tomllib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel

from ..config import Config
from ..errors import ConfigError
from .model import DaemonAbsent
from .protocol import ERRORS, SOCKET_NAME, address_of
from .store import STORE_NAME


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


# Where the daemon's state is, for who wants to speak with it or to read its store.


@dataclass(frozen=True, slots=True)
class Place:
    """The two files by which a daemon is found."""

    socket: Path
    store: Path


def place_in(state_dir: Path) -> Place:
    """Name the files in a state directory."""
    return Place(state_dir / SOCKET_NAME, state_dir / STORE_NAME)


def find_place(config: Path | None = None, socket: Path | None = None) -> Place:
    """Find them by a socket or a configuration file; without either in the default directory.

    Raises:
        ConfigError: if the file cannot be read, or its `state_dir` is none.
    """
    if socket is not None:
        return Place(socket.absolute(), socket.absolute().with_name(STORE_NAME))
    return place_in(Config().state_dir if config is None else _state_dir_of(config))


def _state_dir_of(config: Path) -> Path:
    """Read one key only: what else is in the file is the daemon's concern, right or wrong."""
    try:
        document = tomllib.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{config}: got {error.strerror}, wanted a readable file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{config}: got a file that is not TOML, wanted TOML: {error}") from error
    given = document.get("state_dir", str(Config().state_dir))
    if not isinstance(given, str) or not Path(given).is_absolute():
        raise ConfigError(f"{config}: state_dir: got {given!r}, wanted an absolute path")
    return Path(given)

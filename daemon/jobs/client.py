"""The client of the control socket, for the command line: blocking, and light to load."""

from __future__ import annotations

import json
import os
import pwd
import socket
import tomllib
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from ..config import Config
from ..errors import ConfigError, DaemonAbsent, JobRefused, UsageError
from .api import FollowRequest, NewJob, error_of
from .store import STORE_NAME

SOCKET_NAME = "upframe.sock"
"""Of the control socket in the state directory."""

_ANSWER_SECONDS = 1.0
_LISTENS = "00010000"  # SO_ACCEPTCON
_ADDRESS_BYTES = 107  # of a path in sockaddr_un, without its last zero


@contextmanager
def address_of(path: Path) -> Generator[str]:
    """Yield a short name of a socket, since the kernel accepts no path of more than 107 bytes.

    Raises:
        OSError: if the folder does not exist.
    """
    if len(os.fsencode(path)) <= _ADDRESS_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class _UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, seconds: float | None) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with address_of(self._path) as address:
            self.sock.connect(address)


class DaemonClient:
    """Asks the daemon that listens on a socket. Answers are JSON values, as `jobs.api` writes them.

    It waits `seconds` for anything from it; None: any time.

    Raises:
        DaemonAbsent: from every method, if no daemon listens, or it goes away.
        UnknownJob, Conflict, IllegalChange, UsageError, StoreBroken, TimeoutError: from every
            method, as the daemon refused.
    """

    def __init__(self, path: Path, seconds: float | None = None) -> None:
        self._path = path
        self._seconds = seconds

    def submit(self, new: NewJob) -> dict[str, Any]:
        """Submit a job; return it as `job`, and whether it is `new`."""
        return self._ask("POST", "/jobs", new.model_dump_json().encode())

    def check(self, new: NewJob) -> None:
        """Refuse a job that can only fail, as far as the daemon knows.

        Raises:
            JobRefused: with the exit code that `upframe run` has.
        """
        error = self._ask("POST", "/jobs/check", new.model_dump_json().encode())["error"]
        if error is not None:
            raise JobRefused(error["message"], error["code"])

    def writer_of(self, sink: str) -> str | None:
        """Return the id of a queued or running job with an output; None without one."""
        return self._ask("POST", "/jobs/writer", json.dumps({"sink": sink}).encode())["id"]

    def jobs(self, states: Collection[str] | None, limit: int | None) -> dict[str, Any]:
        """Return some `jobs`, and the `counts` of all."""
        query = [("state", state) for state in states or ()]
        query += [] if limit is None else [("limit", str(limit))]
        return self._ask("GET", f"/jobs?{urlencode(query)}")

    def show(self, id: str) -> dict[str, Any]:  # noqa: A002
        """Return a job."""
        return self._ask("GET", f"/jobs/{_quoted(id)}")

    def cancel(self, id: str) -> dict[str, Any]:  # noqa: A002
        """Stop a job and return it."""
        return self._ask("POST", f"/jobs/{_quoted(id)}/cancel")

    def retry(self, id: str | None = None) -> dict[str, Any]:  # noqa: A002
        """Queue a job again, or all failed ones; return them as `jobs`."""
        path = "/jobs/retry" if id is None else f"/jobs/{_quoted(id)}/retry"
        return self._ask("POST", path)

    def status(self) -> dict[str, Any]:
        """Return the state of the daemon."""
        return self._ask("GET", "/status")

    def follow(self, ids: Collection[str] = ()) -> Iterator[dict[str, Any]]:
        """Yield the changes of jobs: of all, or of some until they have ended."""
        body = FollowRequest(ids=tuple(ids) or None).model_dump_json().encode()
        with self._asked("POST", "/jobs/follow", body) as answer:
            for line in answer:
                event = json.loads(line)
                if "problem" in event:
                    raise error_of(event["problem"])
                yield event

    def _ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        with self._asked(method, path, body) as answer:
            return json.loads(answer.read())

    @contextmanager
    def _asked(self, method: str, path: str, body: bytes | None = None) -> Generator[HTTPResponse]:
        connection = self._connected()
        try:
            with suppress(BrokenPipeError):  # it may have refused us already, and said why
                connection.request(method, path, body)
            with connection.getresponse() as answer:
                if answer.status >= 400:
                    raise error_of(json.loads(answer.read()))
                yield answer
        except (ConnectionError, HTTPException) as error:
            text = "the daemon went away before its answer was complete"
            raise DaemonAbsent(text) from error
        finally:
            connection.close()

    def _connected(self) -> HTTPConnection:
        connection = _UnixConnection(self._path, self._seconds)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            text = f"cannot connect to the daemon: {self._path}: {error.strerror}"
            if isinstance(error, FileNotFoundError | NotADirectoryError | ConnectionError):
                text = f"no daemon listens on {self._path} (is `upframe serve` running? Without "
                text += "--config and --socket, one that runs with another state_dir is found, too)"
            raise DaemonAbsent(text) from error
        return connection


def _quoted(id: str) -> str:  # noqa: A002
    return quote(id, safe="", errors="surrogateescape")


@dataclass(frozen=True, slots=True)
class Place:
    """The two files of a daemon that the command line uses."""

    socket: Path
    store: Path


def place_in(state_dir: Path) -> Place:
    """Return the files in a state directory."""
    return Place(state_dir / SOCKET_NAME, state_dir / STORE_NAME)


def find_place(config: Path | None = None, socket: Path | None = None) -> Place:
    """Find the files by a socket or a configuration file, else those of the daemon that runs.

    Returns:
        If none runs, those in the default directory.

    Raises:
        ConfigError: if the file cannot be read, or its `state_dir` is no absolute path.
        UsageError: if several daemons run, none of them in the default directory.
    """
    if socket is not None:
        return Place(socket.absolute(), socket.absolute().with_name(STORE_NAME))
    if config is not None:
        return place_in(_state_dir_of(config))
    usual, running = Config().state_dir, listening_daemons()
    if usual not in running and len(running) > 1:
        choice = " or ".join(f"--socket {folder / SOCKET_NAME}" for folder in running)
        raise UsageError(f"{len(running)} daemons are running here; choose one by {choice}")
    return place_in(running[0] if running and usual not in running else usual)


def listening_daemons(sockets: Path = Path("/proc/net/unix")) -> list[Path]:
    """List the state directories of the daemons of this user, of root and of a user upframe.

    A stranger's socket must not be sent a job with the password of a URL. `sockets` has lines ``Num
    RefCount Protocol Flags Type St Inode Path``, see proc(5).
    """
    try:
        lines = sockets.read_text(errors="surrogateescape").splitlines()
    except OSError:  # no Linux
        return []
    fields = [line.split(maxsplit=7) for line in lines]
    bound = {Path(each[7]) for each in fields if len(each) == 8 and each[3] == _LISTENS}
    # a socket is bound under its first name, and renamed then
    folders = {path.parent for path in bound if path.name == fresh_name(SOCKET_NAME)}
    return sorted(folder for folder in folders if _is_trusted(folder / SOCKET_NAME))


def writer_here(sink: str) -> str | None:
    """Say which job of a daemon on this machine has an output; a daemon that fails knows none."""
    for folder in {Config().state_dir, *listening_daemons()}:
        client = DaemonClient(place_in(folder).socket, _ANSWER_SECONDS)
        for name in {os.path.abspath(sink), os.path.realpath(sink)}:
            with suppress(Exception):
                if (job := client.writer_of(name)) is not None:
                    text = f"job {job!r} of the daemon, which has not ended, writes the same output"
                    return f"{text}: {sink}"
    return None


def fresh_name(name: str) -> str:
    """Name a socket until it has its permissions."""
    return f".{name}.new"


def _is_trusted(path: Path) -> bool:
    try:
        owner = path.stat().st_uid
        return owner in (0, os.geteuid()) or pwd.getpwuid(owner).pw_name == "upframe"
    except PermissionError:  # in a folder of others; to connect will fail, and say why
        return True
    except (OSError, KeyError):
        return False


def _state_dir_of(config: Path) -> Path:
    """Read one key only: whether the rest of the file is right is for the daemon to check."""
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

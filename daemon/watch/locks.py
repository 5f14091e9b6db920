"""Claims on a shared folder: of several daemons, only one takes a file.

A claim is a small file in a hidden folder of the output, made in the one step that cannot succeed
twice. It names its daemon, so that each clears only its own; one that another has left behind is
never taken away from it, but the log says whose it is and where it lies.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from .names import LOCKS_FOLDER


class Claim(BaseModel, frozen=True):
    """What a lock file says."""

    instance: str
    host: str
    pid: int
    since: datetime
    job: str
    sink: str


class Locks:
    """The claims below one output folder. Every method blocks.

    Args:
        output: The folder.
        instance: Who we are, the same after every restart.
    """

    def __init__(self, output: Path, instance: str) -> None:
        self._output = output
        self._folder = output / LOCKS_FOLDER
        self._instance = instance

    def take(self, sink: Path, job: str) -> str | None:
        """Claim an output.

        Returns:
            None if it is ours now, else who has it.

        Raises:
            OSError: if no lock can be written.
        """
        lock = self._lock_of(sink)
        claim = Claim(
            instance=self._instance,
            host=socket.gethostname(),
            pid=os.getpid(),
            since=datetime.now(UTC),
            job=job,
            sink=str(sink.relative_to(self._output)),
        )
        try:
            self._write(lock, claim)
        except FileExistsError:
            holder = _read(lock)
            if holder is None or holder.instance != self._instance:
                return _described(lock, holder)
            lock.write_text(claim.model_dump_json(indent=2))
        return None

    def release(self, sink: Path, job: str) -> None:
        """Give a job's claim back; one that a newer job of ours has taken over stays."""
        lock = self._lock_of(sink)
        holder = _read(lock)
        if holder is not None and (holder.instance, holder.job) == (self._instance, job):
            self._remove(lock)

    def beat(self) -> None:
        """Renew the time of our locks, so that people see that somebody is behind them."""
        for lock, _ in self._own():
            with suppress(OSError):
                os.utime(lock)

    def clear(self, is_active: Callable[[str], bool]) -> None:
        """Drop our locks of jobs that are not to be run any more, as after a crash."""
        for lock, claim in self._own():
            if not is_active(claim.job):
                self._remove(lock)

    def _lock_of(self, sink: Path) -> Path:
        # relative: other daemons may have the share mounted elsewhere
        name = os.fsencode(sink.relative_to(self._output))
        return self._folder / f"{hashlib.sha256(name).hexdigest()[:32]}.lock"

    def _own(self) -> Iterator[tuple[Path, Claim]]:
        for lock in sorted(self._folder.glob("*.lock")):
            claim = _read(lock)
            if claim is not None and claim.instance == self._instance:
                yield lock, claim

    def _write(self, lock: Path, claim: Claim) -> None:
        text = claim.model_dump_json(indent=2).encode()
        while True:
            self._folder.mkdir(exist_ok=True)
            try:
                descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
                break
            except FileNotFoundError:  # somebody has just removed the empty folder
                continue
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)

    def _remove(self, lock: Path) -> None:
        lock.unlink(missing_ok=True)
        with suppress(OSError):  # not empty, or not there
            self._folder.rmdir()


def _read(lock: Path) -> Claim | None:
    try:
        return Claim.model_validate_json(lock.read_bytes())
    except (OSError, ValidationError):
        return None


def _described(lock: Path, holder: Claim | None) -> str:
    if holder is None:
        return f"another daemon has claimed it just now ({lock})"
    return (
        f"upframe on {holder.host}, process {holder.pid}, has claimed it since "
        f"{holder.since:%Y-%m-%d %H:%M:%S} UTC; if that one is gone for good, delete {lock}"
    )

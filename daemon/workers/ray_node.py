"""What runs on a node of a cluster: an actor that makes segments of one film after the other.

It starts the same process as one machine does, passes lines to and from it, and keeps copies of
what the node does not see by a shared path, below a folder of its own. Where an answer is lost, Ray
calls a method again: the second call changes nothing. Neither Ray nor torch is loaded here.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel

from ...io.child import Child

_TURN_SECONDS = 0.5
_END_BYTES = 1 << 20
_MACHINE = """\
import json
from upframe.daemon.convert.crew import machine_of
from upframe.filters.device import resolve_device
print(json.dumps(machine_of(resolve_device())))
"""
_BENCH = "-m upframe.daemon bench --json --sizes 320x180 --interpolate 1 --weights builtin"
_ASKED = {"machine": ("-c", _MACHINE), "speed": _BENCH.split()}
"""What processes are started for, since torch stays out of the actor: it prints JSON."""


class NodeFilm(BaseModel, frozen=True):
    """What a node needs of a film: paths and numbers."""

    source: str
    size: int
    mtime_ns: int
    ends: str
    """SHA-256 of the first and last MiB of the source."""
    folders: str
    """Path to the folder of each process, but for its number."""
    secret: str
    """In a file there, by which a node knows that it sees the same folder."""
    machine: dict[str, str]
    """In what all machines must agree."""
    setup: str
    """The first line for a process."""
    most: int
    """Processes that there is work for."""

    def is_source(self, file: BinaryIO) -> bool:
        """Whether an open file is the film."""
        found = os.fstat(file.fileno())
        if (found.st_size, found.st_mtime_ns) != (self.size, self.mtime_ns):
            return False
        digest = hashlib.sha256(file.read(_END_BYTES))
        file.seek(max(self.size - _END_BYTES, 0))
        digest.update(file.read(_END_BYTES))
        file.seek(0)
        return digest.hexdigest() == self.ends


class NodeWorker:
    """The actor: one share of a node.

    Args:
        share: how many of them share the node's memory.
    """

    def __init__(self, share: int) -> None:
        self._share = share
        self._folder = _own_folder()
        most = os.environ.get("UPFRAME_NODE_MEBIBYTES")
        free = shutil.disk_usage(self._folder).free // 2
        self._most_bytes = free if most is None else int(most) << 20
        self._run = ""
        self._child: Child | None = None
        self._said: list[str] = []
        self._sent = 0
        """Lines that the process was sent."""

    def look(self, run: str, film: NodeFilm) -> tuple[bool, bool]:
        """Begin a run; return whether the node sees the film's folder and its source."""
        self.end()
        self._run = run
        sees_folder = sees_source = False
        with suppress(OSError):
            sees_folder = Path(f"{film.folders}0", "probe").read_text() == film.secret
        with suppress(OSError), open(film.source, "rb") as file:
            sees_source = film.is_source(file)
        return sees_folder, sees_source

    def put(self, run: str, film: NodeFilm, offset: int, data: bytes, sha256: str) -> None:
        """Take a piece of the film, unless it is damaged, or the film larger than may be kept."""
        self._check(run)
        if film.size > self._most_bytes:
            most = f"at most {self._most_bytes >> 20} MiB may be kept in {self._folder.parent}"
            raise ValueError(f"it does not see {film.source} of {film.size >> 20} MiB, and {most}")
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError(f"{len(data)} bytes of {film.source} have arrived damaged")
        copy = os.open(self._copy_of(film), os.O_WRONLY | os.O_CREAT, 0o600)
        with open(copy, "wb") as file:
            file.seek(offset)
            file.write(data)

    def start(self, run: str, film: NodeFilm, folder: str | None, *, is_copied: bool) -> None:
        """Start the process, which writes into a folder; None: the node's own."""
        self._check(run)
        if self._child is not None:
            return
        words = ["--parent", str(os.getpid()), "--machine", json.dumps(film.machine)]
        words += ["--source", str(self._copy_of(film)) if is_copied else film.source]
        words += ["--folder", folder or str(self._folder), "--share", str(self._share)]
        module = "upframe.daemon.convert.segment_worker"
        self._child = Child([sys.executable, "-P", "-m", module, *words])
        self._child.send(film.setup.encode())

    def turn(
        self, run: str, sent: int, lines: Sequence[str], heard: int
    ) -> tuple[list[str], str | None]:
        """Send lines to the process, behind those `sent`, and wait a moment for some of its own.

        Returns:
            Its lines behind those that were `heard`, and how it has ended if it has.
        """
        child = self._child
        if run != self._run or child is None:
            return [], "was lost with its actor"
        for line in lines[self._sent - sent :]:
            child.send(line.encode())
        self._sent = max(self._sent, sent + len(lines))
        until = time.monotonic() + _TURN_SECONDS
        while len(self._said) <= heard and child.returncode is None and time.monotonic() < until:
            child.turn(until - time.monotonic())
            self._said += [line.decode() for line in child.lines()]
        return self._said[heard:], None if child.returncode is None else child.end

    def get(self, run: str, name: str, offset: int, size: int) -> bytes:
        """Return a piece of a segment that was written into the node's own folder."""
        self._check(run)
        with (self._folder / Path(name).name).open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def drop(self, run: str, name: str) -> None:
        """Remove a segment from there."""
        self._check(run)
        (self._folder / Path(name).name).unlink(missing_ok=True)

    def end(self) -> None:
        """End what runs, and remove what the node has kept of it."""
        if self._child is not None:
            self._child.close()
        self._run, self._child, self._said, self._sent = "", None, [], 0
        for path in self._folder.iterdir():
            path.unlink()

    def describe(self, paths: Sequence[str]) -> dict[str, Any]:
        """Return what the node is, how fast both filters are there, and which paths it sees."""
        found: dict[str, Any] = {"seen": {path: os.path.exists(path) for path in paths}}
        for name, words in _ASKED.items():
            command = [sys.executable, "-P", *words]
            said = subprocess.run(command, capture_output=True, check=True).stdout
            found[name] = json.loads(said)
        return found

    def _check(self, run: str) -> None:
        if run != self._run:
            raise ValueError("its actor was started again")

    def _copy_of(self, film: NodeFilm) -> Path:
        return self._folder / f"source{Path(film.source).suffix}"


def _own_folder() -> Path:
    """Make a folder of this process, and remove those of processes that have ended."""
    usual = os.path.join(tempfile.gettempdir(), f"upframe-node-{os.geteuid()}")
    root = Path(os.environ.get("UPFRAME_NODE_FOLDER") or usual)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if root.is_symlink() or root.stat().st_uid != os.geteuid():
        raise PermissionError(f"{root}: wanted a folder of this user")
    for path in root.iterdir():
        if path.name.isdigit() and not Path("/proc", path.name).exists():
            shutil.rmtree(path, ignore_errors=True)
    folder = root / str(os.getpid())
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder

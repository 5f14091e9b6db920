"""Records of watched folders in the job store: one small text per key.

taken     by a file's idempotency key: why it is not inspected again
latest    by a source's path: the job of its latest version
maker     by an output's path: its job and source, and its signature when it was made
settled   by a job's id: the end of the job whose input has been disposed of
instance  the name of this daemon among those that share a folder
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from pydantic import BaseModel, ValidationError

from ...io.root import Root, keeps_inodes, opened_folder, read_entry
from ..config import WatchConfig
from ..jobs.model import Job
from ..jobs.store import JobStore
from .scan import LOCKS_FOLDER, Reason, Signature, Skip, printable_path

_SCHEME = "watch"
_DIGEST_CHARACTERS = 16
_LONGEST_STEM = 40


def settings_digest(watch: WatchConfig) -> str:
    """Return a digest of the settings that change the result of a file."""
    content = watch.model_dump(mode="json", include={"filters", "encoder", "container", "output"})
    # newer options: left out at their defaults, so that known files keep their keys
    newer = {"strict_streams", "audio_codec", "deinterlace"}
    content |= watch.model_dump(mode="json", include=newer, exclude_defaults=True)
    return _digest(json.dumps(content, sort_keys=True, separators=(",", ":")))


def file_key(path: Path, signature: Signature, settings: str, filesystem: str) -> str:
    """Return the idempotency key of one version of a file under some settings."""
    kept = signature if keeps_inodes(filesystem) else signature._replace(inode=0)
    return f"{_SCHEME}:{':'.join(map(str, kept))}:{settings}:{path}"


def key_fits(key: str, signature: Signature) -> bool:
    """Return whether a key belongs to a file's current version, under any settings."""
    known = Signature(*map(int, key.split(":", 4)[1:4]))
    return known in (signature, signature._replace(inode=0))


def job_id(path: Path, key: str) -> str:
    """Return the job id of a key: deterministic, with the file's name in it."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:_LONGEST_STEM]
    return f"{stem or 'file'}-{_digest(key)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARACTERS]


# Locks on a shared folder: of several daemons, only one processes a file.
#
# A lock is a small file in a hidden folder of the output, created exclusively. It names its daemon,
# which removes only its own locks. A lock that another daemon left behind is logged with its owner
# and path.


_MAX_TRIES = 50


class LockClaim(BaseModel, frozen=True):
    """Content of a lock file."""

    instance: str
    host: str
    pid: int
    since: datetime
    job: str
    sink: str


class Locks:
    """The locks below one output folder, or the root itself. Every method blocks.

    `instance` names this daemon, and is the same after every restart.
    """

    def __init__(self, root: Root, instance: str, folder: Path | None = None) -> None:
        self._root = root
        self._folder = folder or root.path
        self._instance = instance

    def take(self, sink: Path, job: str) -> str | None:
        """Lock an output.

        Returns:
            None if it is ours now, else a description of the owner.

        Raises:
            OSError: if no lock can be written.
        """
        claim = LockClaim(
            instance=self._instance,
            host=socket.gethostname(),
            pid=os.getpid(),
            since=datetime.now(UTC),
            job=job,
            sink=str(sink.relative_to(self._folder)),
        )
        for _ in range(_MAX_TRIES - 1):
            with suppress(FileNotFoundError):  # another daemon may just have removed the folder
                return self._take(claim)
        return self._take(claim)

    def _take(self, claim: LockClaim) -> str | None:
        with self._opened(create=True) as folder:
            lock = folder / _name_of(claim.sink)
            try:
                _write(lock, claim, os.O_CREAT | os.O_EXCL)
            except FileExistsError:
                holder = _read(lock)
                if holder is None or holder.instance != self._instance:
                    return _described(self._folder / LOCKS_FOLDER / lock.name, holder)
                _write(lock, claim, os.O_TRUNC)
        return None

    def release(self, sink: Path, job: str) -> None:
        """Remove a job's lock, unless a newer job of ours has taken it over."""
        name = _name_of(str(sink.relative_to(self._folder)))
        for lock, claim in self._own():
            if (lock.name, claim.job) == (name, job):
                self._remove(lock)

    def beat(self) -> None:
        """Update the time of our locks, to show that their daemon runs."""
        for lock, _ in self._own():
            with suppress(OSError):
                os.utime(lock, follow_symlinks=False)

    def clear(self, is_active: Callable[[str], bool]) -> None:
        """Remove our locks of jobs that will not run any more, as after a crash."""
        for lock, claim in self._own():
            if not is_active(claim.job):
                self._remove(lock)

    def _opened(self, *, create: bool = False) -> AbstractContextManager[Path]:
        return opened_folder(self._root, self._folder / LOCKS_FOLDER, create=create)

    def _own(self) -> Iterator[tuple[Path, LockClaim]]:
        with suppress(OSError), self._opened() as folder:  # missing, or it leads elsewhere
            for lock in sorted(folder.glob("*.lock")):
                claim = _read(lock)
                if claim is not None and claim.instance == self._instance:
                    yield lock, claim

    def _remove(self, lock: Path) -> None:
        lock.unlink(missing_ok=True)
        with suppress(OSError):  # not empty, or missing
            (self._folder / LOCKS_FOLDER).rmdir()


def _name_of(sink: str) -> str:
    # relative: other daemons may have the share mounted elsewhere
    return f"{hashlib.sha256(os.fsencode(sink)).hexdigest()[:32]}.lock"


def _write(lock: Path, claim: LockClaim, flags: int) -> None:
    # without O_NONBLOCK a FIFO in its place would block its folder forever
    descriptor = os.open(lock, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | flags, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(claim.model_dump_json(indent=2).encode())


def _read(lock: Path) -> LockClaim | None:
    try:
        return LockClaim.model_validate_json(read_entry(lock))
    except (OSError, ValidationError):
        return None


def _described(lock: Path, holder: LockClaim | None) -> str:
    if holder is None:
        return f"another daemon has just locked it ({lock})"
    return (
        f"upframe on {holder.host}, process {holder.pid}, has locked it since "
        f"{holder.since:%Y-%m-%d %H:%M:%S} UTC; if that daemon no longer exists, delete {lock}"
    )


class OutputMaker(BaseModel, frozen=True):
    """Job and source of an output."""

    job: str
    source: str
    made: Signature | None = None
    """When it was made; None: it is not made yet."""


@dataclass(frozen=True, slots=True)
class Records:
    """The records of watched folders. Every method blocks."""

    store: JobStore

    def taken(self, key: str, path: Path) -> Skip | None:
        """Return why a version of a file is not inspected again; None: it is new."""
        verdict = self.store.seen_verdict(f"taken {key}")
        if verdict is None:
            return None
        reason, _, detail = verdict.partition(" ")
        return Skip(path, cast("Reason", reason), detail)

    def set_taken(self, key: str, reason: Reason, detail: str) -> None:
        """Record why a version of a file is not inspected again, even after its job is deleted."""
        self.store.set_verdict(f"taken {key}", f"{reason} {detail}")

    def latest(self, source: Path) -> str | None:
        """Return the job of a source's latest version."""
        return self.store.seen_verdict(f"latest {source}")

    def set_latest(self, job: Job) -> None:
        """Record the job of a source's latest version, also as the maker of its output."""
        maker = OutputMaker(job=job.id, source=job.source)
        old = self.maker(Path(job.sink))
        if old is not None and old.source == job.source:  # its earlier output may still exist
            maker = maker.model_copy(update={"made": old.made})
        self.note_latest(job)
        self._set_maker(job.sink, maker)

    def note_latest(self, job: Job) -> None:
        """Record the job of a source's latest version, which may have no output."""
        self.store.set_verdict(f"latest {job.source}", job.id)

    def maker(self, sink: Path) -> OutputMaker | None:
        """Return the maker of an output."""
        text = self.store.seen_verdict(f"maker {sink}")
        return OutputMaker.model_validate_json(text) if text else None

    def set_made(self, job: Job, signature: Signature) -> None:
        """Record the signature of an output that a job has made."""
        self._set_maker(job.sink, OutputMaker(job=job.id, source=job.source, made=signature))

    def drop_claim(self, job: Job) -> None:
        """Drop the record of an output that a job did not make."""
        maker = self.maker(Path(job.sink))
        if maker is not None and maker.job == job.id and maker.made is None:
            self.store.drop_verdict(f"maker {job.sink}")

    def _set_maker(self, sink: str, maker: OutputMaker) -> None:
        self.store.set_verdict(f"maker {sink}", maker.model_dump_json())

    def is_settled(self, job: Job) -> bool:
        """Return whether the input was disposed of after this end; a retried job may end again."""
        return self.store.seen_verdict(f"settled {job.id}") == _end_of(job)

    def set_settled(self, job: Job) -> None:
        """Record that the input was disposed of after this end of a job."""
        self.store.set_verdict(f"settled {job.id}", _end_of(job))

    def locks(self, watch: WatchConfig) -> Locks:
        """Return the locks below an output folder; the name of this daemon is part of its state."""
        instance = self.store.seen_verdict("instance")
        if instance is None:
            instance = secrets.token_hex(8)
            self.store.set_verdict("instance", instance)
        return Locks(watch.root(watch.output, self.state_dir), instance, watch.output)

    @property
    def state_dir(self) -> Path:
        """The daemon's state directory."""
        return self.store.path.parent


def _end_of(job: Job) -> str:
    return f"{job.state} {job.ended.isoformat() if job.ended else ''}"


class Roots:
    """Check the folders without which a watcher must pause, by configuration key. Blocks.

    A share that is not mounted must not look like an empty folder.
    """

    def __init__(self, folders: dict[str, Path]) -> None:
        self._folders = folders
        self._mounted: set[Path] = set()
        self._identities: dict[Path, tuple[int, int]] = {}

    def missing(self) -> str | None:
        """Return which folder is missing, and why; None: all are available."""
        for name, folder in self._folders.items():
            shown = f"{name} {printable_path(folder)}"
            try:
                status = folder.stat()
                with os.scandir(folder):
                    pass
            except OSError as error:
                return f"{shown} is not available ({error.strerror})"
            if os.path.ismount(folder):
                self._mounted.add(folder)
            elif folder in self._mounted:  # the bare mount point: its content is not the share's
                return f"{shown} is not mounted any more"
            self._identities[folder] = (status.st_dev, status.st_ino)
        return None

    def identity(self, folder: Path) -> tuple[int, int] | None:
        """Return device and inode of a folder when it was last seen."""
        return self._identities.get(folder)

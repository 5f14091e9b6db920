"""What the watched folders remember in the store, beside the jobs: one small text per key.

taken     by a file's idempotency key: why it need not be looked at again
latest    by a source's path: the job of its latest version
maker     by an output's path: whose output it is, and how it looked when it was made
settled   by a job's id: the end that has been dealt with
instance  who we are to other daemons on the same share
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
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import cast

from pydantic import BaseModel, ValidationError

from ...io.root import Root, keeps_inodes, opened_folder, read_entry
from ..config import WatchConfig
from ..jobs.model import Job
from ..jobs.store import JobStore
from .scan import LOCKS_FOLDER, Reason, Signature, Skip, shown

# By what a version of a watched file is known again: its idempotency key and its job's id.

_SCHEME = "watch"
_DIGEST_CHARACTERS = 16
_LONGEST_STEM = 40


def settings_digest(watch: WatchConfig) -> str:
    """Condense what decides the result: other settings make other work of the same file."""
    content = watch.model_dump(mode="json", include={"filters", "encoder", "container", "output"})
    return _digest(json.dumps(content, sort_keys=True, separators=(",", ":")))


def file_key(path: Path, signature: Signature, settings: str, filesystem: str) -> str:
    """Write the idempotency key of one version of a file under some settings."""
    kept = signature if keeps_inodes(filesystem) else replace(signature, inode=0)
    numbers = f"{kept.size}:{kept.mtime_ns}:{kept.inode}"
    return f"{_SCHEME}:{numbers}:{settings}:{path}"


def key_fits(key: str, signature: Signature) -> bool:
    """Tell whether a key was made of a file as it is now, whatever the settings were."""
    numbers = key.split(":", 4)[1:4]
    size, mtime_ns, inode = (int(number) for number in numbers)
    same = (size, mtime_ns) == (signature.size, signature.mtime_ns)
    return same and inode in (0, signature.inode)


def job_id(path: Path, key: str) -> str:
    """Name the job of a key: always the same, and people see which file it is."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:_LONGEST_STEM]
    return f"{stem or 'file'}-{_digest(key)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARACTERS]


# Claims on a shared folder: of several daemons, only one takes a file.
#
# A claim is a small file in a hidden folder of the output, made in the one step that cannot
# succeed twice. It names its daemon, so that each clears only its own; one that another has left
# behind is never taken away from it, but the log says whose it is and where it lies.


_MAX_TRIES = 50


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
        root: Beneath which to open it.
        instance: Who we are, the same after every restart.
        folder: The folder; None: the root itself.
    """

    def __init__(self, root: Root, instance: str, folder: Path | None = None) -> None:
        self._root = root
        self._folder = folder or root.path
        self._instance = instance

    def take(self, sink: Path, job: str) -> str | None:
        """Claim an output.

        Returns:
            None if it is ours now, else who has it.

        Raises:
            OSError: if no lock can be written.
        """
        claim = Claim(
            instance=self._instance,
            host=socket.gethostname(),
            pid=os.getpid(),
            since=datetime.now(UTC),
            job=job,
            sink=str(sink.relative_to(self._folder)),
        )
        for tries in count(1):
            try:
                with self._opened(create=True) as folder:
                    return self._take(folder / _name_of(claim.sink), claim)
            except FileNotFoundError:  # somebody may just have removed the empty folder
                if tries == _MAX_TRIES:
                    raise
        raise AssertionError("there are always more numbers")

    def _take(self, lock: Path, claim: Claim) -> str | None:
        try:
            _write(lock, claim, os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            holder = _read(lock)
            if holder is None or holder.instance != self._instance:
                return _described(self._folder / LOCKS_FOLDER / lock.name, holder)
            _write(lock, claim, os.O_TRUNC)
        return None

    def release(self, sink: Path, job: str) -> None:
        """Give a job's claim back; one that a newer job of ours has taken over stays."""
        name = _name_of(str(sink.relative_to(self._folder)))
        for lock, claim in self._own():
            if (lock.name, claim.job) == (name, job):
                self._remove(lock)

    def beat(self) -> None:
        """Renew the time of our locks, so that people see that somebody is behind them."""
        for lock, _ in self._own():
            with suppress(OSError):
                os.utime(lock, follow_symlinks=False)

    def clear(self, is_active: Callable[[str], bool]) -> None:
        """Drop our locks of jobs that are not to be run any more, as after a crash."""
        for lock, claim in self._own():
            if not is_active(claim.job):
                self._remove(lock)

    def _opened(self, *, create: bool = False) -> AbstractContextManager[Path]:
        return opened_folder(self._root, self._folder / LOCKS_FOLDER, create=create)

    def _own(self) -> Iterator[tuple[Path, Claim]]:
        with suppress(OSError), self._opened() as folder:  # not there, or it leads elsewhere
            for lock in sorted(folder.glob("*.lock")):
                claim = _read(lock)
                if claim is not None and claim.instance == self._instance:
                    yield lock, claim

    def _remove(self, lock: Path) -> None:
        lock.unlink(missing_ok=True)
        with suppress(OSError):  # not empty, or not there
            (self._folder / LOCKS_FOLDER).rmdir()


def _name_of(sink: str) -> str:
    # relative: other daemons may have the share mounted elsewhere
    return f"{hashlib.sha256(os.fsencode(sink)).hexdigest()[:32]}.lock"


def _write(lock: Path, claim: Claim, flags: int) -> None:
    # without O_NONBLOCK a FIFO in its place would hold up its folder for ever
    descriptor = os.open(lock, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | flags, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(claim.model_dump_json(indent=2).encode())


def _read(lock: Path) -> Claim | None:
    try:
        return Claim.model_validate_json(read_entry(lock))
    except (OSError, ValidationError):
        return None


def _described(lock: Path, holder: Claim | None) -> str:
    if holder is None:
        return f"another daemon has claimed it just now ({lock})"
    return (
        f"upframe on {holder.host}, process {holder.pid}, has claimed it since "
        f"{holder.since:%Y-%m-%d %H:%M:%S} UTC; if that one is gone for good, delete {lock}"
    )


class Maker(BaseModel, frozen=True):
    """Whose output a file is."""

    job: str
    source: str
    made: tuple[int, int, int] | None = None
    """Size, time of change and inode when it was made; None: it is not made yet."""

    def made_it(self, signature: Signature) -> bool:
        """Tell whether a file is still what was made."""
        return self.made == (signature.size, signature.mtime_ns, signature.inode)


@dataclass(frozen=True, slots=True)
class Records:
    """The memory of the watched folders. Every method blocks."""

    store: JobStore

    def taken(self, key: str, path: Path) -> Skip | None:
        """Tell why a version of a file is not looked at again; None: it is new."""
        verdict = self.store.seen_verdict(f"taken {key}")
        if verdict is None:
            return None
        reason, _, detail = verdict.partition(" ")
        return Skip(path, cast("Reason", reason), detail)

    def set_taken(self, key: str, reason: Reason, detail: str) -> None:
        """Remember that a version of a file needs no second look, also without its job."""
        self.store.set_verdict(f"taken {key}", f"{reason} {detail}")

    def latest(self, source: Path) -> str | None:
        """Name the job of a source's latest version."""
        return self.store.seen_verdict(f"latest {source}")

    def set_latest(self, job: Job) -> None:
        """Remember the job of a source's latest version, and that the output will be its."""
        maker = Maker(job=job.id, source=job.source)
        old = self.maker(Path(job.sink))
        if old is not None and old.source == job.source:  # its earlier output may still lie there
            maker = maker.model_copy(update={"made": old.made})
        self.store.set_verdict(f"latest {job.source}", job.id)
        self._set_maker(Path(job.sink), maker)

    def maker(self, sink: Path) -> Maker | None:
        """Tell whose output a path is."""
        text = self.store.seen_verdict(f"maker {sink}")
        return Maker.model_validate_json(text) if text else None

    def set_made(self, job: Job, signature: Signature) -> None:
        """Remember how an output looks that a job has made."""
        made = (signature.size, signature.mtime_ns, signature.inode)
        self._set_maker(Path(job.sink), Maker(job=job.id, source=job.source, made=made))

    def drop_claim(self, job: Job) -> None:
        """Give up a path that a job has made nothing of."""
        maker = self.maker(Path(job.sink))
        if maker is not None and maker.job == job.id and maker.made is None:
            self.store.drop_verdict(f"maker {job.sink}")

    def _set_maker(self, sink: Path, maker: Maker) -> None:
        self.store.set_verdict(f"maker {sink}", maker.model_dump_json())

    def is_settled(self, job: Job) -> bool:
        """Tell whether this end of a job has been dealt with; a retried job may end again."""
        return self.store.seen_verdict(f"settled {job.id}") == _end_of(job)

    def set_settled(self, job: Job) -> None:
        """Remember that this end of a job has been dealt with."""
        self.store.set_verdict(f"settled {job.id}", _end_of(job))

    def locks(self, watch: WatchConfig) -> Locks:
        """Open the claims on the files below an output folder."""
        root = watch.root(watch.output, self.state_dir)
        return Locks(root, self._instance(), watch.output)

    @property
    def state_dir(self) -> Path:
        """Where the daemon keeps its own files."""
        return self.store.path.parent

    def _instance(self) -> str:
        """Name this daemon among those that share a folder: as long as its state lasts."""
        known = self.store.seen_verdict("instance")
        if known is None:
            known = secrets.token_hex(8)
            self.store.set_verdict("instance", known)
        return known


def _end_of(job: Job) -> str:
    return f"{job.state} {job.ended.isoformat() if job.ended else ''}"


# Whether the folders of a watch are there: a share that is not mounted is no empty folder.


class Roots:
    """Looks after the folders without which a watch must pause. Blocks.

    Args:
        folders: What each is called, and where it is.
    """

    def __init__(self, folders: dict[str, Path]) -> None:
        self._folders = folders
        self._mounted: set[Path] = set()
        self._identities: dict[Path, tuple[int, int]] = {}

    def missing(self) -> str | None:
        """Say which folder is missing, and in what way; None: all are there."""
        for name, folder in self._folders.items():
            if why := self._missing(folder):
                return f"{name} {shown(folder)} {why}"
        return None

    def _missing(self, folder: Path) -> str | None:
        try:
            status = folder.stat()
            with os.scandir(folder):
                pass
        except OSError as error:
            return f"is not there ({error.strerror})"
        if os.path.ismount(folder):
            self._mounted.add(folder)
        elif folder in self._mounted:  # the bare mount point: what is in it is not the share's
            return "is not mounted any more"
        self._identities[folder] = (status.st_dev, status.st_ino)
        return None

    def identity(self, folder: Path) -> tuple[int, int] | None:
        """Tell a folder from another of the same name: device and inode when last seen."""
        return self._identities.get(folder)

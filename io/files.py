"""Regular files as outputs: written under a hidden temporary name, synced, renamed in one step.

The temporary file is in the target's folder, so that the rename stays on one file system, with a
suffix that no media library indexes. It is locked while it is written, so that nothing else begins
to write the same output. A FIFO or a device is written directly.

An `Owner` marks the temporary names, to find them after a crash, and is notified before a rename.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import BinaryIO

from .errors import MediaError, ReaderGone, SameFile, SinkFull, SinkRefused
from .root import filesystem_type, keeps_inodes

NAME_MAX_BYTES = 255  # of one path component on every file system in common use
unpublished: set[Path] = set()
"""The temporary names under which this process writes."""
CANNOT_LINK = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True, slots=True)
class Owner:
    """The work that an output belongs to: after a crash it finds its files, renamed or not."""

    token: str
    """Unique part of its temporary files' names: letters, digits and hyphens."""
    before_publish: Callable[[Sequence[tuple[Path, Path]]], None]
    """Called with the temporary and the final path of every file of an output, when all are
    complete, verified and on the disk, before the first is renamed. If it raises, nothing is."""
    follows_links: bool = True
    """Whether the target may be, or link to, a FIFO or a device."""


def partial_path(target: Path, token: str | None = None) -> Path:
    """Return a temporary name beside `target`: ``.NAME.<token>.partial``, at most 255 bytes.

    The token is its owner's; None makes a random one.
    """
    ending = f".{secrets.token_hex(4) if token is None else token}.partial"
    room = NAME_MAX_BYTES - len(ending) - 1
    name = os.fsencode(target.name)[:room].decode(errors="ignore")
    return target.with_name(f".{name}{ending}")


def discard_partials(target: Path, token: str) -> None:
    """Remove what an owner's work on `target` may have left under a temporary name.

    Raises:
        OSError: if something exists and cannot be removed.
    """
    for path in (partial_path(target, token), _trial_path(target.parent, token)):
        with suppress(FileNotFoundError, NotADirectoryError):
            _remove(path)


def discard_unpublished() -> None:
    """Remove all that this process has under temporary names, as far as that is possible.

    For a process that ends by force, while other threads may still use the files.
    """
    for path in unpublished.copy():
        with suppress(OSError):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def numbered(path: Path) -> Iterator[Path]:
    """Yield a path, then the same with ``-1``, ``-2`` and so on before the extension."""
    yield path
    for number in count(1):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def is_special(target: Path) -> bool:
    """Return whether `target` is a FIFO, a device or a socket: nothing to rename over."""
    try:
        mode = target.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def refuse_same_file(source: str | Path, target: str | Path) -> None:
    """Refuse a target that is the source itself, also by another name or link.

    Raises:
        SameFile: if they are one file.
    """
    try:
        same = os.path.samefile(source, target) and not is_special(Path(target))
    except (OSError, ValueError):  # one of them is not there, or is no path but a URL
        return
    if same:
        raise SameFile(f"input and output are the same file: {target}")


def check_target(target: Path, *, overwrite: bool, token: str | None = None) -> None:
    """Refuse a target that cannot be written, before any work is done.

    The owner's `token` is for the name of the file that tests the folder.

    Raises:
        SinkRefused: if it exists, is a folder, or its folder is missing or not writable.
    """
    folder = target.parent
    if len(os.fsencode(target.name)) > NAME_MAX_BYTES:
        raise SinkRefused(f"output name has more than {NAME_MAX_BYTES} bytes: {target.name}")
    if target.is_dir():
        raise SinkRefused(f"output is a folder, wanted a file name: {target}")
    if not folder.is_dir():
        raise SinkRefused(f"output folder does not exist: {folder}")
    if is_special(target):
        return
    if not overwrite and os.path.lexists(target):
        raise SinkRefused(f"output exists: {target} (use --overwrite)")
    probe = _trial_path(folder, token)  # a file: permission bits do not show read-only mounts
    try:
        probe.open("xb").close()
        probe.unlink()
    except OSError as error:
        raise SinkRefused(f"output folder is not writable: {folder}: {error.strerror}") from error


def hold(descriptor: int) -> None:
    """Lock a temporary file or folder until it is closed, where the file system has locks."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def refuse_writer(target: Path, token: str | None = None) -> None:
    """Refuse a target that another process is writing: its temporary file is there, and locked.

    That of the owner with the `token` may be there.

    Raises:
        SinkRefused: names the process.
    """
    try:
        names = os.listdir(target.parent)
    except OSError:  # a folder that may be written, but not read
        return
    for name in names:
        mark = name.removesuffix(".partial").rpartition(".")[2]
        if mark != token and name == partial_path(target, mark).name:
            _refuse_held(target, target.parent / name)


def _refuse_held(target: Path, partial: Path) -> None:
    try:
        descriptor = os.open(partial, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # it is gone by now, or belongs to another user
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        who = _holder(os.fstat(descriptor).st_ino)
        text = f"{who} is writing {target} (its temporary file is {partial.name}); wait for it, "
        raise SinkRefused(f"{text}end it, or choose another name") from error
    except OSError:  # a file system without locks
        return
    finally:
        os.close(descriptor)


def _holder(inode: int) -> str:
    """Name the process that holds an flock, as far as this one may know."""
    with suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode):
                return f"process {words[4]}"
    return "another process"


def _trial_path(folder: Path, token: str | None) -> Path:
    return partial_path(folder / "upframe", token)


def write_error(target: Path, error: OSError) -> MediaError:
    """Return the error that stands for a failed write to `target`."""
    if isinstance(error, BrokenPipeError):
        return ReaderGone(f"the reader of {target} closed it")
    return SinkFull(f"cannot write {target}: {error.strerror or error}")


class OutputFile:
    """A file that appears under its name only when it is complete.

    Its owner marks the temporary file, and is notified before that is renamed.

    Raises:
        SinkRefused: as :func:`check_target` does.
    """

    def __init__(self, target: Path, *, overwrite: bool, owner: Owner | None = None) -> None:
        token = None if owner is None else owner.token
        check_target(target, overwrite=overwrite, token=token)
        self.target = target
        self.direct = (owner is None or owner.follows_links) and is_special(target)
        """Written in place: a FIFO or a device."""
        self.path = target if self.direct else partial_path(target, token)
        """Where the bytes are until then."""
        self._owner = owner
        self._overwrite = overwrite
        self._done = False
        self.stream: BinaryIO = self._open()
        if not self.direct:
            unpublished.add(self.path)
            hold(self.stream.fileno())
        self._written = os.fstat(self.stream.fileno())

    def _open(self) -> BinaryIO:
        try:
            # "+": some muxers read back what they wrote
            return open(self.path, "wb" if self.direct else "x+b", buffering=1 << 20)
        except OSError as error:
            raise SinkRefused(f"cannot create {self.target}: {error.strerror}") from error

    def close(self) -> None:
        """Flush what is buffered, and sync it to the disk.

        Raises:
            SinkFull: if that fails.
            ReaderGone: if the reader of a FIFO has closed it.
        """
        if self.stream.closed:
            return
        try:
            self.stream.flush()
            if not self.direct:
                os.fsync(self.stream.fileno())
            self.stream.close()
        except OSError as error:
            raise write_error(self.target, error) from error

    def publish(self) -> None:
        """Rename the complete file to its target, durably.

        A direct one has its name already; its owner is not notified.

        Raises:
            SinkRefused: if another file has taken the name and may not be replaced, or something
                else has replaced the file that was written.
            SinkFull: if the rename fails.
        """
        self.close()
        if not self.direct:
            self._refuse_another(self.path)
            if self._owner is not None:
                self._owner.before_publish([(self.path, self.target)])
            rename(self.path, self.target, overwrite=self._overwrite)
            sync_folder(self.target.parent)
            self._refuse_another(self.target)
        self._set_done()

    def _refuse_another(self, path: Path) -> None:
        """Refuse a file other than the one that was written and verified.

        Where file numbers do not last, or may change with the name, only a link can be detected.
        """
        if not path.is_symlink():
            if path == self.target or not keeps_inodes(filesystem_type(path.parent)):
                return
            with suppress(OSError):
                if os.path.samestat(path.lstat(), self._written):
                    return
        if not path.parent.is_dir():
            raise SinkRefused(f"output folder does not exist any more: {path.parent}")
        path.unlink(missing_ok=True)
        raise SinkRefused(f"output was exchanged for another file meanwhile: {self.target}")

    def _set_done(self) -> None:
        self._done = True
        unpublished.discard(self.path)

    def discard(self) -> None:
        """Remove what was written. Safe to call twice, and after `publish`."""
        if not self._done and not self.direct:
            self.path.unlink(missing_ok=True)
        self._set_done()
        with suppress(OSError):  # its buffer cannot be written, and is not needed
            self.stream.close()


def rename(partial: Path, target: Path, *, overwrite: bool) -> None:
    """Rename a complete file in one step.

    Raises:
        SinkRefused: if the name is taken and may not be replaced.
        SinkFull: if it fails otherwise.
    """
    try:
        if overwrite:
            partial.replace(target)
        else:
            rename_without_replacing(partial, target)
    except FileExistsError as error:
        raise SinkRefused(f"output appeared meanwhile: {target} (use --overwrite)") from error
    except OSError as error:
        raise write_error(target, error) from error


def rename_without_replacing(partial: Path, target: Path) -> None:
    """Rename a file unless the name is taken.

    By link and unlink: on every POSIX system, link never replaces a file.

    Raises:
        OSError: if that fails, FileExistsError if the name is taken.
    """
    try:
        os.link(partial, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in CANNOT_LINK:
            raise
        # FAT and some network shares have no links: a check before the rename leaves a small race
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        partial.rename(target)
    else:
        partial.unlink()


def sync_file(path: Path) -> None:
    """Sync a closed file to the disk.

    Raises:
        SinkFull: if that fails.
    """
    try:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise write_error(path, error) from error


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that a rename in it survives a power cut, if the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # a folder that may be written, but not read
        return
    with suppress(OSError):  # some network file systems refuse; the rename itself has worked
        os.fsync(descriptor)
    os.close(descriptor)

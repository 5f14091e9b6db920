"""Files and folders opened beneath a root, even if links change meanwhile; what identifies a file.

A path that was checked may lead elsewhere when it is opened by its name later. So the kernel
confines every step to the root while it opens (openat2(2) with RESOLVE_BENEATH). Where that is
missing, or forbidden by seccomp, each component is opened by itself and links are followed in
Python, with the same result: relative links and ``..`` are followed as long as they stay beneath
the root, at most 40 of them; absolute links, and those of /proc, are refused.

The opened file is used by its descriptor, for which :func:`by_descriptor` returns a path. Only
regular files are opened: opening a FIFO would block, and opening a device may act on it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import SourceMissing, reason_of

_OPENAT2 = 437  # on every architecture: include/uapi/asm-generic/unistd.h
_RESOLVE_NO_MAGICLINKS, _RESOLVE_BENEATH = 0x02, 0x08
_UNAVAILABLE = (errno.ENOSYS, errno.EPERM)  # an old kernel; seccomp
_MAX_TRIES = 64  # a rename anywhere may interrupt a step through `..`
_MAX_LINKS = 40  # as the kernel's own limit
_MOST_ENTRY_BYTES = 1 << 20
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a directory"}

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (
    ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t
)  # fmt: skip

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_MOUNTINFO = Path("/proc/self/mountinfo")


class _How(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "mode", "resolve")]


@dataclass(frozen=True, slots=True)
class Root:
    """A folder beneath which files are opened."""

    path: Path
    """Links in this path itself are followed."""
    closed: Path | None = None
    """A folder beneath it that is never opened: the daemon's own state."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What identifies a file and its state."""

    device: int
    inode: int
    """0 if unknown, because its file system does not keep numbers."""
    size: int
    """In bytes."""
    mtime_ns: int
    boot: str
    """Identifies the system's boot: device numbers may differ after the next."""

    @classmethod
    def of(cls, status: os.stat_result, *, lasting: bool = True) -> Identity:
        """Read it from a result of stat(2); `lasting`: whether the file system keeps inodes."""
        try:
            boot = _BOOT.read_text().strip()
        except OSError:
            boot = ""
        inode = status.st_ino if lasting else 0
        return cls(status.st_dev, inode, status.st_size, status.st_mtime_ns, boot)

    def changes(self, got: Identity) -> str:
        """Describe how a file differs from this one; empty if it does not."""
        names = ["device"] * (self.boot == got.boot) + ["inode"] * (self.inode != 0)
        names += ["size", "mtime_ns"]
        pairs = [(name, getattr(self, name), getattr(got, name)) for name in names]
        return ", ".join(f"{name} {new} (was {old})" for name, old, new in pairs if old != new)


@dataclass(frozen=True, slots=True)
class ConfinedFile:
    """A source that is only opened beneath a root."""

    name: str
    """Its absolute path, for people and for finding its neighbours."""
    root: Root
    descriptor: int | None = None
    """Of the file, opened once for all its readers; None: no file has that name, so it may be a
    pattern of several."""

    def __str__(self) -> str:
        return self.name


def by_descriptor(descriptor: int) -> Path:
    """Return a path to what a descriptor of this process stands for, while it is open.

    Opening it opens the file again, from its beginning. Below a folder's, names are looked up in
    that very folder, wherever it has been moved.
    """
    return Path(f"/proc/self/fd/{descriptor}")


def open_file(root: Root, path: Path) -> int:
    """Open a regular file beneath a root, for reading; the caller closes the descriptor.

    Raises:
        OSError: if it does not exist, may not be read, leads outside the root or into the closed
            folder (EXDEV), or is not a regular file (EINVAL).
    """
    found = _open(root, path, os.O_PATH)
    try:
        kind = stat.S_IFMT(os.fstat(found).st_mode)
        if kind != stat.S_IFREG:
            reason = f"is {_KINDS.get(kind, 'a device')}, wanted a regular file"
            raise OSError(errno.EINVAL, reason, str(path))
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(by_descriptor(found), flags)
    finally:
        os.close(found)


def open_folder(root: Root, path: Path, *, create: bool = False) -> int:
    """Open a folder beneath a root, or the root itself; the caller closes the descriptor.

    If the folder may not be read, the descriptor is usable as `dir_fd` only.

    Raises:
        OSError: if it does not exist (with `create`, it and its parents are made), is not a folder,
            or leads outside the root or into the closed folder (EXDEV).
    """
    try:
        return _open(root, path, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return _open(root, path, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        if not create or path in (root.path, Path()):
            raise
    parent = open_folder(root, path.parent, create=True)
    try:
        with suppress(FileExistsError):
            os.mkdir(path.name, dir_fd=parent)
    finally:
        os.close(parent)
    return open_folder(root, path)


@contextmanager
def opened_folder(root: Root, path: Path, *, create: bool = False) -> Generator[Path]:
    """Open a folder as :func:`open_folder` does, and yield its path by descriptor."""
    descriptor = open_folder(root, path, create=create)
    try:
        yield by_descriptor(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def opened_place(root: Root | None, path: Path) -> Generator[Path]:
    """Open a file's folder, and yield the file's path by the folder's descriptor.

    If the folder does not exist, neither does anything at that path. Without a root the path is
    yielded unchanged.

    Raises:
        OSError: as :func:`open_folder`, except for a folder that does not exist.
    """
    if root is None:
        yield path
        return
    try:
        descriptor = open_folder(root, path.parent)
    except FileNotFoundError:
        descriptor = -1
    try:
        yield by_descriptor(descriptor) / path.name
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def read_entry(path: Path) -> bytes:
    """Read a small file, not through a link, and without waiting for a writer.

    Raises:
        OSError: if it does not exist, is a link, or is above 1 MiB.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)

    # not with fdopen, which leaves a folder's descriptor open
    with open(path, "rb", opener=opener) as file:
        content = file.read(_MOST_ENTRY_BYTES + 1)
    if len(content) > _MOST_ENTRY_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return content


@contextmanager
def opened_source(name: str, root: Root, accepted: Identity | None) -> Generator[ConfinedFile]:
    """Open a source by its absolute path beneath a root, and keep it open for all its readers.

    It must be in the state in which it was `accepted`; None: it did not exist then.

    Raises:
        SourceMissing: if it cannot be opened, or is not the file that was accepted.
    """
    descriptor = None
    try:
        with suppress(FileNotFoundError):  # perhaps a pattern; if not, that shows when resolved
            descriptor = open_file(root, Path(name))
    except OSError as error:
        raise SourceMissing(f"{name}: cannot be read: {reason_of(error)}") from error
    try:
        if descriptor is not None and accepted is not None:
            changes = accepted.changes(Identity.of(os.fstat(descriptor)))
            if changes:
                raise SourceMissing(f"{name}: is not the file that was accepted: {changes}")
        yield ConfinedFile(name, root, descriptor)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _open(root: Root, path: Path, flags: int) -> int:
    if path.is_absolute() and not path.is_relative_to(root.path):
        raise OSError(errno.EXDEV, f"leads outside of {root.path}", str(path))
    below = path.relative_to(root.path) if path.is_absolute() else path
    flags |= os.O_CLOEXEC
    anchor = os.open(root.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = _by_kernel(anchor, os.fsencode(below), flags)
        found = _by_hand(anchor, below, flags) if found is None else found
    except OSError as error:
        if error.errno == errno.EXDEV:
            error.strerror = f"leads outside of {root.path}"
        error.filename = str(path)
        raise
    finally:
        os.close(anchor)
    real = Path(os.readlink(by_descriptor(found)))
    if root.closed is not None and real.is_relative_to(os.path.realpath(root.closed)):
        os.close(found)
        raise OSError(errno.EXDEV, f"lies in {root.closed}, which is closed", str(path))
    return found


def _by_kernel(anchor: int, below: bytes, flags: int) -> int | None:
    """Open by the kernel; None where it cannot, or was interrupted too often."""
    how = _How(flags, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    for _ in range(_MAX_TRIES):
        found = _syscall(_OPENAT2, anchor, below, ctypes.byref(how), ctypes.sizeof(how))
        if found >= 0:
            return int(found)
        number = ctypes.get_errno()
        if number in _UNAVAILABLE:
            return None
        if number not in (errno.EAGAIN, errno.EINTR):
            raise OSError(number, os.strerror(number))
    return None


def _by_hand(anchor: int, below: Path, flags: int) -> int:
    """Open component by component (a file with O_PATH only), none through a link."""
    passed, num_links = [os.dup(anchor)], 0
    names = list(reversed(below.parts))
    try:
        while names:
            name = names.pop()
            if name == "..":
                if len(passed) == 1:
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
                os.close(passed.pop())
                continue
            passed.append(os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=passed[-1]))
            if stat.S_ISLNK(os.fstat(passed[-1]).st_mode):
                target = Path(os.readlink("", dir_fd=passed[-1]))
                os.close(passed.pop())
                num_links += 1
                if target.is_absolute() or num_links > _MAX_LINKS:
                    number = errno.EXDEV if target.is_absolute() else errno.ELOOP
                    raise OSError(number, os.strerror(number))
                names += reversed(target.parts)
        if flags & os.O_DIRECTORY:
            return os.open(".", flags, dir_fd=passed[-1])
        return os.dup(passed[-1])
    finally:
        for descriptor in passed:
            os.close(descriptor)


_MOVING_INODES = {
    "9p", "cifs", "davfs", "davfs2", "drvfs", "exfat", "fuse", "msdos", "prl_fs", "smb2", "smb3",
    "smbfs", "sshfs", "vboxsf", "vfat", "virtiofs", "vmhgfs",
}  # fmt: skip


def filesystem_type(path: Path) -> str:
    """Return the type of the file system that holds a path, as in /proc/self/mountinfo.

    Returns:
        A name such as ``nfs4`` or ``fuse.sshfs``; ``unknown`` if it cannot be read.
    """
    try:
        lines = _MOUNTINFO.read_bytes().splitlines()
    except OSError:
        return "unknown"
    real = os.fsencode(os.path.realpath(path)).rstrip(b"/") + b"/"
    best, found = -1, "unknown"
    for line in lines:
        mount, _, rest = line.partition(b" - ")
        # mountinfo escapes blanks and backslashes, such as \040
        point = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), mount.split()[4])
        # not "longer than": of two mounts on one point the later one counts
        if real.startswith(point.rstrip(b"/") + b"/") and len(point) >= best:
            best, found = len(point), rest.split()[0].decode()
    return found


def keeps_inodes(kind: str) -> bool:
    """Return whether a file keeps its inode number when the file system is mounted again.

    If not, the number must not identify a file, or every mount would make every file look new.
    """
    return kind not in _MOVING_INODES and not kind.startswith("fuse.")

"""The lock of a worker: bound to its daemon, it dies with it and holds a lock while it lives.

The lock is a POSIX record lock and not an flock, because the kernel reports who holds one: a daemon
that starts after a crash kills that process and no other, whatever a file may say. It is released
only at the end of the last thread of the process, so the next holder may touch the files that the
process was writing.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ...io.child import kill_on_parent_death
from ...io.redaction import one_line
from ..exits import Exit

FOLDER = "workers"
"""Of the locks, below the state directory."""

_FLOCK = "hhqqi4x"  # struct flock on 64-bit Linux: type, whence, start, len, pid
_LOOK_SECONDS = 0.02


def bind(parent: int, lock: Path) -> BinaryIO:
    """Have this process die with its daemon and take its lock; end it if either is not possible.

    Its working directory becomes a folder of the kernel's, in which no file can be created, not
    even by root: an encoder with a relative file name among its options cannot write it.

    Returns:
        The lock, to be kept until the end.
    """
    if not kill_on_parent_death(parent):
        sys.exit(Exit.UNAVAILABLE)
    try:
        held = hold(lock)
    except BlockingIOError as error:
        sys.stderr.write(f"upframe: {one_line(error)}\n")
        sys.exit(Exit.TRY_LATER)
    os.chdir("/proc/self/fdinfo")  # one that was removed would do, but not for MKL
    return held


def hold(path: Path) -> BinaryIO:
    """Take a worker's lock; it is held until the file is closed or the process has ended.

    Nothing else in the process may open the same file: closing it would release the lock.

    Raises:
        BlockingIOError: if another process holds it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    file = path.open("a+b", buffering=0)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise BlockingIOError(f"{path} is held by another process") from error
    return file


def holder_of(path: Path) -> int | None:
    """Return the process that holds a lock, or None."""
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    with path.open("r+b", buffering=0) as file:
        answer = fcntl.fcntl(file, fcntl.F_GETLK, asked)
    kind, _, _, _, pid = struct.unpack(_FLOCK, answer)
    return None if kind == fcntl.F_UNLCK else pid


def end_holders(folder: Path, timeout_seconds: float) -> list[int]:
    """Kill every process that holds a lock in a folder, and wait until all locks are free.

    Returns:
        The processes killed.

    Raises:
        TimeoutError: if one is still there after that time.
    """
    killed: list[int] = []
    ends = time.monotonic() + timeout_seconds
    for path in sorted(folder.glob("*.lock")):
        while (pid := holder_of(path)) is not None:
            if pid not in killed and _kill(pid, path):
                killed.append(pid)
            if time.monotonic() > ends:
                raise TimeoutError(f"process {pid} holds {path} and does not end by SIGKILL")
            time.sleep(_LOOK_SECONDS)
    return killed


def _kill(pid: int, path: Path) -> bool:
    """Kill a process if it is still the one that holds the lock: its number may be another's."""
    if pid <= 0:  # in another container: not ours to kill
        return False
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            if holder_of(path) == pid:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                return True
        finally:
            os.close(handle)
    return False

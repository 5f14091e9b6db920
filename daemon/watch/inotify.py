"""Whether inotify has anything left to give.

watchfiles 1.3 passes over ENOSPC in silence (seen with strace): a tree of which only a part is
watched looks armed. So we ask the kernel ourselves, with one watch of our own.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_IN_DELETE_SELF = 0x400
_LIMITS = Path("/proc/sys/fs/inotify")
_ENOUGH = {"max_user_watches": 524288, "max_user_instances": 1024}


def exhaustion(folder: Path) -> str | None:
    """Tell what has run out, and what to do about it; None: a watch can still be had."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if descriptor < 0:
        return _advice("instances", "max_user_instances") if _out_of(ctypes.get_errno()) else None
    try:
        given = libc.inotify_add_watch(descriptor, os.fsencode(folder), _IN_DELETE_SELF)
        out = given < 0 and _out_of(ctypes.get_errno())
        return _advice("watches", "max_user_watches") if out else None
    finally:
        os.close(descriptor)


def _out_of(number: int) -> bool:
    """ENOSPC means watches here, and has nothing to do with the disk."""
    return number in (errno.ENOSPC, errno.EMFILE, errno.ENFILE)


def _advice(what: str, key: str) -> str:
    limit = _limit(key)
    enough = max(_ENOUGH[key], 2 * (limit or 0))
    return (
        f"inotify {what} have run out (fs.inotify.{key} is {limit or 'unknown'}; the disk is not "
        f"full); to get events back: sysctl fs.inotify.{key}={enough}, keep it in /etc/sysctl.d, "
        "then reload"
    )


def _limit(key: str) -> int | None:
    try:
        return int((_LIMITS / key).read_text())
    except (OSError, ValueError):
        return None

"""On which file systems the kernel tells of changes, and on which inode numbers last.

Inotify reports what happens through this kernel only. On a network share or in FUSE a file may
change without a word, so such folders are polled.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal, NamedTuple

_SILENT = {
    "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "davfs2", "drvfs", "fuse",
    "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs",
    "prl_fs", "pvfs2", "smb2", "smb3", "smbfs", "sshfs", "vboxsf", "virtiofs", "vmhgfs", "wekafs",
}  # fmt: skip
_MOVING_INODES = {
    "9p", "cifs", "davfs", "davfs2", "drvfs", "exfat", "fuse", "msdos", "prl_fs", "smb2", "smb3",
    "smbfs", "sshfs", "vboxsf", "vfat", "virtiofs", "vmhgfs",
}  # fmt: skip
_MANY_FOLDERS = 2000
"""From which a tree is polled: watchfiles holds up the whole process while it begins (the GIL, for
19 µs a folder: 380 ms for 20,000), and the event loop shall not be late by more than 50 ms."""

_MOUNTINFO = Path("/proc/self/mountinfo")


class Mode(NamedTuple):
    """How a folder is watched, and why so."""

    name: Literal["events", "poll"]
    why: str


def filesystem_type(path: Path) -> str:
    """Name the file system that a path is on, as /proc/self/mountinfo does: nfs4, fuse.sshfs, ….

    Returns:
        The name, or "unknown" where the system does not tell.
    """
    try:
        lines = _MOUNTINFO.read_bytes().splitlines()
    except OSError:
        return "unknown"
    real = os.fsencode(os.path.realpath(path))
    best, found = -1, "unknown"
    for line in lines:
        mount, _, rest = line.partition(b" - ")
        point = _unescaped(mount.split()[4])
        # not "longer than": of two mounts on one point the later one is seen
        if _is_below(real, point) and len(point) >= best:
            best, found = len(point), rest.split()[0].decode()
    return found


def _is_below(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def _unescaped(point: bytes) -> bytes:
    r"""Undo how mountinfo writes blanks and backslashes: as \040 and the like."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), point)


def choose_mode(asked: Literal["auto", "events", "poll"], kind: str, num_folders: int = 0) -> Mode:
    """Choose how to watch a tree of so many folders on a file system of some type."""
    if asked != "auto":
        return Mode(asked, "as configured")
    if kind in _SILENT or kind.startswith("fuse."):
        return Mode("poll", f"{kind} does not tell of changes made elsewhere")
    if num_folders > _MANY_FOLDERS:
        why = f"{num_folders} folders: to begin with events would hold up the daemon"
        return Mode("poll", f'{why}; mode = "events" does it all the same')
    return Mode("events", f"on {kind}")


def keeps_inodes(kind: str) -> bool:
    """Tell whether a file keeps its inode number when the file system is mounted again.

    Where it does not, the number cannot be part of what a file is remembered by, or every mount
    would bring every file back as new.
    """
    return kind not in _MOVING_INODES and not kind.startswith("fuse.")

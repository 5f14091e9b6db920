"""On what file system a path lies, and whether inode numbers last there."""

from __future__ import annotations

import os
import re
from pathlib import Path

_MOVING_INODES = {
    "9p", "cifs", "davfs", "davfs2", "drvfs", "exfat", "fuse", "msdos", "prl_fs", "smb2", "smb3",
    "smbfs", "sshfs", "vboxsf", "vfat", "virtiofs", "vmhgfs",
}  # fmt: skip
_MOUNTINFO = Path("/proc/self/mountinfo")


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


def keeps_inodes(kind: str) -> bool:
    """Tell whether a file keeps its inode number when the file system is mounted again.

    Where it does not, the number cannot be part of what a file is remembered by, or every mount
    would bring every file back as new.
    """
    return kind not in _MOVING_INODES and not kind.startswith("fuse.")

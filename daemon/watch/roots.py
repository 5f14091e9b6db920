"""Whether the folders of a watch are there: a share that is not mounted is no empty folder."""

from __future__ import annotations

import os
from pathlib import Path

from .names import shown


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

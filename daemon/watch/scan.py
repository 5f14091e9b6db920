"""One walk through a watched folder: which files could be inputs, and why the others are not.

Links are not followed, so no loop of links can hold a walk up, and no link leads out of the
folder. The folders of outputs, of done and of failed inputs are left out where they lie inside.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from .names import NameRules, Skip, is_ours, is_text
from .stability import Signature


class ScanStopped(Exception):
    """The walk was asked to end; what it found so far is not the whole truth."""


@dataclass(slots=True)
class Scan:
    """What a walk found."""

    found: dict[Path, Signature] = field(default_factory=dict[Path, Signature])
    """Files with the name of an input."""
    skipped: list[Skip] = field(default_factory=list[Skip])
    """Everything else."""
    num_folders: int = 0
    """Walked through."""


class Tree:
    """A folder as its rules show it. Every method blocks.

    Args:
        root: The folder.
        rules: Which names count.
        recursive: Whether folders in it are looked into.
        reserved: Folders that are not looked into, with the reason.
        stop: Ends a walk early, with :class:`ScanStopped`.
    """

    def __init__(
        self,
        root: Path,
        rules: NameRules,
        *,
        recursive: bool = True,
        reserved: dict[Path, str] | None = None,
        stop: Event | None = None,
    ) -> None:
        self.root = root
        self._rules = rules
        self._recursive = recursive
        self._reserved = reserved or {}
        self._stop = stop or Event()

    def scan(self) -> Scan:
        """Walk through all of it.

        Raises:
            OSError: if the root itself cannot be read.
            ScanStopped: if it was stopped.
        """
        scan = Scan()
        self._walk(self.root, scan)
        return scan

    def look_at(self, paths: Iterable[Path]) -> Scan:
        """Look at some paths only, folders with all that is in them. What is gone is left out."""
        scan = Scan()
        for path in paths:
            self._check_stop()
            if path == self.root or not self._is_reachable(path):
                continue
            try:
                self._enter(path, path.lstat(), scan)
            except FileNotFoundError:
                continue
            except OSError as error:
                scan.skipped.append(Skip(path, "unreadable", error.strerror or str(error)))
        return scan

    def _is_reachable(self, path: Path) -> bool:
        """Tell whether a walk would come by: no parent is passed over or a link."""
        if not path.is_relative_to(self.root):
            return False
        parents = list(path.relative_to(self.root).parents)[:-1]
        if parents and not self._recursive:
            return False
        return all(
            self._against_folder(self.root / parent) is None
            and not (self.root / parent).is_symlink()
            for parent in parents
        )

    def _walk(self, start: Path, scan: Scan) -> None:
        folders = [start]
        while folders:
            self._check_stop()
            folder = folders.pop()
            scan.num_folders += 1
            try:
                entries = list(_entries(folder))
            except OSError as error:
                if folder == self.root:
                    raise
                scan.skipped.append(Skip(folder, "unreadable", error.strerror or str(error)))
                continue
            folders += [path for path, status in entries if self._note(path, status, scan)]

    def _enter(self, path: Path, status: os.stat_result, scan: Scan) -> None:
        if self._note(path, status, scan):
            self._walk(path, scan)

    def _note(self, path: Path, status: os.stat_result, scan: Scan) -> bool:
        """Put one path where it belongs. Tells whether it is a folder to look into."""
        if is_ours(path.name):
            return False
        if stat.S_ISDIR(status.st_mode):
            against = self._against_folder(path)
            if against is not None:
                scan.skipped.append(Skip(path, "excluded", against))
            return against is None
        against = self._against_file(path, status)
        if against is not None:
            scan.skipped.append(against)
        else:
            scan.found[path] = Signature.of(status)
        return False

    def _against_folder(self, path: Path) -> str | None:
        if path in self._reserved:
            return self._reserved[path]
        if not self._recursive:
            return "folder (recursive = false)"
        return self._rules.against_folder(path.relative_to(self.root))

    def _against_file(self, path: Path, status: os.stat_result) -> Skip | None:
        if against := self._rules.against_file(path.relative_to(self.root)):
            return Skip(path, "excluded", against)
        if stat.S_ISLNK(status.st_mode):
            return Skip(path, "excluded", "symbolic link")
        if not stat.S_ISREG(status.st_mode):
            return Skip(path, "excluded", "not a regular file")
        if not is_text(path):
            return Skip(path, "unreadable", "its name is not UTF-8")
        if os.path.lexists(f"{path}.aria2"):
            return Skip(path, "excluded", "aria2 is still downloading it")
        return None

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise ScanStopped


def _entries(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                yield Path(entry.path), entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # gone since
                continue

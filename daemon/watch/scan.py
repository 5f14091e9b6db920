"""One walk through a watched folder: which files could be inputs, and why the others are not.

Links to folders are not followed, so no loop of links can hold a walk up; links to files only where
that is asked for, see `Reach`. Everything is opened beneath the folder, whatever becomes of links
meanwhile. The folders of outputs, of done and of failed inputs are left out where they lie inside.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from threading import Event
from typing import Literal, Self

from ...io.redaction import printable
from ...io.root import Root, open_file, opened_folder

log = logging.getLogger("upframe.watch")


# Which names in a watched folder are those of inputs: globs, hidden files, unfinished downloads.
#
# The built-in patterns are those of FileFlows, Radarr, Syncthing, Unmanic, the browsers and the
# download clients. A pattern is held against the whole name, so that `film.mkv.part` is not taken
# for a film.

Reason = Literal[
    "excluded",
    "unstable",
    "unfinished",
    "unreadable",
    "unwritable",
    "not_video",
    "output",
    "exists",
    "collision",
    "locked",
    "already_done",
    "failed_before",
    "cancelled_before",
]
"""Why a file is not made into a job, in one word for machines."""

SIDECAR_SUFFIX = ".upframe-error.json"
"""Of the file that says why another one failed."""

LOCKS_FOLDER = ".upframe-locks"
"""In an output folder, of the claims on its files."""

_PARTIAL = re.compile(r"\..*\.job-[0-9a-f]{12}\.partial$")
"""Of what a job writes, until it has its name."""

EXCLUDED_FILES = (
    "*.part", "*.partial", "*.tmp", "*.temp", "*.crdownload", "*.download", "*.!qb", "*.!ut",
    "*.bc!", "*.aria2", "*.ytdl", "*.filepart", "*.unmanic.part", ".syncthing.*.tmp",
    "~syncthing~*.tmp", "*.sync-conflict-*", ".nfs*", "._*", "~$*", "thumbs.db", ".ds_store",
    f"*{SIDECAR_SUFFIX}",
)  # fmt: skip
"""Names of unfinished downloads, conflicts and litter, in lower case."""

EXCLUDED_FOLDERS = (
    "_unpack_*", "_failed_*", "__admin__", ".stversions", ".stfolder", "@eadir", "#recycle",
    "lost+found", "*.part", "*.partial", "*.download",
)  # fmt: skip
"""Working folders of download and storage software; some browsers' downloads are folders."""

MEDIA_EXTENSIONS = {
    ".264", ".265", ".3g2", ".3gp", ".amv", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gxf",
    ".h264", ".h265", ".hevc", ".ivf", ".m1v", ".m2p", ".m2t", ".m2ts", ".m2v", ".m4v", ".mj2",
    ".mk3d", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nut",
    ".obu", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".tp", ".trp", ".ts", ".vob", ".webm", ".wmv",
    ".wtv", ".y4m",
}  # fmt: skip
"""What counts as a video where no `include` says otherwise; stills only where one names them."""


@dataclass(frozen=True, slots=True)
class Skip:
    """Why a path is passed over."""

    path: Path
    reason: Reason
    detail: str


def shown(path: str | PurePath) -> str:
    """Write a path so that no name can forge a line of the log or break a terminal."""
    return printable(os.fsencode(path).decode(errors="backslashreplace"))


def is_text(path: Path) -> bool:
    """Tell whether a path can be written as text, as jobs and databases need it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def is_ours(name: str) -> bool:
    """Tell whether a name is one that we give: nobody needs to be told that we pass it over."""
    return name == LOCKS_FOLDER or name.endswith(SIDECAR_SUFFIX) or bool(_PARTIAL.match(name))


class NameRules:
    """Tells by a name alone whether a file or a folder is passed over.

    Args:
        include: Globs of names, or of paths below the root where they hold a slash; none: every
            name with the extension of a video.
        exclude: The same, beside the built-in ones; they also pass over whole folders.
    """

    def __init__(self, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
        self._include = tuple(pattern.lower() for pattern in include)
        self._exclude = tuple(pattern.lower() for pattern in exclude)

    def against_folder(self, relative: PurePath) -> str | None:
        """Say why nothing in a folder is taken; None: it is looked into."""
        if relative.name.startswith("."):
            return "hidden folder"
        return _matched(relative, (*EXCLUDED_FOLDERS, *self._exclude))

    def against_file(self, relative: PurePath) -> str | None:
        """Say why a name is not that of an input; None: it is."""
        if against := _matched(relative, (*EXCLUDED_FILES, *self._exclude)):
            return against
        if relative.name.startswith("."):
            return "hidden file"
        if self._include:
            return None if _matched(relative, self._include) else "no include pattern matches"
        if relative.suffix.lower() not in MEDIA_EXTENSIONS:
            return f"extension {relative.suffix or '(none)'} is not that of a video"
        return None


def _matched(relative: PurePath, patterns: Iterable[str]) -> str | None:
    """Find the pattern that fits, whatever the case: shares often do not tell cases apart."""
    name, whole = relative.name.lower(), relative.as_posix().lower()
    for pattern in patterns:
        if fnmatchcase(whole if "/" in pattern else name, pattern):
            return f"name matches {pattern}"
    return None


# Whether a file has held still: size, time of change and inode, all unmoved for long enough.
#
# Time is taken from a monotonic clock of our own, and only between samples: a server's clock that
# runs ahead or behind, and a time of change in the future, make no difference. Every change starts
# the wait anew, so that it counts from the last write and not from the discovery.

_LONGEST_DELAY_FACTOR = 60
"""Of the stable time: the most that a file which probed as unfinished waits for its next probe."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What tells one version of a file from another."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Take it from what the file system says."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


def opened_status(root: Root, path: Path) -> os.stat_result:
    """Look at a file by opening it: proves that it can be read, and renews what NFS has cached.

    Raises:
        OSError: if it cannot be read, or lies elsewhere than beneath the root.
    """
    descriptor = open_file(root, path)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


@dataclass(slots=True)
class _Wait:
    signature: Signature
    since: float
    due: float
    delay: float
    num_delays: int = 0


class Stability:
    """Remembers since when each file has been as it is.

    Args:
        stable_seconds: How long a file must hold still.
    """

    def __init__(self, stable_seconds: float) -> None:
        self._stable_seconds = stable_seconds
        self._waits: dict[Path, _Wait] = {}

    def __len__(self) -> int:
        return len(self._waits)

    def __contains__(self, path: object) -> bool:
        return path in self._waits

    def observe(self, path: Path, signature: Signature, now: float) -> bool:
        """Note a sample. Tells whether the file is ready: unmoved since an old enough sample."""
        wait = self._waits.get(path)
        if wait is None or wait.signature != signature:
            due = now + self._stable_seconds
            self._waits[path] = _Wait(signature, now, due, self._stable_seconds)
            return False
        return now >= wait.due

    def postpone(self, path: Path, now: float) -> float:
        """Let a file that looks unfinished wait longer each time; returns the seconds to wait."""
        wait = self._waits[path]
        seconds = wait.delay
        wait.due = now + seconds
        wait.num_delays += 1
        wait.delay = min(2 * seconds, _LONGEST_DELAY_FACTOR * self._stable_seconds)
        return seconds

    def still_seconds(self, path: Path, now: float) -> float:
        """Tell for how long a file is known to have held still."""
        wait = self._waits.get(path)
        return 0.0 if wait is None else now - wait.since

    def num_delays(self, path: Path) -> int:
        """Count how often a file was put off since it has held still."""
        wait = self._waits.get(path)
        return 0 if wait is None else wait.num_delays

    def due(self, now: float) -> list[Path]:
        """List the files that want their next sample."""
        return [path for path, wait in self._waits.items() if now >= wait.due]

    def next_due(self) -> float | None:
        """Tell when the next file wants a sample, on the clock of `now`."""
        return min((wait.due for wait in self._waits.values()), default=None)

    def forget(self, path: Path) -> None:
        """Drop a file that is gone or decided."""
        self._waits.pop(path, None)

    def keep(self, present: Collection[Path]) -> None:
        """Drop every file that is not there any more."""
        for path in self._waits.keys() - set(present):
            del self._waits[path]

    def paths(self) -> list[Path]:
        """List the files that wait."""
        return list(self._waits)


@dataclass(frozen=True, slots=True)
class Reach:
    """Which files a watch may open: those beneath its folder, and those that links may lead to."""

    root: Root
    linked: tuple[Root, ...] = ()
    """Beneath which the targets of links lie; none: links are not followed."""

    def find(self, path: Path) -> tuple[Root, Path]:
        """Tell beneath which root to open a path, and by which name.

        Raises:
            OSError: if it is a link that leads elsewhere (EXDEV).
        """
        if not (self.linked and path.is_symlink()):
            return self.root, path
        real = Path(os.path.realpath(path))
        for root in self.linked:
            if real.is_relative_to(root.path):
                return root, real
        raise OSError(errno.EXDEV, "leads to none of the folders that links may", str(path))


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
        reach: The folder, and where links in it may lead.
        rules: Which names count.
        recursive: Whether folders in it are looked into.
        reserved: Folders that are not looked into, with the reason.
        stop: Ends a walk early, with :class:`ScanStopped`.
    """

    def __init__(
        self,
        reach: Reach,
        rules: NameRules,
        *,
        recursive: bool = True,
        reserved: dict[Path, str] | None = None,
        stop: Event | None = None,
    ) -> None:
        self.root = reach.root.path
        self._reach = reach
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
                entries = list(_entries(self._reach.root, folder))
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
        if against is None and stat.S_ISLNK(status.st_mode):
            status, against = self._followed(path, status)
        if against is not None:
            scan.skipped.append(against)
        else:
            scan.found[path] = Signature.of(status)
        return False

    def _followed(self, path: Path, status: os.stat_result) -> tuple[os.stat_result, Skip | None]:
        try:
            return opened_status(*self._reach.find(path)), None
        except OSError as error:
            return status, Skip(path, "excluded", f"symbolic link: {error.strerror or error}")

    def _against_folder(self, path: Path) -> str | None:
        if path in self._reserved:
            return self._reserved[path]
        if not self._recursive:
            return "folder (recursive = false)"
        return self._rules.against_folder(path.relative_to(self.root))

    def _against_file(self, path: Path, status: os.stat_result) -> Skip | None:
        if against := self._rules.against_file(path.relative_to(self.root)):
            return Skip(path, "excluded", against)
        if stat.S_ISLNK(status.st_mode) and not self._reach.linked:
            return Skip(path, "excluded", "symbolic link")
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
            return Skip(path, "excluded", "not a regular file")
        if not is_text(path):
            return Skip(path, "unreadable", "its name is not UTF-8")
        if os.path.lexists(f"{path}.aria2"):
            return Skip(path, "excluded", "aria2 is still downloading it")
        return None

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise ScanStopped


def _entries(root: Root, folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    with opened_folder(root, folder) as held, os.scandir(held) as entries:
        for entry in entries:
            try:
                yield folder / entry.name, entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # gone since
                continue


# Says why a file is passed over: once for each version of it, not at every scan.


class SkipLog:
    """Remembers what was said of each path."""

    def __init__(self) -> None:
        self._said: dict[Path, tuple[Reason, Signature | None]] = {}

    def say(self, skip: Skip, version: Signature | None = None) -> None:
        """Log why a path is passed over, unless that was said already.

        Args:
            skip: The path and the reason.
            version: Of the file, where another version is worth another line.
        """
        if self._said.get(skip.path) == (skip.reason, version):
            return
        self._said[skip.path] = (skip.reason, version)
        # "waits" for what will be looked at again by itself
        verb = "waits" if skip.reason in ("unstable", "unfinished") else "skipped"
        log.info("%s: %s, reason=%s: %s", shown(skip.path), verb, skip.reason, skip.detail)

    def clear(self, path: Path) -> None:
        """Forget a path that is no longer passed over."""
        self._said.pop(path, None)

    def keep(self, present: Collection[Path]) -> None:
        """Forget every path that is not there any more."""
        for path in self._said.keys() - set(present):
            del self._said[path]

    def reason_of(self, path: Path) -> Reason | None:
        """Tell why a path is passed over."""
        said = self._said.get(path)
        return said[0] if said else None

    def counts(self) -> dict[str, int]:
        """Count the paths that are passed over, by reason. Safe while another thread adds some."""
        return dict(Counter(reason for reason, _ in list(self._said.values())))

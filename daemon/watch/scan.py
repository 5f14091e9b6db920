"""Scan a watched folder: which files may be inputs, and why others are skipped.

Links to folders are not followed, so that a scan cannot loop; links to files only if configured,
see `AllowedFiles`. Everything is opened beneath the folder, even if links change meanwhile. Folders
of outputs and of done or failed inputs inside it are skipped.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from threading import Event
from typing import Literal, NamedTuple, Self

from ...io.redaction import printable
from ...io.root import Root, open_file, opened_folder

log = logging.getLogger("upframe.watch")


# Names of inputs: globs, hidden files, unfinished downloads.
#
# The built-in patterns are those of FileFlows, Radarr, Syncthing, Unmanic, the browsers and the
# download clients. A pattern must match the whole name, so that `film.mkv.part` is no film.

Reason = Literal[
    "excluded", "unstable", "unfinished", "unreadable", "unwritable", "not_video", "output",
    "exists", "collision", "locked", "already_done", "failed_before", "cancelled_before",
]  # fmt: skip
"""Why a file does not become a job: a word for programs."""

SIDECAR_SUFFIX = ".upframe-error.json"
"""Suffix of the file with the reason why another one failed."""

LOCKS_FOLDER = ".upframe-locks"
"""Folder of locks in an output folder."""

_PARTIAL = re.compile(r"\..*\.job-[0-9a-f]{12}\.partial$")
"""Name of a job's output until it is complete."""

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
"""Extensions of videos, used without `include`; images only if `include` matches them."""


@dataclass(frozen=True, slots=True)
class Skip:
    """A skipped path, with the reason."""

    path: Path
    reason: Reason
    detail: str


def printable_path(path: str | PurePath) -> str:
    """Escape a path, so that its name can neither forge a log line nor break a terminal."""
    return printable(os.fsencode(path).decode(errors="backslashreplace"))


def is_text(path: Path) -> bool:
    """Return whether a path is valid UTF-8, as jobs and the database require."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def is_ours(name: str) -> bool:
    """Return whether upframe creates files of this name; they are skipped without a message."""
    return name == LOCKS_FOLDER or name.endswith(SIDECAR_SUFFIX) or bool(_PARTIAL.match(name))


class NameRules:
    """Decide by name whether a file or a folder is skipped.

    `include` and `exclude` are globs of names, or of paths below the root if they contain a slash.
    Without `include`, every name with the extension of a video is taken; `exclude` adds to the
    built-in ones, and also applies to folders.
    """

    def __init__(self, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
        self._include = tuple(pattern.lower() for pattern in include)
        self._exclude = tuple(pattern.lower() for pattern in exclude)

    def against_folder(self, relative: PurePath) -> str | None:
        """Return why a folder is skipped; None: it is scanned."""
        if relative.name.startswith("."):
            return "hidden folder"
        return _matched(relative, (*EXCLUDED_FOLDERS, *self._exclude))

    def against_file(self, relative: PurePath) -> str | None:
        """Return why a file is skipped by its name; None: it may be an input."""
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
    """Return the matching pattern, ignoring case as many shares do."""
    name, whole = relative.name.lower(), relative.as_posix().lower()
    for pattern in patterns:
        if fnmatchcase(whole if "/" in pattern else name, pattern):
            return f"name matches {pattern}"
    return None


# Companions of a video: subtitles, descriptions and posters of its name.

_POSTERS = {".jpg", ".jpeg", ".png", ".webp", ".tbn"}
COMPANIONS = _POSTERS | {
    *(".srt", ".ass", ".ssa", ".vtt", ".sub", ".idx", ".sup", ".smi", ".ttml", ".lrc", ".nfo")
}
"""Their extensions."""


def companions(name: str, names: Collection[str]) -> list[str]:
    """Return which files of a folder belong to a video in it.

    Those of ``film.mkv`` are ``film.srt``, ``film.en.srt``, ``film.nfo``, ``film-poster.jpg`` and
    the like; what fits a video of a longer name too, such as ``film.en.mkv``, belongs to that one.
    """
    stem = PurePath(name).stem
    paths = map(PurePath, names)
    videos = {path.stem for path in paths if path.suffix.lower() in MEDIA_EXTENSIONS}
    longer = [video for video in videos if len(video) > len(stem)]
    return sorted(
        one for one in names if _fits(one, stem) and not any(_fits(one, video) for video in longer)
    )


def is_companion(path: Path, videos: Collection[Path]) -> bool:
    """Return whether a file belongs to one of some videos, given without their extensions."""
    name = path.name
    places = (at for at in range(1, len(name)) if name[at] in ".-")
    return any(_fits(name, name[:at]) and path.with_name(name[:at]) in videos for at in places)


def _fits(name: str, stem: str) -> bool:
    kind, rest = PurePath(name).suffix.lower(), name.removeprefix(stem)
    is_poster = kind in _POSTERS and rest[:1] == "-"
    return rest != name and (is_poster or (rest[:1] == "." and kind in COMPANIONS))


# A file is stable if its size, modification time and inode have not changed for long enough.
#
# Time is measured with a local monotonic clock between samples, so a wrong clock of a server and
# modification times in the future do not matter. Every change restarts the wait, so it counts from
# the last write and not from the discovery.

_LONGEST_DELAY_FACTOR = 60
"""Times the stable time: longest wait between probes of an unfinished file."""
_GIVE_UP_FACTOR = 360
"""Times the stable time: how long an unfinished file may remain unchanged before it fails. With the
default of ten seconds, an hour."""
_GIVE_UP_DELAYS = 8
"""Minimum number of probes before it fails: a single one may be wrong."""


class Signature(NamedTuple):
    """Identifies one version of a file."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Return the signature for a `stat` result."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


def opened_status(root: Root, path: Path) -> os.stat_result:
    """Return the status of an opened file: shows that it can be read, and refreshes NFS caches.

    Raises:
        OSError: if it cannot be read, or is not beneath the root.
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
    """Track since when each file is unchanged, which it must be for `stable_seconds`."""

    def __init__(self, stable_seconds: float) -> None:
        self._stable_seconds = stable_seconds
        self._waits: dict[Path, _Wait] = {}

    def __len__(self) -> int:
        return len(self._waits)

    def observe(self, path: Path, signature: Signature, now: float) -> bool:
        """Record a sample; return whether the file has been unchanged for long enough."""
        wait = self._waits.get(path)
        if wait is None or wait.signature != signature:
            due = now + self._stable_seconds
            self._waits[path] = _Wait(signature, now, due, self._stable_seconds)
            return False
        return now >= wait.due

    def postpone(self, path: Path, now: float) -> float:
        """Postpone an unfinished file, longer each time; return the seconds to wait."""
        wait = self._waits[path]
        seconds = wait.delay
        wait.due = now + seconds
        wait.num_delays += 1
        wait.delay = min(2 * seconds, _LONGEST_DELAY_FACTOR * self._stable_seconds)
        return seconds

    def is_given_up(self, path: Path, now: float) -> bool:
        """Return whether an unfinished file was postponed often and has not changed for long."""
        wait = self._waits.get(path)
        if wait is None or wait.num_delays < _GIVE_UP_DELAYS:
            return False
        return now - wait.since >= _GIVE_UP_FACTOR * self._stable_seconds

    def due(self, now: float) -> list[Path]:
        """List the files that are due for a sample."""
        return [path for path, wait in self._waits.items() if now >= wait.due]

    def next_due(self) -> float | None:
        """Return when the next file is due, on the clock of `now`."""
        return min((wait.due for wait in self._waits.values()), default=None)

    def forget(self, path: Path) -> None:
        """Drop a file that is gone or decided."""
        self._waits.pop(path, None)

    def keep(self, present: Collection[Path]) -> None:
        """Drop every file that no longer exists."""
        for path in self._waits.keys() - set(present):
            del self._waits[path]


@dataclass(frozen=True, slots=True)
class AllowedFiles:
    """The files that may be opened: those beneath a folder, and permitted targets of links."""

    root: Root
    linked: tuple[Root, ...] = ()
    """Roots of permitted targets of links; none: links are not followed."""

    def find(self, path: Path) -> tuple[Root, Path]:
        """Return the root beneath which to open a path, and the path to open.

        Raises:
            OSError: if it is a link that leads elsewhere (EXDEV).
        """
        if not (self.linked and path.is_symlink()):
            return self.root, path
        real = Path(os.path.realpath(path))
        for root in self.linked:
            if real.is_relative_to(root.path):
                return root, real
        raise OSError(errno.EXDEV, "it leads out of the permitted folders", str(path))


class ScanStopped(Exception):
    """The scan was interrupted; its result would be incomplete."""


@dataclass(slots=True)
class Scan:
    """Result of a scan."""

    found: dict[Path, Signature] = field(default_factory=dict[Path, Signature])
    """Files that may be inputs."""
    skipped: list[Skip] = field(default_factory=list[Skip])
    """All other paths."""
    num_folders: int = 0
    """Number of folders scanned."""


@dataclass(eq=False)
class Tree:
    """A folder, filtered by rules. Every method blocks."""

    allowed: AllowedFiles
    rules: NameRules
    recursive: bool = field(default=True, kw_only=True)
    reserved: Mapping[Path, str] = field(default_factory=dict[Path, str], kw_only=True)
    """Folders to skip, with the reason."""
    stop: Event = field(default_factory=Event, kw_only=True)
    """Interrupts a scan with :class:`ScanStopped`."""

    @property
    def root(self) -> Path:
        """The folder."""
        return self.allowed.root.path

    def scan(self) -> Scan:
        """Scan the whole folder.

        Raises:
            OSError: if the root itself cannot be read.
            ScanStopped: if it was stopped.
        """
        scan = Scan()
        self._walk(self.root, scan)
        return scan

    def look_at(self, paths: Iterable[Path]) -> Scan:
        """Scan only some paths, folders recursively. Paths that are gone are omitted."""
        scan = Scan()
        for path in paths:
            if self.stop.is_set():
                raise ScanStopped
            if path == self.root or not self._is_reachable(path):
                continue
            try:
                if self._note(path, path.lstat(), scan):
                    self._walk(path, scan)
            except FileNotFoundError:
                continue
            except OSError as error:
                scan.skipped.append(Skip(path, "unreadable", error.strerror or str(error)))
        return scan

    def _is_reachable(self, path: Path) -> bool:
        """Return whether a scan would reach a path: no parent is skipped or a link."""
        if not path.is_relative_to(self.root):
            return False
        parents = list(path.relative_to(self.root).parents)[:-1]
        if parents and not self.recursive:
            return False
        return all(
            self._against_folder(self.root / parent) is None
            and not (self.root / parent).is_symlink()
            for parent in parents
        )

    def _walk(self, start: Path, scan: Scan) -> None:
        folders = [start]
        while folders:
            if self.stop.is_set():
                raise ScanStopped
            folder = folders.pop()
            scan.num_folders += 1
            try:
                entries = list(_entries(self.allowed.root, folder))
            except OSError as error:
                if folder == self.root:
                    raise
                scan.skipped.append(Skip(folder, "unreadable", error.strerror or str(error)))
                continue
            folders += [path for path, status in entries if self._note(path, status, scan)]

    def _note(self, path: Path, status: os.stat_result, scan: Scan) -> bool:
        """Add one path to the result; return whether it is a folder to scan."""
        if is_ours(path.name):
            return False
        if stat.S_ISDIR(status.st_mode):
            against = self._against_folder(path)
            if against is not None:
                scan.skipped.append(Skip(path, "excluded", against))
            return against is None
        against = self._against_file(path, status)
        if against is None and stat.S_ISLNK(status.st_mode):
            try:
                status = opened_status(*self.allowed.find(path))
            except OSError as error:
                text = f"symbolic link: {error.strerror or error}"
                against = Skip(path, "excluded", text)
        if against is not None:
            scan.skipped.append(against)
        else:
            scan.found[path] = Signature.of(status)
        return False

    def _against_folder(self, path: Path) -> str | None:
        if path in self.reserved:
            return self.reserved[path]
        if not self.recursive:
            return "folder (recursive = false)"
        return self.rules.against_folder(path.relative_to(self.root))

    def _against_file(self, path: Path, status: os.stat_result) -> Skip | None:
        if against := self.rules.against_file(path.relative_to(self.root)):
            return Skip(path, "excluded", against)
        if stat.S_ISLNK(status.st_mode) and not self.allowed.linked:
            return Skip(path, "excluded", "symbolic link")
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
            return Skip(path, "excluded", "not a regular file")
        if not is_text(path):
            return Skip(path, "unreadable", "its name is not UTF-8")
        if os.path.lexists(f"{path}.aria2"):
            return Skip(path, "excluded", "aria2 is still downloading it")
        return None


def _entries(root: Root, folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    with opened_folder(root, folder) as held, os.scandir(held) as entries:
        for entry in entries:
            try:
                yield folder / entry.name, entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # gone since
                continue


WAITING: tuple[Reason, ...] = ("unstable", "unfinished", "locked", "unwritable")
"""Reasons of files that will be inspected again by themselves."""


class SkipLog:
    """Log why a path is skipped: once for each version of it, not at every scan."""

    def __init__(self) -> None:
        self._logged: dict[Path, tuple[Skip, Signature | None]] = {}

    def log(self, skip: Skip, version: Signature | None = None, *, known: bool = False) -> None:
        """Log why a path is skipped, once for each `version`, unless it is `known` from before."""
        before, self._logged[skip.path] = self._logged.get(skip.path), (skip, version)
        if known or (before and (before[0].reason, before[1]) == (skip.reason, version)):
            return
        # "waits" for files that will be inspected again
        verb = "waits" if skip.reason in ("unstable", "unfinished") else "skipped"
        log.info("%s: %s, reason=%s: %s", printable_path(skip.path), verb, skip.reason, skip.detail)

    def clear(self, path: Path) -> None:
        """Drop a path that is no longer skipped."""
        self._logged.pop(path, None)

    def keep(self, present: Collection[Path]) -> None:
        """Drop every path that no longer exists."""
        for path in self._logged.keys() - set(present):
            del self._logged[path]

    def reason_of(self, path: Path) -> Reason | None:
        """Return why a path is skipped."""
        logged = self._logged.get(path)
        return logged[0].reason if logged else None

    def skips(self) -> list[Skip]:
        """Return every skipped path with its latest reason. Thread-safe."""
        return [skip for skip, _ in list(self._logged.values())]

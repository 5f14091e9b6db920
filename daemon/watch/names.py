"""Which names in a watched folder are those of inputs: globs, hidden files, unfinished downloads.

The built-in patterns are those of FileFlows, Radarr, Syncthing, Unmanic, the browsers and the
download clients. A pattern is held against the whole name, so that `film.mkv.part` is not taken
for a film.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import Literal

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
    text = os.fsencode(path).decode(errors="backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode()


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

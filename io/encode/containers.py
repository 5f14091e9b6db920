"""Container formats: their names, and which timing and metadata each can store."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

from ..capabilities import has_container
from ..errors import SinkRefused

_BY_EXTENSION = {
    "mp4": "mp4", "m4v": "mp4", "mov": "mov", "qt": "mov", "mkv": "matroska", "mk3d": "matroska",
    "webm": "webm", "avi": "avi", "ts": "mpegts", "m2ts": "mpegts", "mts": "mpegts",
    "flv": "flv", "nut": "nut", "mxf": "mxf", "gif": "gif", "apng": "apng", "wmv": "asf",
    "asf": "asf", "mpg": "mpeg", "mpeg": "mpeg", "vob": "vob", "3gp": "3gp",
}  # fmt: skip
_ALIASES = {"mkv": "matroska", "ts": "mpegts", "m4v": "mp4", "qt": "mov", "ipod": "mp4"}


@dataclass(frozen=True, slots=True)
class Container:
    """A container format that video can be written to."""

    name: str
    """FFmpeg's name of the muxer: ``mp4``, ``matroska``, …"""
    tick: Fraction | None = None
    """Seconds to which it rounds all timestamps; None if it keeps the stream's time base."""
    constant_rate_only: bool = False
    """Frames have no timestamps of their own."""
    tells_pts: bool = True
    """If not, demuxers guess when a frame is shown, and offsets cannot be measured."""
    holds_chapters: bool = False
    holds_durations: bool = True
    """Stores how long the last frame lasts, also at a variable rate."""
    holds_edit_lists: bool = False
    """Can mark packets before the start as decoded but not shown: an audio encoder's priming."""
    needs_seek: bool = False
    """Cannot be written to a pipe."""
    drift: Fraction = Fraction(0)
    """Seconds by which FFmpeg's demuxer is off with every frame, where it rounds durations."""


_MILLISECOND = Fraction(1, 1000)
_CONTAINERS = {
    container.name: container
    for container in (
        Container("mp4", holds_chapters=True, holds_edit_lists=True, needs_seek=True),
        Container("mov", holds_chapters=True, holds_edit_lists=True, needs_seek=True),
        Container("3gp", holds_edit_lists=True, needs_seek=True),
        Container("matroska", tick=_MILLISECOND, holds_chapters=True),
        Container("webm", tick=_MILLISECOND, holds_chapters=True),
        Container("flv", tick=_MILLISECOND, holds_durations=False),
        Container("asf", tick=_MILLISECOND, tells_pts=False, holds_durations=False),
        Container("mpegts", tick=Fraction(1, 90_000), holds_durations=False),
        Container("mpeg", tick=Fraction(1, 90_000), holds_durations=False),
        Container("vob", tick=Fraction(1, 90_000), holds_durations=False),
        Container("nut", holds_durations=False),
        Container("gif", tick=Fraction(1, 100)),
        Container("apng", drift=Fraction(1, 200_000)),
        Container("avi", constant_rate_only=True, holds_durations=False, tells_pts=False),
        Container(
            "mxf", constant_rate_only=True, holds_durations=False, tells_pts=False, needs_seek=True
        ),
    )
}


@cache
def container_of(target: str | Path, format: str | None = None) -> Container:
    """Return the container that `format`, else the extension of a path or URL, stands for.

    The format is FFmpeg's name of the muxer, or an extension.

    Raises:
        SinkRefused: if neither names a container that can be written.
    """
    extension = Path(str(target)).suffix.lower().lstrip(".")
    name = _ALIASES.get(format, format) if format else _BY_EXTENSION.get(extension)
    if name is None:
        known = ", ".join(f".{known}" for known in _BY_EXTENSION)
        raise SinkRefused(
            f"cannot tell the format of {target} from its extension; wanted one of {known}, "
            "or --format"
        )
    if not has_container(name, "w"):
        known = ", ".join(sorted({*_BY_EXTENSION.values()}))
        raise SinkRefused(f"unknown output format {name!r}; known are {known}")
    return _CONTAINERS.get(name, Container(name))

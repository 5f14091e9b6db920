"""The files of recordings: their names, their locks, and whether they are complete.

Light on purpose: the process that records loads nothing that computes.
"""

from __future__ import annotations

import fcntl
import glob
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import av
from av.error import FFmpegError

from ..errors import SinkFull, SinkRefused, VerificationFailed
from ..extent import whole_fragments, whole_tags
from ..files import NAME_MAX_BYTES, check_target, numbered, rename
from ..root import Root, opened_folder, opened_place

_FIELDS = "YmdHMSjyFTs"
_FIELD = re.compile(r"%(.?)")
_EXACT = {
    **dict.fromkeys("mdHMSy", r"\d\d"), "Y": r"\d{4}", "j": r"\d{3}", "s": r"\d+", "%": "%",
    "F": r"\d{4}-\d\d-\d\d", "T": r"\d\d:\d\d:\d\d",
}  # fmt: skip
_IS_FIELD = re.compile(r"%[YmdHMSjyFT]")
_ENDING = re.compile(r"\.live-[0-9a-f]{8}\.partial$")
_MOST_OF_ONE_NAME = 10_000


def is_name_pattern(path: Path) -> bool:
    """Return whether a path is a pattern of strftime, and not one of printf for images."""
    return _IS_FIELD.search(str(path)) is not None


class NamePattern:
    """Makes the paths of rolling recordings by a pattern such as ``%Y%m%d-%H%M%S.mp4``.

    Folders may have fields too, and are made when they are needed. A name that is taken gets
    ``-1``, ``-2`` and so on before its extension, so that no recording ever replaces another. The
    pattern is an absolute path with fields of strftime.
    """

    def __init__(self, pattern: Path) -> None:
        self.pattern = pattern
        plain = [part for part in pattern.parts if "%" not in part]
        depth = next(at for at, part in enumerate(pattern.parts) if "%" in part)
        self._base = Path(*plain[:depth])
        self._folder = re.compile(f"{_exact(str(pattern.parent))}")
        stem, dot, extension = (_exact(part) for part in pattern.name.rpartition("."))
        before, after = (stem, dot + extension) if dot else (extension, "")
        self._exact = re.compile(f"{before}(-[1-9][0-9]{{0,3}})?{after}")

    def check(self) -> None:
        """Refuse a pattern whose files could not be written.

        Raises:
            SinkRefused: for unknown fields, names that are too long, or a folder that is missing or
                not writable.
        """
        for name in _FIELD.findall(str(self.pattern)):
            if name not in (*_FIELDS, "%"):
                known = " ".join(f"%{one}" for one in _FIELDS)
                raise SinkRefused(f"{self.pattern}: unknown field %{name}, wanted {known} or %%")
        longest = len(os.fsencode(self.at(2e9).name)) + len(".-9999..live-00000000.partial")
        if longest > NAME_MAX_BYTES:
            raise SinkRefused(f"output name has more than {NAME_MAX_BYTES} bytes: {self.pattern}")
        check_target(self._base / "upframe", overwrite=True)

    def at(self, wall_seconds: float) -> Path:
        """Return the path for a moment, in local time."""
        return Path(time.strftime(str(self.pattern), time.localtime(wall_seconds)))

    def recordings(self) -> list[tuple[Path, os.stat_result]]:
        """List the complete files that have names as these, the oldest first."""
        found: list[tuple[Path, os.stat_result]] = []
        folders = glob.iglob(_globbed(str(self.pattern.parent)))
        for folder in filter(self._folder.fullmatch, folders):
            with suppress(OSError), opened_folder(Root(self._base), Path(folder)) as held:
                names = filter(self._exact.fullmatch, os.listdir(held))
                found += [(Path(folder, name), (held / name).lstat()) for name in names]
        regular = (each for each in found if stat.S_ISREG(each[1].st_mode))
        return sorted(regular, key=lambda each: (each[1].st_mtime_ns, each[0]))

    def remove(self, recording: Path) -> None:
        """Delete one of :meth:`recordings`, and its folder if it is empty and not today's.

        Raises:
            OSError: if that fails.
        """
        with opened_place(Root(self._base), recording) as place:
            place.unlink()
        if recording.parent not in (self._base, self.at(time.time()).parent):
            with suppress(OSError):
                recording.parent.rmdir()

    def leftovers(self) -> Iterator[tuple[Path, Path]]:
        """Yield the partial files of other processes, perhaps in use, and their final names."""
        folder, name = self.pattern.parent, self.pattern.name
        hidden = f".{_globbed(name)}.live-????????.partial"
        for found in sorted(glob.glob(str(Path(_globbed(str(folder))) / hidden))):
            path = Path(found)
            if ending := _ENDING.search(path.name):
                yield path, path.with_name(path.name[1 : ending.start()])


def _globbed(text: str) -> str:
    """Convert a pattern of strftime to one of glob."""
    return _converted(text, glob.escape, lambda field: "%" if field == "%" else "*")


def _exact(text: str) -> str:
    """Convert a pattern of strftime to a regular expression of the names that it makes."""
    return _converted(text, re.escape, lambda field: _EXACT.get(field, ""))


def _converted(text: str, plain: Callable[[str], str], field: Callable[[str], str]) -> str:
    parts = _FIELD.split(text)  # text, field, text, field, …
    return "".join(field(one) if at % 2 else plain(one) for at, one in enumerate(parts))


def _names_beside(path: Path) -> Iterator[Path]:
    """Yield a path and the numbered ones; raise SinkRefused after thousands."""
    yield from islice(numbered(path), _MOST_OF_ONE_NAME)
    raise SinkRefused(f"{_MOST_OF_ONE_NAME} files of that name are there: {path}")


def free_path(path: Path) -> Path:
    """Return a path, or the first numbered one that is not taken.

    Raises:
        SinkRefused: if thousands of that name exist.
    """
    return next(one for one in _names_beside(path) if not os.path.lexists(one))


def rename_beside(partial: Path, target: Path) -> Path:
    """Rename a finished recording to its name, or the first numbered one; return that.

    Raises:
        SinkFull: if the rename fails.
        SinkRefused: if thousands of that name exist.
    """
    names = _names_beside(target)
    while True:
        path = next(names)
        with suppress(SinkRefused):
            rename(partial, path, overwrite=False)
            return path


_TS_PACKET_BYTES = 188
_TOLERANCE = Fraction(2, 1000)
"""Seconds: both ends may be rounded to milliseconds."""


@dataclass(frozen=True, slots=True)
class VideoExtent:
    """Number and time span of the frames of a recording."""

    frames: int
    seconds: Fraction
    """From the start of the first frame to that of the last."""


def video_extent(path: Path, form: str) -> VideoExtent:
    """Read the packets of a recording to its end; `form` is FFmpeg's name of its container.

    Raises:
        VerificationFailed: if it cannot be read, or has no video.
    """
    frames, first, last = 0, None, None
    try:
        with av.open(f"file:{path}", format=form) as opened:
            if not opened.streams.video:
                raise VerificationFailed(f"{path.name} holds no video")
            video = opened.streams.video[0]
            for packet in opened.demux(video):
                if packet.size == 0 or packet.is_corrupt:
                    continue
                frames += 1
                if packet.pts is not None:
                    first = packet.pts if first is None else min(first, packet.pts)
                    last = packet.pts if last is None else max(last, packet.pts)
            tick = video.time_base or Fraction(0)
    except (FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VerificationFailed(f"{path.name} cannot be read back: {reason}") from error
    if first is None or last is None:
        raise VerificationFailed(f"{path.name} holds no frame with a time, got {frames} frames")
    return VideoExtent(frames, (last - first) * tick)


def check_recording(path: Path, form: str, wanted: VideoExtent) -> None:
    """Raise VerificationFailed if a finished recording differs from what was written to it."""
    got = video_extent(path, form)
    if got.frames != wanted.frames:
        raise VerificationFailed(f"{path.name}: frames: wanted {wanted.frames}, got {got.frames}")
    if abs(got.seconds - wanted.seconds) > _TOLERANCE:
        raise VerificationFailed(
            f"{path.name}: last frame at: wanted {float(wanted.seconds):.3f} s, "
            f"got {float(got.seconds):.3f} s"
        )


def truncate_to_whole(path: Path, form: str) -> None:
    """Truncate an unfinished file to what was written completely, or raise OSError."""
    if form in ("mp4", "mov"):
        size = whole_fragments(path)
    elif form == "mpegts":
        size = path.stat().st_size // _TS_PACKET_BYTES * _TS_PACKET_BYTES
    elif form == "flv":
        size = whole_tags(path)
    else:  # the demuxer of Matroska stops at the last whole block by itself
        return
    if 0 < size < path.stat().st_size:
        os.truncate(path, size)


def lock_of(path: Path) -> BinaryIO | None:
    """Show other processes that a file is still being written; None if one of them does.

    Returns:
        What to close when the file is complete.

    Raises:
        OSError: if the file cannot be opened.
    """
    file = path.open("rb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:  # a share without locks: those of others do not exist there either
        pass
    return file


class DiskSync:
    """Syncs a file to the disk on a thread of its own, since a slow disk takes seconds."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = os.dup(descriptor)
        self._wanted = threading.Event()
        self._ended = False
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="upframe-disk", daemon=True)
        self._thread.start()

    def sync(self) -> None:
        """Sync what was written so far, without waiting; raise SinkFull if one has failed."""
        if self._error is not None:
            raise SinkFull(f"the disk has not taken it: {self._error.strerror}") from self._error
        self._wanted.set()

    def _run(self) -> None:
        while self._wanted.wait() and not self._ended:
            self._wanted.clear()
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                self._error = error

    def close(self) -> None:
        """End the thread. May be called twice."""
        if self._descriptor < 0:
            return
        self._ended = True
        self._wanted.set()
        self._thread.join()
        os.close(self._descriptor)
        self._descriptor = -1

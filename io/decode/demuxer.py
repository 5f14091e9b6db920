"""Find and open an input: files, URLs, image sequences, byte streams.

Errors of PyAV become `SourceMissing`, `UnsupportedMedia` or `TruncatedMedia`, whose text says what
was found.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, cast

import av
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from ..errors import (
    MediaError,
    SourceMissing,
    TooLargeMedia,
    TruncatedMedia,
    UnsupportedMedia,
    reason_of,
)
from ..extent import mp4_boxes
from ..limits import limits
from ..rawvideo.y4m import MAGIC, MAX_READ_BYTES, parse_header
from ..redaction import redacted
from ..root import ConfinedFile, Root, by_descriptor, opened_folder
from ..web import RemoteFiles, check_url, tls_options, why_untrusted
from .access import BUFFER_BYTES, NOTHING, PIPE_BYTES, LocalFiles, allowed_for
from .stills import Still, still_in

DEFAULT_IMAGE_RATE = Fraction(25)
"""Pictures per second of an image sequence by default."""

_PRINTF = re.compile(r"%0?\d{0,2}d")
_GLOB = re.compile(r"[*?\[]")
_ALONE = (".heic", ".heif", ".hif", ".avif")


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be opened, resolved from what the user named."""

    name: str
    """For people."""
    file: Path | str | BinaryIO
    """A local file, or the first of a sequence; a URL; a byte stream."""
    path: Path | None = None
    """The regular file, if it is one: it can be opened a second time and is seekable."""
    root: Root | None = None
    """All files opened for it must lie beneath; None: in a playlist's folder."""
    format: str | None = None
    options: dict[str, str] = field(default_factory=dict[str, str])
    images: tuple[Path, ...] = ()
    """Of a sequence: its files, in order."""
    still: Still | None = None
    """If it is an image that FFmpeg does not read whole: what it holds."""

    @property
    def num_images(self) -> int | None:
        """For image sequences, the number of files."""
        return len(self.images) or None

    @property
    def url(self) -> str:
        """The URL with its secrets; empty if it is none."""
        return self.file if isinstance(self.file, str) else ""


def find_target(
    target: str | BinaryIO | ConfinedFile,
    *,
    format_name: str | None = None,
    framerate: Fraction | None = None,
) -> Target:
    """Resolve a path, URL, ``frame_%05d.png``, ``*.png`` or byte stream.

    Patterns are ours, not FFmpeg's: one ``%d``, ``%5d`` or ``%05d`` in a file's name; or ``*``,
    ``?``, ``[abc]`` and ``[!abc]`` as in :mod:`fnmatch`. A file of exactly that name takes
    precedence.

    Raises:
        SourceMissing: if there is no such file, or it may not be read.
        UnsupportedMedia: if the file is empty, an image sequence has holes, or a picture is of a
            kind that nothing here reads whole.
    """
    options = {} if framerate is None else {"framerate": str(framerate)}
    root, opened = None, None
    if isinstance(target, ConfinedFile):
        root, opened = target.root, target.descriptor
        target = target.name
    elif not isinstance(target, str):
        return Target(_stream_name(target), target, format=format_name, options=options)
    target = re.sub("^file://(?=/)", "", target, flags=re.IGNORECASE)
    if "://" in target:
        return Target(redacted(target), target, format=format_name, options=options)
    if opened is None and (root is not None or not os.path.lexists(target)):
        if _PRINTF.search(target):
            return _sequence(target, framerate, root)
        if _GLOB.search(target):
            return _globbed(target, framerate, root)
        if root is not None:
            raise SourceMissing(f"{target}: no such file")
    path = Path(target) if opened is None else by_descriptor(opened)
    return replace(_file(target, path), root=root, format=format_name, options=options)


def _file(target: str, path: Path) -> Target:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise SourceMissing(f"{target}: is a directory, wanted a file")
        regular = stat.S_ISREG(status.st_mode)
        # only reading proves the permission, but opening a pipe would wait for its writer
        line = _first_line(path) if regular else b""
    except OSError as error:
        raise _missing(target, error) from error
    if regular and status.st_size == 0:
        raise UnsupportedMedia(f"{target}: empty: 0 bytes")
    _check_y4m(target, line)
    still = still_in(path, target) if regular else None
    return Target(target, Path(target), path if regular else None, still=still)


def _first_line(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.readline(MAX_READ_BYTES)


def _check_y4m(name: str, line: bytes) -> None:
    """Refuse a YUV4MPEG2 header without size or rate, which FFmpeg would guess."""
    if line.startswith(MAGIC):
        try:
            parse_header(line.rstrip(b"\n"))
        except UnsupportedMedia as error:
            raise UnsupportedMedia(f"{name}: {error}") from error


def _missing(name: str, error: OSError) -> SourceMissing:
    if isinstance(error, FileNotFoundError):
        return SourceMissing(f"{name}: no such file")
    if isinstance(error, PermissionError):
        return SourceMissing(f"{name}: may not be read: permission denied")
    return SourceMissing(f"{name}: cannot be read: {reason_of(error)}")


def _sequence(pattern: str, framerate: Fraction | None, root: Root | None) -> Target:
    """Resolve a printf pattern; its numbers may start anywhere, but must have no holes."""
    folder, name = os.path.split(pattern)
    if (place := _PRINTF.search(name)) is None:
        raise SourceMissing(f"{pattern}: wanted the numbers in the file's name, not its folder's")
    before, after = name[: place.start()], name[place.end() :]
    shape = re.compile(f"{re.escape(before)}([0-9]+){re.escape(after)}", re.DOTALL)
    try:
        found = [match for entry in _listed(folder, root) if (match := shape.fullmatch(entry))]
    except OSError as error:
        raise _missing(pattern, error) from error
    names = {int(match[1]): match[0] for match in found if place[0] % int(match[1]) == match[1]}
    if not names:
        raise SourceMissing(f"{pattern}: no file has a name of this pattern")
    numbers = sorted(names)
    if num_missing := numbers[-1] - numbers[0] + 1 - len(numbers):
        hole = next(one + 1 for one, other in pairwise(numbers) if other > one + 1)
        raise UnsupportedMedia(
            f"{pattern}: {num_missing} of the numbers {numbers[0]} to {numbers[-1]} are missing, "
            f"the first is {hole} (a glob such as {before}*{after} takes what is there)"
        )
    return _images(pattern, [Path(folder, names[number]) for number in numbers], framerate, root)


def _listed(folder: str, root: Root | None) -> list[str]:
    if root is None:
        return os.listdir(folder or ".")
    with opened_folder(root, Path(folder)) as listed:
        return os.listdir(listed)


def _globbed(pattern: str, framerate: Fraction | None, root: Root | None) -> Target:
    """Resolve a glob, in the order of the names' characters."""
    try:
        names = sorted(_matching(pattern, root))
    except OSError as error:
        raise _missing(pattern, error) from error
    if not names:
        raise SourceMissing(f"{pattern}: no file matches")
    if names != sorted(names, key=_by_number):
        raise UnsupportedMedia(
            f"{pattern}: the numbers in the names are not padded with zeros, so their order "
            f"is ambiguous; use a pattern such as frame_%d.png"
        )
    return _images(pattern, [Path(name) for name in names], framerate, root)


def _matching(pattern: str, root: Root | None) -> list[str]:
    if root is None:
        return glob.glob(pattern)
    folder, name = os.path.split(pattern)
    with opened_folder(root, Path(folder)) as listed:
        return [os.path.join(folder, found) for found in glob.glob(name, root_dir=listed)]


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _images(
    pattern: str, images: Sequence[Path], framerate: Fraction | None, root: Root | None
) -> Target:
    # with `loop` FFmpeg opens the first image again and again; each opening returns the next
    options = {"loop": "1", "framerate": str(framerate or DEFAULT_IMAGE_RATE)}
    if images[0].suffix.lower() in _ALONE:
        raise UnsupportedMedia(f"{pattern}: HEIC and AVIF are read one by one, wanted PNG or JPEG")
    return Target(pattern, images[0], None, root, "image2", options, tuple(images))


def open_container(
    target: Target, timeout_seconds: float | None = None, hwaccel: HWAccel | None = None
) -> InputContainer:
    """Open a target of :func:`find_target`.

    The timeout is the longest wait for opening and for each read of a URL; None waits forever.
    Without a hardware decoder (`hwaccel`) software decodes.

    Raises:
        SourceMissing: if it does not exist, or does not answer.
        UnsupportedMedia: if it is not media, or exceeds the limits.
        TruncatedMedia: if it is an MP4 without its index.
    """
    files, file, allowed = None, target.file, NOTHING
    if target.still is not None and target.still.contents is not None:
        file = CountedStream(target.still.contents())
    elif isinstance(file, Path):
        files = LocalFiles(file, root=target.root, opened=target.path, images=target.images)
        file = files.url
    elif isinstance(file, str):
        allowed, file = allowed_for(file), check_url(file)
    else:
        file = CountedStream(file)
    held = limits()
    try:
        container = av.open(
            file,
            "r",
            format=target.format,
            options={**allowed, **tls_options(target.url), **target.options, **held.options},
            metadata_errors="replace",
            buffer_size=BUFFER_BYTES if files else PIPE_BYTES,
            # not for pipes, whose writer may be slow
            timeout=timeout_seconds if target.url else None,
            hwaccel=hwaccel,
            io_open=files or RemoteFiles.of(file, timeout_seconds),
        )
    except (FFmpegError, OSError, ValueError) as error:
        raise _not_opened(target, file, error) from error
    try:
        if container.format.name == "tty" and target.format != "tty":
            raise UnsupportedMedia(f"{target.name}: text, wanted video")
        held.check(container, target.name)
    except MediaError:
        container.close()
        raise
    return container


def _not_opened(target: Target, file: str | CountedStream, error: Exception) -> MediaError:
    reason = reason_of(error)
    if isinstance(error, MemoryError):  # libavformat's answer to too many streams, too
        most = limits().options["max_streams"]
        return TooLargeMedia(f"{target.name}: too large for memory, or {most} streams and more")
    if isinstance(file, CountedStream) and file.num_bytes == 0:
        return UnsupportedMedia(f"{target.name}: empty: 0 bytes")
    boxes = [] if target.path is None else [name for name, _ in mp4_boxes(target.path)]
    if target.path is not None and boxes and "moov" not in boxes:
        return TruncatedMedia(
            f"{target.name}: truncated: the MP4's index (moov) is missing, got {', '.join(boxes)} "
            f"in {target.path.stat().st_size} bytes"
        )
    if fault := why_untrusted(target.url):
        return SourceMissing(f"{target.name}: {fault}")
    ours = not isinstance(error, FFmpegError) or target.path is None
    if ours and isinstance(error, OSError) and not isinstance(error, ValueError):
        return _missing(target.name, error)  # a URL: refused, timed out, not found
    if isinstance(error, ArgumentError):
        reason += " (a list of other files, such as ffconcat, is not followed)"
    return UnsupportedMedia(f"{target.name}: not media that can be decoded: {reason}")


def _stream_name(stream: BinaryIO) -> str:
    """Return a byte stream's name for people: ``<stdin>``; pipes have none, or only a number."""
    name: object = getattr(stream, "name", None)
    return name if isinstance(name, str) else "the stream"


class CountedStream:
    """A byte stream that counts what was read, without `seek` where the stream has none."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.num_bytes = 0
        self.name = _stream_name(stream)
        if getattr(stream, "seekable", bool)():  # our own readers may lack the method
            self.seek = stream.seek
            self.tell = stream.tell

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes; fewer when a pipe pauses, none at the end."""
        chunk = self._stream.read(size)
        self.num_bytes += len(chunk)
        return chunk


def best_video(container: InputContainer, name: str, *, sized: bool = True) -> VideoStream:
    """Choose the video stream to process; cover pictures do not count.

    If `sized`, its size must be known before a frame is decoded.

    Raises:
        UnsupportedMedia: if there is none, its codec is unknown, or it has no size.
    """
    streams = [stream for stream in container.streams.video if not is_cover(stream)]
    if not streams:
        kinds = Counter(
            "cover picture" if isinstance(stream, VideoStream) else str(stream.type)
            for stream in container.streams
        )
        got = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "no stream"
        raise UnsupportedMedia(f"{name}: no video stream, got: {got}")
    best = cast("VideoStream | None", container.streams.best("video"))
    stream = best if best in streams else streams[0]
    # a stream of a codec without a decoder has no context, whatever the type hints say
    if cast("object | None", stream.codec_context) is None:
        raise UnsupportedMedia(f"{name}: no decoder for the codec of video stream {stream.index}")
    if sized and (stream.codec_context.width < 1 or stream.codec_context.height < 1):
        size = f"{stream.codec_context.width}x{stream.codec_context.height}"
        raise UnsupportedMedia(f"{name}: the video has no size, got {size}")
    if stream.disposition & Disposition.dependent and "mp4" in container.format.name:
        raise UnsupportedMedia(f"{name}: a picture of {len(streams)} tiles, wanted it as a file")
    return stream


def is_cover(stream: VideoStream) -> bool:
    """Return whether a video stream is an attached picture: a cover, a thumbnail."""
    return bool(stream.disposition & Disposition.attached_pic)


def kind_of(stream: Stream) -> str:
    """Return a stream's kind; an attached picture is a ``cover``."""
    return "cover" if isinstance(stream, VideoStream) and is_cover(stream) else str(stream.type)


def codec_of(stream: Stream) -> str:
    """Return the name of a stream's codec, also where there is no decoder for it."""
    context = cast("object | None", stream.codec_context)
    if context is None:  # only data streams have a name then
        return getattr(stream, "name", None) or "unknown"
    return stream.codec_context.codec.canonical_name

"""Video on standard input and output: Y4M, NUT and Matroska, told apart by their first bytes.

Nothing is read ahead of what is needed, and nothing is written but video. A stream that ends
inside a frame gives its whole frames and then says so.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO, Literal, Protocol, cast

from ..filters.frame import Color, Picture, StreamInfo
from .decode.deinterlace import DeinterlacedSource
from .errors import MediaError, TruncatedMedia, UnsupportedMedia
from .media import Sink, Source
from .rawvideo.bytestream import ByteReader, ByteWriter, RawStream
from .rawvideo.container import ContainerPipeSink, chroma_siting
from .rawvideo.framing import MAGIC as NUT_MAGIC
from .rawvideo.framing import WholeUnits, matroska_units, nut_units
from .rawvideo.y4m import MAGIC as Y4M_MAGIC
from .rawvideo.y4m import Y4MSink, Y4MSource, chroma_tag, format_header
from .source import Deinterlace, open_source

log = logging.getLogger(__name__)

PipeFormat = Literal["y4m", "nut", "matroska"]
FORMATS: tuple[PipeFormat, ...] = ("y4m", "nut", "matroska")

_MAGICS: dict[PipeFormat, bytes] = {
    "y4m": Y4M_MAGIC,
    "nut": NUT_MAGIC,
    "matroska": b"\x1a\x45\xdf\xa3",
}
_OTHERS = (  # (offset, bytes, name): what people pipe by mistake
    (4, b"ftyp", "MP4"),
    (0, b"RIFF", "AVI or WAV"),
    (0, b"\x00\x00\x01\xba", "MPEG program stream"),
    (0, b"\x47", "MPEG-TS"),
    (0, b"FLV", "FLV"),
    (0, b"\x89PNG", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x00\x00\x00\x01", "raw H.264 or HEVC"),
    (0, b"\x1f\x8b", "gzip"),
)
_SNIFFED_BYTES = 32
_FIELDS = ("tt", "bb", "tb", "bt")


class PipeSource:
    """A source on a pipe, with what we know of it beyond its pictures.

    Args:
        source: the pictures.
        format: of the stream.
        reader: of the stream.
        units: what feeds the source's demuxer, if it has one.
        expected_frames: how many there must be; None for any number.
    """

    def __init__(
        self,
        source: Source,
        format: PipeFormat,  # noqa: A002
        reader: ByteReader,
        *,
        units: WholeUnits | None = None,
        expected_frames: int | None = None,
    ) -> None:
        self._source = source
        self._reader = reader
        self._units = units
        self._expected = expected_frames
        self._siting = chroma_siting(units.head) if units and format == "matroska" else None
        self._warnings: list[str] = []
        self.format: PipeFormat = format
        """What the stream turned out to be."""

    @property
    def info(self) -> StreamInfo:
        """What holds for all pictures; the number of frames is that which is expected."""
        info = replace(self._source.info, color=self._colored(self._source.info.color))
        return info if self._expected is None else replace(info, num_frames=self._expected)

    def __iter__(self) -> Iterator[Picture]:
        """Give every whole picture.

        Raises:
            TruncatedMedia: after them, if the stream ended too early.
        """
        count = 0
        for picture in self._source:
            color = self._colored(picture.color)
            yield picture if color is picture.color else replace(picture, color=color)
            count += 1
        if self._units is not None and self._units.truncation is not None:
            raise TruncatedMedia(f"{self._units.truncation}; {count} whole frames were given")
        if self._expected is not None and count < self._expected:
            raise TruncatedMedia(f"truncated: got {count} of {self._expected} expected frames")
        if self._expected is not None and count > self._expected:
            self._warnings.append(f"got {count} frames, {self._expected} were expected")

    def _colored(self, color: Color) -> Color:
        """Add the chroma siting that PyAV does not tell of raw video in Matroska."""
        if self._siting is None or color.chroma_location is not None:
            return color
        return replace(color, chroma_location=self._siting)

    def warnings(self) -> list[str]:
        """What was noticed so far."""
        return [*self._source.warnings(), *self._warnings]

    def interrupt(self) -> None:
        """End a read that waits for the writer, as if the stream had ended. For any thread."""
        self._reader.interrupt()

    def close(self) -> None:
        """Let go of the decoder."""
        self._source.close()


def open_pipe_source(
    stream: RawStream,
    format: PipeFormat | Literal["auto"] = "auto",  # noqa: A002
    *,
    deinterlace: Deinterlace = "auto",
    expected_frames: int | None = None,
) -> PipeSource:
    """Open a stream that can be read only once.

    Args:
        stream: raw, unbuffered: ``open(0, "rb", buffering=0)``.
        format: what it holds; ``auto`` looks at its first bytes.
        deinterlace: ``auto`` where the stream says that it is interlaced.
        expected_frames: a stream of fewer is truncated, whatever it says itself.

    Raises:
        UnsupportedMedia: if it is empty, none of the three, or cannot be decoded.
        TruncatedMedia: if it ends before its first frame.
    """
    reader = ByteReader(stream)
    found = sniff(reader) if format == "auto" else format
    if found == "y4m":
        source: Source = Y4MSource(reader)
        if deinterlace == "on" or (deinterlace == "auto" and source.info.field_order in _FIELDS):
            source = DeinterlacedSource(source)
        return PipeSource(source, found, reader, expected_frames=expected_frames)
    units = WholeUnits(reader, nut_units if found == "nut" else matroska_units)
    try:
        source = open_source(cast("BinaryIO", units), format=found, deinterlace=deinterlace)
    except MediaError as error:
        raise units.truncation or error from error
    piped = PipeSource(source, found, reader, units=units, expected_frames=expected_frames)
    kinds = Counter(str(other.type) for other in source.container.streams)
    kinds["video"] -= 1
    if left_out := ", ".join(f"{count} {kind}" for kind, count in (+kinds).items()):
        log.warning("the pipe carries video only, left out: %s", left_out)
    return piped


class PipeSink(Sink, Protocol):
    """A sink on a pipe, which its reader may close."""

    @property
    def num_written(self) -> int:
        """Whole frames that the reader, or the kernel for it, has taken."""
        ...

    @property
    def reader_gone(self) -> bool:
        """Whether the reader has closed its end."""
        ...


def open_pipe_sink(stream: RawStream, format: PipeFormat, info: StreamInfo) -> PipeSink:  # noqa: A002
    """Open a stream for writing; its header is written at once.

    Args:
        stream: raw, unbuffered: ``open(1, "wb", buffering=0)``.
        format: what to write.
        info: of all pictures.

    Raises:
        UnsupportedMedia: if the format cannot hold them; nothing has been written then.
        ReaderGone: if nobody reads.
    """
    for line in losses(format, info):
        log.warning("%s", line)
    writer = ByteWriter(stream)
    return Y4MSink(writer, info) if format == "y4m" else ContainerPipeSink(writer, format, info)


def check_pipe_sink(format: PipeFormat, info: StreamInfo) -> None:  # noqa: A002
    """Find out whether a format can hold such pictures, before anything is loaded or written.

    Raises:
        UnsupportedMedia: if it cannot.
    """
    if format == "y4m":
        chroma_tag(info.pix_fmt, info.color.chroma_location)
        format_header(info)


def losses(format: PipeFormat, info: StreamInfo) -> list[str]:  # noqa: A002
    """Say what the header of a format cannot tell of a stream that `info` does."""
    color = info.color
    tags = {
        "primaries": color.primaries,
        "transfer": color.trc,
        "matrix": color.matrix,
        "mastering display": info.mastering_display,
        "content light level": info.content_light,
        "rotation": info.rotation or info.hflip or None,
    }
    if format == "nut":
        tags |= {"color range": color.range, "chroma location": color.chroma_location}
    if format == "matroska":
        tags = {"rotation": tags["rotation"]}
    lost = [name for name, value in tags.items() if value is not None]
    if not lost:
        return []
    hint = "" if format == "matroska" else "; --format matroska keeps what is not rotation"
    return [f"{format} cannot tell the reader: {', '.join(lost)}{hint}"]


def sniff(reader: ByteReader) -> PipeFormat:
    """Tell a stream's format from its first bytes, which stay in the reader.

    Raises:
        UnsupportedMedia: if it is empty, or none of ours.
    """
    head = reader.peek(_SNIFFED_BYTES)
    if not head:
        raise UnsupportedMedia("empty: the input ended before its first byte")
    for name, magic in _MAGICS.items():
        if head.startswith(magic):
            return name
    found = next((name for at, mark, name in _OTHERS if head[at:].startswith(mark)), None)
    shown = found or (f"{head[:16]!r}" if head.isascii() else head[:16].hex(" "))
    raise UnsupportedMedia(
        f"the input must be y4m, nut or matroska, it begins like {shown}; "
        "convert it with: ffmpeg -i - -f nut -c:v rawvideo -"
    )

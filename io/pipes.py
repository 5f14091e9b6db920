"""Video on standard input and output: Y4M, NUT and Matroska, recognised by their first bytes.

Nothing is read before it is needed, and nothing but video is written, every frame at once and
whole. A stream that ends inside a frame yields its whole frames, then an error. What is written is
lossless: raw video if FFmpeg can read it back (NUT: every format, Matroska: three of 8 bits), else
FFV1. PyAV writes into a file object of ours, so that a slow reader never blocks Python, and a
closed one is distinguished from other errors.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import BinaryIO, Literal, TypeAlias, cast, get_args

import av
from av.container import Flags
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from ..filters.frame import Color, Picture, StreamInfo
from .decode.deinterlace import INTERLACED, DeinterlacedSource
from .encode.options import PipeFormat
from .errors import MediaError, ReaderGone, SinkFull, TruncatedMedia, UnsupportedMedia, reason_of
from .extent import EBML
from .media import Source
from .pictures.pixels import canonical_pix_fmt, frame_of, set_color
from .rawvideo.bytestream import ByteReader, ByteWriter, RawStream, WholeUnits, gone_after
from .rawvideo.matroska import chroma_siting, describe_matroska, matroska_units
from .rawvideo.nut import MAGIC as NUT_MAGIC
from .rawvideo.nut import describe_nut, nut_units
from .rawvideo.y4m import MAGIC as Y4M_MAGIC
from .rawvideo.y4m import Y4MSink, Y4MSource, chroma_tag, format_header
from .source import Deinterlace, open_source

log = logging.getLogger(__name__)

FORMATS: tuple[PipeFormat, ...] = get_args(PipeFormat)

_MAGICS: dict[PipeFormat, bytes] = {"y4m": Y4M_MAGIC, "nut": NUT_MAGIC, "matroska": EBML}
_OTHERS = (  # (offset, bytes, name): formats piped by mistake
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
_NANOSECOND = Fraction(1, 10**9)


class PipeSource:
    """A source on a pipe: its pictures, its format and an end that can be checked.

    `units` are the input of the source's demuxer, if it has one; `expected_frames` None means any.
    """

    def __init__(
        self,
        source: Source,
        format: PipeFormat,
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
        """The stream's format."""

    @property
    def info(self) -> StreamInfo:
        """What holds for all pictures; with the expected number of frames, if given."""
        info = replace(self._source.info, color=self._colored(self._source.info.color))
        return info if self._expected is None else replace(info, num_frames=self._expected)

    def __iter__(self) -> Iterator[Picture]:
        """Yield every whole picture.

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
        """Add the chroma siting of raw video in Matroska, which PyAV does not show."""
        if self._siting is None or color.chroma_location is not None:
            return color
        return replace(color, chroma_location=self._siting)

    def warnings(self) -> list[str]:
        """Return the problems noticed so far."""
        return [*self._source.warnings(), *self._warnings]

    def interrupt(self) -> None:
        """End a waiting read as if the stream had ended; may be called from any thread."""
        self._reader.interrupt()

    def close(self) -> None:
        """Release the decoder."""
        self._source.close()


def open_pipe_source(
    stream: RawStream,
    format: PipeFormat | Literal["auto"] = "auto",
    *,
    deinterlace: Deinterlace = "auto",
    expected_frames: int | None = None,
) -> PipeSource:
    """Open a stream that can be read only once.

    Args:
        stream: raw, unbuffered: ``open(0, "rb", buffering=0)``.
        format: of the stream; ``auto`` recognises it by its first bytes.
        deinterlace: ``auto`` if the stream is marked as interlaced.
        expected_frames: a stream with fewer counts as truncated.

    Raises:
        UnsupportedMedia: if it is empty, in none of the three formats, or cannot be decoded.
        TruncatedMedia: if it ends before its first frame.
    """
    reader = ByteReader(stream)
    found = sniff(reader) if format == "auto" else format
    if found == "y4m":
        source: Source = Y4MSource(reader)
        if deinterlace == "on" or (deinterlace == "auto" and source.info.field_order in INTERLACED):
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


def open_pipe_sink(stream: RawStream, format: PipeFormat, info: StreamInfo) -> PipeSink:
    """Open a raw, unbuffered stream, ``open(1, "wb", buffering=0)``; its header is written at once.

    Raises:
        UnsupportedMedia: if the format cannot hold them; nothing has been written then.
        ReaderGone: if there is no reader.
    """
    for line in losses(format, info):
        log.warning("%s", line)
    writer = ByteWriter(stream)
    return Y4MSink(writer, info) if format == "y4m" else ContainerPipeSink(writer, format, info)


def check_pipe_sink(format: PipeFormat, info: StreamInfo) -> None:
    """Check that a format can hold such pictures, before anything is loaded or written.

    Raises:
        UnsupportedMedia: if it cannot.
    """
    if format == "y4m":
        chroma_tag(info.pix_fmt, info.color.chroma_location)
        format_header(info)


def losses(format: PipeFormat, info: StreamInfo) -> list[str]:
    """Return a warning of what a format's header cannot store of a stream, if anything."""
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
    said = f"{format} cannot store {', '.join(lost)}"
    if format == "matroska" or lost == ["rotation"]:
        return [said]
    kept = "all but the rotation" if "rotation" in lost else "them"
    return [f"{said}; --format matroska keeps {kept}"]


def sniff(reader: ByteReader) -> PipeFormat:
    """Recognise a stream's format by its first bytes, which stay in the reader.

    Raises:
        UnsupportedMedia: if it is empty, or in another format.
    """
    head = reader.peek(_SNIFFED_BYTES)
    if not head:
        raise UnsupportedMedia("empty: the input ended before its first byte")
    for name, magic in _MAGICS.items():
        if head.startswith(magic):
            return name
    found = next((name for at, mark, name in _OTHERS if head[at:].startswith(mark)), None)
    begin = found or (f"{head[:16]!r}" if head.isascii() else head[:16].hex(" "))
    raise UnsupportedMedia(
        f"the input must be y4m, nut or matroska, it begins like {begin}; "
        "convert it with: ffmpeg -i - -f nut -c:v rawvideo -"
    )


_container_log = logging.getLogger("upframe.io.rawvideo.container")
Container = Literal["nut", "matroska"]

_RAW_IN_MATROSKA = ("gray", "yuv420p", "yuv422p")
_PACKED_FOR_FFV1 = {"gbrp": "bgr0", "gbrap": "bgra"}  # it takes 8-bit RGB only packed
_MAX_TIME_BASE = (1 << 31) - 1  # FFmpeg's rationals are pairs of int32
_FLAGS = Flags.flush_packets.value | Flags.bitexact.value
"""Each packet at once; and no random identifiers, so that equal input gives equal bytes."""
_OPTIONS: dict[str, dict[str, str]] = {
    "nut": {},
    # a cluster per frame, else readers wait for a second of frames; no checksums over headers
    "matroska": {"cluster_time_limit": "0", "write_crc32": "0"},
}


def codec_of(container: Container, pix_fmt: str) -> tuple[str, str]:
    """Return the lossless codec and coded pixel format for a planar format."""
    name = canonical_pix_fmt(pix_fmt)
    if container == "nut" or name in _RAW_IN_MATROSKA:
        return "rawvideo", name
    return "ffv1", _PACKED_FOR_FFV1.get(name, name)


class ContainerPipeSink:
    """Writes pictures into a NUT or Matroska stream; its header at once: the reader can start.

    Raises:
        UnsupportedMedia: if it cannot be written without loss; nothing has been written then.
        ReaderGone: if there is no reader.
    """

    def __init__(self, writer: ByteWriter, container: Container, info: StreamInfo) -> None:
        self._writer = writer
        self._info = info
        self._name = container
        self._header = _HeaderGate(writer)
        self._codec, self._pix_fmt = codec_of(container, info.pix_fmt)
        self._num_muxed = 0
        self._num_held = 1 if container == "matroska" else 0  # a cluster ends with the next one
        self._ended = False
        try:
            self._container = av.open(
                cast("BinaryIO", self._header), "w", format=container, options=_OPTIONS[container]
            )
            self._container.flags |= _FLAGS
            self._stream = self._add_stream()
            self._stream.codec_context.open()
            self._container.start_encoding()
        except (FFmpegError, ValueError, OverflowError) as error:
            raise UnsupportedMedia(
                f"{container} with {self._codec} cannot hold {info.width}x{info.height} "
                f"{info.pix_fmt}: {reason_of(error)}"
            ) from error
        describe = describe_matroska if container == "matroska" else describe_nut
        self._header.release(lambda header: describe(header, info))

    @property
    def num_written(self) -> int:
        """Frames that the reader, or the kernel for it, has accepted."""
        return max(0, self._num_muxed - (0 if self._ended else self._num_held))

    def write(self, picture: Picture) -> None:
        """Encode and write one frame; blocks while the reader is slow.

        Raises:
            ReaderGone: if the reader has closed its end; the text has the number of frames.
            SinkFull: if it cannot be written.
        """
        frame = frame_of(picture)
        if frame.format.name != self._pix_fmt:
            # one thread: with more, swscale writes beyond its slice's end into packed formats
            frame = frame.reformat(format=self._pix_fmt, threads=1)
        self._attempt(lambda: self._mux(frame))
        self._num_muxed += 1

    def finish(self) -> None:
        """Drain the encoder and write the container's end."""
        self._attempt(lambda: self._mux(None))
        self._attempt(self._container.close)
        self._ended = True

    def abort(self) -> None:
        """Write a valid end, if the reader still reads."""
        if self._ended:
            return
        self._ended = True
        try:
            self._container.close()
        except (FFmpegError, MediaError, OSError):  # the reader is gone
            _container_log.debug("no end was written: %s", self._writer.failure)

    def _add_stream(self) -> VideoStream:
        info = self._info
        fine = max(info.time_base.as_integer_ratio()) <= _MAX_TIME_BASE
        stream = cast(
            "VideoStream",
            self._container.add_stream(self._codec, rate=info.rate or 25),  # pyright: ignore[reportUnknownMemberType]  # its **kwargs
        )
        codec = stream.codec_context
        codec.width, codec.height, codec.pix_fmt = info.width, info.height, self._pix_fmt
        codec.time_base = stream.time_base = info.time_base if fine else _NANOSECOND
        codec.framerate = info.rate or Fraction(0)
        codec.gop_size = 1
        codec.thread_type = "SLICE"  # frame threads would hold frames back
        if info.sample_aspect_ratio is not None:
            codec.sample_aspect_ratio = info.sample_aspect_ratio
        set_color(codec, info.color)
        return stream

    def _mux(self, frame: av.VideoFrame | None) -> None:
        packets = cast("list[Packet[VideoStream]]", self._stream.encode(frame))  # pyright: ignore[reportUnknownMemberType]  # packets of unknown streams
        self._container.mux(packets)  # pyright: ignore[reportUnknownMemberType]  # the same

    def _attempt(self, step: Callable[[], None]) -> None:
        """Run a step; restore our writer's errors, which PyAV has changed."""
        try:
            step()
        except (FFmpegError, MediaError, OSError) as error:
            failure = self._writer.failure
            if isinstance(failure, ReaderGone):
                raise gone_after(self.num_written) from error
            raise failure or SinkFull(f"cannot write {self._name}: {error}") from error


class _HeaderGate:
    """A file object for a muxer: holds the header back until it is completed."""

    def __init__(self, writer: ByteWriter) -> None:
        self._writer = writer
        self._header: bytearray | None = bytearray()

    def write(self, data: bytes) -> int:
        """Accept the muxer's bytes."""
        if self._header is None:
            return self._writer.write(data)
        self._header += data
        return len(data)

    def release(self, complete: Callable[[bytes], bytes]) -> None:
        """Write the completed header, and everything else at once from now on."""
        header, self._header = bytes(self._header or b""), None
        self._writer.write(complete(header))


PipeSink: TypeAlias = Y4MSink | ContainerPipeSink
"""A sink on a pipe, which its reader may close."""

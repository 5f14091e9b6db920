"""NUT and Matroska on a pipe: every frame goes out as soon as it is written, whole.

Codecs are lossless: raw video wherever the container holds it so that FFmpeg reads it back
(NUT: every format, Matroska: three of 8 bits), else FFV1. PyAV writes into a file object of
ours, so that a slow reader never blocks Python, and a closed one is told apart from other errors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from fractions import Fraction
from typing import BinaryIO, Literal, cast

import av
from av.container import Flags
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from ...filters.frame import Picture, PixelFormat, StreamInfo
from ..errors import MediaError, ReaderGone, SinkFull, UnsupportedMedia
from ..pictures.pixels import frame_of
from ..pictures.tags import set_color
from .bytestream import ByteWriter, gone_after
from .trackheader import describe_matroska, describe_nut

log = logging.getLogger(__name__)

Container = Literal["nut", "matroska"]

_RAW_IN_MATROSKA = ("gray", "yuv420p", "yuv422p")
_PACKED_FOR_FFV1 = {"gbrp": "bgr0", "gbrap": "bgra"}  # it takes 8-bit RGB only packed
_MAX_TIME_BASE = (1 << 31) - 1  # FFmpeg's rationals are pairs of int32
_FLAGS = Flags.flush_packets.value | Flags.bitexact.value
"""Each packet at once; and the same bytes for the same input, so no random identifiers."""
_NANOSECOND = Fraction(1, 10**9)
_OPTIONS: dict[str, dict[str, str]] = {
    "nut": {},
    # a cluster for every frame, or readers wait for a second's worth; no checksums over headers
    "matroska": {"cluster_time_limit": "0", "write_crc32": "0"},
}


def codec_of(container: Container, pix_fmt: str) -> tuple[str, str]:
    """Choose codec and coded pixel format, both without loss, for a planar format."""
    name = _canonical(pix_fmt)
    if container == "nut" or name in _RAW_IN_MATROSKA:
        return "rawvideo", name
    return "ffv1", _PACKED_FOR_FFV1.get(name, name)


class ContainerPipeSink:
    """Writes pictures into a NUT or Matroska stream.

    Args:
        writer: where to.
        container: which of the two.
        info: what all pictures are; the header is written at once, so that the reader can start.

    Raises:
        UnsupportedMedia: if there is no lossless way to write it; nothing has been written then.
        ReaderGone: if nobody reads.
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
            reason = getattr(error, "strerror", None) or error
            raise UnsupportedMedia(
                f"{container} with {self._codec} cannot hold {info.width}x{info.height} "
                f"{info.pix_fmt}: {reason}"
            ) from error
        self._header.release(self._describe)

    @property
    def num_written(self) -> int:
        """Frames that the reader, or the kernel for it, has taken."""
        return max(0, self._num_muxed - (0 if self._ended else self._num_held))

    @property
    def reader_gone(self) -> bool:
        """Whether the reader has closed its end."""
        return isinstance(self._writer.failure, ReaderGone)

    def write(self, picture: Picture) -> None:
        """Encode and write one frame; blocks while the reader is slow.

        Raises:
            ReaderGone: if the reader has closed its end; says how many frames were written.
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
        """Leave what the reader has, with a valid end if it still reads."""
        if self._ended:
            return
        self._ended = True
        try:
            self._container.close()
        except (
            FFmpegError,
            MediaError,
            OSError,
        ):  # the reader is gone: there is no end to write
            log.debug("no end was written: %s", self._writer.failure)

    def _add_stream(self) -> VideoStream:
        info = self._info
        fine = info.time_base.numerator <= _MAX_TIME_BASE
        fine = fine and info.time_base.denominator <= _MAX_TIME_BASE
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

    def _describe(self, header: bytes) -> bytes:
        describe = describe_matroska if self._name == "matroska" else describe_nut
        return describe(header, self._info)

    def _mux(self, frame: av.VideoFrame | None) -> None:
        packets = cast("list[Packet[VideoStream]]", self._stream.encode(frame))  # pyright: ignore[reportUnknownMemberType]  # packets of unknown streams
        self._container.mux(packets)  # pyright: ignore[reportUnknownMemberType]  # the same

    def _attempt(self, step: Callable[[], None]) -> None:
        """Do a step; what PyAV makes of our writer's errors becomes those errors again."""
        try:
            step()
        except (FFmpegError, MediaError, OSError) as error:
            failure = self._writer.failure
            if isinstance(failure, ReaderGone):
                raise gone_after(self.num_written) from error
            raise failure or SinkFull(f"cannot write {self._name}: {error}") from error


class _HeaderGate:
    """A file object for a muxer: holds the header back until it has been completed."""

    def __init__(self, writer: ByteWriter) -> None:
        self._writer = writer
        self._header: bytearray | None = bytearray()

    def write(self, data: bytes) -> int:
        """Take the muxer's bytes."""
        if self._header is None:
            return self._writer.write(data)
        self._header += data
        return len(data)

    def release(self, complete: Callable[[bytes], bytes]) -> None:
        """Write the header, completed, and from now on everything at once."""
        header, self._header = bytes(self._header or b""), None
        self._writer.write(complete(header))


def _canonical(pix_fmt: str) -> str:
    """FFmpeg's spelling, with byte order: ``gray10le``."""
    deep = PixelFormat.parse(pix_fmt).bit_depth > 8
    return pix_fmt if not deep or pix_fmt.endswith("le") else f"{pix_fmt}le"

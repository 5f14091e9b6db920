"""NUT and Matroska on a pipe: every frame goes out as soon as it is written, whole.

Codecs are lossless: raw video wherever the container holds it so that FFmpeg reads it back
(NUT: every format, Matroska: three of 8 bits), else FFV1. PyAV writes into a file object of
ours, so that a slow reader never blocks Python, and a closed one is told apart from other errors.
"""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Callable, Iterator
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
from .framing import Numbers

log = logging.getLogger("upframe.io.rawvideo.container")


# What PyAV leaves out of the headers of NUT and Matroska streams, put back in.
#
# libavformat's muxers take the sample aspect ratio, chroma siting and HDR10 data from places that
# PyAV 18 does not let us write to. The headers are small and built of nested elements, so they are
# taken apart, completed and put together again before they go out.
#
# Sources: RFC 9559 (Matroska), sections 5.1.4.1.28 to .31; the NUT specification by Niedermayer et
# al., https://ffmpeg.org/~michael/nut.txt, "stream_header" and "Checksums".

Elements = list[tuple[int, bytes]]
"""Children of a Matroska element: id and content, in order."""

_SEGMENT, _SEEK_HEAD, _VOID = 0x18538067, 0x114D9B74, 0xEC
_TRACKS, _TRACK_ENTRY, _VIDEO, _COLOUR = 0x1654AE6B, 0xAE, 0xE0, 0x55B0
_DISPLAY_WIDTH, _DISPLAY_HEIGHT, _DISPLAY_UNIT = 0x54B0, 0x54BA, 0x54B2
_SITING_ACROSS, _SITING_DOWN = 0x55B7, 0x55B8
_MAX_CLL, _MAX_FALL, _MASTERING, _FIRST_MASTERING = 0x55BC, 0x55BD, 0x55D0, 0x55D1
_SITINGS = {"topleft": (1, 1), "left": (1, 2), "top": (2, 1), "center": (2, 2)}
_UNKNOWN_SIZE = b"\x01" + 7 * b"\xff"

_NUT_STREAM = bytes.fromhex("4e5311405bf2f9db")
_CRC_POLYNOMIAL = 0x04C11DB7


def describe_matroska(header: bytes, info: StreamInfo) -> bytes:
    """Complete the header of a Matroska stream with what `info` knows of its video.

    Args:
        header: from the first byte on, up to the first cluster.
        info: aspect ratio, chroma siting and HDR10 data are taken from it.
    """
    done = b""
    for ident, body, rest in _top_elements(header):
        if ident == _SEGMENT:
            parts = (_segment_child(child, content, info) for child, content in elements_of(rest))
            return done + _id_bytes(ident) + _UNKNOWN_SIZE + b"".join(parts)
        done += element(ident, body)
    return header


def _top_elements(header: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Give id, content and everything behind the head, of elements up to the segment."""
    offset = 0
    while offset < len(header):
        ident, size, start = _head(header, offset)
        offset = len(header) if ident == _SEGMENT else start + size
        yield ident, header[start:offset], header[start:]


def _segment_child(ident: int, content: bytes, info: StreamInfo) -> bytes:
    if ident == _SEEK_HEAD:  # its positions would be wrong, and nobody seeks in a pipe
        return element(_VOID, content)
    if ident != _TRACKS:
        return element(ident, content)
    tracks = [(child, _track(child, body, info)) for child, body in elements_of(content)]
    return element(_TRACKS, _joined(tracks))


def _track(ident: int, content: bytes, info: StreamInfo) -> bytes:
    children = elements_of(content) if ident == _TRACK_ENTRY else []
    if _VIDEO not in dict(children):
        return content
    return _joined([(i, _video(body, info) if i == _VIDEO else body) for i, body in children])


def _video(content: bytes, info: StreamInfo) -> bytes:
    children = elements_of(content)
    if info.sample_aspect_ratio is not None:
        shape = (_DISPLAY_WIDTH, _DISPLAY_HEIGHT, _DISPLAY_UNIT)
        children = [(ident, body) for ident, body in children if ident not in shape]
        width, height = display_size(info.width, info.height, info.sample_aspect_ratio)
        children += [(_DISPLAY_WIDTH, _unsigned(width)), (_DISPLAY_HEIGHT, _unsigned(height))]
    known = elements_of(dict(children).get(_COLOUR, b""))
    colour = known + [(i, body) for i, body in _colour(info) if i not in dict(known)]
    children = [(ident, body) for ident, body in children if ident != _COLOUR]
    return _joined([*children, *([(_COLOUR, _joined(colour))] if colour else [])])


def _colour(info: StreamInfo) -> Elements:
    found: Elements = []
    across, down = _SITINGS.get(info.color.chroma_location or "", (0, 0))
    if across and info.format.family == "yuv":
        found += [(_SITING_ACROSS, _unsigned(across)), (_SITING_DOWN, _unsigned(down))]
    if (light := info.content_light) is not None:
        found += [(_MAX_CLL, _unsigned(light.max_cll)), (_MAX_FALL, _unsigned(light.max_fall))]
    if (display := info.mastering_display) is not None:
        points = (*display.red, *display.green, *display.blue, *display.white_point)
        values = (*points, display.max_luminance, display.min_luminance)
        doubles = [struct.pack(">d", float(value)) for value in values]
        mastering = [(_FIRST_MASTERING + index, double) for index, double in enumerate(doubles)]
        found.append((_MASTERING, _joined(mastering)))
    return found


def chroma_siting(header: bytes) -> str | None:
    """Read where a Matroska stream says that its chroma samples lie; None if it does not.

    Args:
        header: whole elements from the first byte on, the tracks among them.
    """
    try:
        segment = next((rest for ident, _, rest in _top_elements(header) if ident == _SEGMENT), b"")
        tracks = [track for _, track in elements_of(_first(segment, _TRACKS))]
        colours = [dict(elements_of(_first(_first(track, _VIDEO), _COLOUR))) for track in tracks]
    except IndexError:  # an element ends inside its head: nobody can tell
        return None
    keys = (_SITING_ACROSS, _SITING_DOWN)
    told = [
        tuple(int.from_bytes(colour.get(key, b""), "big") for key in keys) for colour in colours
    ]
    return next((name for name, way in _SITINGS.items() if way in told), None)


def display_size(width: int, height: int, sample_aspect_ratio: Fraction) -> tuple[int, int]:
    """The size, in square pixels, at which a video of other pixels has exactly its shape."""
    shape = Fraction(width, height) * sample_aspect_ratio
    if (shape * height).denominator == 1:
        return int(shape * height), height
    if (width / shape).denominator == 1:
        return width, int(width / shape)
    return shape.numerator, shape.denominator


def elements_of(content: bytes) -> Elements:
    """Take the content of a Matroska element apart into its children."""
    return list(_children(content))


def _children(content: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset < len(content):
        ident, size, start = _head(content, offset)
        offset = start + size
        yield ident, content[start:offset]


def _first(content: bytes, ident: int) -> bytes:
    """Give the content of the first child of a kind; nothing if there is none."""
    return next((body for child, body in _children(content) if child == ident), b"")


def element(ident: int, content: bytes) -> bytes:
    """Write one Matroska element; its size takes 8 bytes only where it must."""
    size = len(content)
    length = 1 if size < 0x7F else 8
    return _id_bytes(ident) + (size | 1 << 7 * length).to_bytes(length, "big") + content


def _joined(children: Elements) -> bytes:
    return b"".join(element(ident, content) for ident, content in children)


def _head(data: bytes, offset: int) -> tuple[int, int, int]:
    """Read id and size of an element, and where its content begins."""
    length = 9 - data[offset].bit_length()
    ident = int.from_bytes(data[offset : offset + length], "big")
    offset += length
    length = 9 - data[offset].bit_length()
    size = int.from_bytes(data[offset : offset + length], "big") & ((1 << 7 * length) - 1)
    return ident, size, offset + length


def _id_bytes(ident: int) -> bytes:
    return ident.to_bytes(math.ceil(ident.bit_length() / 8), "big")


def _unsigned(value: int) -> bytes:
    return value.to_bytes(max(1, math.ceil(value.bit_length() / 8)), "big")


def describe_nut(header: bytes, info: StreamInfo) -> bytes:
    """Complete the header of a NUT stream with the sample aspect ratio; it holds nothing else.

    Args:
        header: from the first byte on, up to the first frame.
        info: the aspect ratio is taken from it.
    """
    start = header.find(_NUT_STREAM)
    if info.sample_aspect_ratio is None or start < 0:
        return header
    start += len(_NUT_STREAM)
    numbers = Numbers(header[start:])
    size = numbers.number()  # of what follows, its checksum included
    body = start + numbers.position
    end = body + size
    data, checksum = header[body : end - 4], header[end - 4 : end]
    ratio = info.sample_aspect_ratio
    described = _with_aspect(data, ratio)
    if described is None or nut_checksum(data) != checksum:
        return header
    described += nut_checksum(described)
    return header[:start] + _number_bytes(len(described)) + described + header[end:]


def _with_aspect(data: bytes, ratio: Fraction) -> bytes | None:
    """Write a ratio into a stream header; None if that is not of a video stream."""
    numbers = Numbers(data)
    if (numbers.number(), numbers.number()) != (0, 0):  # the first stream, and video
        return None
    numbers.skip(numbers.number())  # fourcc
    for _ in range(5):  # time base, pts shift, pts distance, delay, flags
        numbers.number()
    numbers.skip(numbers.number())  # what the codec needs
    for _ in range(2):  # width, height
        numbers.number()
    before = numbers.position
    for _ in range(2):  # the aspect that the muxer wrote: 0, 0
        numbers.number()
    aspect = _number_bytes(ratio.numerator) + _number_bytes(ratio.denominator)
    return data[:before] + aspect + data[numbers.position :]


def nut_checksum(data: bytes) -> bytes:
    """CRC-32 as NUT has it: generator 0x104C11DB7, from 0, highest bit first, not inverted."""
    crc = 0
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ (_CRC_POLYNOMIAL if crc & 0x80000000 else 0)
            crc &= 0xFFFFFFFF
    return crc.to_bytes(4, "big")


def _number_bytes(value: int) -> bytes:
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F | 0x80)
    return bytes(reversed(groups))


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

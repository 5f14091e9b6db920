"""YUV4MPEG2 streams: plain planes, a line before each frame, nothing after the last one.

We have our own reader, because FFmpeg's treats a stream that ends inside a frame as complete
(measured, 5.1 and 8.1), and our own writer, because FFmpeg's headers are longer than x264 reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor

from ...filters.errors import TooLarge
from ...filters.frame import Color, Picture, PixelFormat, StreamInfo
from ..errors import ReaderGone, TruncatedMedia, UnsupportedMedia
from ..limits import limits
from .bytestream import ByteReader, ByteWriter, gone_after

# The header line is read leniently and written strictly. The format is that of the mjpegtools,
# ``yuv4mpeg(5)``; the tags for more than 8 bits and ``XCOLORRANGE`` are FFmpeg's, ``XLENGTH`` is
# VapourSynth's. It has no tags for primaries, transfer and matrix.

MAGIC = b"YUV4MPEG2"
MAX_READ_BYTES = 1024
"""Longest header or FRAME line that we read."""
MAX_WRITE_BYTES = 80
"""Longest header that x264 reads, newline included."""
MAX_SIDE = 65535

FieldOrder = Literal["progressive", "tt", "bb", "tb", "bt"]

_DEPTHS = (9, 10, 12, 14, 16)
_FORMATS: dict[str, tuple[str, str | None]] = {
    "420jpeg": ("yuv420p", "center"),
    "420mpeg2": ("yuv420p", "left"),
    "420paldv": ("yuv420p", "topleft"),
    "420": ("yuv420p", "center"),
    "422": ("yuv422p", None),
    "444": ("yuv444p", None),
    "444alpha": ("yuva444p", None),
    "mono": ("gray", None),
    **{f"{s}p{d}": (f"yuv{s}p{d}le", None) for s in ("420", "422", "444") for d in _DEPTHS},
    **{f"mono{depth}": (f"gray{depth}le", None) for depth in _DEPTHS},
}
_SITINGS = {"center": "420jpeg", "left": "420mpeg2", "topleft": "420paldv"}
_TAGS = {pix_fmt: tag for tag, (pix_fmt, siting) in _FORMATS.items() if siting is None}
_RANGES: dict[str, Literal["tv", "pc"]] = {"LIMITED": "tv", "FULL": "pc"}
_INTERLACING = {"tt": "t", "bb": "b", "tb": "t", "bt": "b"}
_FIELD_ORDERS: dict[str, FieldOrder] = {"p": "progressive", "t": "tt", "b": "bb"}

SUPPORTED_TAGS = ", ".join(f"C{tag}" for tag in _FORMATS)


def parse_header(line: bytes) -> StreamInfo:
    """Parse a header line without its newline.

    Tags may come in any order; unknown ones, and all ``X`` tags except two, are ignored. Without
    ``C`` it is 420, without ``I`` progressive.

    Raises:
        UnsupportedMedia: if size or rate are missing or invalid, or the chroma tag is unknown.
    """
    magic, *words = line.decode("ascii", "replace").split(" ")
    if magic.encode("ascii", "replace") != MAGIC:
        raise UnsupportedMedia(f"y4m must begin with {MAGIC.decode()}, got {magic[:32]!r}")
    tags = {word[0]: word[1:] for word in words if word and word[0] != "X"}
    extensions = {word.partition("=")[0]: word.partition("=")[2] for word in words}
    if (tag := tags.get("C", "420")) not in _FORMATS:
        raise UnsupportedMedia(f"y4m chroma tag C{tag[:32]} is not supported; {SUPPORTED_TAGS} are")
    pix_fmt, siting = _FORMATS[tag]
    width, height = _side(tags, "W", "width"), _side(tags, "H", "height")
    rate, num_frames = _rate(tags.get("F", "")), _count(extensions.get("XLENGTH", ""))
    return StreamInfo(
        width=width,
        height=height,
        pix_fmt=pix_fmt,
        time_base=1 / rate,
        rate=rate,
        average_rate=rate,
        color=Color(range=_RANGES.get(extensions.get("XCOLORRANGE", "")), chroma_location=siting),
        sample_aspect_ratio=_ratio(tags.get("A", "")),
        field_order=_FIELD_ORDERS.get(tags.get("I", "p")[:1] or "p"),
        num_frames=num_frames,
        duration_seconds=None if num_frames is None else num_frames / rate,
    )


def format_header(info: StreamInfo) -> bytes:
    """Return the header line with its newline, in at most 80 bytes if that loses nothing.

    Omitted for lack of room, in this order, because readers assume them anyway: the number of
    frames, the unknown aspect ratio, the limited range. Full range is always written.

    Raises:
        UnsupportedMedia: if y4m cannot hold the pixel format, or the rate is not constant.
    """
    if info.rate is None:
        raise UnsupportedMedia(
            "y4m holds one constant frame rate, got a variable or unknown one; "
            "--format nut and --format matroska keep time stamps"
        )
    needed = [
        MAGIC.decode(),
        f"W{info.width}",
        f"H{info.height}",
        f"F{info.rate.numerator}:{info.rate.denominator}",
        f"I{_INTERLACING.get(info.field_order or '', 'p')}",
    ]
    aspect = info.sample_aspect_ratio
    ranges = {"tv": "XCOLORRANGE=LIMITED", "pc": "XCOLORRANGE=FULL", None: ""}
    words = {
        "aspect": f"A{aspect.numerator}:{aspect.denominator}" if aspect else "A0:0",
        "chroma": f"C{chroma_tag(info.pix_fmt, info.color.chroma_location)}",
        "range": ranges[info.color.range],
        "length": "" if info.num_frames is None else f"XLENGTH={info.num_frames}",
    }
    droppable = ["length", *([] if aspect else ["aspect"])]
    droppable += ["range"] if info.color.range == "tv" else []
    line = _join(needed, words)
    for name in droppable:
        if len(line) > MAX_WRITE_BYTES:
            line = _join(needed, words := {**words, name: ""})
    return line


def chroma_tag(pix_fmt: str, siting: str | None) -> str:
    """Return the C tag of a planar format, without the C.

    Raises:
        UnsupportedMedia: if there is none, as for RGB.
    """
    if pix_fmt == "yuv420p":  # like FFmpeg, the format's default where the siting is unknown
        return _SITINGS.get(siting or "center", "420jpeg")
    name = pix_fmt if pix_fmt in _TAGS else f"{pix_fmt}le"
    if name not in _TAGS:
        raise UnsupportedMedia(
            f"y4m cannot hold {pix_fmt} (it has {SUPPORTED_TAGS}); --format nut holds it"
        )
    return _TAGS[name]


def _join(needed: list[str], words: dict[str, str]) -> bytes:
    return " ".join([*needed, *(word for word in words.values() if word)]).encode() + b"\n"


def _side(tags: dict[str, str], tag: str, name: str) -> int:
    size = _count(tags.get(tag, ""))
    if not size or size > MAX_SIDE:
        got = repr(tags[tag][:32]) if tag in tags else "none"
        raise UnsupportedMedia(f"y4m {name} ({tag}) must be 1 to {MAX_SIDE}, got {got}")
    return size


def _rate(text: str) -> Fraction:
    if (rate := _ratio(text)) is None:
        got = repr(text[:32]) if text else "none"
        raise UnsupportedMedia(f"y4m frame rate (F) must be like F30000:1001, got {got}")
    return rate


def _ratio(text: str) -> Fraction | None:
    over, _, under = text.partition(":")
    numerator, denominator = _count(over), _count(under)
    return Fraction(numerator, denominator) if numerator and denominator else None


def _count(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


_FRAME = b"FRAME"


class Y4MSource:
    """Pictures of a YUV4MPEG2 stream, read from its first byte on, each in tensors of its own.

    Raises:
        UnsupportedMedia: if the header is missing, invalid or of an unknown format.
        TooLargeMedia: if its pictures are above the limits.
    """

    def __init__(self, reader: ByteReader) -> None:
        self._reader = reader
        line = reader.read_line(MAX_READ_BYTES)
        if not line:
            raise UnsupportedMedia("empty: the input ended before its first byte")
        if not line.endswith(b"\n"):
            if reader.at_end:
                raise TruncatedMedia(f"truncated: got {len(line)} bytes of the y4m header")
            raise UnsupportedMedia(f"y4m header is longer than {MAX_READ_BYTES} bytes")
        header = line.rstrip(b"\r\n")
        self.info = parse_header(header)
        """The header's content; `num_frames` is its XLENGTH."""
        self._is_mixed = any(word.startswith(b"Im") for word in header.split(b" "))
        """Whether each frame is marked as interlaced or not."""
        limits().check_size(self.info.width, self.info.height, "y4m")
        self._planes = PlaneLayout(self.info)
        self._warnings: list[str] = []
        if self._is_mixed:
            self._warnings.append("y4m: frames are marked one by one as interlaced or not")

    def __iter__(self) -> Iterator[Picture]:
        """Yield every whole picture.

        Raises:
            TruncatedMedia: after them, if the stream ends inside a frame or before its XLENGTH.
            UnsupportedMedia: if something other than a frame follows a frame.
        """
        count = 0
        while (picture := self._picture(count)) is not None:
            yield picture
            count += 1
        due = self.info.num_frames
        if due is not None and count < due:
            raise TruncatedMedia(f"truncated: got {count} of {due} frames (XLENGTH)")
        if due is not None and count > due:
            self._warnings.append(f"y4m: got {count} frames, the header announces {due} (XLENGTH)")
        if count == 0:
            raise UnsupportedMedia("empty: a y4m header, but no frame")

    def warnings(self) -> list[str]:
        """Return the problems noticed so far."""
        return list(self._warnings)

    def close(self) -> None:
        """Do nothing: the stream belongs to the caller."""

    def _picture(self, index: int) -> Picture | None:
        line = self._reader.read_line(MAX_READ_BYTES)
        if not line:
            return None
        if not line.endswith(b"\n") and _FRAME.startswith(line[:5]) and self._reader.at_end:
            raise self._truncated(0, index)
        word, *parameters = line.rstrip(b"\n").split(b" ")
        if word != _FRAME:
            raise UnsupportedMedia(f"frame {index + 1} must begin with FRAME, got {line[:32]!r}")
        data = self._planes.allocate()
        got = self._reader.fill(_bytes_of(data))
        if got < self._planes.num_bytes:
            raise self._truncated(got, index)
        planes = self._planes.split(data)
        return Picture(
            planes=tuple(planes[: self.info.format.num_planes]),
            alpha=planes[-1] if self.info.format.has_alpha else None,
            pix_fmt=self.info.pix_fmt,
            color=self.info.color,
            pts=index,
            duration=1,
            time_base=self.info.time_base,
            interlaced=self._is_interlaced(parameters),
        )

    def _is_interlaced(self, parameters: Sequence[bytes]) -> bool:
        """Return it by the header, or if that is *mixed* by the frame: ``I`` and t, T, b or B."""
        if not self._is_mixed:
            return self.info.field_order in ("tt", "bb")
        return any(word.startswith((b"It", b"IT", b"Ib", b"IB")) for word in parameters)

    def _truncated(self, got: int, index: int) -> TruncatedMedia:
        want = self._planes.num_bytes
        return TruncatedMedia(f"truncated: got {got} of {want} bytes in frame {index + 1}")


class Y4MSink:
    """Writes pictures as YUV4MPEG2, each with one write; the header at once: the reader can start.

    Raises:
        UnsupportedMedia: if y4m cannot hold it; nothing has been written then.
    """

    def __init__(self, writer: ByteWriter, info: StreamInfo) -> None:
        header = format_header(info)
        self._writer = writer
        self._info = info
        self._layout = PlaneLayout(info)
        self._buffer = torch.empty(len(_FRAME) + 1 + self._layout.num_bytes, dtype=torch.uint8)
        self._buffer[:6] = torch.frombuffer(bytearray(_FRAME + b"\n"), dtype=torch.uint8)
        self._planes = self._layout.split(self._buffer[6:])
        self._first_seconds: Fraction | None = None
        self.num_written = 0
        """Whole frames that the reader, or the kernel for it, has accepted."""
        writer.write(header)

    def write(self, picture: Picture) -> None:
        """Write one frame; blocks while the reader is slow.

        Raises:
            ReaderGone: if the reader has closed its end; says how many frames were written.
            SinkFull: if it cannot be written.
        """
        got, info = (picture.pix_fmt, picture.width, picture.height), self._info
        if got != (info.pix_fmt, info.width, info.height):
            raise ValueError(f"the header says {info}, got {picture}")
        self._check_time(picture)
        alpha = () if picture.alpha is None else (picture.alpha,)
        for mine, theirs in zip(self._planes, (*picture.planes, *alpha), strict=True):
            mine.copy_(theirs)
        try:
            self._writer.write(_bytes_of(self._buffer))
        except ReaderGone as error:
            raise gone_after(self.num_written) from error
        self.num_written += 1

    def _check_time(self, picture: Picture) -> None:
        """Refuse a picture that is half an interval or more off the header's constant rate."""
        seconds, interval = picture.pts * picture.time_base, 1 / (self._info.rate or Fraction(1))
        self._first_seconds = seconds if self._first_seconds is None else self._first_seconds
        late = seconds - self._first_seconds - self.num_written * interval
        if abs(late) * 2 >= interval:
            raise UnsupportedMedia(
                f"y4m holds one constant frame rate, but frame {self.num_written + 1} is "
                f"{float(late):.3f} s off {1 / interval} a second; --format nut and --format "
                "matroska keep time stamps"
            )

    def finish(self) -> None:
        """Do nothing: no frame is held back, and the format has no end mark."""

    def abort(self) -> None:
        """Do nothing: the reader has whole frames."""


class PlaneLayout:
    """The planes of a frame in its bytes: one after the other, without padding."""

    def __init__(self, info: StreamInfo) -> None:
        form = PixelFormat.parse(info.pix_fmt)
        luma = (info.width, info.height)
        sizes = [form.plane_size(*luma, plane) for plane in range(form.num_planes)]
        sizes += [luma] if form.has_alpha else []
        self._dtype = torch.uint8 if form.bit_depth == 8 else torch.uint16  # little-endian words
        self._shapes = [(height, width) for width, height in sizes]
        bytes_each = [height * width * self._dtype.itemsize for height, width in self._shapes]
        self._offsets = [sum(bytes_each[:index]) for index in range(len(bytes_each) + 1)]

    @property
    def num_bytes(self) -> int:
        """Size of one frame."""
        return self._offsets[-1]

    def allocate(self) -> Tensor:
        """Allocate one frame: (num_bytes,) uint8, not initialised.

        Raises:
            TooLarge: if there is no memory for it.
        """
        try:
            return torch.empty(self.num_bytes, dtype=torch.uint8)
        except RuntimeError as error:  # the CPU allocator raises no more specific error
            raise TooLarge(f"no memory for a frame of {self.num_bytes} bytes") from error

    def split(self, data: Tensor) -> list[Tensor]:
        """Return views of a frame's bytes as its planes, (H, W) each."""
        return [
            data[start:end].view(self._dtype).view(shape)
            for (start, end), shape in zip(pairwise(self._offsets), self._shapes, strict=True)
        ]


def _bytes_of(data: Tensor) -> memoryview:
    """View a tensor's memory; numpy's stubs do not declare that arrays are buffers."""
    return memoryview(cast("bytearray", data.numpy()))

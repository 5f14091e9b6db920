"""YUV4MPEG2 streams: planes as they are, a line before each frame, nothing after the last one.

Our own reader, because FFmpeg's takes a stream that ends inside a frame for a whole one
(measured, 5.1 and 8.1), and our own writer, because FFmpeg's headers are longer than x264 reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from ...filters.errors import TooLarge
from ...filters.frame import Picture, PixelFormat, StreamInfo
from ..errors import ReaderGone, TruncatedMedia, UnsupportedMedia
from .bytestream import ByteReader, ByteWriter, gone_after
from .y4m_header import MAX_READ_BYTES, format_header, parse_header

_FRAME = b"FRAME"


class Y4MSource:
    """Pictures of a YUV4MPEG2 stream, each in tensors of its own.

    Args:
        reader: the stream, at its first byte.

    Raises:
        UnsupportedMedia: if the header is missing, senseless or of an unknown format.
    """

    def __init__(self, reader: ByteReader) -> None:
        self._reader = reader
        self._header = parse_header(_header_line(reader))
        self._info = self._header.info()
        self._planes = PlaneLayout(self._info)
        self._warnings: list[str] = []
        if self._header.interlacing == "m":
            self._warnings.append("y4m: frames are marked one by one as interlaced or not")

    @property
    def info(self) -> StreamInfo:
        """What the header says; `num_frames` is its XLENGTH."""
        return self._info

    def __iter__(self) -> Iterator[Picture]:
        """Give every whole picture.

        Raises:
            TruncatedMedia: after them, if the stream ends inside a frame or before its XLENGTH.
            UnsupportedMedia: if something other than a frame follows a frame.
        """
        count = 0
        while (picture := self._picture(count)) is not None:
            yield picture
            count += 1
        due = self._info.num_frames
        if due is not None and count < due:
            raise TruncatedMedia(f"truncated: got {count} of {due} frames (XLENGTH)")
        if due is not None and count > due:
            self._warnings.append(f"y4m: got {count} frames, the header announces {due} (XLENGTH)")
        if count == 0:
            raise UnsupportedMedia("empty: a y4m header, but no frame")

    def warnings(self) -> list[str]:
        """What was noticed so far."""
        return list(self._warnings)

    def close(self) -> None:
        """Nothing to let go of: the stream is whoever's who opened it."""

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
            planes=tuple(planes[: self._info.format.num_planes]),
            alpha=planes[-1] if self._info.format.has_alpha else None,
            pix_fmt=self._info.pix_fmt,
            color=self._info.color,
            pts=index,
            duration=1,
            time_base=self._info.time_base,
            interlaced=self._is_interlaced(parameters),
        )

    def _is_interlaced(self, parameters: Sequence[bytes]) -> bool:
        """Ask the header, or where it says *mixed* the frame: ``I`` and t, T, b or B."""
        if self._header.interlacing != "m":
            return self._header.interlacing in "tb"
        return any(
            word[:1] == b"I" and word[1:2] in (b"t", b"T", b"b", b"B") for word in parameters
        )

    def _truncated(self, got: int, index: int) -> TruncatedMedia:
        want = self._planes.num_bytes
        return TruncatedMedia(f"truncated: got {got} of {want} bytes in frame {index + 1}")


class Y4MSink:
    """Writes pictures as YUV4MPEG2, each with one write.

    Args:
        writer: where to.
        info: what all pictures are; written as the header at once, so that the reader can start.

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
        self._clock = ConstantClock(info.rate or Fraction(1))
        self.num_written = 0
        """Whole frames that the reader, or the kernel for it, has taken."""
        writer.write(header)

    def write(self, picture: Picture) -> None:
        """Write one frame; blocks while the reader is slow.

        Raises:
            ReaderGone: if the reader has closed its end; says how many frames were written.
            SinkFull: if it cannot be written.
        """
        if (picture.pix_fmt, picture.width, picture.height) != (
            self._info.pix_fmt,
            self._info.width,
            self._info.height,
        ):
            raise ValueError(f"the header says {self._info}, got {picture}")
        self._clock.check(picture)
        alpha = () if picture.alpha is None else (picture.alpha,)
        for mine, theirs in zip(self._planes, (*picture.planes, *alpha), strict=True):
            mine.copy_(theirs)
        try:
            self._writer.write(_bytes_of(self._buffer))
        except ReaderGone as error:
            raise gone_after(self.num_written) from error
        self.num_written += 1

    @property
    def reader_gone(self) -> bool:
        """Whether the reader has closed its end."""
        return isinstance(self._writer.failure, ReaderGone)

    def finish(self) -> None:
        """Nothing is held back, and the format has no end mark."""

    def abort(self) -> None:
        """Leave what the reader has: whole frames."""


class PlaneLayout:
    """Where the planes of a frame lie in its bytes: one after the other, without padding."""

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
        """Of one frame."""
        return self._offsets[-1]

    def allocate(self) -> Tensor:
        """Make room for one frame: (num_bytes,) uint8, not initialised.

        Raises:
            TooLarge: if there is no memory for it.
        """
        try:
            return torch.empty(self.num_bytes, dtype=torch.uint8)
        except RuntimeError as error:  # the CPU allocator has no class of its own for it
            raise TooLarge(f"no memory for a frame of {self.num_bytes} bytes") from error

    def split(self, data: Tensor) -> list[Tensor]:
        """View the bytes of a frame as its planes, (H, W) each."""
        return [
            data[start:end].view(self._dtype).view(shape)
            for (start, end), shape in zip(pairwise(self._offsets), self._shapes, strict=True)
        ]


class ConstantClock:
    """Refuses pictures that do not come at the constant rate which the header promises."""

    def __init__(self, rate: Fraction) -> None:
        self._interval = 1 / rate
        self._first: Fraction | None = None
        self._count = 0

    def check(self, picture: Picture) -> None:
        """Look at the next picture's time.

        Raises:
            UnsupportedMedia: if it is half an interval or more off its place.
        """
        time = picture.pts * picture.time_base
        self._first = time if self._first is None else self._first
        late = time - self._first - self._count * self._interval
        self._count += 1
        if abs(late) * 2 >= self._interval:
            raise UnsupportedMedia(
                f"y4m holds one constant frame rate, but frame {self._count} is {float(late):.3f} "
                f"s off {1 / self._interval} a second; --format nut and --format matroska keep "
                "time stamps"
            )


def _bytes_of(data: Tensor) -> memoryview:
    """View a tensor's memory; numpy's arrays are buffers, though its stubs do not say so."""
    return memoryview(cast("bytearray", data.numpy()))


def _header_line(reader: ByteReader) -> bytes:
    line = reader.read_line(MAX_READ_BYTES)
    if not line:
        raise UnsupportedMedia("empty: the input ended before its first byte")
    if not line.endswith(b"\n"):
        if reader.at_end:
            raise TruncatedMedia(f"truncated: got {len(line)} bytes of the y4m header")
        raise UnsupportedMedia(f"y4m header is longer than {MAX_READ_BYTES} bytes")
    return line.rstrip(b"\r\n")

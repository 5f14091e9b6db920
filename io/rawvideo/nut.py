"""NUT and Matroska on a pipe: every frame goes out as soon as it is written, whole.

Codecs are lossless: raw video wherever the container holds it so that FFmpeg reads it back
(NUT: every format, Matroska: three of 8 bits), else FFV1. PyAV writes into a file object of
ours, so that a slow reader never blocks Python, and a closed one is told apart from other errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from ...filters.frame import StreamInfo
from ..errors import TruncatedMedia
from .bytestream import Strange, Torn, UnitReader

MAGIC = b"nut/multimedia container\0"


_MAIN = bytes.fromhex("4e4d7a561f5f04ad")


_FIRST_OF_STARTCODES = 0x4E  # "N"


_CHECKSUMMED_ABOVE = 4096


_NUMBER_BYTES = 10  # 64 bits


_CODED_PTS = 1 << 3


_STREAM_ID = 1 << 4


_SIZE_MSB = 1 << 5


_CHECKSUM = 1 << 6


_RESERVED = 1 << 7


_HEADER_IDX = 1 << 10


_MATCH_TIME = 1 << 11


_CODED = 1 << 12


_INVALID = 1 << 13


@dataclass(frozen=True, slots=True)
class FrameCode:
    """What the first byte of a frame says."""

    flags: int
    size_mul: int = 0
    size_lsb: int = 0
    num_reserved: int = 0
    header: int = 0
    """Which of the elided headers the frame begins with."""


@dataclass(frozen=True, slots=True)
class MainHeader:
    """The table of frame codes, and the lengths of the headers that frames leave out."""

    codes: tuple[FrameCode, ...]
    header_lengths: tuple[int, ...]


class Numbers:
    """Reads the variable-length numbers of a packet that is in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0
        """Bytes read so far."""

    def number(self) -> int:
        """Read one: 7 bits a byte, highest first, the top bit set on all but the last.

        Signed ones have the same length, so this skips them as well.
        """
        value = 0
        for byte in self._data[self.position : self.position + _NUMBER_BYTES]:
            self.position += 1
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value
        raise Strange("a number past the end of its packet, or of no sane length")

    def skip(self, size: int) -> None:
        """Skip bytes."""
        self.position += size


def nut_units(unit: UnitReader) -> Iterator[bytes]:
    """Yield the packets of a NUT stream: headers, sync points, frames, the index.

    Raises:
        TruncatedMedia: if the stream ends inside one.
    """
    frames, inside = 0, "the file id"
    main: MainHeader | None = None
    try:
        if unit.take(len(MAGIC)) != MAGIC:
            raise Strange("no NUT file id")
        yield unit.release()
        while not unit.at_end:
            first = unit.take(1)
            if first[0] == _FIRST_OF_STARTCODES:
                inside = f"a packet after frame {frames}"
                main = _packet(unit, first) or main
            elif main is None:
                raise Strange("a frame before the main header")
            else:
                frames += 1
                inside = f"frame {frames}"
                _frame(unit, main, main.codes[first[0]])
            yield unit.release()
    except Torn as torn:
        text = f"truncated: got {torn.got} of {torn.wanted} bytes in {inside}"
        raise TruncatedMedia(text) from torn
    except Strange:
        yield from unit.rest()


def parse_main_header(data: bytes) -> MainHeader:
    """Read a main header, from behind its length on.

    Raises:
        Strange: if it is shorter than it says.
    """
    numbers = Numbers(data)
    version = numbers.number()
    if version > 3:
        numbers.number()  # minor version
    numbers.number()  # streams
    numbers.number()  # max_distance
    for _ in range(2 * numbers.number()):
        numbers.number()  # time bases
    codes = _frame_codes(numbers)
    lengths = [0]
    for _ in range(numbers.number()):
        lengths.append(numbers.number())
        numbers.skip(lengths[-1])
    return MainHeader(codes, tuple(lengths))


def _frame_codes(numbers: Numbers) -> tuple[FrameCode, ...]:
    """Expand the run-length coded table of 256 frame codes."""
    codes: list[FrameCode] = []
    size_mul, header = 1, 0
    while len(codes) < 256:
        flags = numbers.number()
        fields = [numbers.number() for _ in range(numbers.number())]
        given = dict(enumerate(fields))  # pts, mul, stream, size, reserved, count, match, header
        size_mul, size = given.get(1, size_mul), given.get(3, 0)
        header = given.get(7, header)
        for index in range(min(given.get(5, size_mul - size), 256)):
            if len(codes) == _FIRST_OF_STARTCODES:
                codes.append(FrameCode(_INVALID))
            codes.append(FrameCode(flags, size_mul, size + index, given.get(4, 0), header))
    return tuple(codes[:256])


def _packet(unit: UnitReader, first: bytes) -> MainHeader | None:
    """Gather a packet that has a startcode; understand it if it is the main header."""
    startcode = first + unit.take(7)
    length = _number(unit)
    if length > _CHECKSUMMED_ABOVE:
        unit.gather(4)
    data = unit.take(length)
    return parse_main_header(data) if startcode == _MAIN else None


def _frame(unit: UnitReader, main: MainHeader, code: FrameCode) -> None:
    """Gather a frame, its first byte being read."""
    flags = code.flags
    if flags & _CODED:
        flags ^= _number(unit)
    if flags & _INVALID:
        raise Strange("an invalid frame code")
    if flags & _STREAM_ID:
        _number(unit)
    if flags & _CODED_PTS:
        _number(unit)
    size = code.size_lsb + (code.size_mul * _number(unit) if flags & _SIZE_MSB else 0)
    if flags & _MATCH_TIME:
        _number(unit)
    header = _number(unit) if flags & _HEADER_IDX else code.header
    for _ in range(_number(unit) if flags & _RESERVED else code.num_reserved):
        _number(unit)
    if flags & _CHECKSUM:
        unit.gather(4)
    if header >= len(main.header_lengths):
        raise Strange(f"elided header {header} of {len(main.header_lengths)}")
    elided = main.header_lengths[header] if size <= _CHECKSUMMED_ABOVE else 0
    unit.gather(size - elided)


def _number(unit: UnitReader) -> int:
    value = 0
    for _ in range(_NUMBER_BYTES):
        byte = unit.take(1)[0]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value
    raise Strange("a number of no sane length")


_NUT_STREAM = bytes.fromhex("4e5311405bf2f9db")


_CRC_POLYNOMIAL = 0x04C11DB7


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

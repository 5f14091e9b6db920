"""NUT streams: where their packets begin and end, and what PyAV leaves out of their header.

NUT has no length before its frames: every frame begins with one byte that a table in the main
header explains, and only that table is parsed. libavformat's muxer reads the sample aspect ratio
from where PyAV 18 cannot write it, so it is inserted into the header afterwards.

Source: the NUT specification by Niedermayer et al., https://ffmpeg.org/~michael/nut.txt, sections
3.2 to 3.7, "stream_header" and "Checksums".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from ...filters.frame import StreamInfo
from ..errors import TruncatedMedia
from .bytestream import TornUnit, UnitReader, UnknownStructure, unit_of

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
    """What the first byte of a frame means."""

    flags: int
    size_mul: int = 0
    size_lsb: int = 0
    num_reserved: int = 0
    header: int = 0
    """Which of the elided headers begins the frame."""


@dataclass(frozen=True, slots=True)
class MainHeader:
    """The table of frame codes, and the lengths of the headers that frames omit."""

    codes: tuple[FrameCode, ...]
    header_lengths: tuple[int, ...]


def nut_units(unit: UnitReader) -> Iterator[bytes]:
    """Yield the packets of a NUT stream: headers, sync points, frames, the index.

    Raises:
        TruncatedMedia: if the stream ends inside one.
    """
    frames, inside = 0, "the file id"
    main: MainHeader | None = None
    try:
        if unit.take(len(MAGIC)) != MAGIC:
            raise UnknownStructure("no NUT file id")
        yield unit.release()
        while not unit.at_end:
            first = unit.take(1)
            if first[0] == _FIRST_OF_STARTCODES:
                inside = f"a packet after frame {frames}"
                main = _packet(unit, first) or main
            elif main is None:
                raise UnknownStructure("a frame before the main header")
            else:
                frames += 1
                inside = f"frame {frames}"
                _frame(unit, main, main.codes[first[0]])
            yield unit.release()
    except TornUnit as torn:
        text = f"truncated: got {torn.got} of {torn.wanted} bytes in {inside}"
        raise TruncatedMedia(text) from torn
    except UnknownStructure:
        yield from unit.rest()


def parse_main_header(data: bytes) -> MainHeader:
    """Read a main header, from after its length on.

    Raises:
        UnknownStructure: if it is shorter than it says.
    """
    header = unit_of(data)
    try:
        if _number(header) > 3:  # version
            _number(header)  # minor version
        _number(header)  # streams
        _number(header)  # max_distance
        for _ in range(2 * _number(header)):
            _number(header)  # time bases
        codes = _frame_codes(header)
        lengths = [0]
        for _ in range(_number(header)):
            lengths.append(_number(header))
            header.gather(lengths[-1])
    except TornUnit as torn:
        raise UnknownStructure("a main header that is shorter than it says") from torn
    return MainHeader(codes, tuple(lengths))


def _frame_codes(header: UnitReader) -> tuple[FrameCode, ...]:
    """Expand the run-length coded table of 256 frame codes."""
    codes: list[FrameCode] = []
    size_mul, elided = 1, 0
    while len(codes) < 256:
        flags = _number(header)
        fields = [_number(header) for _ in range(_number(header))]
        given = dict(enumerate(fields))  # pts, mul, stream, size, reserved, count, match, header
        size_mul, size = given.get(1, size_mul), given.get(3, 0)
        elided = given.get(7, elided)
        for index in range(min(given.get(5, size_mul - size), 256)):
            if len(codes) == _FIRST_OF_STARTCODES:
                codes.append(FrameCode(_INVALID))
            codes.append(FrameCode(flags, size_mul, size + index, given.get(4, 0), elided))
    return tuple(codes[:256])


def _packet(unit: UnitReader, first: bytes) -> MainHeader | None:
    """Collect a packet that has a startcode; parse it if it is the main header."""
    startcode = first + unit.take(7)
    length = _number(unit)
    if length > _CHECKSUMMED_ABOVE:
        unit.gather(4)
    data = unit.take(length)
    return parse_main_header(data) if startcode == _MAIN else None


def _frame(unit: UnitReader, main: MainHeader, code: FrameCode) -> None:
    """Collect a frame whose first byte has been read."""
    flags = code.flags
    if flags & _CODED:
        flags ^= _number(unit)
    if flags & _INVALID:
        raise UnknownStructure("an invalid frame code")
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
        raise UnknownStructure(f"elided header {header} of {len(main.header_lengths)}")
    elided = main.header_lengths[header] if size <= _CHECKSUMMED_ABOVE else 0
    unit.gather(size - elided)


def _number(unit: UnitReader) -> int:
    """Read a number: 7 bits a byte, highest first, the top bit set on all but the last.

    A signed one has the same length, so this also skips it.
    """
    value = 0
    for _ in range(_NUMBER_BYTES):
        byte = unit.take(1)[0]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value
    raise UnknownStructure("a number of more than 64 bits")


_NUT_STREAM = bytes.fromhex("4e5311405bf2f9db")
_CRC_POLYNOMIAL = 0x04C11DB7


def describe_nut(header: bytes, info: StreamInfo) -> bytes:
    """Complete the header of a NUT stream, up to the first frame, with the sample aspect ratio."""
    start = header.find(_NUT_STREAM)
    if info.sample_aspect_ratio is None or start < 0:
        return header
    start += len(_NUT_STREAM)
    unit = unit_of(header[start:])
    size = _number(unit)  # of what follows, its checksum included
    body = start + unit.size
    end = body + size
    data, checksum = header[body : end - 4], header[end - 4 : end]
    ratio = info.sample_aspect_ratio
    described = _with_aspect(data, ratio)
    if described is None or nut_checksum(data) != checksum:
        return header
    described += nut_checksum(described)
    return header[:start] + _number_bytes(len(described)) + described + header[end:]


def _with_aspect(data: bytes, ratio: Fraction) -> bytes | None:
    """Write a ratio into a stream header; None if it is not of a video stream."""
    unit = unit_of(data)
    if (_number(unit), _number(unit)) != (0, 0):  # the first stream, and video
        return None
    unit.gather(_number(unit))  # fourcc
    for _ in range(5):  # time base, pts shift, pts distance, delay, flags
        _number(unit)
    unit.gather(_number(unit))  # the codec's own data
    for _ in range(2):  # width, height
        _number(unit)
    before = unit.size
    for _ in range(2):  # the aspect that the muxer wrote: 0, 0
        _number(unit)
    aspect = _number_bytes(ratio.numerator) + _number_bytes(ratio.denominator)
    return data[:before] + aspect + data[unit.size :]


def nut_checksum(data: bytes) -> bytes:
    """Return NUT's CRC-32: generator 0x104C11DB7, from 0, highest bit first, not inverted."""
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

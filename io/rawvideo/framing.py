"""Where NUT and Matroska streams may end: only whole units are passed on to the demuxer.

FFmpeg's demuxers take a stream that ends inside a frame for a whole one, and with FFV1 in NUT
they even give the torn frame (measured, 8.1). So a stream that cannot be looked at twice is
gathered unit by unit here; a torn one is withheld and remembered. The demuxer sees a stream
that ends between two frames. Anything that we do not understand is passed on as it is.

Sources: RFC 8794 (EBML) and RFC 9559 (Matroska); the NUT specification by Niedermayer et al.,
https://ffmpeg.org/~michael/nut.txt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import TruncatedMedia
from .bytestream import ByteReader

_MAX_UNIT_BYTES = 1 << 31
_PIECE_BYTES = 8 << 20
_HEAD_BYTES = 64 << 10

_SEGMENT = 0x18538067
_CLUSTER = 0x1F43B675
_BLOCKS = (0xA3, 0xA0)  # SimpleBlock, BlockGroup
_TOP_LEVEL = (0x1A45DFA3, _SEGMENT)
# SeekHead, Info, Tracks, Cues, Attachments, Chapters, Tags: what ends a cluster of unknown size
_BESIDE_CLUSTERS = (
    *(0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367),
    _CLUSTER,
)


class Torn(Exception):
    """The stream ended inside a unit."""

    def __init__(self, got: int, wanted: int) -> None:
        super().__init__(f"{got} of {wanted} bytes")
        self.got = got
        self.wanted = wanted


class Strange(Exception):
    """The stream is not built as we know it."""


class UnitReader:
    """Gathers the bytes of one unit after the other."""

    def __init__(self, reader: ByteReader) -> None:
        self._reader = reader
        self._unit = bytearray()

    @property
    def at_end(self) -> bool:
        """Whether the stream ends before the next unit."""
        return not self._reader.peek(1)

    @property
    def size(self) -> int:
        """Bytes of the unit so far."""
        return len(self._unit)

    def take(self, size: int) -> bytes:
        """Gather `size` more bytes of the unit and give them."""
        self.gather(size)
        return bytes(self._unit[self.size - size :])

    def gather(self, size: int) -> None:
        """Gather `size` more bytes of the unit.

        Raises:
            Torn: if the stream ends before.
            Strange: if no sane unit is as large.
        """
        end = self.size + size
        if size < 0 or end > _MAX_UNIT_BYTES:
            raise Strange(f"a unit of {end} bytes")
        while self.size < end:
            piece = memoryview(bytearray(min(_PIECE_BYTES, end - self.size)))
            got = self._reader.fill(piece)
            self._unit += piece[:got]
            if got < len(piece):
                raise Torn(self.size, end)

    def release(self) -> bytes:
        """Give the unit and begin the next."""
        unit, self._unit = bytes(self._unit), bytearray()
        return unit

    def rest(self) -> Iterator[bytes]:
        """Give everything else as it comes."""
        yield self.release()
        while piece := self._reader.read():
            yield piece


Units = Callable[[UnitReader], Iterator[bytes]]


class WholeUnits:
    """A file object for a demuxer: a stream that ends between units, whatever its writer did."""

    def __init__(self, reader: ByteReader, units: Units) -> None:
        self.name = "the input"
        self._units = units(UnitReader(reader))
        self._unit = memoryview(b"")
        self.truncation: TruncatedMedia | None = None
        """Set once the stream has ended too early."""
        self.head = b""
        """The first units, as many as there is room for: a header tells what PyAV does not."""
        self._in_head = True

    def read(self, size: int = -1) -> bytes:
        """Give at most `size` bytes; ``b""`` at the end."""
        while not self._unit:
            try:
                self._unit = memoryview(self._kept(next(self._units)))
            except StopIteration:
                return b""
            except TruncatedMedia as error:
                self.truncation = error
                return b""
        size = len(self._unit) if size < 0 else size
        piece, self._unit = self._unit[:size], self._unit[size:]
        return bytes(piece)

    def _kept(self, unit: bytes) -> bytes:
        self._in_head = self._in_head and len(self.head) + len(unit) <= _HEAD_BYTES
        if self._in_head:
            self.head += unit
        return unit


@dataclass(slots=True)
class _Master:
    """An element of Matroska whose children we look at."""

    name: str
    size: int | None
    """Bytes of its content; None where its writer did not know."""
    got: int = 0


def matroska_units(unit: UnitReader) -> Iterator[bytes]:
    """Give the elements of a Matroska stream; of segments and clusters their heads, then children.

    Raises:
        TruncatedMedia: if the stream ends inside an element.
    """
    masters: list[_Master] = []
    blocks = 0
    try:
        while not unit.at_end:
            ident, size = _element_id(unit), _element_size(unit)
            _leave_masters(masters, ident)
            blocks += ident in _BLOCKS
            if ident in (_SEGMENT, _CLUSTER):
                _count(masters, unit.size)
                if len(masters) == 2:  # more would be counted ever longer
                    raise Strange("a segment or cluster inside of a cluster")
                masters.append(_Master("segment" if ident == _SEGMENT else "cluster", size))
            elif size is None:
                raise Strange(f"element {ident:X} of unknown size")
            else:
                unit.gather(size)
                _count(masters, unit.size)
            yield unit.release()
    except Torn as torn:
        raise TruncatedMedia(
            f"truncated: got {torn.got} of {torn.wanted} bytes in block {max(blocks, 1)}"
        ) from torn
    except Strange:
        yield from unit.rest()
        return
    for master in masters:
        if master.size is not None and master.got < master.size:
            raise TruncatedMedia(
                f"truncated: got {master.got} of {master.size} bytes of the {master.name}, "
                f"which ends after block {blocks}"
            )


def _element_id(unit: UnitReader) -> int:
    first = unit.take(1)
    length = 9 - first[0].bit_length()
    if length > 4:
        raise Strange(f"no element begins with {first!r}")
    return int.from_bytes(first + unit.take(length - 1), "big")


def _element_size(unit: UnitReader) -> int | None:
    first = unit.take(1)[0]
    length = 9 - first.bit_length()
    if length > 8:
        raise Strange("a size of more than 8 bytes")
    bits = 7 * length
    size = int.from_bytes(bytes([first]) + unit.take(length - 1), "big") & ((1 << bits) - 1)
    return None if size == (1 << bits) - 1 else size


def _leave_masters(masters: list[_Master], ident: int) -> None:
    """Drop the masters that are complete, and those of unknown size that `ident` cannot be in."""
    while masters:
        last = masters[-1]
        outside = ident in _TOP_LEVEL or (last.name == "cluster" and ident in _BESIDE_CLUSTERS)
        if last.size is None and not outside:
            return
        if last.size is not None and last.got < last.size:
            return
        masters.pop()


def _count(masters: list[_Master], size: int) -> None:
    for master in masters:
        master.got += size


# Where the packets of a NUT stream begin and end.
#
# NUT has no length before its frames: every frame begins with one byte that a table in the main
# header explains, and that table is all this module reads. Source: the NUT specification by
# Niedermayer et al., https://ffmpeg.org/~michael/nut.txt, sections 3.2 to 3.7.

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
    """Give the packets of a NUT stream: headers, sync points, frames, the index.

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

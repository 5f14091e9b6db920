"""Matroska streams: where their elements begin and end, and what PyAV leaves out of their header.

libavformat's muxer reads the sample aspect ratio, chroma siting and HDR10 data from where PyAV 18
cannot write them. The header is small and made of nested elements, so it is taken apart, completed
and put together before it is sent.

Sources: RFC 8794 (EBML); RFC 9559 (Matroska), sections 5.1.4.1.17 and .28 to .31.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from ...filters.frame import StreamInfo
from ..errors import TruncatedMedia
from ..extent import SEGMENT, ebml_head
from .bytestream import TornUnit, UnitReader, UnknownStructure

_CLUSTER = 0x1F43B675
_BLOCKS = (0xA3, 0xA0)  # SimpleBlock, BlockGroup
_TOP_LEVEL = (0x1A45DFA3, SEGMENT)
# SeekHead, Info, Tracks, Cues, Attachments, Chapters, Tags: what ends a cluster of unknown size
_BESIDE_CLUSTERS = (
    *(0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367),
    _CLUSTER,
)


@dataclass(slots=True)
class _Master:
    """An element of Matroska whose children are read one by one."""

    name: str
    size: int | None
    """Bytes of its content; None if unknown to its writer."""
    got: int = 0


def matroska_units(unit: UnitReader) -> Iterator[bytes]:
    """Yield the elements of a Matroska stream; of segments and clusters the head, then children.

    Raises:
        TruncatedMedia: if the stream ends inside an element.
    """
    masters: list[_Master] = []
    blocks = 0
    try:
        while not unit.at_end:
            ident, size = _element_head(unit)
            _leave_masters(masters, ident)
            blocks += ident in _BLOCKS
            if ident in (SEGMENT, _CLUSTER):
                _count(masters, unit.size)
                if len(masters) == 2:  # deeper nesting would take ever longer to count
                    raise UnknownStructure("a segment or cluster inside of a cluster")
                masters.append(_Master("segment" if ident == SEGMENT else "cluster", size))
            elif size is None:
                raise UnknownStructure(f"element {ident:X} of unknown size")
            else:
                unit.gather(size)
                _count(masters, unit.size)
            yield unit.release()
    except TornUnit as torn:
        raise TruncatedMedia(
            f"truncated: got {torn.got} of {torn.wanted} bytes in block {max(blocks, 1)}"
        ) from torn
    except UnknownStructure:
        yield from unit.rest()
        return
    for master in masters:
        if master.size is not None and master.got < master.size:
            raise TruncatedMedia(
                f"truncated: got {master.got} of {master.size} bytes of the {master.name}, "
                f"which ends after block {blocks}"
            )


def _element_head(unit: UnitReader) -> tuple[int, int | None]:
    """Collect and read an element's id and size; the latter is None where it is not known."""
    head = b""
    for longest in (4, 8):
        first = unit.take(1)
        length = 9 - first[0].bit_length()
        if length > longest:
            raise UnknownStructure(f"no id or size of an element begins with {first!r}")
        head += first + unit.take(length - 1)
    return ebml_head(head, 0)[:2]


def _leave_masters(masters: list[_Master], ident: int) -> None:
    """Drop the masters that are complete, and those of unknown size that cannot hold `ident`."""
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


Elements = list[tuple[int, bytes]]
"""Children of a Matroska element: id and content, in order."""

_SEEK_HEAD, _VOID = 0x114D9B74, 0xEC
_TRACKS, _TRACK_ENTRY, _VIDEO, _COLOUR = 0x1654AE6B, 0xAE, 0xE0, 0x55B0
_DISPLAY_WIDTH, _DISPLAY_HEIGHT, _DISPLAY_UNIT = 0x54B0, 0x54BA, 0x54B2
_SITING_ACROSS, _SITING_DOWN = 0x55B7, 0x55B8
_ADDITION_MAPPING, _ADDITION_TYPE, _ADDITION_DATA = 0x41E4, 0x41E7, 0x41ED
_MAX_CLL, _MAX_FALL, _MASTERING, _FIRST_MASTERING = 0x55BC, 0x55BD, 0x55D0, 0x55D1
_SITINGS = {"topleft": (1, 1), "left": (1, 2), "top": (2, 1), "center": (2, 2)}
_UNKNOWN_SIZE = b"\x01" + 7 * b"\xff"


def describe_matroska(header: bytes, info: StreamInfo) -> bytes:
    """Complete the header of a Matroska stream, up to the first cluster, with what PyAV leaves out.

    That is the aspect ratio, chroma siting and HDR10 data.
    """
    done = b""
    for ident, body, rest in _top_elements(header):
        if ident == SEGMENT:
            parts = (_segment_child(child, content, info) for child, content in elements_of(rest))
            return done + _id_bytes(ident) + _UNKNOWN_SIZE + b"".join(parts)
        done += element(ident, body)
    return header


def _top_elements(header: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield id, content and everything after the head, of elements up to the segment."""
    offset = 0
    while offset < len(header):
        ident, size, start = ebml_head(header, offset)
        offset = len(header) if ident == SEGMENT or size is None else start + size
        yield ident, header[start:offset], header[start:]


def _segment_child(ident: int, content: bytes, info: StreamInfo) -> bytes:
    if ident == _SEEK_HEAD:  # its positions would be wrong, and a pipe cannot seek
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
    """Return where a Matroska stream's chroma samples lie; None if it does not say.

    The header is of whole elements from the first byte on, the tracks among them.
    """
    try:
        tracks = _tracks_of(header)
        colours = [dict(elements_of(_first(_first(track, _VIDEO), _COLOUR))) for track in tracks]
    except IndexError:  # an element ends inside its head
        return None
    keys = (_SITING_ACROSS, _SITING_DOWN)
    found = [tuple(int.from_bytes(one.get(key, b"")) for key in keys) for one in colours]
    return next((name for name, way in _SITINGS.items() if way in found), None)


def block_additions(header: bytes) -> dict[bytes, bytes]:
    """Return the configurations of the tracks' block additions, by type: ``b"dvcC"``, …."""
    try:
        mappings = [
            dict(elements_of(content))
            for track in _tracks_of(header)
            for ident, content in elements_of(track)
            if ident == _ADDITION_MAPPING
        ]
    except IndexError:
        return {}
    return {each.get(_ADDITION_TYPE, b""): each.get(_ADDITION_DATA, b"") for each in mappings}


def _tracks_of(header: bytes) -> list[bytes]:
    ident, start, end = 0, 0, 0
    while ident != SEGMENT and end < len(header):
        ident, size, start = ebml_head(header, end)
        end = len(header) if size is None else start + size
    children = elements_of(_first(header[start:] if ident == SEGMENT else b"", _TRACKS))
    return [track for ident, track in children if ident == _TRACK_ENTRY]


def display_size(width: int, height: int, sample_aspect_ratio: Fraction) -> tuple[int, int]:
    """Return the size, in square pixels, at which a video of other pixels has its exact shape."""
    shape = Fraction(width, height) * sample_aspect_ratio
    if (shape * height).denominator == 1:
        return int(shape * height), height
    if (width / shape).denominator == 1:
        return width, int(width / shape)
    return shape.numerator, shape.denominator


def elements_of(content: bytes) -> Elements:
    """Split the content of a Matroska element into its children."""
    return list(_children(content))


def _children(content: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset < len(content):
        ident, size, start = ebml_head(content, offset)
        offset = len(content) if size is None else start + size
        yield ident, content[start:offset]


def _first(content: bytes, ident: int) -> bytes:
    """Return the content of the first child of a kind; nothing if there is none."""
    return next((body for child, body in _children(content) if child == ident), b"")


def element(ident: int, content: bytes) -> bytes:
    """Write one Matroska element; its size takes 8 bytes only where it must."""
    size = len(content)
    length = 1 if size < 0x7F else 8
    return _id_bytes(ident) + (size | 1 << 7 * length).to_bytes(length, "big") + content


def _joined(children: Elements) -> bytes:
    return b"".join(element(ident, content) for ident, content in children)


def _id_bytes(ident: int) -> bytes:
    return ident.to_bytes(math.ceil(ident.bit_length() / 8), "big")


def _unsigned(value: int) -> bytes:
    return value.to_bytes(max(1, math.ceil(value.bit_length() / 8)), "big")

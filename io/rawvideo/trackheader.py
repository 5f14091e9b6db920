"""What PyAV leaves out of the headers of NUT and Matroska streams, put back in.

libavformat's muxers take the sample aspect ratio, chroma siting and HDR10 data from places that
PyAV 18 does not let us write to. The headers are small and built of nested elements, so they are
taken apart, completed and put together again before they go out.

Sources: RFC 9559 (Matroska), sections 5.1.4.1.28 to .31; the NUT specification by Niedermayer et
al., https://ffmpeg.org/~michael/nut.txt, "stream_header" and "Checksums".
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from fractions import Fraction

from ...filters.frame import StreamInfo
from .nut import Numbers

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

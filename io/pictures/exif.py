"""EXIF data: a TIFF without pixels. Its orientation, a neutral copy, and its place in a TIFF file.

Makers' data hold offsets that only they know, so a copy keeps every byte where it was; only in a
TIFF file, whose own directory they join, the fields are written one by one.

Source: EXIF 2.32 (CIPA DC-008), sections 4.5 and 4.6; TIFF 6.0, section 2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 1, 7: 1, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4}
"""Bytes in which the byte order counts, by type of value; rationals (5, 10) are two of them."""
_SHORT, _LONG, _UNDEFINED = 3, 4, 7
_ORIENTATION, _WIDTH, _HEIGHT, _PROFILE = 0x0112, 0xA002, 0xA003, 0x8773
_EXIF, _GPS, _INTEROP = 0x8769, 0x8825, 0xA005
_UNREMARKABLE = {282, 283, 296, 305}  # resolution, and the program that wrote the file
# What describes the coded pixels of a TIFF: sizes, strips, tiles, samples, JPEG.
_STRUCTURE = {
    254, 255, *range(256, 267), 273, *range(277, 282), 284, *range(288, 294), 317, 320,
    *range(322, 326), 330, 338, 339, 347, *range(512, 522), *range(529, 533), _PROFILE,
}  # fmt: skip
# Degrees counter-clockwise, and mirrored before that (EXIF 2.32, 4.6.4)
_TURNS = {
    1: (0, False), 2: (0, True), 3: (180, False), 4: (180, True),
    5: (90, True), 6: (270, False), 7: (270, True), 8: (90, False),
}  # fmt: skip


class _Field(NamedTuple):
    tag: int
    kind: int
    num_values: int
    value: bytes  # in the byte order of the data
    place: int  # of its 12 bytes


def _order(tiff: bytes) -> str:
    return "<" if tiff[:1] == b"I" else ">"


def fields_of(tiff: bytes, offset: int | None = None) -> Iterator[_Field]:
    """Yield the fields of a directory, by default of the first, except those of unknown types.

    Raises:
        ValueError: if the data end inside it, or its values overlap: a small file could so
            have copies made of it without end.
    """
    order, left = _order(tiff), len(tiff)
    try:
        if tiff[:4] not in (b"II*\0", b"MM\0*"):
            raise ValueError(f"wanted a TIFF header, got {tiff[:4]!r}")
        first = struct.unpack_from(f"{order}I", tiff, 4)[0] if offset is None else offset
        (count,) = struct.unpack_from(f"{order}H", tiff, first)
        for place in range(first + 2, first + 2 + 12 * count, 12):
            tag, kind, count, start = struct.unpack_from(f"{order}HHII", tiff, place)
            size = count * _UNITS.get(kind, 0) * (2 if kind in (5, 10) else 1)
            start = place + 8 if size <= 4 else start
            value = tiff[start : start + size]
            if len(value) < size:
                raise ValueError(f"tag {tag} has {len(value)} of {size} bytes")
            if (left := left - size) < 0:
                raise ValueError(f"more values than the {len(tiff)} bytes that there are")
            if kind in _UNITS:
                yield _Field(tag, kind, count, value, place)
    except struct.error as error:
        raise ValueError(f"the data end inside a directory: {error}") from error


def _number(tiff: bytes, field: _Field) -> int:
    return int.from_bytes(field.value[:4], "little" if _order(tiff) == "<" else "big")


def turn_of(exif: bytes) -> tuple[int, bool]:
    """Return how the picture is to be turned: degrees counter-clockwise, mirrored before that.

    Raises:
        ValueError: if the data are damaged.
    """
    found = [_number(exif, field) for field in fields_of(exif) if field.tag == _ORIENTATION]
    return _TURNS.get(found[0] if found else 1, (0, False))


def neutral(exif: bytes, width: int, height: int) -> bytes:
    """Return a copy for a picture of this size, whose pixels are already turned.

    Orientation and size are replaced where they are; a thumbnail, which shows the old picture, is
    no longer referred to. All else keeps its place.

    Raises:
        ValueError: if the data are damaged.
    """
    copy, order = bytearray(exif), _order(exif)
    found = list(fields_of(exif))
    for field in [one for one in found if one.tag == _EXIF][:1]:
        found += fields_of(exif, _number(exif, field))
    for field in found:
        if field.tag == _ORIENTATION:
            struct.pack_into(f"{order}HIHH", copy, field.place + 2, _SHORT, 1, 1, 0)
        elif field.tag in (_WIDTH, _HEIGHT):
            size = width if field.tag == _WIDTH else height
            struct.pack_into(f"{order}HII", copy, field.place + 2, _LONG, 1, size)
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, start)
    following = slice(start + 2 + 12 * count, start + 6 + 12 * count)
    copy[following] = bytes(len(copy[following]))
    return bytes(copy)


def read_tiff(tiff: bytes) -> tuple[bytes | None, bytes | None]:
    """Return the ICC profile of a TIFF file, and what it says of its picture as EXIF data.

    Raises:
        ValueError: if its directory is damaged.
    """
    profile = next((field.value for field in fields_of(tiff) if field.tag == _PROFILE), None)
    made = bytearray(b"II*\0\0\0\0\0")
    entries = _copied(tiff, None, made, skip=_STRUCTURE)
    struct.pack_into("<I", made, 4, _directory(entries, made))
    return profile, None if entries.keys() <= _UNREMARKABLE else bytes(made)


def with_fields(tiff: bytes, icc_profile: bytes | None, exif: bytes | None) -> bytes:
    """Return a little-endian TIFF file with a directory at its end that holds these, too.

    Raises:
        ValueError: if the EXIF data are damaged.
    """
    made = bytearray(tiff)
    entries = {field.tag: tiff[field.place : field.place + 12] for field in fields_of(tiff)}
    if exif is not None:
        entries |= _copied(exif, None, made, skip=_STRUCTURE | entries.keys())
    if icc_profile is not None:
        entries[_PROFILE] = _entry(_PROFILE, _UNDEFINED, len(icc_profile), icc_profile, made)
    struct.pack_into("<I", made, 4, _directory(entries, made))
    return bytes(made)


def _copied(
    source: bytes, offset: int | None, target: bytearray, *, skip: set[int], depth: int = 0
) -> dict[int, bytes]:
    """Add the values of a directory to `target`; return its entries there."""
    entries: dict[int, bytes] = {}
    for field in fields_of(source, offset):
        kind, value = field.kind, field.value
        if field.tag in skip or field.tag in entries:  # once each, so that loops end
            continue
        if field.tag in (_EXIF, _GPS, _INTEROP):
            if depth == 2:  # EXIF data, and what they refer to, are all that there can be
                continue
            below = _copied(source, _number(source, field), target, skip=set(), depth=depth + 1)
            kind, value = _LONG, struct.pack("<I", _directory(below, target))
        elif _order(source) == ">" and (unit := _UNITS[kind]) > 1:
            value = b"".join(value[i : i + unit][::-1] for i in range(0, len(value), unit))
        entries[field.tag] = _entry(field.tag, kind, field.num_values, value, target)
    return entries


def _entry(tag: int, kind: int, count: int, value: bytes, target: bytearray) -> bytes:
    value = struct.pack("<I", _added(value, target)) if len(value) > 4 else value
    return struct.pack("<HHI4s", tag, kind, count, value)


def _directory(entries: dict[int, bytes], target: bytearray) -> int:
    """Add a directory; return where it begins."""
    data = struct.pack("<H", len(entries)) + b"".join(entry for _, entry in sorted(entries.items()))
    return _added(data + bytes(4), target)


def _added(data: bytes, target: bytearray) -> int:
    """Add data at an even place; return that."""
    target.extend(bytes(len(target) % 2))
    target.extend(data)
    return len(target) - len(data)

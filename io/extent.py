"""How far a file goes by its own structure: MP4's boxes, Matroska's segment, Flash video's tags.

Only heads are read: no packet, neither PyAV nor torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

_MP4_BEGINS = (b"ftyp", b"moov", b"wide", b"free", b"skip", b"mdat")
_SAMPLE_ENTRY = re.compile(rb"stsd.{12}(.{4})", re.DOTALL)  # the first of each track
_LARGEST_INDEX = 64 << 20  # bytes: that of a day of film
EBML = b"\x1a\x45\xdf\xa3"
"""With which Matroska and WebM begin."""
SEGMENT = 0x18538067
"""The id of the element that holds the rest."""


_LONGEST_RUN, _NEXT_TO_NOTHING = 1000, 16

_Element = TypeVar("_Element", bound=tuple[object, int, int])


def bounded(elements: Iterable[_Element]) -> Iterator[_Element]:
    """End a walk over the elements of a file at a run of 1000 of at most 16 bytes each.

    No program writes such a run, and a small file of them would take minutes. Each element is a
    name, and where it begins and ends.
    """
    run = 0
    for element in elements:
        run = 0 if element[2] - element[1] > _NEXT_TO_NOTHING else run + 1
        if run > _LONGEST_RUN:
            return
        yield element


def promised_bytes(path: Path) -> int | None:
    """Return how long an MP4, MOV, Matroska or WebM file should be; None where it does not say."""
    if (end := segment_end(path)) is None and (boxes := mp4_boxes(path)):
        _, end = boxes[-1]
    return end


def mp4_boxes(path: Path) -> list[tuple[str, int]]:
    """List the top-level boxes of an MP4 or MOV, in order; nothing for any other file.

    Returns:
        The name of each box, and the offset of its end in bytes, which may lie beyond the file.
    """
    return [(name, end) for name, _, end in bounded(_boxes(path))]


def _boxes(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield the name of each top-level box, and where it begins and ends.

    Source: ISO/IEC 14496-12, 4.2.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        offset = 0
        while offset + 8 <= size:
            file.seek(offset)
            head = file.read(16)
            length, name = int.from_bytes(head[:4]), head[4:8]
            if length == 1:
                length = int.from_bytes(head[8:16])
            if not (name.isalnum() if offset else name in _MP4_BEGINS) or 0 < length < 8:
                return
            end = offset + length if length else size
            yield name.decode("latin-1"), offset, end
            offset = end


def mp4_index(path: Path) -> bytes:
    """Return the index (``moov``) of an MP4 or MOV; empty for any other file."""
    for name, start, end in bounded(_boxes(path)):
        if name == "moov":
            with path.open("rb") as file:
                file.seek(start)
                return file.read(min(end - start, _LARGEST_INDEX))
    return b""


def sample_entries(index: bytes) -> list[str]:
    """List the formats of the tracks in an MP4's index, in their order: ``avc1``, ``gpmd``.

    Source: ISO/IEC 14496-12, 8.5.2.
    """
    return [found[1].decode("latin-1") for found in _SAMPLE_ENTRY.finditer(index)]


def append_to_video_entry(path: Path, boxes: bytes) -> None:
    """Append boxes to the sample entry of the first track of an MP4 whose index is its last box.

    In another order the places of its frames would change: then it is left as it is.
    """
    index = bytearray(mp4_index(path))
    if mp4_boxes(path)[-1][0] != "moov" or _length(index, 0) != len(index):
        return
    around, at = list[int](), 0
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b""):
        while not index.startswith(name, at + 4):
            if _length(index, at) < 8:
                raise ValueError(f"the index must have a box {name!r}, got none")
            at += _length(index, at)
        around.append(at)
        at += 16 if name == b"stsd" else 8
    end = around[-1] + _length(index, around[-1])
    for start in around:
        index[start : start + 4] = (_length(index, start) + len(boxes)).to_bytes(4)
    index[end:end] = boxes
    with path.open("r+b") as file:
        file.seek(len(boxes) - len(index), os.SEEK_END)
        file.write(index)


def _length(index: bytearray, at: int) -> int:
    return int.from_bytes(index[at : at + 4])


def whole_fragments(path: Path) -> int:
    """Return up to which byte an MP4 consists of whole fragments: an index and its data.

    Source: ISO/IEC 14496-12, 4.2 and 8.8.4.
    """
    total, whole, has_index = path.stat().st_size, 0, False
    for name, end in mp4_boxes(path):
        if end > total or (name == "moov" and has_index):  # an index that was only begun
            break
        has_index = has_index or name == "moov"
        if name != "moof":  # which is of no use without the data behind it
            whole = end
    return whole


def whole_tags(path: Path) -> int:
    """Return up to which byte a Flash video consists of whole tags.

    Source: Adobe Flash Video File Format Specification 10.1, E.3 and E.4.
    """
    total = path.stat().st_size
    with path.open("rb") as file:
        offset = int.from_bytes(file.read(9)[5:9]) + 4
        while offset + 11 <= total:
            file.seek(offset + 1)
            size = 11 + int.from_bytes(file.read(3)) + 4
            if offset + size > total:
                break
            offset += size
    return min(offset, total)


def segment_end(path: Path) -> int | None:
    """Return where a Matroska or WebM file's segment ends; None for other files, or if unknown.

    Source: RFC 8794 (EBML), sections 4 and 6; RFC 9559, section 5.1.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    if not head.startswith(EBML):
        return None
    try:
        _, length, offset = ebml_head(head, 0)
        ident, length, offset = ebml_head(head, offset + (length or 0))
    except IndexError:
        return None
    return None if ident != SEGMENT or length is None else offset + length


def ebml_head(data: bytes, offset: int) -> tuple[int, int | None, int]:
    """Read the head of an EBML element: its id, its size, and the offset of its content.

    The size is None where its writer did not know it.

    Raises:
        IndexError: if the data end inside it.
    """
    width = 9 - data[offset].bit_length()
    ident = int.from_bytes(data[offset : offset + width])
    offset += width
    width = 9 - data[offset].bit_length()
    size = int.from_bytes(data[offset : offset + width]) & (most := (1 << 7 * width) - 1)
    return ident, None if size == most else size, offset + width

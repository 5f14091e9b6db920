"""Image files as phones and browsers write them: profiles, EXIF data, HEIC and AVIF of tiles."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np

from upframe.io.capabilities import open_context
from upframe.io.pictures.image_files import Embedded, read_embedded

P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))
"""Red, green and blue of XYZ, adapted to D50."""


def _xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def icc_profile(
    name: str = "Display P3 test",
    space: bytes = b"RGB ",
    primaries: Sequence[tuple[float, float, float]] = P3,
    gamma: float = 2.2,
    padding: int = 0,
) -> bytes:
    """An ICC v2 profile of a matrix and a gamma (of a gamma alone for gray)."""
    text = name.encode() + b"\0"
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78)
    tags = [
        (b"desc", description),
        (b"cprt", b"text\0\0\0\0x\0" + bytes(padding)),
        (b"wtpt", _xyz(0.9642, 1, 0.8249)),
    ]
    if space == b"GRAY":
        tags.append((b"kTRC", curve))
    else:
        tags += [(b"rgb"[i : i + 1] + b"XYZ", _xyz(*primaries[i])) for i in range(3)]
        tags += [(b"rgb"[i : i + 1] + b"TRC", curve) for i in range(3)]
    offset, table, data = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, value in tags:
        padded = value + bytes(-len(value) % 4)
        table += tag + struct.pack(">II", offset + len(data), len(value))
        data += padded
    head = struct.pack(
        ">I4sI4s4s4s", offset + len(data), bytes(4), 0x02100000, b"mntr", space, b"XYZ "
    )
    head += bytes(12) + b"acsp" + bytes(28) + _xyz(0.9642, 1, 0.8249)[8:]
    return head.ljust(128, b"\0") + table + data


def exif_data(
    orientation: int = 6,
    *,
    order: str = "<",
    size: tuple[int, int] = (64, 48),
    thumbnail: bool = True,
) -> bytes:
    """Make, orientation, the size, a maker note, a position, and a thumbnail's directory."""

    def entry(tag: int, kind: int, count: int, value: int | bytes) -> bytes:
        head = struct.pack(f"{order}HHI", tag, kind, count)
        if isinstance(value, bytes):
            return head + value.ljust(4, b"\0")
        return head + (
            struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value)
        )

    def directory(*entries: bytes, following: int = 0) -> bytes:
        return (
            struct.pack(f"{order}H", len(entries))
            + b"".join(entries)
            + struct.pack(f"{order}I", following)
        )

    head = b"II*\0" if order == "<" else b"MM\0*"
    blob = b"maker note whose offsets are its own"
    rational = struct.pack(f"{order}6I", 52, 1, 30, 1, 0, 1)
    # 8: first directory of 4 entries (54 bytes), then EXIF (3: 42), GPS (2: 30), thumbnail (1: 18)
    exif_at, gps_at, thumbnail_at = 62, 104, 134
    blob_at, rational_at = 152, 152 + len(blob)
    first = directory(
        entry(0x010F, 2, 4, b"ACM\0"),
        entry(0x0112, 3, 1, orientation),
        entry(0x8769, 4, 1, exif_at),
        entry(0x8825, 4, 1, gps_at),
        following=thumbnail_at if thumbnail else 0,
    )
    exif = directory(
        entry(0x927C, 7, len(blob), blob_at),
        entry(0xA002, 3, 1, size[0]),
        entry(0xA003, 4, 1, size[1]),
    )
    gps = directory(entry(0x0001, 2, 2, b"N\0"), entry(0x0002, 5, 3, rational_at))
    small = directory(entry(0x0112, 3, 1, orientation))
    made = head + struct.pack(f"{order}I", 8) + first + exif + gps + small
    assert len(made) == blob_at
    return made + blob + rational


def with_segments(jpeg: Path, *segments: tuple[int, bytes]) -> Path:
    """Put segments behind the beginning of a JPEG."""
    data = jpeg.read_bytes()
    made = b"".join(b"\xff" + bytes([m]) + (len(d) + 2).to_bytes(2) + d for m, d in segments)
    jpeg.write_bytes(data[:2] + made + data[2:])
    return jpeg


# HEIF: boxes around pictures that an MP4 muxer has coded.

RED, GREEN, BLUE, WHITE = (200, 30, 30), (30, 200, 30), (30, 30, 200), (220, 220, 220)


def embedded_of(image: Path) -> Embedded | None:
    """What an image file says about its picture."""
    return read_embedded(image.read_bytes())


def box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(data), kind) + data


def _full(kind: bytes, version: int, data: bytes, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">B3s", version, flags.to_bytes(3)) + data)


def _coded(rgb: np.ndarray, codec: str, pix_fmt: str) -> tuple[bytes, bytes]:
    """The box of a codec's configuration, and one coded picture."""
    options = {"libx265": {"x265-params": "log-level=none:lossless=0:crf=1"}}.get(
        codec, {"crf": "1"}
    )
    written = BytesIO()
    with av.open(written, "w", format="mp4") as output:
        stream = output.add_stream(codec, rate=1, options=options)
        stream.height, stream.width = rgb.shape[:2]
        stream.pix_fmt = pix_fmt
        if codec == "libx265":
            stream.codec_context.codec_tag = "hvc1"
        open_context(stream.codec_context)
        frame = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format=pix_fmt)
        frame.pts, frame.time_base = 0, Fraction(1)
        for packet in (*stream.encode(frame), *stream.encode(None)):
            packet.dts = packet.pts  # of a single picture libx265 returns none
            output.mux(packet)
    data = written.getvalue()
    found = data.find(b"hvcC" if codec == "libx265" else b"av1C") - 4
    config = data[found : found + int.from_bytes(data[found : found + 4])]
    sample = data.find(b"mdat") - 4
    return config, data[sample + 8 : sample + int.from_bytes(data[sample : sample + 4])]


def make_heif(
    path: Path,
    pictures: Sequence[np.ndarray],
    *,
    columns: int = 1,
    shown: tuple[int, int] | None = None,
    properties: Sequence[bytes] = (),
    codec: str = "libx265",
    pix_fmt: str = "yuv420p",
    exif: bytes | None = None,
) -> Path:
    """A HEIC or AVIF file: one coded picture, or a grid of several, with further properties.

    Args:
        path: of the file.
        pictures: (H, W, 3) uint8, of one size, row by row.
        columns: of the grid.
        shown: width and height of the whole picture; by default those of all tiles.
        properties: boxes that belong to the whole picture, in order.
        codec: ``libx265`` or ``libsvtav1``.
        pix_fmt: of the coded pictures.
        exif: EXIF data, from their TIFF header on.
    """
    coded = [_coded(rgb, codec, pix_fmt) for rgb in pictures]
    height, width = pictures[0].shape[:2]
    count, rows = len(coded), len(coded) // columns
    shown = shown or (width * columns, height * rows)
    kind, brand = (b"hvc1", b"heic") if codec == "libx265" else (b"av01", b"avif")
    items = [(kind, data) for _, data in coded]
    if count > 1:
        items.append((b"grid", bytes([0, 0, rows - 1, columns - 1]) + struct.pack(">HH", *shown)))
    primary = len(items)
    if exif is not None:
        items.append((b"Exif", bytes(4) + exif))

    def entry(number: int, kind: bytes) -> bytes:
        return _full(b"infe", 2, struct.pack(">HH4s", number, 0, kind) + b"\0")

    listed = b"".join(entry(number, kind) for number, (kind, _) in enumerate(items, 1))
    known = [coded[0][0], _full(b"ispe", 0, struct.pack(">II", width, height))]
    known += [_full(b"ispe", 0, struct.pack(">II", *shown)), _full(b"pixi", 0, bytes([3, 8, 8, 8]))]
    known += properties
    own = [0x80 | number for number in range(5, 5 + len(properties))]  # essential
    links = b"".join(struct.pack(">HB", n, 3) + bytes([0x81, 2, 4]) for n in range(1, primary))
    last = [3, 4, *own] if count > 1 else [0x81, 2, 4, *own]
    links += struct.pack(">HB", primary, len(last)) + bytes(last)
    references = b""
    if count > 1:
        tiles = struct.pack(f">HH{count}H", primary, count, *range(1, count + 1))
        references += box(b"dimg", tiles)
    if exif is not None:
        references += box(b"cdsc", struct.pack(">HHH", primary + 1, 1, primary))
    head = box(b"ftyp", brand + bytes(4) + b"mif1" + brand + (b"miaf" if brand == b"avif" else b""))

    def meta(offset: int) -> bytes:
        places = b""
        for number, (_, data) in enumerate(items, 1):
            places += struct.pack(">HHHII", number, 0, 1, offset, len(data))
            offset += len(data)
        parts = _full(b"hdlr", 0, struct.pack(">I4s12s", 0, b"pict", b"") + b"\0")
        parts += _full(b"pitm", 0, struct.pack(">H", primary))
        parts += _full(b"iloc", 0, bytes([0x44, 0]) + struct.pack(">H", len(items)) + places)
        parts += _full(b"iinf", 0, struct.pack(">H", len(items)) + listed)
        parts += _full(b"iref", 0, references) if references else b""
        linked = _full(b"ipma", 0, struct.pack(">I", primary) + links)
        return _full(b"meta", 0, parts + box(b"iprp", box(b"ipco", b"".join(known)) + linked))

    offset = len(head) + len(meta(0)) + 8
    path.write_bytes(head + meta(offset) + box(b"mdat", b"".join(data for _, data in items)))
    return path


def aperture(width: int, height: int, x: int = 0, y: int = 0) -> bytes:
    """A crop: its size, and twice the distance of its middle from the picture's."""
    return box(b"clap", struct.pack(">IIIIiIiI", width, 1, height, 1, x, 2, y, 2))


def flat(color: tuple[int, int, int], width: int = 64, height: int = 64) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)

"""ICC profile and EXIF data of image files: read from PNG, JPEG, WebP and TIFF, and put into them.

FFmpeg decodes and encodes the pixels. What lies beside them is copied here, because PyAV can
neither read EXIF data nor attach anything to a frame.

Source: PNG, Third Edition, 11.3.2.3 and 11.3.2.8; ICC.1:2022, annex B.4 (JPEG); RFC 9649, 2.7
(WebP).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..extent import bounded
from .exif import neutral, read_tiff, turn_of, with_fields
from .png import SIGNATURE, chunk, chunks

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet

_EXIF, _ICC = b"Exif\0\0", b"ICC_PROFILE\0"
_SEGMENT_BYTES = 65_533  # of JPEG, without its length
_MAX_PROFILE_BYTES = 255 * 65_519  # as much as a JPEG holds
HOLDERS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
"""Image files that hold a profile and EXIF data."""
_COLOURS_OF_PNG = (b"iCCP", b"sRGB", b"cICP", b"gAMA", b"cHRM")
_TIFF = (b"II*\0", b"MM\0*")
_HAS_PROFILE, _HAS_ALPHA, _HAS_EXIF = 0x20, 0x10, 0x08  # flags of WebP


@dataclass(frozen=True, slots=True)
class Embedded:
    """What an image file says about its picture."""

    icc_profile: bytes | None = None
    exif: bytes | None = None
    """From its TIFF header on."""
    turn: tuple[int, bool] = (0, False)
    """How to show it: degrees counter-clockwise, mirrored before that."""
    notes: tuple[str, ...] = ()
    """What is damaged, for people."""


def embedded_in(container: InputContainer, packet: Packet[Any]) -> Embedded | None:
    """Read profile, EXIF data and orientation from the first packet of an image; None if none is.

    The packet is the whole file, but of an animated PNG its first picture.
    """
    name, data = container.format.name, bytes(packet)
    if name == "apng":
        data = SIGNATURE + (container.streams.video[0].codec_context.extradata or b"") + data
    is_image = name.endswith("_pipe") or name in ("apng", "image2", "mjpeg")
    return read_embedded(data) if is_image else None


def read_embedded(data: bytes) -> Embedded | None:
    """Read profile, EXIF data and orientation from the contents of an image file; None if none."""
    if (kind := _kind_of(data[:12])) is None:
        return None
    try:
        profile, exif = _READERS[kind](data)
    except ValueError as error:
        return Embedded(notes=(f"ICC profile and EXIF data are damaged: {error}",))
    return checked(profile, exif)


def checked(
    profile: bytes | None, exif: bytes | None, turn: tuple[int, bool] | None = None
) -> Embedded:
    """Leave out what is damaged; `turn` is how to show the picture if EXIF data do not decide."""
    found = Embedded(profile, turn=turn or (0, False))
    if profile is not None and (fault := _fault_of(profile)):
        found = replace(found, icc_profile=None, notes=(f"the ICC profile is damaged: {fault}",))
    if exif is None:
        return found
    try:
        return replace(found, exif=exif, turn=turn or turn_of(exif))
    except ValueError as error:
        return replace(found, notes=(*found.notes, f"the EXIF data are damaged: {error}"))


def _kind_of(head: bytes) -> str | None:
    if head.startswith(SIGNATURE):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return "tiff" if head.startswith(_TIFF) else None


def _fault_of(profile: bytes) -> str | None:
    """Return what is wrong with a profile's header (ICC.1:2022, 7.2); None if nothing is."""
    if len(profile) < 132 or profile[36:40] != b"acsp":
        return f"no header in {len(profile)} bytes"
    size = int.from_bytes(profile[:4])
    if size > len(profile) or len(profile) > _MAX_PROFILE_BYTES:
        return f"{len(profile)} of {size} bytes, at most {_MAX_PROFILE_BYTES}"
    return None


def space_of(profile: bytes) -> str:
    """Return the colours that a profile describes, such as ``RGB``, ``GRAY`` or ``CMYK``."""
    return profile[16:20].decode("latin-1").strip()


_Found = tuple[bytes | None, bytes | None]


def _of_png(data: bytes) -> _Found:
    found: dict[bytes, bytes] = {}
    for name, start, end in bounded(chunks(data)):
        if name in (b"iCCP", b"eXIf"):
            found[name] = data[start:end]
    profile = None
    if (packed := found.get(b"iCCP")) is not None:
        name, _, packed = packed.partition(b"\0")
        try:
            profile = zlib.decompressobj().decompress(packed[1:], _MAX_PROFILE_BYTES)
        except zlib.error:
            profile = b""
    return profile, found.get(b"eXIf")


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker of each segment before a JPEG's pixels, and where its data begin and end."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4])
        if marker in (0xD9, 0xDA) or length < 2:
            return
        yield marker, place + 4, place + 2 + length
        place += 2 + length


def _of_jpeg(data: bytes) -> _Found:
    exif, parts = None, dict[int, bytes]()
    for marker, start, end in bounded(_segments(data)):
        segment = data[start:end]
        if marker == 0xE1 and segment.startswith(_EXIF) and exif is None:
            exif = segment[len(_EXIF) :]
        elif marker == 0xE2 and segment.startswith(_ICC) and len(segment) > 14:
            parts[segment[12]] = segment[14:]
    return b"".join(parts[number] for number in sorted(parts)) or None, exif


def _riff(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    place = 12
    while place + 8 <= len(data):
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        yield data[place : place + 4], place + 8, place + 8 + size
        place += 8 + size + size % 2


def _of_webp(data: bytes) -> _Found:
    found = {name: data[start:end] for name, start, end in bounded(_riff(data))}
    exif = found.get(b"EXIF")
    return found.get(b"ICCP"), exif and exif.removeprefix(_EXIF)


_READERS = {"png": _of_png, "jpeg": _of_jpeg, "webp": _of_webp, "tiff": read_tiff}


def holds_profile(extension: str, profile: bytes, *, gray: bool) -> bool:
    """Return whether a kind of image file, such as ``.png``, can hold a profile of its pictures."""
    return extension.lower() in HOLDERS and space_of(profile) == ("GRAY" if gray else "RGB")


def with_embedded(
    image: bytes, profile: bytes | None, exif: bytes | None, width: int, height: int
) -> bytes:
    """Put a profile and EXIF data into a PNG, JPEG, WebP or TIFF; leave any other as it is.

    Orientation and size in the EXIF data are replaced by those of the picture.

    Raises:
        ValueError: if the EXIF data are damaged, or too long for the format.
    """
    kind = _kind_of(image[:12])
    if kind is None or (profile is None and exif is None):
        return image
    exif = None if exif is None else neutral(exif, width, height)
    if kind == "tiff":
        return with_fields(image, profile, exif)
    if kind == "png":
        return _png_with(image, profile, exif)
    if kind == "webp":
        return _webp_with(image, profile, exif, width, height)
    return _jpeg_with(image, profile, exif)


def _png_with(image: bytes, profile: bytes | None, exif: bytes | None) -> bytes:
    parts = [(name, chunk(name, image[start:end])) for name, start, end in chunks(image)]
    added = b""
    if profile is not None:  # which then speaks alone
        parts = [part for part in parts if part[0] not in _COLOURS_OF_PNG]
        added = chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))
    if exif is not None:
        added += chunk(b"eXIf", exif)
    head, *rest = (data for _, data in parts)
    return SIGNATURE + head + added + b"".join(rest)


def _jpeg_with(image: bytes, profile: bytes | None, exif: bytes | None) -> bytes:
    place = next((end for marker, _, end in _segments(image) if marker == 0xE0), 2)
    added = b"" if exif is None else _segment(0xE1, _EXIF + exif)
    if profile is not None:
        room = _SEGMENT_BYTES - len(_ICC) - 2
        cut = [profile[start : start + room] for start in range(0, len(profile), room)]
        for number, part in enumerate(cut, 1):
            added += _segment(0xE2, _ICC + bytes([number, len(cut)]) + part)
    return image[:place] + added + image[place:]


def _segment(marker: int, data: bytes) -> bytes:
    if len(data) > _SEGMENT_BYTES:
        raise ValueError(f"JPEG holds {_SEGMENT_BYTES} bytes of EXIF data, got {len(data)}")
    return bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2) + data


def _webp_with(
    image: bytes, profile: bytes | None, exif: bytes | None, width: int, height: int
) -> bytes:
    parts = [(name, image[start:end]) for name, start, end in _riff(image)]
    flags = (_HAS_PROFILE if profile is not None else 0) | (_HAS_EXIF if exif is not None else 0)
    for name, data in parts:
        if name == b"ALPH" or (name == b"VP8L" and data[4] & 0x10):
            flags |= _HAS_ALPHA
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    made = [(b"VP8X", bytes([flags, 0, 0, 0]) + size)]
    made += [] if profile is None else [(b"ICCP", profile)]
    made += [part for part in parts if part[0] in (b"ALPH", b"VP8 ", b"VP8L")]
    made += [] if exif is None else [(b"EXIF", exif)]
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in made
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body

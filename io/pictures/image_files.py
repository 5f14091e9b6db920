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
from .png import SIGNATURE, chunk, chunks

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet

import hashlib
import logging
from io import BytesIO
from typing import NamedTuple, cast

import numpy as np
from av.video.frame import VideoFrame

from ...filters.frame import Picture
from ..redaction import excerpt
from ..traits import Trait
from .pixels import frame_of, matrix_of, picture_of

# ICC profiles: their names, and pictures converted to sRGB where a file cannot hold a profile.

_profile_log = logging.getLogger("upframe.io.profiles")

_PC_RANGE, _TV_RANGE = 2, 1  # FFmpeg's numbers
_TIFF = (b"II*\0", b"MM\0*")


def profile_name(profile: bytes) -> str:
    """Return a profile's own name, such as ``Display P3``; empty where it has none."""
    from PIL import ImageCms  # here, since few inputs have a profile

    try:
        opened = ImageCms.ImageCmsProfile(BytesIO(profile))
        return ImageCms.getProfileDescription(opened).strip()
    except (OSError, ImageCms.PyCMSError):
        return ""


def embedded_traits(found: Embedded | None) -> Iterator[Trait]:
    """Yield the ICC profile and the EXIF data of an image file."""
    if found is not None and found.icc_profile is not None:
        text = f"ICC profile '{excerpt(profile_name(found.icc_profile), 60)}'"
        yield Trait("file", "icc", text, hashlib.sha256(found.icc_profile).hexdigest())
    if found is not None and found.exif is not None:
        yield Trait("file", "exif", "EXIF data")


def srgb_conversion(profile: bytes | None, name: str) -> ToSrgb | None:
    """Return a conversion for files that cannot hold a profile; log that it will be done.

    None, or sRGB itself, needs none. `name` is of the container or the image format, for people.
    """
    called = "" if profile is None else profile_name(profile)
    if profile is None or called.startswith("sRGB"):
        return None
    try:
        conversion = ToSrgb(profile)
    except ValueError as error:
        _profile_log.warning(
            "ICC profile %r cannot be applied, colours stay as coded: %s", called, error
        )
        return None
    _profile_log.warning(
        "%s cannot hold ICC profile %r: converted to sRGB, in 8 bits", name, called
    )
    return conversion


class ToSrgb:
    """Converts gray or RGB pictures from the colours of a profile to sRGB, by LittleCMS, in 8 bits.

    Raises:
        ValueError: if it describes other colours, or LittleCMS refuses it.
    """

    def __init__(self, profile: bytes) -> None:
        from PIL import ImageCms

        modes = {"RGB": "RGB", "GRAY": "L"}
        if (space := space_of(profile)) not in modes:
            raise ValueError(f"it describes {space}, wanted RGB or GRAY")
        self._mode = modes[space]
        try:
            opened = ImageCms.ImageCmsProfile(BytesIO(profile))
            srgb = cast("Any", ImageCms).createProfile("sRGB")
            self._transform: Any = ImageCms.buildTransform(opened, srgb, self._mode, "RGB")
        except (OSError, ImageCms.PyCMSError) as error:
            raise ValueError(str(error)) from error

    def __call__(self, picture: Picture) -> Picture:
        """Return a picture in sRGB: of the same format, its alpha unchanged."""
        from PIL import Image, ImageCms

        frame = frame_of(picture)
        matrix, is_gray = matrix_of(frame), len(picture.planes) == 1
        coded_range = frame.color_range or (_PC_RANGE if is_gray else _TV_RANGE)
        rgb = frame.reformat(
            format="rgb24", src_colorspace=matrix, src_color_range=coded_range, threads=1
        )
        image = Image.fromarray(rgb.to_ndarray()).convert(self._mode)
        converted = np.asarray(ImageCms.applyTransform(image, self._transform))
        made = VideoFrame.from_ndarray(converted, "rgb24").reformat(
            format=frame.format.name, dst_colorspace=matrix, dst_color_range=coded_range, threads=1
        )
        planes = picture_of(made, picture.color, 0, 0, picture.time_base).planes
        return replace(picture, planes=planes)


# EXIF data: a TIFF without pixels. Its orientation, a neutral copy, and its place in a TIFF file.
#
# Makers' data hold offsets that only they know, so a copy keeps every byte where it was; only in a
# TIFF file, whose own directory they join, the fields are written one by one.
#
# Source: EXIF 2.32 (CIPA DC-008), sections 4.5 and 4.6; TIFF 6.0, section 2.

_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 1, 7: 1, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4}
"""Bytes in which the byte order counts, by type of value; rationals (5, 10) are two of them."""
_SHORT, _LONG, _UNDEFINED = 3, 4, 7
_ORIENTATION, _WIDTH, _HEIGHT, _PROFILE = 0x0112, 0xA002, 0xA003, 0x8773
_EXIF_IFD, _GPS, _INTEROP = 0x8769, 0x8825, 0xA005
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
    for field in [one for one in found if one.tag == _EXIF_IFD][:1]:
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
        if field.tag in (_EXIF_IFD, _GPS, _INTEROP):
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


_EXIF, _ICC = b"Exif\0\0", b"ICC_PROFILE\0"
_SEGMENT_BYTES = 65_533  # of JPEG, without its length
_MAX_PROFILE_BYTES = 255 * 65_519  # as much as a JPEG holds
HOLDERS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
"""Image files that hold a profile and EXIF data."""
_COLOURS_OF_PNG = (b"iCCP", b"sRGB", b"cICP", b"gAMA", b"cHRM")
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

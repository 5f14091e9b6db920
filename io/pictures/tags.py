"""FFmpeg's numbers for colour ⇄ the names that a Color carries.

Source: ITU-T H.273 (07/2024), tables 2 to 4; the names are those of FFmpeg's pixdesc.c, which
its command line and ffprobe use.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, cast

import av
from av.error import FFmpegError
from av.frame import Frame
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ...filters.frame import Color, ContentLight, MasteringDisplay

if TYPE_CHECKING:
    from av.container import InputContainer

UNSPECIFIED: Final = 2  # for primaries, trc and matrix; the range's is 0

RANGES: Final[dict[int, Literal["tv", "pc"]]] = {1: "tv", 2: "pc"}
PRIMARIES: Final = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "film",
    9: "bt2020",
    10: "smpte428",
    11: "smpte431",
    12: "smpte432",
    22: "ebu3213",
    256: "vgamut",
}
TRANSFERS: Final = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "linear",
    9: "log100",
    10: "log316",
    11: "iec61966-2-4",
    12: "bt1361e",
    13: "iec61966-2-1",
    14: "bt2020-10",
    15: "bt2020-12",
    16: "smpte2084",
    17: "smpte428",
    18: "arib-std-b67",
    256: "vlog",
}
MATRICES: Final = {
    0: "gbr",
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "ycgco",
    9: "bt2020nc",
    10: "bt2020c",
    11: "smpte2085",
    12: "chroma-derived-nc",
    13: "chroma-derived-c",
    14: "ictcp",
    15: "ipt-c2",
    16: "ycgco-re",
    17: "ycgco-ro",
}


_RANGE_NUMBERS: Final = {name: number for number, name in RANGES.items()}
_PRIMARY_NUMBERS: Final = {name: number for number, name in PRIMARIES.items()}
_TRANSFER_NUMBERS: Final = {name: number for number, name in TRANSFERS.items()}
_MATRIX_NUMBERS: Final = {name: number for number, name in MATRICES.items()}


def color_of(tagged: av.VideoFrame | av.VideoCodecContext) -> Color:
    """Read the tags of a frame or a codec; a number without a name counts as unspecified.

    A ``yuvj`` format means full range even without a tag. The chroma location is None: PyAV does
    not show it.
    """
    pix_fmt = tagged.format.name if tagged.format is not None else ""
    return Color(
        range="pc" if pix_fmt.startswith("yuvj") else RANGES.get(int(tagged.color_range)),
        primaries=PRIMARIES.get(int(tagged.color_primaries)),
        trc=TRANSFERS.get(int(tagged.color_trc)),
        matrix=MATRICES.get(int(tagged.colorspace)),
    )


def color_of_stream(stream: VideoStream, first: VideoFrame) -> Color:
    """Read each tag from the first frame, or from the stream where the frame does not say."""
    frame, fallback = color_of(first), color_of(stream.codec_context)
    return Color(
        range=frame.range or fallback.range,
        primaries=frame.primaries or fallback.primaries,
        trc=frame.trc or fallback.trc,
        matrix=frame.matrix or fallback.matrix,
    )


def set_tags(tagged: av.VideoFrame | av.VideoCodecContext, color: Color) -> None:
    """Write range, primaries, transfer and matrix; a name without a number becomes unspecified."""
    tagged.color_range = _RANGE_NUMBERS.get(color.range or "", 0)
    tagged.color_primaries = _PRIMARY_NUMBERS.get(color.primaries or "", UNSPECIFIED)
    tagged.color_trc = _TRANSFER_NUMBERS.get(color.trc or "", UNSPECIFIED)
    tagged.colorspace = _MATRIX_NUMBERS.get(color.matrix or "", UNSPECIFIED)


def set_color(codec_context: av.VideoCodecContext, color: Color) -> None:
    """Set an encoder's tags, chroma location included; before its first frame.

    The frames need the tags as well (ProRes reads them there): `frame_of` sets them. PyAV has no
    attribute for the chroma location, so FFmpeg's option ``chroma_sample_location`` is added to
    ``codec_context.options``: assigning options later would drop it.
    """
    set_tags(codec_context, color)
    if color.chroma_location is not None:
        location = {"chroma_sample_location": color.chroma_location}
        codec_context.options = {**codec_context.options, **location}


# HDR10 metadata, rotation and chroma siting.
#
# PyAV 18 does not show the chroma siting, which is in the codec parameters; but libavformat's
# Matroska muxer writes it into the track header. So it is read from the header of an empty Matroska
# file, made from the stream in memory. That covers what FFmpeg's decoders and demuxers report:
# H.264 and HEVC (VUI, else left), MPEG-1 (center), MPEG-2 and MPEG-4 (left), JPEG (center), ProRes,
# VP9 and AV1 where their headers say it, and Matroska's own tags. Matroska distinguishes left,
# center, topleft and top; the two bottom ones, which no encoder in use writes, read as unknown.

_CHROMA_SITING_HORZ = b"\x55\xb7\x81"  # Matroska element ids, each with the length 1
_CHROMA_SITING_VERT = b"\x55\xb8\x81"
_SITINGS = {(1, 1): "topleft", (1, 2): "left", (2, 1): "top", (2, 2): "center"}

_MASTERING = struct.Struct("<20i2i")  # AVMasteringDisplayMetadata: 10 rationals, 2 flags
_LIGHT = struct.Struct("<2I")  # AVContentLightMetadata: MaxCLL, MaxFALL
_MATRIX = struct.Struct("<9i")  # display matrix: 16.16 fixed point, last column 2.30


def chroma_location(stream: VideoStream) -> str | None:
    """Return where a stream's chroma samples lie; None where it does not say."""
    header = BytesIO()
    try:
        with av.open(header, "w", format="matroska") as muxer:
            muxer.add_stream_from_template(stream, True)  # pyright: ignore[reportUnknownMemberType]  # its **kwargs
            muxer.start_encoding()
    except (FFmpegError, ValueError):  # a codec that Matroska cannot hold
        return None
    written = header.getvalue()
    across, down = (_byte_after(written, key) for key in (_CHROMA_SITING_HORZ, _CHROMA_SITING_VERT))
    return _SITINGS.get((across, down))


def _byte_after(data: bytes, key: bytes) -> int:
    place = data.find(key)
    return -1 if place < 0 else data[place + len(key)]


def side_data(frame: Frame) -> dict[str, bytes]:
    """Return a frame's side data as raw bytes, by the names of `av.sidedata.sidedata.Type`."""
    return _side_data(frame) or {}


def _side_data(frame: Frame) -> dict[str, bytes] | None:
    """The same; None if PyAV knows no name for one kind, which hides all others."""
    try:
        # typed as a dict of motion vectors, but really a sequence of every kind there is
        entries = cast("Iterable[SideData]", frame.side_data)
        return {entry.type.name: bytes(entry) for entry in entries}
    except ValueError:
        return None


def mastering_display(data: dict[str, bytes]) -> MasteringDisplay | None:
    """Parse AVMasteringDisplayMetadata; None unless it has both primaries and luminance."""
    raw = data.get("MASTERING_DISPLAY_METADATA")
    if raw is None or len(raw) < _MASTERING.size:
        return None
    *numbers, has_primaries, has_luminance = _MASTERING.unpack_from(raw)
    if not (has_primaries and has_luminance) or not all(numbers[1::2]):
        return None
    values = [Fraction(n, d) for n, d in zip(numbers[::2], numbers[1::2], strict=True)]
    pairs = [(values[index], values[index + 1]) for index in range(0, 8, 2)]
    return MasteringDisplay(*pairs, min_luminance=values[8], max_luminance=values[9])


def content_light(data: dict[str, bytes]) -> ContentLight | None:
    """Parse AVContentLightMetadata; None where it is absent, or all zero."""
    raw = data.get("CONTENT_LIGHT_LEVEL")
    if raw is None or len(raw) < _LIGHT.size:
        return None
    light = ContentLight(*_LIGHT.unpack_from(raw))
    return light if light.max_cll or light.max_fall else None


def rotation_of(frame: VideoFrame) -> tuple[int, bool, float]:
    """Return how a frame must be rotated for display.

    Returns:
        Degrees counter-clockwise (0, 90, 180 or 270), whether it is mirrored horizontally before
        that, and the exact angle, usually a multiple of 90.
    """
    raw = side_data(frame).get("DISPLAYMATRIX")
    if raw is None or len(raw) < _MATRIX.size:
        angle = float(frame.rotation)
        return round(angle / 90) % 4 * 90, False, angle
    a, b, _, c, d, *_ = _MATRIX.unpack_from(raw)
    hflip = a * d - b * c < 0
    if hflip:  # undo the mirror, which comes first: the first row of the matrix changes sign
        a, b = -a, -b
    angle = -math.degrees(math.atan2(b, a)) % 360
    return round(angle / 90) % 4 * 90, hflip, angle


# EXIF 2.32, tag Orientation: degrees counter-clockwise, and mirrored before that
_ORIENTATIONS = {
    1: (0, False),
    2: (0, True),
    3: (180, False),
    4: (180, True),
    5: (90, True),
    6: (270, False),
    7: (270, True),
    8: (90, False),
}
_EXIF_MARKS = (b"Exif\0\0", b"eXIf")  # before the TIFF header, in JPEG and in PNG
_EXIF_BYTES = 1 << 17


def orientation_of(frame: VideoFrame, path: Path | None) -> tuple[int, bool, float]:
    """Return how a frame must be rotated, as :func:`rotation_of`, also where PyAV hides it.

    FFmpeg 8 attaches a still's EXIF data to the frame, a kind that PyAV 18 has no name for; so the
    orientation is read from the file itself.
    """
    if path is not None and _side_data(frame) is None:
        with path.open("rb") as file:
            found = exif_orientation(file.read(_EXIF_BYTES))
        if found is not None:
            return (*found, float(found[0]))
    return rotation_of(frame)


def exif_orientation(data: bytes) -> tuple[int, bool] | None:
    """Return the orientation found at the beginning of a JPEG or PNG; None where it has none.

    Source: EXIF 2.32, sections 4.5.2 (structure) and 4.6.4 (orientation).
    """
    for mark in _EXIF_MARKS:
        start = data.find(mark)
        if start >= 0 and (found := _tiff_orientation(data[start + len(mark) :])) is not None:
            return _ORIENTATIONS.get(found)
    return None


def _tiff_orientation(tiff: bytes) -> int | None:
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"
    place = int.from_bytes(tiff[4:8], order)
    for entry in range(int.from_bytes(tiff[place : place + 2], order)):
        field = tiff[place + 2 + 12 * entry :][:12]
        if int.from_bytes(field[:2], order) == 0x0112:
            return int.from_bytes(field[8:10], order)
    return None


@dataclass(frozen=True, slots=True)
class Tags:
    """What a file declares about its pictures."""

    color: Color = field(default_factory=Color)
    sample_aspect_ratio: Fraction | None = None
    rotation: int = 0
    hflip: bool = False
    mastering_display: MasteringDisplay | None = None
    content_light: ContentLight | None = None


def tags_of(opened: InputContainer, stream: VideoStream) -> Tags:
    """Read a file's tags from its header and its first frame.

    Raises:
        IndexError: if no frame comes out of it.
        FFmpegError: if it cannot be decoded.
    """
    first = next(iter(opened.decode(stream)), None)
    if first is None:
        raise IndexError("no frame comes out of it")
    data = side_data(first)
    rotation, hflip, _ = rotation_of(first)
    return Tags(
        color=replace(color_of_stream(stream, first), chroma_location=chroma_location(stream)),
        sample_aspect_ratio=stream.sample_aspect_ratio or None,
        rotation=rotation,
        hflip=hflip,
        mastering_display=mastering_display(data),
        content_light=content_light(data),
    )

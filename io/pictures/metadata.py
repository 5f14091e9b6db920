"""What a file declares about its pictures: HDR10 metadata, rotation, projection, siting, all tags.

PyAV 18 does not show the chroma siting, which is in the codec parameters; but libavformat's
Matroska muxer writes it into the track header. So it is read from the header of an empty Matroska
file, made from the stream in memory. That covers what FFmpeg's decoders and demuxers report:
H.264 and HEVC (VUI, else left), MPEG-1 (center), MPEG-2 and MPEG-4 (left), JPEG (center), ProRes,
VP9 and AV1 where their headers say it, and Matroska's own tags. Matroska distinguishes left,
center, topleft and top; the two bottom ones, which no encoder in use writes, read as unknown.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from io import BytesIO
from typing import cast

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.frame import Frame
from av.packet import Packet
from av.sidedata.sidedata import SideData
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ...filters.frame import Color, ContentLight, MasteringDisplay
from ..calls import frames_of
from ..rawvideo.matroska import chroma_siting
from ..traits import OpenedFile, Trait
from .image_files import Embedded
from .pixels import color_of_stream
from .png import with_hidden_data

_MASTERING = struct.Struct("<20i2i")  # AVMasteringDisplayMetadata: 10 rationals, 2 flags
_LIGHT = struct.Struct("<2I")  # AVContentLightMetadata: MaxCLL, MaxFALL
_MATRIX = struct.Struct("<9i")  # display matrix: 16.16 fixed point, last column 2.30
_SPHERICAL = struct.Struct("<4i5I")  # AVSphericalMapping: projection, angles, bounds, padding
_STEREO = struct.Struct("<2i")  # the beginning of AVStereo3D: type, flags
_PROJECTIONS = (
    "equirectangular", "cubemap", "tiled equirectangular", "half equirectangular", "rectilinear",
    "fisheye", "parametric immersive",
)  # fmt: skip
_LAYOUTS = {
    (1, 0): "left_right", (1, 1): "right_left", (2, 0): "top_bottom", (2, 1): "bottom_top",
}  # fmt: skip


def chroma_location(stream: VideoStream) -> str | None:
    """Return where a stream's chroma samples lie; None where it does not say."""
    header = BytesIO()
    try:
        with av.open(header, "w", format="matroska") as muxer:
            muxer.add_stream_from_template(stream, True)  # pyright: ignore[reportUnknownMemberType]  # its **kwargs
            muxer.start_encoding()
    except (FFmpegError, ValueError):  # a codec that Matroska cannot hold
        return None
    return chroma_siting(header.getvalue())


def side_data(frame: Frame) -> dict[str, bytes] | None:
    """Return a frame's side data as raw bytes, by the names of `av.sidedata.sidedata.Type`.

    None if PyAV knows no name for one kind, which hides all others.
    """
    try:
        # typed as a dict of motion vectors, but really a sequence of every kind there is
        entries = cast("Iterable[SideData]", frame.side_data)
        return {entry.type.name: bytes(entry) for entry in entries}
    except ValueError:
        return None


def decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Decode a stream; its packets are made harmless before."""
    for packet in container.demux(stream):
        make_harmless(packet, stream.codec_context)
        yield from frames_of(stream.codec_context, packet)


def make_harmless(packet: Packet[VideoStream], codec: VideoCodecContext) -> None:
    """Hide ICC and EXIF data in PNG that is to be decoded: see :func:`with_hidden_data`."""
    if codec.name in ("png", "apng") and packet.size:
        packet.update(with_hidden_data(bytes(packet)))
        head = codec.extradata or b""  # of an animation
        if (hidden := with_hidden_data(head)) != head:
            codec.extradata = hidden


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


def stereo(data: dict[str, bytes]) -> str | None:
    """Parse AVStereo3D; None where it is absent, or views are not halves of a frame.

    Views that alternate by rows, columns or frames do not outlast enlarging and interpolation.
    """
    raw = data.get("STEREO3D", b"")
    return _LAYOUTS.get(_STEREO.unpack_from(raw)) if len(raw) >= _STEREO.size else None


def view_traits(opened: OpenedFile) -> Iterator[Trait]:
    """Yield the projection and the layout of the two views, by the first frame."""
    data = next((side_data(frame) for frame in opened.frames), None) or {}
    if raw := data.get("SPHERICAL"):
        projection = dict(enumerate(_PROJECTIONS)).get(raw[0], f"projection {raw[0]}")
        yield Trait("video", "spherical", f"spherical ({projection})", projection)
    if data.get("STEREO3D", bytes(4))[:4] != bytes(4):  # not one view
        layout = stereo(data) or "interleaved"
        yield Trait("video", "stereo3d", f"stereoscopic ({layout})", layout)


def view_boxes(data: dict[str, bytes]) -> bytes:
    """Return what AVStereo3D and AVSphericalMapping say as boxes of an MP4's sample entry.

    Nothing for what has no box, or is measured in pixels.

    Source: Spherical Video V2 RFC, MP4, boxes st3d and sv3d.
    """
    mode, raw = {"top_bottom": 1, "left_right": 2}.get(stereo(data) or ""), data.get("SPHERICAL")
    boxes = _box(b"st3d", bytes([0, 0, 0, 0, mode])) if mode else b""
    if raw is None or len(raw) < _SPHERICAL.size:
        return boxes
    number, yaw, pitch, roll, left, top, right, bottom, padding = _SPHERICAL.unpack_from(raw)
    if number > 2 or padding:
        return boxes
    bounds = (top, bottom, left, right) if number == 2 else (0, 0, 0, 0)
    cube, sphere = _box(b"cbmp", bytes(12)), _box(b"equi", struct.pack(">5I", 0, *bounds))
    pose = _box(b"prhd", struct.pack(">I3i", 0, yaw, pitch, roll))
    head = _box(b"svhd", bytes(4) + b"upframe\0")
    return boxes + _box(b"sv3d", head + _box(b"proj", pose + (cube if number == 1 else sphere)))


def _box(name: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4) + name + content


def rotation_of(frame: VideoFrame) -> tuple[int, bool, float]:
    """Return how a frame must be rotated for display.

    Returns:
        Degrees counter-clockwise (0, 90, 180 or 270), whether it is mirrored horizontally before
        that, and the exact angle, usually a multiple of 90.
    """
    raw = (side_data(frame) or {}).get("DISPLAYMATRIX")
    if raw is None or len(raw) < _MATRIX.size:
        angle = float(frame.rotation)
        return round(angle / 90) % 4 * 90, False, angle
    a, b, _, c, d, *_ = _MATRIX.unpack_from(raw)
    hflip = a * d - b * c < 0
    if hflip:  # undo the mirror, which comes first: the first row of the matrix changes sign
        a, b = -a, -b
    angle = -math.degrees(math.atan2(b, a)) % 360
    return round(angle / 90) % 4 * 90, hflip, angle


@dataclass(frozen=True, slots=True)
class Tags:
    """What a file declares about its pictures."""

    color: Color = field(default_factory=Color)
    sample_aspect_ratio: Fraction | None = None
    rotation: int = 0
    hflip: bool = False
    mastering_display: MasteringDisplay | None = None
    content_light: ContentLight | None = None
    stereo: str | None = None
    view_boxes: bytes = b""


def tags_of(opened: InputContainer, stream: VideoStream) -> Tags:
    """Read a file's tags from its header and its first frame.

    Raises:
        IndexError: if no frame comes out of it.
        FFmpegError: if it cannot be decoded.
    """
    if (first := next(decoded(opened, stream), None)) is None:
        raise IndexError("no frame comes out of it")
    return tags_of_frame(stream, first)


def tags_of_frame(stream: VideoStream, first: VideoFrame, embedded: Embedded | None = None) -> Tags:
    """Combine a stream's tags with those of its first frame; those of an image file precede.

    FFmpeg 8 attaches EXIF data to the frame, a kind that PyAV 18 has no name for, which hides the
    orientation; so that is read from the file itself.
    """
    data = side_data(first) or {}
    rotation, hflip = rotation_of(first)[:2] if embedded is None else embedded.turn
    return Tags(
        color=replace(color_of_stream(stream, first), chroma_location=chroma_location(stream)),
        sample_aspect_ratio=stream.sample_aspect_ratio or None,
        rotation=rotation,
        hflip=hflip,
        mastering_display=mastering_display(data),
        content_light=content_light(data),
        stereo=stereo(data),
        view_boxes=view_boxes(data),
    )

"""One black picture through encoder and muxer, in memory, before the work starts.

What would fail after hours fails here. Read back, it also shows which tags the container or the
encoder does not carry, so that this is said beforehand, and checked against afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from io import BytesIO
from typing import TYPE_CHECKING

import av
from av.error import FFmpegError

from ..filters.frame import Color, ContentLight, MasteringDisplay, StreamInfo
from .encode.codecs import CodecChoice
from .encode.containers import Container
from .encode.encoder import EncoderOptions, open_encoder
from .encode.muxing import encoded_video, mux
from .encode.pacing import mend_dts
from .errors import SinkRefused
from .pictures.tags import (
    chroma_location,
    color_of,
    content_light,
    mastering_display,
    rotation_of,
    side_data,
)

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream


@dataclass(frozen=True, slots=True)
class Tags:
    """What a file says about its pictures."""

    color: Color = field(default_factory=Color)
    sample_aspect_ratio: Fraction | None = None
    rotation: int = 0
    hflip: bool = False
    mastering_display: MasteringDisplay | None = None
    content_light: ContentLight | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """What came back of the trial picture."""

    tags: Tags
    warnings: tuple[str, ...] = ()
    """What the output will not carry, for people."""


def try_output(
    info: StreamInfo, options: EncoderOptions, choice: CodecChoice, container: Container
) -> Held:
    """Write a file of one picture with the real settings, and read back what it says.

    Raises:
        SinkRefused: if encoder or container do not take it.
    """
    written = BytesIO()
    try:
        with av.open(written, "w", format=container.name) as output:
            encoder = open_encoder(output, info, options, choice, container)
            frame = _black(info, choice.coded_pix_fmt)
            for packet in encoded_video(encoder.stream, frame) + encoded_video(
                encoder.stream, None
            ):
                mend_dts(packet, 0)
                mux(output, packet)
        written.seek(0)
        with av.open(written, "r") as opened:
            tags = tags_of(opened, opened.streams.video[0])
    except (FFmpegError, IndexError, MemoryError) as error:
        raise SinkRefused(
            f"{choice.codec} in {container.name} cannot be written at {info.width}x{info.height} "
            f"{choice.coded_pix_fmt}: {getattr(error, 'strerror', None) or error}"
        ) from error
    where = f"{container.name} with {choice.codec}"
    return Held(tags, tuple(f"{where} does not carry {lost}" for lost in lost_tags(info, tags)))


def _black(info: StreamInfo, pix_fmt: str) -> av.VideoFrame:
    frame = av.VideoFrame(info.width, info.height, pix_fmt)
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    frame.pts = 0
    return frame


def tags_of(opened: InputContainer, stream: VideoStream) -> Tags:
    """Read a file's tags from its header and its first frame.

    Raises:
        IndexError: if no frame comes out of it.
        FFmpegError: if it cannot be decoded.
    """
    first = next(iter(opened.decode(stream)), None)
    if first is None:
        raise IndexError("no frame comes out of it")
    said, fallback = color_of(first), color_of(stream.codec_context)
    data = side_data(first)
    rotation, hflip, _ = rotation_of(first)
    return Tags(
        color=Color(
            said.range or fallback.range,
            said.primaries or fallback.primaries,
            said.trc or fallback.trc,
            said.matrix or fallback.matrix,
            chroma_location(stream),
        ),
        sample_aspect_ratio=stream.sample_aspect_ratio or None,
        rotation=rotation,
        hflip=hflip,
        mastering_display=mastering_display(data),
        content_light=content_light(data),
    )


def lost_tags(wanted: StreamInfo, got: Tags) -> list[str]:
    """List what was wanted and is not, or not rightly, in a file. Unspecified asks for nothing."""
    lost: list[str] = []
    for name in ("range", "primaries", "trc", "matrix", "chroma_location"):
        want, have = getattr(wanted.color, name), getattr(got.color, name)
        if want is not None and want != have and not _is_implied(name, want, wanted):
            lost.append(f"color {name} {want} (it says {have})")
    aspect = wanted.sample_aspect_ratio or 1
    if aspect != (got.sample_aspect_ratio or 1):
        lost.append(f"the sample aspect ratio {aspect} (it says {got.sample_aspect_ratio})")
    if (wanted.rotation, wanted.hflip) != (got.rotation, got.hflip):
        mirrored = ", mirrored" if wanted.hflip else ""
        lost.append(f"the rotation of {wanted.rotation} degrees{mirrored}")
    if wanted.mastering_display and got.mastering_display is None:
        lost.append("the HDR10 mastering display")
    if wanted.content_light and got.content_light is None:
        lost.append("the HDR10 light levels")
    return lost


def _is_implied(name: str, want: str, wanted: StreamInfo) -> bool:
    """Tell whether players assume a tag anyway: limited range, and left chroma siting."""
    if name == "chroma_location":
        return want == "left" or not wanted.format.chroma_shift_x
    return name == "range" and want == ("tv" if wanted.format.family == "yuv" else "pc")

"""What all pictures of a stream have in common, and frames that are not like the first."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ...filters.frame import Color, PixelFormat, StreamInfo
from ..pictures.pixels import pix_fmt_of, planar_pix_fmt
from ..pictures.tags import (
    chroma_location,
    color_of,
    content_light,
    mastering_display,
    orientation_of,
    side_data,
)
from ..timestamps import RateVerdict
from .decoder import Decoder
from .deinterlace import FieldOrder
from .survey import Survey

AV_TIME_BASE = 1_000_000
"""Ticks in a second of a container's own duration."""


def describe(
    container: InputContainer,
    stream: VideoStream,
    first: VideoFrame,
    *,
    verdict: RateVerdict,
    field_order: FieldOrder | None,
    seen: Survey | None,
    num_images: int | None,
    path: Path | None,
) -> StreamInfo:
    """Put together what a container, a stream, its packets and its first frame say.

    Raises:
        UnsupportedMedia: if the pixel format is none that we can take apart.
    """
    pix_fmt = planar_pix_fmt(pix_fmt_of(first))
    time_base = stream.time_base or Fraction(1, 90_000)
    rotation, hflip, _ = orientation_of(first, path)
    data = side_data(first)
    return StreamInfo(
        width=first.width,
        height=first.height,
        pix_fmt=pix_fmt,
        time_base=time_base,
        rate=verdict.rate,
        average_rate=verdict.average_rate or stream.average_rate or None,
        color=_color(stream, first, PixelFormat.parse(pix_fmt)),
        sample_aspect_ratio=stream.sample_aspect_ratio or None,
        rotation=rotation,
        hflip=hflip,
        field_order=field_order,
        num_frames=num_images or _num_frames(stream, seen, field_order),
        duration_seconds=num_images / verdict.rate
        if num_images and verdict.rate
        else _duration(container, stream, seen, time_base, verdict.rate),
        mastering_display=mastering_display(data),
        content_light=content_light(data),
    )


def _color(stream: VideoStream, first: VideoFrame, form: PixelFormat) -> Color:
    """Take each tag from the first frame, or from the stream where the frame does not say."""
    said, fallback = color_of(first), color_of(stream.codec_context)
    location = chroma_location(stream) if form.chroma_shift_x else None
    return Color(
        range=said.range or fallback.range,
        primaries=said.primaries or fallback.primaries,
        trc=said.trc or fallback.trc,
        matrix=said.matrix or fallback.matrix,
        chroma_location=location,
    )


def _num_frames(
    stream: VideoStream, seen: Survey | None, field_order: FieldOrder | None
) -> int | None:
    if seen is not None and seen.complete and field_order in (None, "progressive"):
        return seen.num_packets or None
    return stream.frames or None  # a packet of an interlaced stream may be one field only


def _duration(
    container: InputContainer,
    stream: VideoStream,
    seen: Survey | None,
    time_base: Fraction,
    rate: Fraction | None,
) -> Fraction | None:
    if seen is not None and (span := seen.span) is not None:
        end = end_of_stream(container, stream)
        if end is not None and end > span[1] and len(stream.index_entries) <= seen.num_all:
            return (end - span[0]) * time_base
        last = seen.last_duration * time_base or (1 / rate if rate else 0)
        return (span[1] - span[0]) * time_base + last
    if stream.duration:
        return stream.duration * time_base
    return Fraction(container.duration, AV_TIME_BASE) if container.duration else None


def end_of_stream(container: InputContainer, stream: VideoStream) -> int | None:
    """Tell the tick at which a stream ends, where the container keeps it exactly: MP4 and MOV."""
    if "mp4" not in container.format.name.split(",") or not stream.duration:
        return None
    return (stream.start_time or 0) + stream.duration


def whole_end(container: InputContainer, decoder: Decoder) -> int | None:
    """Tell where the container ends the stream, if it knows that and all of it came."""
    if len(decoder.stream.index_entries) > decoder.num_packets:
        return None
    return end_of_stream(container, decoder.stream)


def differs(frame: VideoFrame, first: VideoFrame) -> bool:
    """Tell whether a frame has another size or pixel format than the first."""
    return (frame.width, frame.height, pix_fmt_of(frame)) != (
        first.width,
        first.height,
        pix_fmt_of(first),
    )


def conform(frame: VideoFrame, first: VideoFrame) -> VideoFrame:
    """Convert a frame to the size, pixel format and colour of the first."""
    converted = frame.reformat(
        first.width,
        first.height,
        first.format.name,
        src_colorspace=_known(frame.colorspace),
        dst_colorspace=_known(first.colorspace),
        src_color_range=frame.color_range,
        dst_color_range=first.color_range,
        interpolation="BICUBIC",
        threads=1,  # with more, swscale writes beyond its slice's end into packed formats
    )
    converted.pts = frame.pts
    return converted


def _known(colorspace: int) -> int | None:
    """Give swscale a matrix only where the frame names one (2 is unspecified, 0 is RGB)."""
    return None if colorspace in (0, 2) else colorspace


def with_progressive(info: StreamInfo) -> StreamInfo:
    """Describe the same stream after deinterlacing."""
    return replace(info, field_order="progressive")

"""What an input is: its container, its streams, and verdicts on what others get wrong."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import AttachmentStream, Disposition, Stream
from av.video.stream import VideoStream

from ..filters.frame import StreamInfo
from .decode.demuxer import is_cover
from .decode.survey import AV_TIME_BASE
from .redaction import excerpt
from .source import ContainerSource, open_source

_HDR_TRANSFERS = {"smpte2084": "PQ", "arib-std-b67": "HLG"}


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """One stream of a container, in short."""

    index: int
    type: str
    """``video``, ``cover``, ``audio``, ``subtitle``, ``attachment`` or ``data``."""
    codec: str | None
    """FFmpeg's name of the codec; None where there is no decoder for it."""
    details: str
    """Size or channels, for people."""
    language: str | None = None
    is_default: bool = False
    start_seconds: Fraction | None = None


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What is so about the video, each in one line."""

    rate: str
    is_constant_rate: bool
    interlaced: str
    is_interlaced: bool
    rotation: str
    color: str
    hdr: str
    chroma: str
    pixels: str

    def lines(self) -> list[tuple[str, str]]:
        """Name and text of each, for people."""
        return [
            ("rate", self.rate),
            ("fields", self.interlaced),
            ("rotation", self.rotation),
            ("colour", self.color),
            ("HDR", self.hdr),
            ("chroma", self.chroma),
            ("pixels", self.pixels),
        ]


@dataclass(frozen=True, slots=True)
class Probe:
    """All that can be said about an input without decoding more than its first frame."""

    container: str
    num_bytes: int | None
    duration_seconds: Fraction | None
    streams: tuple[StreamSummary, ...]
    num_chapters: int
    info: StreamInfo
    """Of the video, as it would be given to the filters: deinterlaced where that is needed."""
    verdicts: Verdicts
    warnings: tuple[str, ...]


def probe(
    target: str | BinaryIO,
    *,
    format: str | None = None,  # noqa: A002
    framerate: Fraction | None = None,
) -> Probe:
    """Look at an input.

    Args:
        target: As :func:`~upframe.io.source.open_source` takes it.
        format: FFmpeg's name of the container, where the data do not tell.
        framerate: Of an image sequence.

    Raises:
        SourceMissing: if it is not there, or may not be read.
        UnsupportedMedia: if it holds no video that can be decoded.
        TruncatedMedia: if it ends before its first frame.
    """
    with closing(open_source(target, format=format, framerate=framerate)) as source:
        return probe_source(source)


def probe_source(source: ContainerSource) -> Probe:
    """Say the same about a source that is open already."""
    container = source.container
    return Probe(
        container=container.format.name,
        num_bytes=container.size if container.size > 0 else None,
        duration_seconds=source.info.duration_seconds
        if container.format.name == "image2"  # which is asked for one image at a time
        else _duration(container),
        streams=tuple(_summary(stream) for stream in container.streams),
        num_chapters=len(container.chapters()),
        info=source.info,
        verdicts=_verdicts(source),
        warnings=tuple(source.warnings()),
    )


def _duration(container: InputContainer) -> Fraction | None:
    return Fraction(container.duration, AV_TIME_BASE) if container.duration else None


def _summary(stream: Stream) -> StreamSummary:
    start = stream.start_time
    is_picture = isinstance(stream, VideoStream) and is_cover(stream)
    return StreamSummary(
        index=stream.index,
        type="cover" if is_picture else str(stream.type),
        codec=_codec(stream),
        details=_details(stream),
        language=stream.language and excerpt(stream.language),
        is_default=bool(stream.disposition & Disposition.default),
        start_seconds=None if start is None or not stream.time_base else start * stream.time_base,
    )


def _codec(stream: Stream) -> str | None:
    # attachments, data and unknown codecs have no context, whatever the type hints say
    context = getattr(stream, "codec_context", None)
    return None if context is None else str(context.codec.canonical_name)


def _details(stream: Stream) -> str:
    if isinstance(stream, AttachmentStream):
        return excerpt(str(stream.metadata.get("filename", "")))
    if _codec(stream) is None:
        return ""
    if isinstance(stream, VideoStream):
        context = stream.codec_context
        return f"{context.width}x{context.height} {context.pix_fmt}"
    if isinstance(stream, AudioStream):
        return f"{stream.codec_context.sample_rate} Hz {stream.codec_context.layout.name}"
    return ""


def _verdicts(source: ContainerSource) -> Verdicts:
    info = source.info
    return Verdicts(
        rate=source.verdict.evidence,
        is_constant_rate=source.verdict.rate is not None,
        interlaced=_fields(source),
        is_interlaced=source.is_interlaced,
        rotation=_rotation(info),
        color=_color(info),
        hdr=_hdr(info),
        chroma=info.color.chroma_location or "siting not given",
        pixels=_pixels(info),
    )


def _fields(source: ContainerSource) -> str:
    orders = {"t": "top field first", "b": "bottom field first"}
    if source.is_interlaced:
        said = orders.get((source.field_order or " ")[0], "order unknown")
        return f"interlaced, {said}: deinterlaced to one frame per frame"
    return "progressive" if source.field_order == "progressive" else "progressive, as it seems"


def _rotation(info: StreamInfo) -> str:
    if not info.rotation and not info.hflip:
        return "none"
    mirrored = "mirrored, then " if info.hflip else ""
    return f"{mirrored}turned by {info.rotation} degrees counter-clockwise for display: kept as tag"


def _color(info: StreamInfo) -> str:
    color = info.color
    tags = {
        "range": color.range,
        "primaries": color.primaries,
        "transfer": color.trc,
        "matrix": color.matrix,
    }
    said = ", ".join(f"{name} {value or 'unspecified'}" for name, value in tags.items())
    return f"{info.pix_fmt}, {info.bit_depth} bits, {said}"


def _hdr(info: StreamInfo) -> str:
    kind = _HDR_TRANSFERS.get(info.color.trc or "")
    if kind is None:
        return "no"
    parts = [kind]
    if info.mastering_display is not None:
        display = info.mastering_display
        low, high = float(display.min_luminance), float(display.max_luminance)
        parts.append(f"mastered for {low:g} to {high:g} cd/m²")
    if info.content_light is not None:
        light = info.content_light
        parts.append(f"MaxCLL {light.max_cll}, MaxFALL {light.max_fall} cd/m²")
    return ", ".join(parts)


def _pixels(info: StreamInfo) -> str:
    aspect = info.sample_aspect_ratio
    if aspect is None:
        return "aspect ratio not given, shown as square"
    return "square" if aspect == 1 else f"{aspect.numerator}:{aspect.denominator}"

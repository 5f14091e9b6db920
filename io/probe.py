"""What an input is: its container, its streams, and findings on rate, fields and colour."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from av.audio.stream import AudioStream
from av.stream import AttachmentStream, Disposition, Stream
from av.video.stream import VideoStream

from ..filters.frame import StreamInfo
from .decode.demuxer import kind_of
from .decode.survey import AV_TIME_BASE
from .redaction import excerpt
from .source import ContainerSource

_HDR_TRANSFERS = {"smpte2084": "PQ", "arib-std-b67": "HLG"}


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """One stream of a container, in short."""

    index: int
    type: str
    """``video``, ``cover``, ``audio``, ``subtitle``, ``attachment`` or ``data``."""
    codec: str | None
    """FFmpeg's name of the codec; None if there is no decoder for it."""
    details: str
    """Size or channels, for people."""
    language: str | None = None
    is_default: bool = False
    start_seconds: Fraction | None = None


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Findings on the video, each in one line."""

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
        """Return the name and text of each, for people."""
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
    """Everything known about an input after decoding its first frame."""

    container: str
    num_bytes: int | None
    duration_seconds: Fraction | None
    streams: tuple[StreamSummary, ...]
    num_chapters: int
    info: StreamInfo
    """Of the video as the filters receive it: deinterlaced where needed."""
    verdicts: Verdicts
    warnings: tuple[str, ...]


def probe_source(source: ContainerSource) -> Probe:
    """Describe a source that is open."""
    container = source.container
    return Probe(
        container=source.container_name,
        num_bytes=container.size if container.size > 0 else None,
        duration_seconds=source.info.duration_seconds
        if container.format.name == "image2"  # opened one image at a time
        else Fraction(container.duration or 0, AV_TIME_BASE) or None,
        streams=tuple(_summary(stream) for stream in container.streams),
        num_chapters=len(container.chapters()),
        info=source.info,
        verdicts=_verdicts(source),
        warnings=tuple(source.warnings()),
    )


def _summary(stream: Stream) -> StreamSummary:
    start = stream.start_time
    return StreamSummary(
        index=stream.index,
        type=kind_of(stream),
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
        interlaced=source.fields.text(is_interlaced=source.is_interlaced),
        is_interlaced=source.is_interlaced,
        rotation=_rotation(info),
        color=_color(info),
        hdr=_hdr(source),
        chroma=info.color.chroma_location or "siting not given",
        pixels=_pixels(info),
    )


def _rotation(info: StreamInfo) -> str:
    if not info.rotation and not info.hflip:
        return "none"
    mirrored = "mirrored, then " if info.hflip else ""
    turned = f"{mirrored}turned by {info.rotation} degrees counter-clockwise for display"
    return f"{turned}: kept as tag, done in images"


def _color(info: StreamInfo) -> str:
    tags = {"range": "range", "primaries": "primaries", "transfer": "trc", "matrix": "matrix"}
    named = {name: getattr(info.color, tag) or "unspecified" for name, tag in tags.items()}
    said = ", ".join(f"{name} {value}" for name, value in named.items())
    return f"{info.pix_fmt}, {info.bit_depth} bits, {said}"


def _hdr(source: ContainerSource) -> str:
    info = source.info
    kind = _HDR_TRANSFERS.get(info.color.trc or "")
    parts = [] if kind is None else [kind]
    if kind is not None and info.mastering_display is not None:
        display = info.mastering_display
        low, high = float(display.min_luminance), float(display.max_luminance)
        parts.append(f"mastered for {low:g} to {high:g} cd/m²")
    if kind is not None and info.content_light is not None:
        light = info.content_light
        parts.append(f"MaxCLL {light.max_cll}, MaxFALL {light.max_fall} cd/m²")
    if (dolby_vision := source.dolby_vision) is not None:
        plain = dolby_vision.is_plain
        parts.append(f"{dolby_vision}: {'its base layer' if plain else 'cannot be converted'}")
    return ", ".join(parts) or "no"


def _pixels(info: StreamInfo) -> str:
    aspect = info.sample_aspect_ratio
    if aspect is None:
        return "aspect ratio not given, shown as square"
    return "square" if aspect == 1 else f"{aspect.numerator}:{aspect.denominator}"

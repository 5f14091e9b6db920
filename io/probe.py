"""What an input is: its container, its streams, and findings on rate, fields and colour.

And a few of its pictures, from places all over it, on which an output's encoder may be tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from io import BytesIO
from itertools import chain, islice

import av
from av.audio.stream import AudioStream
from av.error import FFmpegError
from av.stream import AttachmentStream, Disposition, Stream
from av.video.stream import VideoStream
from torch import Tensor

from ..filters.frame import Picture, PixelFormat, StreamInfo
from .decode.demuxer import best_video, find_target, kind_of, open_container
from .decode.survey import AV_TIME_BASE
from .encode.codecs import is_image
from .encode.encoder import EncoderOptions, encoding_of, open_encoder
from .encode.packets import EncoderTimeline, encoded
from .errors import UnsupportedMedia, reason_of
from .part import Part
from .pictures.pixels import black_frame, frame_of, picture_of, without_alpha
from .redaction import excerpt
from .root import ConfinedFile
from .source import ContainerSource

_MOST_PACKETS = 200
"""Decoded at one place, so that a damaged film takes no longer."""

_MOST_HELD = 500
_SMALL = (64, 64)
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
        names = ("rate", "fields", "rotation", "colour", "HDR", "chroma", "pixels")
        texts = self.rate, self.interlaced, self.rotation, self.color, self.hdr
        return [*zip(names, (*texts, self.chroma, self.pixels), strict=True)]


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
    info, pixels = source.info, source.info.sample_aspect_ratio
    return Verdicts(
        rate=source.verdict.evidence,
        is_constant_rate=source.verdict.rate is not None,
        interlaced=source.fields.text(is_interlaced=source.is_interlaced),
        is_interlaced=source.is_interlaced,
        rotation=_rotation(info),
        color=_color(info),
        hdr=_hdr(source),
        chroma=info.color.chroma_location or "siting not given",
        pixels="aspect ratio not given, shown as square" if pixels is None
        else "square" if pixels == 1 else f"{pixels.numerator}:{pixels.denominator}",
    )  # fmt: skip


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
    if kind is not None and (display := info.mastering_display) is not None:
        low, high = float(display.min_luminance), float(display.max_luminance)
        parts.append(f"mastered for {low:g} to {high:g} cd/m²")
    if kind is not None and (light := info.content_light) is not None:
        parts.append(f"MaxCLL {light.max_cll}, MaxFALL {light.max_fall} cd/m²")
    if (dolby_vision := source.dolby_vision) is not None:
        plain = dolby_vision.is_plain
        parts.append(f"{dolby_vision}: {'its base layer' if plain else 'cannot be converted'}")
    return ", ".join(parts) or "no"


def excerpts(
    target: str | ConfinedFile,
    info: StreamInfo,
    shares: Sequence[float],
    num_pictures: int,
    part: Part | None = None,
) -> Iterator[list[Picture]]:
    """Yield the first pictures from a key frame on, for each place; none of what cannot seek.

    The file is opened once more. The places are `shares` of the film or of its part, of which
    `info` tells; those with fewer or with other pictures are left out.

    Raises:
        MediaError: if it cannot be read any more.
    """
    found = find_target(target)
    if found.path is None or found.still is not None or info.duration_seconds is None:
        return
    try:
        with open_container(found) as container:
            stream = best_video(container, found.name)
            stream.thread_type = "AUTO"
            tick = float(stream.time_base or 1)
            begins = None if part is None else part.on(container).start
            first = int(begins / tick) if begins is not None else stream.start_time or 0
            for share in shares:
                ticks = int(float(info.duration_seconds) * share / tick)
                container.seek(first + ticks, stream=stream)
                packets = islice(container.demux(stream), _MOST_PACKETS)
                frames = chain.from_iterable(packet.decode() for packet in packets)
                made = [
                    picture_of(frame, info.color, 0, 1, info.time_base)
                    for frame in islice(frames, num_pictures)
                ]
                if not info.format.has_alpha:
                    made = [without_alpha(one) for one in made]
                forms = {(one.pix_fmt, one.width, one.height) for one in made}
                if len(made) == num_pictures and forms == {(info.pix_fmt, info.width, info.height)}:
                    yield made
    except FFmpegError as error:
        raise UnsupportedMedia(f"{found.name}: {reason_of(error)}") from error


def part_of(picture: Picture, width: int, height: int) -> Picture:
    """Return the middle of a picture; what is cut off before it is a multiple of 8 pixels."""
    form = PixelFormat.parse(picture.pix_fmt)
    corner = (picture.width - width) // 16 * 8, (picture.height - height) // 16 * 8

    def cut(plane: Tensor, number: int) -> Tensor:
        left, top = form.plane_size(*corner, number)
        wide, high = form.plane_size(width, height, number)
        return plane[top : top + high, left : left + wide].contiguous()

    planes = tuple(cut(plane, number) for number, plane in enumerate(picture.planes))
    alpha = None if picture.alpha is None else cut(picture.alpha, 0)
    return replace(picture, planes=planes, alpha=alpha)


def trial_encoder(
    info: StreamInfo, options: EncoderOptions, target: str, format: str | None
) -> Callable[[Sequence[Picture]], None] | None:
    """Open an output's encoder in memory; returns what encodes some pictures, once, to the end.

    None for images, each of which has an encoder of its own. Arguments are those of
    :func:`~upframe.io.sink.open_file_sink`.

    Raises:
        SinkRefused: if the encoder refuses the pictures or an option.
    """
    if is_image(target, format):
        return None
    encoding = encoding_of(info, options, target, format)
    output = av.open(BytesIO(), "w", format=encoding.container.name)
    encoder = open_encoder(output, encoding)
    timeline = EncoderTimeline(encoder.timing, info.time_base)

    def encode(pictures: Sequence[Picture]) -> None:
        with closing(output):
            for picture in pictures:
                frame = frame_of(picture)
                frame.pts, frame.duration = timeline.enter(picture.pts, picture.duration)
                frame.time_base = encoder.timing.time_base
                encoded(encoder.stream, frame)
            encoded(encoder.stream, None)

    return encode


def held_pictures(
    info: StreamInfo, options: EncoderOptions, target: str, format: str | None
) -> int:
    """Count the pictures that an output's encoder takes before it gives a packet, on small ones.

    Arguments and errors are those of `trial_encoder`.
    """
    encoding = encoding_of(info, options, target, format)
    small = replace(info, width=_SMALL[0], height=_SMALL[1])
    with av.open(BytesIO(), "w", format=encoding.container.name) as output:
        encoder = open_encoder(output, replace(encoding, info=small))
        frame = black_frame(*_SMALL, encoding.choice.coded_pix_fmt)
        frame.pts, frame.time_base = 0, encoder.timing.time_base
        while not encoded(encoder.stream, frame) and frame.pts < _MOST_HELD:
            frame.pts += 1
        encoded(encoder.stream, None)
    return frame.pts

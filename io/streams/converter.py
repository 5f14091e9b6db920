"""Lossless conversion of a stream that a container cannot hold into one that it can.

Text subtitles are converted to another text format; lossless and PCM audio to FLAC, ALAC or PCM,
where no sample changes. Lossy audio is never encoded again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import av
from av.audio.codeccontext import AudioCodecContext
from av.error import FFmpegError
from av.packet import Packet
from av.subtitles.codeccontext import SubtitleCodecContext
from av.subtitles.subtitle import SubtitleSet

from ...filters.frame import PixelFormat
from ..decode.demuxer import codec_of
from ..encode.codecs import default_codec
from ..encode.containers import Container
from ..encode.packets import (
    AnyPacket,
    add_audio,
    add_copied,
    add_subtitles,
    add_video,
    decoded_audio,
    decoded_subtitle,
    encoded_audio,
    encoded_subtitle,
    encoded_video,
    mux,
)
from ..errors import reason_of
from ..pictures.pixels import black_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.stream import Stream
    from av.subtitles.stream import SubtitleStream
    from av.video.stream import VideoStream


# Whether a container can hold a stream: its first packets are muxed in memory and read back.

_PACKETS_PER_STREAM = 4
_MAX_PACKETS = 2000  # bounded: sparse streams may have none near the start
_MAX_BYTES = 32 << 20
_VIDEO_SIZE = 64  # the smallest that every encoder supports


def sample_packets(source: InputContainer, streams: list[Stream]) -> dict[int, list[AnyPacket]]:
    """Read the first packets of each stream, by its index; a bounded number."""
    samples: dict[int, list[AnyPacket]] = defaultdict(list)
    if not streams:
        return samples
    num_packets = num_bytes = 0
    try:
        for packet in source.demux(streams):
            if packet.size == 0:
                continue
            if len(samples[packet.stream_index]) < _PACKETS_PER_STREAM:
                samples[packet.stream_index].append(packet)
            num_packets += 1
            num_bytes += packet.size
            full = all(len(samples[one.index]) >= _PACKETS_PER_STREAM for one in streams)
            if full or num_packets > _MAX_PACKETS or num_bytes > _MAX_BYTES:
                break
    except FFmpegError:  # damaged further on: what was read must suffice
        pass
    return samples


def mux_trial(
    stream: Stream,
    packets: list[AnyPacket],
    container: Container,
    check: Callable[[BytesIO], str | None] | None = None,
) -> str | None:
    """Try to copy a stream; return None if the container can hold it, else why not.

    Args:
        stream: of the source.
        packets: its first ones.
        container: the container to try.
        check: returns what else is wrong with the file that was written, if anything is.
    """

    def add(output: OutputContainer) -> tuple[Stream, list[AnyPacket]]:
        made = add_copied(output, stream)
        made.disposition = stream.disposition
        return made, [copy_of(packet) for packet in packets]

    return run_trial(container, add, check)


def run_trial(
    container: Container,
    add: Callable[[OutputContainer], tuple[Stream, list[AnyPacket]]],
    check: Callable[[BytesIO], str | None] | None = None,
) -> str | None:
    """Mux one more stream beside a small video, and read both back.

    Args:
        container: the container to try.
        add: adds the stream, and returns it with its packets.
        check: returns what else is wrong with the file that was written, if anything is.

    Returns:
        None if it worked, else why not.
    """
    written = BytesIO()
    try:
        with av.open(written, "w", format=container.name) as output:
            video = _small_video(output, container)
            made, packets = add(output)
            name = codec_of(made)
            black = black_frame(_VIDEO_SIZE, _VIDEO_SIZE, "yuv420p")
            for packet in packets:
                packet.stream = made
            for packet in [*encoded_video(video, black), *encoded_video(video, None), *packets]:
                mux(output, packet)
    except (FFmpegError, ValueError, RuntimeError) as error:
        return f"{container.name} cannot hold it ({reason_of(error)})"
    reason = _read_back(written, name, container) if packets else None
    return reason or (check and check(written))


def _read_back(written: BytesIO, name: str, container: Container) -> str | None:
    written.seek(0)
    try:
        with av.open(written, "r", metadata_errors="replace") as opened:
            found = {codec_of(stream) for stream in opened.streams}
    except (FFmpegError, ValueError) as error:
        return f"{container.name} with it cannot be read back ({reason_of(error)})"
    if name not in found:
        return f"{container.name} does not keep that it is {name}"
    return None


def _small_video(output: OutputContainer, container: Container) -> VideoStream:
    codec = default_codec(PixelFormat.parse("yuv420p"), container)
    rate, size = Fraction(25), _VIDEO_SIZE
    stream = add_video(output, codec, width=size, height=size, rate=rate, tick=1 / rate)
    stream.codec_context.options = {"preset": "ultrafast", "bf": "0"}
    return stream


def copy_of(packet: AnyPacket) -> AnyPacket:
    """Copy a packet's bytes and times, since muxing changes the times."""
    copy = Packet(bytes(packet))
    copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
    copy.time_base = packet.time_base
    copy.is_keyframe = packet.is_keyframe
    return copy


_TEXT = ("subrip", "srt", "text", "webvtt", "mov_text", "ass", "ssa")
_STYLED = ("ass", "ssa")
_TEXT_OF = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}
_LOSSLESS = ("flac", "alac", "wavpack", "tta", "ape", "mlp", "truehd", "shorten", "tak")
_BITS = {"u8": 8, "s16": 16, "s32": 32, "flt": 32, "dbl": 64}
_FLOATS = ("flt", "dbl")


Converter: TypeAlias = "Callable[[AnyPacket | None], Iterator[AnyPacket]]"
"""Accepts the next packet of one codec, or None at the end, and yields those of another."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """One way to convert a stream."""

    codec: str
    """FFmpeg's name of the encoder."""
    kind: Literal["audio", "subtitle"]
    sample_format: str = ""
    """Of audio: what the encoder expects."""
    loses: str | None = None
    """What is lost; None if nothing is."""

    def add(self, output: OutputContainer, stream: Stream) -> tuple[Stream, Converter]:
        """Add the converted stream to an output.

        Raises:
            ValueError, FFmpegError: if the container cannot hold the codec.
        """
        if self.kind == "subtitle":
            made = add_subtitles(output, self.codec)
            return made, SubtitleConverter(cast("SubtitleStream", stream), made)
        source = cast("AudioStream", stream)
        made_audio = add_audio(output, self.codec, source.codec_context.sample_rate)
        return made_audio, AudioConverter(source, made_audio, self.sample_format)

    def trial(self, stream: Stream, packets: list[AnyPacket], container: Container) -> str | None:
        """Try it on a stream's first packets; None if it works, else why not."""

        def add(output: OutputContainer) -> tuple[Stream, list[AnyPacket]]:
            """Convert all the packets, as if the stream ended with them."""
            stream.codec_context.flush_buffers()  # an earlier trial has drained the decoder
            made, convert = self.add(output, stream)
            inputs = [*map(copy_of, packets), None]
            for packet in inputs:
                if packet is not None:
                    packet.stream = stream
            return made, [done for packet in inputs for done in convert(packet)]

        return run_trial(container, add)


def conversions_for(stream: Stream, container: Container) -> list[Conversion]:
    """List the conversions of a stream for a container, best first."""
    if cast("object | None", stream.codec_context) is None:
        return []
    name, target = codec_of(stream), _TEXT_OF.get(container.name)
    if stream.type == "subtitle" and name in _TEXT and target is not None:
        loses = f"the styling of {name} is lost, its text is kept" if name in _STYLED else None
        return [Conversion(target, "subtitle", loses=loses)]
    if stream.type == "audio" and (name.startswith("pcm_") or name in _LOSSLESS):
        return _audio_conversions(cast("AudioStream", stream))
    return []


def _audio_conversions(stream: AudioStream) -> list[Conversion]:
    """FLAC and ALAC hold integers of up to 24 bits; wider samples and floats need PCM."""
    kind = stream.codec_context.format.packed.name
    bits = _BITS.get(kind, 64)
    if kind == "s32" and "24" in stream.codec_context.name:
        bits = 24
    ways: list[tuple[str, str]] = []
    if kind in _FLOATS:
        ways = [("pcm_f64le" if kind == "dbl" else "pcm_f32le", kind)]
    elif bits <= 16:
        ways = [("flac", "s16"), ("alac", "s16p"), ("pcm_s16le", "s16")]
    elif bits <= 24:
        ways = [("flac", "s32"), ("alac", "s32p"), ("pcm_s24le", "s32")]
    elif kind == "s32":
        ways = [("pcm_s32le", "s32")]
    return [Conversion(codec, "audio", sample_format) for codec, sample_format in ways]


class SubtitleConverter:
    """Text subtitles, event by event; times are those of the source's packets."""

    def __init__(self, source: SubtitleStream, target: SubtitleStream) -> None:
        self._source = source
        self._target = target
        context = source.codec_context
        if not context.is_open:
            context.open()
        encoder: SubtitleCodecContext = target.codec_context
        # the encoder reads the text style from an ASS header, which the decoder creates
        encoder.subtitle_header = context.subtitle_header
        encoder.time_base = Fraction(1, 1000)
        encoder.open()

    def __call__(self, packet: AnyPacket | None) -> Iterator[AnyPacket]:
        """Yield one packet for each event; MP4's empty ones, which end an event, give none."""
        if packet is None:
            return
        decoded = decoded_subtitle(self._source, packet)
        if decoded is None or len(decoded) == 0:
            return
        lasts = round((packet.duration or 0) * 1000 * (packet.time_base or 1))
        for rect in decoded:
            text = cast("bytes", getattr(rect, "ass", b""))
            if not text:
                continue
            made = SubtitleSet.create(text, start=0, end=lasts, pts=0)
            done = encoded_subtitle(self._target, made)
            done.pts = done.dts = packet.pts
            done.duration, done.time_base = packet.duration, packet.time_base
            done.stream = self._target
            yield done


class AudioConverter:
    """Lossless audio: decoded and encoded again, no sample changed."""

    def __init__(self, source: AudioStream, target: AudioStream, sample_format: str) -> None:
        self._source = source
        self._target = target
        context: AudioCodecContext = target.codec_context
        context.format = av.AudioFormat(sample_format)
        context.layout = source.codec_context.layout
        context.sample_rate = source.codec_context.sample_rate
        context.time_base = Fraction(1, context.sample_rate)
        if sample_format.startswith("s32") and target.name != "pcm_s32le":
            context.options = {"bits_per_raw_sample": "24"}

    def __call__(self, packet: AnyPacket | None) -> Iterator[AnyPacket]:
        """Decode and encode; PyAV changes the layout of samples in memory, not their values."""
        for frame in decoded_audio(self._source, packet):
            yield from encoded_audio(self._target, frame)
        if packet is None:
            yield from encoded_audio(self._target, None)

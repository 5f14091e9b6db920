"""Conversion of a stream that a container cannot hold into one that it can.

Text subtitles are converted to another text format; sound is encoded as `io.encode.sound` says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from typing import TypeAlias, cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Stream
from av.subtitles.codeccontext import SubtitleCodecContext
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import SubtitleSet
from av.video.stream import VideoStream

from ...filters.frame import PixelFormat
from ..decode.demuxer import codec_of
from ..encode.codecs import default_codec
from ..encode.containers import Container
from ..encode.packets import (
    AnyPacket,
    add_copied,
    add_video,
    encoded,
    mux,
    tell_block_rate,
    untyped,
)
from ..encode.sound import SoundCoding, SoundConverter, codings_for, is_misread
from ..errors import reason_of
from ..pictures.pixels import black_frame

_PACKETS_PER_STREAM = 16
_MAX_PACKETS = 2000  # bounded: sparse streams may have none near the start
_MAX_BYTES = 32 << 20
_VIDEO_SIZE = 64  # the smallest that every encoder supports
_SAYS_NOTHING = ("Invalid argument", "Operation not permitted")  # of muxers, to people


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


def _read_back(written: BytesIO, name: str, container: Container) -> str | None:
    written.seek(0)
    try:
        with av.open(written, "r", metadata_errors="replace") as opened:
            found = {codec_of(stream) for stream in opened.streams}
            sizes = [stream.codec_context.width for stream in opened.streams.video]
    except (FFmpegError, ValueError) as error:
        return f"{container.name} with it cannot be read back ({reason_of(error)})"
    if name not in found:
        return f"{container.name} does not keep that it is {name}"
    return None if all(sizes) else f"{container.name} does not keep its size"


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


Check: TypeAlias = "Callable[[BytesIO], str | None]"
"""Returns what else is wrong with the file of a trial, if anything is."""
Converter: TypeAlias = "Callable[[AnyPacket | None], Iterable[AnyPacket]]"
"""Accepts the next packet, or None at the end, and yields those that are ready."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """One way to convert a stream."""

    codec: str
    """FFmpeg's name of the encoder."""
    coding: SoundCoding | None = None
    """Of sound: all parameters of the encoder."""
    loses: str | None = None
    """What is lost; None if nothing is."""

    def add(
        self, output: OutputContainer, stream: Stream, container: Container
    ) -> tuple[Stream, Converter]:
        """Add the converted stream to an output.

        Raises:
            ValueError, FFmpegError: if the container cannot hold the codec.
        """
        if self.coding is None:
            made = cast("SubtitleStream", untyped(output).add_stream(self.codec))
            return made, SubtitleConverter(cast("SubtitleStream", stream), made)
        source, rate = cast("AudioStream", stream), self.coding.sample_rate
        sound = cast("AudioStream", untyped(output).add_stream(self.codec, rate))
        return sound, SoundConverter(source, sound, self.coding, container)


@dataclass(frozen=True, slots=True)
class StreamTrial:
    """A stream of the source that is to be brought into a container.

    Whatever is tried is muxed in memory, beside a small video, and read back.
    """

    stream: Stream
    packets: list[AnyPacket]
    """Its first ones."""
    container: Container
    """Of the output."""
    audio_codec: str = "auto"
    """What to do with sound: ``auto``, ``copy`` or the codec to encode it with."""

    def why_not_copied(self, check: Check | None = None) -> str | None:
        """Return why the stream shall be converted; None if it can be copied."""
        name = codec_of(self.stream)
        if self.stream.type == "audio":
            if self.audio_codec not in ("auto", "copy", name):
                return f"as --audio-codec {self.audio_codec} asks"
            if is_misread(name, self.container):
                return f"in {self.container.name}, many players cannot play it"
        return self.why_not_held(check)

    def why_not_held(self, check: Check | None = None) -> str | None:
        """Try to copy the stream; return None if the container can hold it, else why not."""

        def add(output: OutputContainer) -> tuple[Stream, list[AnyPacket]]:
            made = add_copied(output, self.stream, unlisted=True)
            made.disposition = self.stream.disposition
            if self.packets:
                tell_block_rate(made, self.packets[0])
            return made, list(map(copy_of, self.packets))

        return self._trial(add, check, codec_of(self.stream))

    def conversions(self) -> Iterator[Conversion]:
        """Yield the ways to convert what cannot or shall not be copied, best first."""
        stream, container = self.stream, self.container
        if cast("object | None", stream.codec_context) is None:
            return
        name, target = codec_of(stream), _TEXT_OF.get(container.name)
        if stream.type == "subtitle" and name in _TEXT and target is not None:
            loses = f"the styling of {name} is lost, its text is kept" if name in _STYLED else None
            yield Conversion(target, loses=loses)
        elif stream.type == "audio" and self.audio_codec != "copy":
            sound = cast("AudioStream", stream)
            for coding in codings_for(sound, self.packets, container, self.audio_codec):
                yield Conversion(coding.encoder, coding, coding.loses)

    def why_not_converted(self, conversion: Conversion) -> str | None:
        """Try a conversion; return None if it works, else why not."""
        stream = self.stream

        def add(output: OutputContainer) -> tuple[Stream, list[AnyPacket]]:
            """Convert all the packets, as if the stream ended with them."""
            stream.codec_context.flush_buffers()  # an earlier trial has drained the decoder
            made, convert = conversion.add(output, stream, self.container)
            inputs = [*map(copy_of, self.packets), None]
            for packet in inputs:
                if packet is not None:
                    packet.stream = stream
            return made, [done for packet in inputs for done in convert(packet)]

        return self._trial(add)

    def _trial(
        self,
        add: Callable[[OutputContainer], tuple[Stream, list[AnyPacket]]],
        check: Check | None = None,
        codec: str | None = None,
    ) -> str | None:
        """Mux what `add` returns; it must be read back as `codec`, or as what the stream says."""
        written, container = BytesIO(), self.container
        try:
            with av.open(written, "w", format=container.name) as output:
                video = _small_video(output, container)
                made, packets = add(output)
                name = codec or codec_of(made)
                black = black_frame(_VIDEO_SIZE, _VIDEO_SIZE, "yuv420p")
                for packet in packets:
                    packet.stream = made
                for packet in [*encoded(video, black), *encoded(video, None), *packets]:
                    mux(output, packet)
        except (FFmpegError, ValueError, RuntimeError) as error:
            why = reason_of(error)
            said = "" if why in _SAYS_NOTHING else f" ({why})"
            return f"{container.name} cannot hold it{said}"
        reason = _read_back(written, name, container) if packets else None
        return reason or (check and check(written))


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
        decoded = cast("SubtitleSet | None", untyped(self._source).codec_context.decode2(packet))
        lasts = round((packet.duration or 0) * 1000 * (packet.time_base or 1))
        for rect in decoded or ():
            text = cast("bytes", getattr(rect, "ass", b""))
            if not text:
                continue
            made = SubtitleSet.create(text, start=0, end=lasts, pts=0)
            done = cast("AnyPacket", untyped(self._target).codec_context.encode_subtitle(made))
            done.pts = done.dts = packet.pts
            done.duration, done.time_base = packet.duration, packet.time_base
            done.stream = self._target
            yield done

"""PyAV's muxing calls with full types.

PyAV's stubs leave the parameter of `Packet` and the keyword arguments of `add_stream` open, which
a strict type checker takes for unknown; here, and only here, that is put right.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from fractions import Fraction
from typing import Any, TypeAlias, cast

from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import SubtitleSet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

AnyPacket: TypeAlias = "Packet[Any]"


def add_video(
    output: OutputContainer, codec: str, *, width: int, height: int, rate: Fraction, tick: Fraction
) -> VideoStream:
    """Add a video stream to be encoded; `tick` is the encoder's time base in seconds.

    Raises:
        ValueError: if the container does not hold the codec.
    """
    made = output.add_stream(codec, rate=rate, width=width, height=height, time_base=tick)
    return cast("VideoStream", made)


def add_audio(output: OutputContainer, codec: str, sample_rate: int) -> AudioStream:
    """Add an audio stream to be encoded.

    Raises:
        ValueError: if the container does not hold the codec.
    """
    return cast("AudioStream", output.add_stream(codec, sample_rate))


def add_subtitles(output: OutputContainer, codec: str) -> SubtitleStream:
    """Add a stream of subtitles to be encoded.

    Raises:
        ValueError: if the container does not hold the codec.
    """
    return cast("SubtitleStream", output.add_stream(codec))


def add_copied(output: OutputContainer, template: Stream) -> Stream:
    """Add a stream whose packets come from `template` as they are.

    Raises:
        ValueError: if the container does not hold the codec, or there is no decoder for it.
    """
    return output.add_stream_from_template(template, True)


def encoded_video(
    encoder: VideoStream | VideoCodecContext, frame: VideoFrame | None
) -> list[AnyPacket]:
    """Encode a frame, or drain the encoder with None."""
    return cast("list[AnyPacket]", encoder.encode(frame))


def encoded_audio(encoder: AudioStream, frame: AudioFrame | None) -> list[AnyPacket]:
    """Encode samples, or drain the encoder with None."""
    return cast("list[AnyPacket]", encoder.encode(frame))


def encoded_subtitle(encoder: SubtitleStream, event: SubtitleSet) -> AnyPacket:
    """Encode one subtitle event."""
    return cast("AnyPacket", encoder.codec_context.encode_subtitle(event))


def decoded_subtitle(decoder: SubtitleStream, packet: AnyPacket) -> SubtitleSet | None:
    """Decode one subtitle event; None where the packet shows nothing."""
    return decoder.codec_context.decode2(packet)


def decoded_audio(decoder: Stream, packet: AnyPacket | None) -> list[AudioFrame]:
    """Decode samples, or drain the decoder with None."""
    return cast("AudioStream", decoder).decode(packet)


def is_priming(packet: AnyPacket, stream: Stream) -> bool:
    """Tell whether a packet is decoded but not shown: it ends before its stream starts.

    An audio encoder puts such packets first; the container marks them, each in its own way.
    """
    if packet.is_discard:
        return True
    if packet.pts is None or stream.start_time is None or stream.type != "audio":
        return False
    ends = packet.pts + (packet.duration or 0)
    return packet.pts < stream.start_time and ends <= stream.start_time


def mux(output: OutputContainer, packet: AnyPacket) -> None:
    """Hand a packet to the muxer, which interleaves it; its timestamps are changed."""
    output.mux(packet)

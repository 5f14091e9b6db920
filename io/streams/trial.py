"""Trying whether a container holds a stream: first packets are muxed in memory and read back."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction
from io import BytesIO
from typing import TYPE_CHECKING

import av
from av.error import FFmpegError
from av.packet import Packet

from ...filters.frame import PixelFormat
from ..encode.codecs import default_codec
from ..encode.containers import Container
from ..encode.muxing import AnyPacket, add_copied, add_video, encoded_video, mux

if TYPE_CHECKING:
    from collections.abc import Callable

    from av.container import InputContainer, OutputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

_PACKETS_PER_STREAM = 4
_MAX_PACKETS = 2000  # sparse streams may have none near the start: do not look for ever
_MAX_BYTES = 32 << 20
_VIDEO_SIZE = 64  # the least that every encoder takes


def sample_packets(source: InputContainer, streams: list[Stream]) -> dict[int, list[AnyPacket]]:
    """Read the first packets of each stream, by its index. Bounded, whatever the source is."""
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
    except FFmpegError:  # damaged further on: what was read must do
        pass
    return samples


def mux_trial(stream: Stream, packets: list[AnyPacket], container: Container) -> str | None:
    """Try to copy a stream.

    Returns:
        None if the container holds it, else why not.
    """

    def add(output: OutputContainer) -> tuple[Stream, list[AnyPacket]]:
        made = add_copied(output, stream)
        made.disposition = stream.disposition
        return made, [copy_of(packet) for packet in packets]

    return run_trial(container, add)


def run_trial(
    container: Container, add: Callable[[OutputContainer], tuple[Stream, list[AnyPacket]]]
) -> str | None:
    """Mux one more stream beside a small video, and read both back.

    Args:
        container: the container to try.
        add: adds the stream, and gives it with its packets.

    Returns:
        None if it worked, else why not.
    """
    written = BytesIO()
    try:
        with av.open(written, "w", format=container.name) as output:
            video = _small_video(output, container)
            made, packets = add(output)
            name = _name_of(made)
            for packet in encoded_video(video, _black()) + encoded_video(video, None):
                mux(output, packet)
            for packet in packets:
                packet.stream = made
                mux(output, packet)
    except (FFmpegError, ValueError, RuntimeError) as error:
        return f"{container.name} does not hold it ({_short(error)})"
    return _read_back(written, name, container) if packets else None


def _read_back(written: BytesIO, name: str, container: Container) -> str | None:
    written.seek(0)
    try:
        with av.open(written, "r", metadata_errors="replace") as opened:
            found = {_name_of(stream) for stream in opened.streams}
    except (FFmpegError, ValueError) as error:
        return f"{container.name} with it cannot be read back ({_short(error)})"
    if name not in found:
        return f"{container.name} does not say that it is {name}"
    return None


def _name_of(stream: Stream) -> str:
    context: object | None = stream.codec_context
    return stream.codec_context.codec.canonical_name if context else (stream.name or "unknown")


def _small_video(output: OutputContainer, container: Container) -> VideoStream:
    codec = default_codec(PixelFormat.parse("yuv420p"), container)
    rate, size = Fraction(25), _VIDEO_SIZE
    stream = add_video(output, codec, width=size, height=size, rate=rate, tick=1 / rate)
    stream.codec_context.options = {"preset": "ultrafast", "bf": "0"}
    return stream


def _black() -> av.VideoFrame:
    frame = av.VideoFrame(_VIDEO_SIZE, _VIDEO_SIZE, "yuv420p")
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    frame.pts = 0
    return frame


def copy_of(packet: AnyPacket) -> AnyPacket:
    """Copy a packet's bytes and times: muxing changes the times of what it is given."""
    copy = Packet(bytes(packet))
    copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
    copy.time_base = packet.time_base
    copy.is_keyframe = packet.is_keyframe
    return copy


def _short(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)

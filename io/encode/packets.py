"""Packets: PyAV's calls that make and mux them, fully typed, and where they lie in time.

Timestamps stay exact wherever encoder and container can hold them; where they cannot, they are
rounded to the nearest tick, kept strictly rising, and counted.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from heapq import heappushpop
from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.bitstream import BitStreamFilterContext
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ..calls import calling

if TYPE_CHECKING:
    from ...filters.frame import StreamInfo

AnyPacket: TypeAlias = "Packet[Any]"


def untyped(value: object) -> Any:
    """Hide a value's type: PyAV's stubs leave `Packet` and keyword arguments partly unknown."""
    return value


def add_video(
    output: OutputContainer, codec: str, *, width: int, height: int, rate: Fraction, tick: Fraction
) -> VideoStream:
    """Add a video stream to be encoded; `tick` is the encoder's time base in seconds.

    Raises:
        ValueError: if the container does not hold the codec.
    """
    made = untyped(output).add_stream(codec, rate=rate, width=width, height=height, time_base=tick)
    return cast("VideoStream", made)


def add_copied(output: OutputContainer, template: Stream, *, unlisted: bool = False) -> Stream:
    """Add a stream whose packets come from `template` as they are; no header is written yet.

    If `unlisted`, it may be of a codec that libavformat does not list for the container. Whether
    the muxer takes it shows when the header is written, or the first packet.

    Raises:
        ValueError: if the container does not hold the codec.
    """
    try:
        return cast("Stream", untyped(output).add_stream_from_template(template, True))
    except ValueError:
        made = _add_unlisted(output, template) if unlisted else None
        if made is None:
            raise
        return made


def _add_unlisted(output: OutputContainer, template: Stream) -> Stream | None:
    """Add a stream of a codec that PyAV refuses, since libavformat's list for the muxer lacks it.

    The lists are not complete: that of Matroska lacks all codecs that it stores under their number
    of AVI, such as WMA and ADPCM. A stream of a listed codec is added, and gets the parameters of
    `template` from a bit stream filter that changes nothing.
    """
    defaults = {
        "audio": (output.default_audio_codec, "aac"),
        "video": (output.default_video_codec, "mpeg4"),
        "subtitle": (output.default_subtitle_codec,),
    }
    for name in defaults.get(template.type, ()):
        with suppress(ValueError), av.open(BytesIO(), "w", format=output.format.name) as other:
            listed = untyped(other).add_stream(name)
            made = untyped(output).add_stream_from_template(listed, True)
            BitStreamFilterContext("null", template, made)
            made.codec_context.codec_tag = "\0\0\0\0"  # of the source's container
            made.time_base = template.time_base
            return cast("Stream", made)
    return None


def tell_block_rate(target: Stream, packet: AnyPacket) -> None:
    """Give copied sound of blocks, such as ADPCM, the bit rate by which AVI tells its times.

    Many files state a wrong one. To be called before the header is written.
    """
    context = getattr(target, "codec_context", None)
    if target.container.format.name != "avi" or target.type != "audio" or context is None:
        return
    seconds = (packet.duration or 0) * (packet.time_base or 0)
    if seconds and not context.frame_size:
        context.bit_rate = round(8 * packet.size / seconds)


def encoded(
    encoder: VideoStream | VideoCodecContext | AudioStream, frame: VideoFrame | AudioFrame | None
) -> list[AnyPacket]:
    """Encode a frame or samples, or drain the encoder with None."""
    codec = encoder if isinstance(encoder, VideoCodecContext) else encoder.codec_context
    name = codec.name
    with calling(f"encode: {name}", on_card=name.endswith("_nvenc")):
        return cast("list[AnyPacket]", untyped(encoder).encode(frame))


def decoded_audio(decoder: Stream, packet: AnyPacket | None) -> list[AudioFrame]:
    """Decode samples, or drain the decoder with None."""
    with calling(f"decode: {untyped(decoder).codec_context.name}"):
        return cast("list[AudioFrame]", untyped(decoder).decode(packet))


def is_priming(packet: AnyPacket, stream: Stream) -> bool:
    """Return whether a packet is decoded but not played: it ends before its stream starts.

    An audio encoder writes such packets first; each container marks them in its own way.
    """
    if packet.is_discard:
        return True
    if packet.pts is None or stream.start_time is None or stream.type != "audio":
        return False
    ends = packet.pts + (packet.duration or 0)
    return packet.pts < stream.start_time and ends <= stream.start_time


def mux(output: OutputContainer, packet: AnyPacket) -> None:
    """Pass a packet to the muxer, which interleaves it and changes its timestamps."""
    untyped(output).mux(packet)


_MAX_TICKS = (1 << 31) - 1  # FFmpeg's rationals are pairs of int32
# MPEG-4 part 2 counts ticks in 16 bits (ISO/IEC 14496-2, vop_time_increment_resolution)
_MAX_BY_CODEC = {"mpeg4": 65_535, "msmpeg4": 65_535, "msmpeg4v2": 65_535}
# These codecs store one of a few frame rates in the bitstream, and no other time
_RATE_ONLY = ("mpeg1video", "mpeg2video", "dnxhd")
_JITTER = Fraction(1, 10)  # of a frame, at most: what counts as a constant rate is less
_UNKNOWN_RATE = Fraction(25)
_FINE = 90_000  # ticks per second, where a time base must be rounded


@dataclass(frozen=True, slots=True)
class VideoTiming:
    """The time base to encode in, and the frame rate written for players."""

    time_base: Fraction
    """Seconds in one tick of the encoder."""
    rate: Fraction
    """Frames per second: exact where constant, else the average."""


def choose_timing(info: StreamInfo, codec: str) -> VideoTiming:
    """Choose the time base of an encoder.

    A constant rate is counted in frames, which restores timestamps that a container rounded
    (Matroska, to 1 ms); a variable one in the ticks of its own time base.
    """
    rate = info.rate or info.average_rate or _UNKNOWN_RATE
    if codec == "gif":
        return VideoTiming(Fraction(1, 100), rate)
    limit = _MAX_BY_CODEC.get(codec, _MAX_TICKS)
    counts_frames = info.rate is not None or codec in _RATE_ONLY
    tick = 1 / rate if counts_frames else info.time_base
    if max(tick.denominator, tick.numerator) <= limit:
        return VideoTiming(tick, rate)
    return VideoTiming(Fraction(1, min(limit, _FINE)), rate)


def fix_dts(packet: AnyPacket, last_ticks: int) -> None:
    """Replace an encoder's invalid dts by the pts.

    libx265 returns uninitialised memory as the dts of a stream of one frame. A valid dts lies
    between the pts and the earliest that reordering can need. Ticks count from the first picture,
    `last_ticks` is the pts of the latest one passed to the encoder.
    """
    if packet.pts is None:
        return
    if packet.dts is None or not -last_ticks <= packet.dts <= packet.pts:
        packet.dts = packet.pts


_MAX_HELD = 32  # packets; H.264 and HEVC reorder by 16 pictures at most


class DecodingTimes:
    """Gives packets of video the dts that their container does not store, as Matroska.

    Demuxers derive dts from the reordering that they have seen, hence the first packets have none.
    These are held until one has a dts, and counted back from it. If none has one, the n-th packet
    gets the n-th pts in the order of time, delayed by the depth of the reordering, which is the
    least that puts no dts behind its pts. A frame lasts `frame_ticks`; 0 if unknown.
    """

    def __init__(self, frame_ticks: int = 0) -> None:
        self._frame_ticks = frame_ticks
        self._held: list[AnyPacket] = []
        self._later: list[int] | None = None  # pts that are no dts yet, once the depth is known

    def __call__(self, packet: AnyPacket | None) -> list[AnyPacket]:
        """Accept the next packet in the order of decoding, or None; return those complete now."""
        if packet is None or packet.pts is None or packet.dts is not None:
            done = self._counted_back(packet)
            return done if packet is None else [*done, packet]
        if self._later is not None:
            packet.dts = heappushpop(self._later, packet.pts)
            return [packet]
        self._held.append(packet)
        return self._counted_back(None) if len(self._held) >= _MAX_HELD else []

    def _counted_back(self, known: AnyPacket | None) -> list[AnyPacket]:
        held, self._held = self._held, []
        if not held:
            return held
        dts = None if known is None else known.dts
        pts = [packet.pts or 0 for packet in held]
        times = sorted(pts if known is None or known.pts is None else [*pts, known.pts])
        step = self._frame_ticks or min((b - a for a, b in pairwise(times) if b > a), default=1)
        if dts is None:
            depth = max(index - bisect_left(times, one) for index, one in enumerate(pts))
            self._later = times[len(times) - depth :]
            first = -depth
        elif dts in times:
            first = times.index(dts) - len(held)
        else:
            times, first = [dts], -len(held)
        latest = dts
        for index in reversed(range(len(held))):
            place = first + index
            counted = times[place] if place >= 0 else times[0] + place * step
            latest = min(counted, pts[index], counted if latest is None else latest - 1)
            held[index].dts = latest
        return held


class SampleClock:
    """Restores the exact times of audio packets that a container rounded.

    Matroska rounds to 1 ms and may omit durations; an audio packet lasts a whole number of samples,
    usually the same. A time within a tick of the packet before is replaced by its end, any other is
    kept. `frame_size` is the number of samples in a packet, if constant; 0 if unknown, None if each
    packet has its own, as PCM does.
    """

    def __init__(self, sample_rate: int, frame_size: int | None) -> None:
        self._base = Fraction(1, sample_rate)
        self._frame_size = frame_size
        self._end: int | None = None

    def __call__(self, packet: AnyPacket, count_samples: Callable[[], int]) -> None:
        """Convert a packet's times to ticks of one sample, if its own are coarser.

        `count_samples` is called only if neither packet nor codec give the duration.
        """
        if not packet.time_base or packet.pts is None or packet.time_base <= self._base:
            return
        tick = packet.time_base / self._base  # samples
        start = nearest(packet.pts * tick)
        if self._end is not None and abs(packet.pts * tick - self._end) <= tick:
            # never further from the container's time than its rounding
            lowest = math.ceil((packet.pts - Fraction(1, 2)) * tick)
            highest = math.floor((packet.pts + Fraction(1, 2)) * tick)
            start = min(max(self._end, lowest), highest)
        duration = nearest((packet.duration or 0) * tick)
        if self._frame_size is None:
            duration = count_samples()
        elif self._frame_size and (not duration or abs(duration - self._frame_size) <= tick):
            duration = self._frame_size
        duration = duration or count_samples()
        packet.pts = packet.dts = start
        packet.duration, packet.time_base = duration, self._base
        self._end = start + duration if duration else None


def shift_packet(packet: AnyPacket, offset_seconds: Fraction) -> None:
    """Shift a packet in time, in ticks fine enough for exactness, if FFmpeg can hold them."""
    if not offset_seconds or not packet.time_base:
        return
    common = common_time_base(packet.time_base, offset_seconds)
    scale = int(packet.time_base / common)
    shift = nearest(offset_seconds / common)
    if packet.pts is not None:
        packet.pts = packet.pts * scale + shift
    if packet.dts is not None:
        packet.dts = packet.dts * scale + shift
    if packet.duration is not None:
        packet.duration *= scale
    packet.time_base = common


def common_time_base(time_base: Fraction, offset: Fraction) -> Fraction:
    """Return a time base in which ticks of `time_base` and `offset` seconds are both whole.

    If that is too fine for FFmpeg, return `time_base` itself.
    """
    (over, under), (above, below) = time_base.as_integer_ratio(), offset.as_integer_ratio()
    common = Fraction(math.gcd(over * below, above * under), under * below)
    return common if common.denominator <= _MAX_TICKS else time_base


def nearest(ticks: Fraction) -> int:
    """Round half up; Fraction's own rounding to even would make steps uneven."""
    return math.floor(ticks + Fraction(1, 2))


class EncoderTimeline:
    """Keeps the pictures' times while they are in the encoder: ticks in, seconds out.

    Ticks are counted from the first picture, and rise strictly; `time_base` is the pictures' own.
    """

    def __init__(self, timing: VideoTiming, time_base: Fraction) -> None:
        self._tick = timing.time_base
        self._time_base = time_base
        self._scale = time_base / timing.time_base
        # where frames are counted, a tick of the container does not count as rounding
        whole_frames = timing.time_base * timing.rate == 1
        self._jitter = min(_JITTER, self._scale) if whole_frames else Fraction(0)
        self._first: int | None = None
        self._last, self._end = -1, 0  # ticks at which the last picture begins and ends
        self._durations: dict[int, int] = {}
        self._first_dts: int | None = None
        self.start_seconds = Fraction(0)
        """Of the first picture, on the output's time line."""
        self.num_pictures = 0
        self.num_rounded = 0
        """Timestamps that the encoder's ticks cannot represent exactly."""

    def begin(self, pts: int, origin_seconds: Fraction) -> Fraction:
        """Place the first picture on the output's time line; return the muxer's time base."""
        self.start_seconds = pts * self._time_base - origin_seconds
        return common_time_base(self._tick, self.start_seconds)

    def enter(self, pts: int, duration: int) -> tuple[int, int]:
        """Return the next picture's pts and duration in ticks of the encoder.

        A picture's end is rounded, not its duration, so that errors do not accumulate.
        """
        self._first = pts if self._first is None else self._first
        since = pts - self._first
        exact = since * self._scale
        self._last = ticks = max(nearest(exact), self._last + 1)
        self._end = max(nearest((since + duration) * self._scale), ticks + 1)
        self._durations[ticks] = self._end - ticks
        self.num_pictures += 1
        self.num_rounded += abs(exact - ticks) > self._jitter
        return ticks, self._end - ticks

    def leave(self, packet: AnyPacket, *, closes_mp4: bool = False) -> Fraction:
        """Set an encoded packet's duration and times; return when it is due on the output's line.

        The last one `closes_mp4`: MP4 and MOV store only the differences of dts, so the last sample
        must extend to the end of the last picture.
        """
        fix_dts(packet, self._last)
        if self._first_dts is None:
            self._first_dts = packet.dts or 0
        if packet.pts is not None:
            packet.duration = self._durations.pop(packet.pts, packet.duration or 0)
            if closes_mp4 and packet.dts is not None:
                packet.duration = self._end - packet.pts
                packet.dts = max(packet.dts, packet.pts + self._first_dts)
        shift_packet(packet, self.start_seconds)
        return (packet.dts or 0) * (packet.time_base or self._tick)

    @property
    def last_start_seconds(self) -> Fraction:
        """From the start of the first picture to that of the last."""
        return self._last * self._tick

    @property
    def duration_seconds(self) -> Fraction:
        """From the start of the first picture to the end of the last."""
        return self._end * self._tick

"""What a finished file is: its packets counted and timed, its streams and tags read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

from av.error import FFmpegError

from .decode.container import Target, is_cover, open_container
from .decode.form import end_of_stream
from .encode.muxing import AnyPacket, is_priming
from .errors import VerificationFailed
from .trial import Tags, tags_of

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream


@dataclass(frozen=True, slots=True)
class SoundTimes:
    """When a stream of sound is, in seconds."""

    first: Fraction
    """Its first packet that is heard begins."""
    last: Fraction
    """Its last packet begins."""
    end: Fraction
    """Its last packet ends."""

    def after(self, seconds: Fraction) -> SoundTimes:
        """Count from another moment."""
        return SoundTimes(self.first - seconds, self.last - seconds, self.end - seconds)


@dataclass(slots=True)
class VideoTimes:
    """What the packets of a file's main video, and of its first sound, say."""

    pts: list[int] = field(default_factory=list[int])
    last_duration: int = 0
    num_without_pts: int = 0
    time_base: Fraction = Fraction(1)
    num_hidden: int = 0
    """Packets that an edit list cuts away."""
    first_heard_seconds: Fraction | None = None
    last_sound_seconds: Fraction | None = None
    end_of_sound_seconds: Fraction = Fraction(0)

    @property
    def sound(self) -> SoundTimes | None:
        """When the first stream of sound is; None if there is none."""
        last = self.last_sound_seconds
        if last is None:
            return None
        first = last if self.first_heard_seconds is None else self.first_heard_seconds
        return SoundTimes(first, last, self.end_of_sound_seconds)

    @property
    def num_frames(self) -> int:
        """Frames that are shown."""
        return len(self.pts) + self.num_without_pts

    @property
    def start_seconds(self) -> Fraction:
        """When the first frame begins."""
        return min(self.pts) * self.time_base

    @property
    def last_start_seconds(self) -> Fraction:
        """From the start of the first frame to that of the last."""
        return (max(self.pts) - min(self.pts)) * self.time_base

    @property
    def duration_seconds(self) -> Fraction:
        """From the start of the first frame to the end of the last."""
        return self.last_start_seconds + self.last_duration * self.time_base


@dataclass(frozen=True, slots=True)
class Inspection:
    """All that is checked of a file."""

    times: VideoTimes
    num_streams: Counter[str]
    """By kind: ``video``, ``audio``, ``subtitle``, …"""
    width: int
    height: int
    tags: Tags | None
    """None where there is no frame."""
    num_promised: int = 0
    """Frames of which the header tells; 0 where it does not."""


def inspect(target: Target) -> Inspection:
    """Look at a file: all of its packets, its first frame.

    Raises:
        SourceMissing, UnsupportedMedia: if it cannot be opened.
        VerificationFailed: if it holds no video, or cannot be read to its end.
    """
    try:
        with open_container(target) as opened:
            video = main_video(opened)
            context = video.codec_context
            kinds = Counter(str(stream.type) for stream in opened.streams)
            times = read_times(opened, video)
            width, height, promised = context.width, context.height, video.frames
        tags = None
        if times.num_frames:
            with open_container(target) as opened:
                tags = tags_of(opened, main_video(opened))
    except (FFmpegError, IndexError) as error:
        raise VerificationFailed(f"{target.name} cannot be read back: {error}") from error
    return Inspection(times, kinds, width, height, tags, promised)


def main_video(opened: InputContainer) -> VideoStream:
    """Find the video that is no cover picture.

    Raises:
        VerificationFailed: if there is none.
    """
    videos = [stream for stream in opened.streams.video if not is_cover(stream)]
    if not videos:
        raise VerificationFailed("the file holds no video")
    return videos[0]


def read_times(opened: InputContainer, video: VideoStream) -> VideoTimes:
    """Demux a file to its end and note when its frames and its first sound are."""
    times = VideoTimes(time_base=video.time_base or Fraction(1))
    sound = opened.streams.audio[:1]
    for packet in opened.demux([video, *sound]):
        if packet.size == 0:
            continue
        if packet.stream_index != video.index:
            _note_sound(times, packet)
        elif packet.is_discard:
            times.num_hidden += 1
        else:
            _note_frame(times, packet)
    end = end_of_stream(opened, video)
    if end is not None and times.pts and end > max(times.pts):
        # with reordered frames of variable duration, a packet's is that of its place in the file
        times.last_duration = end - max(times.pts)
    return times


def _note_sound(times: VideoTimes, packet: AnyPacket) -> None:
    if packet.pts is None:
        return
    tick = packet.time_base or Fraction(1)
    last = packet.pts * tick
    times.end_of_sound_seconds = max(
        last + (packet.duration or 0) * tick, times.end_of_sound_seconds
    )
    times.last_sound_seconds = max(last, times.last_sound_seconds or last)
    if times.first_heard_seconds is None and not is_priming(packet, packet.stream):
        times.first_heard_seconds = last


def _note_frame(times: VideoTimes, packet: AnyPacket) -> None:
    pts = packet.pts if packet.pts is not None else packet.dts
    if pts is None:
        times.num_without_pts += 1
        return
    if not times.pts or pts > max(times.pts[-32:]):
        times.last_duration = packet.duration or 0
    times.pts.append(pts)


def count_decoded(target: Target) -> int:
    """Decode the video of a file to its end.

    Returns:
        How many frames came out.

    Raises:
        VerificationFailed: if the decoder finds damage.
    """
    count = 0
    try:
        with open_container(target) as opened:
            video = main_video(opened)
            video.thread_type = "AUTO"
            video.codec_context.options = {"err_detect": "crccheck+explode"}
            for frame in opened.decode(video):
                if frame.is_corrupt:
                    raise VerificationFailed(f"{target.name}: frame {count} is damaged")
                count += 1
    except FFmpegError as error:
        raise VerificationFailed(f"{target.name}: cannot decode frame {count}: {error}") from error
    return count

"""Cuts: a film divided into segments, each of which is read, converted and encoded by itself.

Cuts depend on the source and on one setting alone, so that every run and every worker makes the
same ones. A segment begins with a key frame where there is one. Reading it begins at a key frame
before that: the frames between are decoded and dropped, so that references across key frames (open
groups of pictures), deinterlacing and telecine have what they need.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from .decode.demuxer import Target, best_video, open_container
from .decode.survey import becomes_frame, has_no_pts
from .errors import MediaError, UnsupportedMedia

_SEGMENT_PIXELS = 1 << 27
_FEWEST_FRAMES, _MOST_FRAMES = 32, 1024
_KEY_WAIT = 4
"""Times the least length: where no key frame comes within that, a cut needs none."""
_LEAD_IN = 4
"""Frames before a segment's first that are decoded too, at least."""
_SEEK_BACK_SECONDS = (0, 3)
"""Before the key frame that is sought: demuxers may land behind it."""

_NO_CUTS = ("gif", "apng", "webp", "vp8")
"""Codecs whose packets are no whole frames of their own, or hidden ones."""
_BY_FIELDS = ("h264", "hevc", "vc1")
"""Codecs with a packet for each field, maybe, if interlaced."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive frames of a film, counted from 0 as decoded, before deinterlacing."""

    number: int
    first: int
    last: int
    first_pts: int
    """In ticks of the stream, as its packets say."""
    last_pts: int
    seek_pts: int
    """Of the key frame at which decoding begins."""
    num_skipped: int
    """Packets before that one."""
    is_last: bool

    @property
    def num_frames(self) -> int:
        """Without the frame past its end."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Cuts:
    """A film's segments; none if it is not divided."""

    segments: tuple[Segment, ...] = ()
    why_whole: str | None = None
    """Why it cannot be divided, for people; None if it is short."""


@dataclass(slots=True)
class FrameIndex:
    """The packets of a film that become frames, in the order in which they are shown."""

    pts: list[int] = field(default_factory=list[int])
    """Rising."""
    keys: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])
    """Of the key frames, in order: index of the frame, pts, number of packets before it."""


def cut_indices(num_frames: int, keys: Sequence[int], least: int) -> list[int]:
    """Return the frames before which a film is cut.

    Args:
        num_frames: of the film.
        keys: indices of the key frames, rising.
        least: frames in a segment; the last one may have half of that.

    Raises:
        ValueError: if that is none.
    """
    if least < 1:
        raise ValueError(f"a segment must have 1 frame at least, got {least}")
    cuts: list[int] = []
    last = 0
    while True:
        at = bisect_right(keys, last + least - 1)
        limit = last + _KEY_WAIT * least
        last = keys[at] if at < len(keys) and keys[at] <= limit else limit
        if last >= num_frames:
            break
        cuts.append(last)
    if cuts and 2 * (num_frames - cuts[-1]) < least:
        cuts.pop()
    return cuts


def least_frames(width: int, height: int) -> int:
    """Return how many frames a segment has at least, by their coded size."""
    return min(max(_SEGMENT_PIXELS // max(1, width * height), _FEWEST_FRAMES), _MOST_FRAMES)


def plan_cuts(target: Target, first_pts: int, segment_frames: int | None = None) -> Cuts:
    """Divide a film; reads all of its packets.

    Args:
        target: the film.
        first_pts: of the first frame that a decoder gave, in ticks of the stream.
        segment_frames: at least in a segment; by the frames' size if None.
    """
    if target.path is None or target.images or target.still is not None:
        return Cuts(why_whole="the input cannot be read from its middle: wanted a film's file")
    try:
        with open_container(target) as container:
            stream = best_video(container, target.name)
            context = stream.codec_context
            if why := _why_whole(container, stream):
                return Cuts(why_whole=why)
            least = segment_frames or least_frames(context.width, context.height)
            index = _index(container, stream, first_pts)
            if isinstance(index, str):
                return Cuts(why_whole=index)
            segments = _segments(index, least)
            for one in segments[1 : len(segments) : max(1, len(segments) - 2)]:
                next(packets_of(container, stream, one))
    except (MediaError, FFmpegError, OSError) as error:
        return Cuts(why_whole=f"its packets cannot be read one by one: {error}")
    return Cuts(segments)


def _why_whole(container: InputContainer, stream: VideoStream) -> str | None:
    codec = stream.codec_context.name
    if has_no_pts(container):
        return f"{container.format.name} stores no times of its frames"
    if codec in _NO_CUTS:
        return f"{codec} has packets that are not one frame each"
    # FFmpeg's AVFieldOrder: 0 unknown, 1 progressive
    if codec in _BY_FIELDS and stream.codec_context.field_order > 1:
        return f"interlaced {codec} may have a packet for each field"
    return None


def _index(container: InputContainer, stream: VideoStream, first_pts: int) -> FrameIndex | str:
    """Read all packets; a text says why frames cannot be counted by them."""
    shown: list[int] = []
    keys: list[tuple[int, int]] = []
    num_packets, decoded = 0, None
    for packet in container.demux(stream):
        if not packet.size:
            continue
        if packet.dts is not None:
            if decoded is not None and packet.dts < decoded:
                return "its times jump back"
            decoded = packet.dts
        if becomes_frame(packet):
            if packet.pts is None:
                return "some of its frames have no time"
            if packet.is_corrupt:
                return "it is damaged"
            if packet.pts >= first_pts:  # others precede the first that can be decoded
                shown.append(packet.pts)
                if packet.is_keyframe:
                    keys.append((packet.pts, num_packets))
        num_packets += 1
    ordered = sorted(shown)
    if len(set(ordered)) < len(ordered):
        return "some of its frames have the same time"
    if not ordered or ordered[0] != first_pts:
        return "its first frame has another time than its packet"
    places = {pts: at for at, pts in enumerate(ordered)}
    return FrameIndex(ordered, sorted((places[pts], pts, before) for pts, before in keys))


def _segments(index: FrameIndex, least: int) -> tuple[Segment, ...]:
    indices = [at for at, _, _ in index.keys]
    starts = [0, *cut_indices(len(index.pts), indices, least)]
    made: list[Segment] = []
    for number, first in enumerate(starts):
        is_last = number == len(starts) - 1
        last = (len(index.pts) if is_last else starts[number + 1]) - 1
        lead = bisect_right(indices, max(0, first - _LEAD_IN)) - 1
        _, pts, skipped = index.keys[lead] if lead >= 0 else (0, index.pts[0], 0)
        made.append(
            Segment(number, first, last, index.pts[first], index.pts[last], pts, skipped, is_last)
        )
    return tuple(made) if len(made) > 1 else ()


def packets_of(
    container: InputContainer, stream: VideoStream, segment: Segment
) -> Iterator[Packet[VideoStream]]:
    """Yield the packets from the key frame on at which a segment's decoding begins.

    Demuxers seek by indices of different kinds, some to other places than asked for. So packets are
    read up to the very key frame, at worst from the beginning.

    Raises:
        UnsupportedMedia: if it is not there any more.
    """
    second = 0 if stream.time_base is None else round(1 / stream.time_base)
    places = [segment.seek_pts - seconds * second for seconds in _SEEK_BACK_SECONDS]
    for place in (*places, (stream.start_time or 0) - 3600 * second):
        try:
            container.seek(place, stream=stream)
        except FFmpegError:
            continue
        packets = container.demux(stream)
        for packet in packets:
            if packet.is_keyframe and packet.size and packet.pts is not None:
                if packet.pts == segment.seek_pts:
                    yield packet
                    yield from packets
                    return
                if packet.pts > segment.seek_pts:
                    break
    raise UnsupportedMedia(f"no key frame at {segment.seek_pts} ticks: wanted the planned film")


Shown = tuple[VideoFrame, int | None]
"""A frame, and when it is shown by its packet."""


def frames_of(
    name: str, frames: Iterator[tuple[Shown, int, int]], segment: Segment
) -> Iterator[tuple[Shown, int, int]]:
    """Yield the frames of a segment, and one past its end if there is one.

    Args:
        name: of the film, for people.
        frames: with pts and duration, from before the segment on.
        segment: whose frames are wanted.

    Raises:
        UnsupportedMedia: if they are not as many as the packets promised.
    """
    num_frames, past = 0, None
    for entry in frames:
        shown = entry[0][1] or 0
        if shown < segment.first_pts:
            continue
        if shown > segment.last_pts:
            past = entry
            break
        num_frames += 1
        yield entry
    if num_frames != segment.num_frames or (past is None) != segment.is_last:
        raise not_as_planned(name, segment, num_frames)
    if past is not None:
        yield past


def not_as_planned(name: str, segment: Segment, num_frames: int) -> UnsupportedMedia:
    """Return the error for a segment that is not what the packets promised."""
    return UnsupportedMedia(
        f"{name}: got {num_frames} frames from {segment.first_pts} to {segment.last_pts} ticks, "
        f"wanted {segment.num_frames}"
    )

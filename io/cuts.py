"""Cuts: a film divided into segments, each of which is read, converted and encoded by itself.

Cuts depend on the source and on one setting alone, so that every run and every worker makes the
same ones. A segment begins with a key frame where there is one. Reading it begins at a key frame
before that: the frames between are decoded and dropped, so that references across key frames (open
groups of pictures), deinterlacing and telecine have what they need.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from .decode.demuxer import Target, best_video, open_container
from .decode.survey import WHOLE_FILE_BYTES, becomes_frame, has_no_pts
from .errors import MediaError, NotAsPlanned, UnsupportedMedia

_SEGMENT_PIXELS = 1 << 27
_FEWEST_FRAMES, _MOST_FRAMES = 32, 1024
_KEY_WAIT = 4
"""Times the least length: where no key frame comes within that, a cut needs none."""
_LEAD_IN = 4
"""Frames before a segment's first that are decoded too, at least."""
PICTURES_BEFORE = 12
"""Whole ones before a segment's first, for what looks back, as the detection of cuts does."""
_SEEK_BACK_SECONDS = (0, 3)
"""Before the key frame that is sought: demuxers may land behind it."""
_SAME_PLACE = 1 << 20
"""Bytes: a key frame further away is one of another recording in the file, with equal times."""

_WHOLE_ONLY = {
    **dict.fromkeys(("gif", "apng", "webp", "vp8"), "has packets that are not one frame each"),
    "dirac": "has a decoder that keeps something of all frames before",
}
"""Codecs that are not divided. FFmpeg's decoder of Dirac and VC-2 leaves coefficients of earlier
frames beyond the edges of a plane, where its size is no multiple of the wavelet's."""
_NO_TIME, _NOT_READ = "some of its frames have no time", "its packets cannot be read one by one"
_BY_FIELDS = ("h264", "hevc", "vc1")
"""Codecs with a packet for each field, maybe, if interlaced."""


class KeyFrame(NamedTuple):
    """A packet at which decoding may begin."""

    pts: int
    num_before: int
    """Packets before it."""
    pos: int
    """Its byte in the file; 0 if unknown."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive frames of a film or of a part, counted from 0 as decoded, before deinterlacing.

    It may be made of JSON, with lists for tuples.
    """

    number: int
    first: int
    last: int
    first_pts: int
    """In ticks of the stream, as its packets say."""
    last_pts: int
    leads: tuple[KeyFrame, ...]
    """Where decoding begins: at the first one that is not damaged; none: at the film's start."""
    is_last: bool
    before_pts: int | None = None
    """From here on its source yields pictures as those before it; None: from its first on."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "leads", tuple(KeyFrame(*lead) for lead in self.leads))

    @property
    def num_frames(self) -> int:
        """Without the frame past its end."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Cuts:
    """A film's segments: one if it is short, none if it cannot be divided."""

    segments: tuple[Segment, ...] = ()
    why_whole: str | None = None
    """Why it cannot be divided, for people."""


@dataclass(frozen=True, slots=True)
class FrameIndex:
    """The packets of a film that become frames, in the order in which they are shown."""

    pts: list[int]
    """Rising."""
    least: int
    """Frames in a segment, by their size."""
    places: list[int]
    """Of the key frames: their index among the frames, rising."""
    keys: list[KeyFrame]
    """At these places."""

    def leads(self, first: int) -> tuple[KeyFrame, ...]:
        """Return where decoding may begin for a frame: nearest first, then in doubled steps.

        A key frame that is damaged is concealed by the frames before it, as in the whole film, if
        decoding begins earlier. None if there is just the film's first.
        """
        usable = self.keys[: bisect_right(self.places, first - _LEAD_IN)]
        steps = [1 << power for power in range(len(usable).bit_length())]
        found = [usable[-back] for back in steps if back < len(usable)]
        return (*found, usable[0]) if found else ()


def cut_indices(num_frames: int, keys: Sequence[int], least: int) -> list[int]:
    """Return the frames before which a film is cut, by the rising indices of its key frames.

    A segment has `least` frames; the last one may have half of that.

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


def index_of(target: Target, first_pts: int | None, until: int | None = None) -> FrameIndex | str:
    """Read a film's packets; a text says why frames cannot be counted by them, for people.

    `first_pts` is of the first frame that a decoder gave. Of a large file, frames from the pts
    `until` on are not wanted; None: all are.
    """
    if first_pts is None:
        return _NO_TIME
    if target.path is None or target.images or target.still is not None:
        return "the input cannot be read from its middle: wanted a film's file"
    try:
        with open_container(target) as container:
            stream = best_video(container, target.name)
            if until is not None and stream.time_base:
                is_large = target.path.stat().st_size > WHOLE_FILE_BYTES
                # frames of film are moved by a field
                until = until + round(1 / stream.time_base) if is_large else None
            return _why_whole(container, stream) or _index(container, stream, first_pts, until)
    except (MediaError, FFmpegError, OSError) as error:
        return f"{_NOT_READ}: {error}"


def _why_whole(container: InputContainer, stream: VideoStream) -> str | None:
    codec = stream.codec_context.codec.canonical_name
    if has_no_pts(container):
        return f"{container.format.name} stores no times of its frames"
    if codec in _WHOLE_ONLY:
        return f"{codec} {_WHOLE_ONLY[codec]}"
    # FFmpeg's AVFieldOrder: 0 unknown, 1 progressive
    if codec in _BY_FIELDS and stream.codec_context.field_order > 1:
        return f"interlaced {codec} may have a packet for each field"
    return None


def _index(
    container: InputContainer, stream: VideoStream, first_pts: int, until: int | None
) -> FrameIndex | str:
    shown: list[int] = []
    keys: list[KeyFrame] = []
    num_packets, decoded = 0, None
    for packet in container.demux(stream):
        if not packet.size:
            continue
        if packet.dts is not None:
            if decoded is not None and packet.dts < decoded:
                return "its times jump back"
            decoded = packet.dts
            if until is not None and decoded >= until:
                break
        if becomes_frame(packet):
            if packet.pts is None:
                return _NO_TIME
            if packet.is_corrupt:
                return "it is damaged"
            if packet.pts >= first_pts:  # others precede the first that can be decoded
                shown.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(KeyFrame(packet.pts, num_packets, packet.pos or 0))
        num_packets += 1
    ordered = sorted(shown)
    if len(set(ordered)) < len(ordered):
        return "some of its frames have the same time"
    if not ordered or ordered[0] != first_pts:
        return "its first frame has another time than its packet"
    keys.sort()
    places = [bisect_right(ordered, key.pts) - 1 for key in keys]
    context = stream.codec_context
    return FrameIndex(ordered, least_frames(context.width, context.height), places, keys)


def cuts_of(
    target: Target, index: FrameIndex, least: int, begin: int = 0, end: int | None = None
) -> Cuts:
    """Divide a film, or the part that has its frames `begin` to `end` - 1, into segments.

    Each has `least` frames.
    """
    segments = _segments(index, least, begin, end)
    leads = [lead for one in (*segments[1:2], segments[-1]) for lead in one.leads[:1]]
    why = why_not_sought(target, leads)
    return Cuts(why_whole=why) if why else Cuts(segments)


def why_not_sought(target: Target, leads: Sequence[KeyFrame]) -> str | None:
    """Return why key frames of a film are not found again, for people; None if they are."""
    if not leads:
        return None
    try:
        with open_container(target) as container:
            for lead in leads:
                next(packets_of(container, best_video(container, target.name), lead))
    except (MediaError, FFmpegError, OSError) as error:
        return f"{_NOT_READ}: {error}"
    return None


def _segments(index: FrameIndex, least: int, begin: int, end: int | None) -> tuple[Segment, ...]:
    pts = index.pts[begin:end]
    inside = [place - begin for place in index.places if place > begin]
    starts = [0, *cut_indices(len(pts), inside, least)]
    return tuple(
        Segment(
            number, first, past - 1, pts[first], pts[past - 1],
            index.leads(begin + first - PICTURES_BEFORE),
            is_last=past == len(pts),
            before_pts=pts[max(0, first - PICTURES_BEFORE)],
        )
        for number, (first, past) in enumerate(zip(starts, [*starts[1:], len(pts)], strict=True))
    )  # fmt: skip


def packets_of(
    container: InputContainer, stream: VideoStream, lead: KeyFrame
) -> Iterator[Packet[VideoStream]]:
    """Yield the packets from a key frame on.

    Demuxers seek by indices of different kinds, some to other places than asked for. So packets are
    read up to the very key frame, at worst from the beginning.

    Raises:
        UnsupportedMedia: if it is not there any more.
    """
    second = 0 if stream.time_base is None else round(1 / stream.time_base)
    places = [lead.pts - seconds * second for seconds in _SEEK_BACK_SECONDS]
    for place in (*places, (stream.start_time or 0) - 3600 * second):
        try:
            container.seek(place, stream=stream)
        except FFmpegError:
            continue
        packets = container.demux(stream)
        for packet in packets:
            if packet.is_keyframe and packet.size and packet.pts is not None:
                away = abs(packet.pos - lead.pos) if packet.pos and lead.pos else 0
                if packet.pts == lead.pts and away <= _SAME_PLACE:
                    yield packet
                    yield from packets
                    return
                if packet.pts > lead.pts:
                    break
    raise UnsupportedMedia(f"no key frame at {lead.pts} ticks: wanted the planned film")


def film_lines(lines: Iterable[str]) -> list[str]:
    """Return what is to be said of a film by the warnings or losses of its segments in turn.

    Each line comes once. Those that count begin with the number; numbers of the same are added up.
    """
    totals: dict[str, int] = {}
    for line in lines:
        number, _, counted = line.partition(" ")
        what, more = (counted, int(number)) if number.isdecimal() else (line, 0)
        totals[what] = totals.get(what, 0) + more
    return [f"{total} {what}" if total else what for what, total in totals.items()]


Shown = tuple[VideoFrame, int | None, bool]
"""A frame, when it is shown by its packet, and whether it repeats the one before."""


def frames_of(
    name: str,
    frames: Iterator[tuple[Shown, int, int]],
    segment: Segment,
    on_before: Callable[[tuple[Shown, int, int]], None] = lambda _: None,
) -> Iterator[tuple[Shown, int, int]]:
    """Yield the frames of a segment, and one past its end if there is one.

    The frames, with pts and duration, begin before it: `on_before` gets those from the segment's
    `before_pts` on.

    Raises:
        NotAsPlanned: if they are not as many as the packets promised.
    """
    num_frames, past = 0, None
    for entry in frames:
        shown = entry[0][1] or 0
        if shown < segment.first_pts:
            if segment.before_pts is not None and shown >= segment.before_pts:
                on_before(entry)
            continue
        if shown > segment.last_pts:
            past = entry
            break
        num_frames += 1
        yield entry
    if num_frames != segment.num_frames or (past is None) != segment.is_last:
        raise NotAsPlanned(
            f"{name}: got {num_frames} frames from {segment.first_pts} to {segment.last_pts} "
            f"ticks, wanted {segment.num_frames}"
        )
    if past is not None:
        yield past

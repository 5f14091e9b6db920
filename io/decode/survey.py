"""A look at a file's packets before decoding: how many, at which times, and is the file complete.

Demuxing without decoding costs a read of the file and little else. Small files are surveyed whole;
of large ones only the beginning and a few places further on, which is enough to distinguish a
constant rate from a variable one. Then a few frames are decoded, to see whether they have combs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ...filters.frame import PixelFormat, StreamInfo
from ..errors import MediaError
from ..extent import segment_end
from ..pictures.image_files import Embedded
from ..pictures.metadata import tags_of_frame
from ..pictures.pixels import pix_fmt_of, planar_pix_fmt
from ..timestamps import RateVerdict, judge_rate, settled
from .deinterlace import FIELD_ORDERS, INTERLACED, FieldOrder, FieldSample
from .demuxer import Target, best_video, open_container

WHOLE_FILE_BYTES = 256 << 20
"""Up to this size all packets are read."""

HEAD_PACKETS = 1000
SPOT_PACKETS = 250
SPOTS = (Fraction(1, 4), Fraction(1, 2), Fraction(3, 4))
"""Of the duration: where a large file is read, after its beginning."""

FIELD_LOOKS = ((32, 4), (96, 8))
"""Frames to decode, and at how many places; the second look only if the first one is not clear."""
_MOST_LINES = 1088
"""Of interlaced video; larger pictures are not looked at, unless their header says interlaced."""
_MOST_RATE = 31
"""Frames per second of interlaced video, likewise."""
_NO_FIELDS = ("gif", "apng", "png", "webp", "tiff", "bmp")


@dataclass(slots=True)
class Survey:
    """What the packets of the video stream show."""

    complete: bool = False
    """Whether all packets were seen."""
    runs: list[list[int]] = field(default_factory=list[list[int]])
    """The pts of consecutive packets, in decoding order; one list for each place."""
    num_packets: int = 0
    """Packets that become frames, among those seen."""
    num_all: int = 0
    """Packets of any kind, among those seen."""
    last_duration: int = 0
    """Ticks that the frame shown last lasts; 0 where its packet does not say."""
    keys: list[int] = field(default_factory=list[int])
    """The pts of all key frames; of a large file only of the first one at each place."""
    fields: FieldSample = field(default_factory=FieldSample)
    """What the pixels of a few frames show; empty where none were looked at."""

    @property
    def span(self) -> tuple[int, int] | None:
        """First and last pts of a complete survey."""
        if not self.complete or not self.runs or not self.runs[0]:
            return None
        return min(self.runs[0]), max(self.runs[0])

    def seconds(
        self, container: InputContainer, stream: VideoStream, rate: Fraction | None
    ) -> Fraction:
        """Return how long the stream is, by a survey that has a span."""
        assert self.span is not None
        time_base, (first, last) = stream.time_base or Fraction(1, 90_000), self.span
        end = end_of_stream(container, stream)
        if end is not None and end > last and len(stream.index_entries) <= self.num_all:
            return (end - first) * time_base
        lasts = self.last_duration * time_base or (1 / rate if rate else 0)
        return (last - first) * time_base + lasts

    def judge(self, time_base: Fraction, candidates: list[Fraction | None]) -> RateVerdict:
        """Decide between constant and variable; every place must agree on the rate."""
        found: list[RateVerdict] = []
        for run in (run for run in self.runs if len(run) > 1):
            # a place of few frames may not prove a rate, but confirms that of the beginning
            claimed = [*(verdict.rate for verdict in found[:1]), *candidates]
            found.append(judge_rate(run, time_base, claimed, self.last_duration))
        if not found:
            return judge_rate((), time_base, candidates)
        film = next((verdict for verdict in found if verdict.field_rate is not None), None)
        if film is not None and not self.complete:
            return film.of_excerpt()
        for verdict in found:
            if verdict.rate is None or verdict.rate != found[0].rate:
                return replace(verdict, rate=None)
        return found[0]


def survey(target: Target, *, fields: bool = True) -> Survey | None:
    """Survey a local file's packets, through a container of its own.

    With `fields` a few frames are decoded too, to look for combs. Returns None where that is
    impossible: a stream, a URL, an image sequence.
    """
    if target.path is None:
        return None
    try:
        with open_container(target) as container:
            stream = best_video(container, target.name)
            whole = target.path.stat().st_size <= WHOLE_FILE_BYTES
            seen = look_through(container, stream, whole=whole)
            if fields and may_have_fields(stream):
                look_at_fields(container, stream, seen)
            return seen
    except (MediaError, FFmpegError, OSError):  # the real opening will report it
        return None


def may_have_fields(stream: VideoStream) -> bool:
    """Return whether frames may be interlaced: by the header, or by their size, rate and codec."""
    context = stream.codec_context
    if FIELD_ORDERS.get(context.field_order) in INTERLACED:
        return True
    is_slow = (stream.average_rate or 0) <= _MOST_RATE
    return is_slow and context.height <= _MOST_LINES and context.name not in _NO_FIELDS


def look_at_fields(container: InputContainer, stream: VideoStream, seen: Survey) -> None:
    """Decode a few frames here and there, and set the survey's `fields`."""
    stream.thread_type = "AUTO"
    keys = sorted(seen.keys)
    for num_frames, num_places in FIELD_LOOKS if keys else ():
        places = {keys[len(keys) * n // num_places] for n in range(num_places)}
        seen.fields = FieldSample()
        for place in sorted(places):
            frames = _frames_from(container, stream, place)
            seen.fields.add(stream, islice(frames, num_frames // len(places)))
        if seen.fields.is_clear or (seen.complete and seen.fields.num_frames >= seen.num_packets):
            break


def _frames_from(container: InputContainer, stream: VideoStream, pts: int) -> Iterator[VideoFrame]:
    """Decode from a key frame on, as far as there is no damage."""
    try:
        container.seek(pts, stream=stream)
        yield from (frame for frame in container.decode(stream) if not frame.is_corrupt)
    except (FFmpegError, OSError, IndexError):  # the last: FLV changes its streams on the way
        return


def look_through(container: InputContainer, stream: VideoStream, *, whole: bool) -> Survey:
    """Read all packets of an open file, or its beginning and a few places further on."""
    seen = Survey()
    seen.complete = _look(container, stream, seen, None if whole else HEAD_PACKETS)
    if seen.complete or container.duration is None:
        return seen
    start = container.start_time or 0
    for spot in SPOTS:
        try:
            container.seek(start + int(container.duration * spot))
            _look(container, stream, seen, SPOT_PACKETS)
        except FFmpegError:  # it cannot seek: what was seen must suffice
            break
    return seen


def _look(container: InputContainer, stream: VideoStream, seen: Survey, limit: int | None) -> bool:
    """Demux up to `limit` packets into a new run; True if the end was reached."""
    in_order = has_no_pts(container)
    stamps: list[tuple[int, int | None]] = []
    whole = True
    try:
        for packet in container.demux(stream):
            seen.num_all += packet.size > 0
            if not becomes_frame(packet):
                continue
            seen.num_packets += 1
            shown = packet.dts if in_order else packet.pts
            if shown is not None:
                if packet.is_keyframe and (limit is None or not stamps):
                    seen.keys.append(shown)
                stamps.append((shown, packet.dts))
                if shown == max(pts for pts, _ in stamps[-32:]):
                    # AVI counts slots, of which a frame may take several
                    seen.last_duration = 0 if in_order else packet.duration or 0
            if len(stamps) == limit:
                whole = False
                break
    except (FFmpegError, OSError):  # damaged: decoding will find and count it
        whole = False
    seen.runs.append([pts for pts, _ in stamps] if whole else settled(stamps))
    return whole


def becomes_frame(packet: Packet[VideoStream]) -> bool:
    """Return whether a packet holds a frame to show: not empty, not cut off by an edit list."""
    return packet.size > 0 and not packet.is_discard


def has_no_pts(container: InputContainer) -> bool:
    """Return whether packets' pts are invented, so that only the order of their dts counts.

    AVI stores none. libavformat rebuilds them for MPEG-4, except the last frame's; for H.264 with
    B-frames it reports those of decoding order.
    """
    return container.format.name == "avi"


_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")


def promised_seconds(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """Return how long a stream of Matroska or AVI is by its header; None if that does not say."""
    kinds = container.format.name.split(",")
    if "avi" in kinds and stream.time_base:
        return stream.frames * stream.time_base
    clock = _CLOCK.match(stream.metadata.get("DURATION", ""))
    if "matroska" in kinds and clock:
        hours, minutes, seconds = clock.groups()
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    return None


def missing_end(
    path: Path | None,
    container: InputContainer,
    stream: VideoStream,
    *,
    num_packets: int,
    until: Fraction,
    slack: Fraction,
) -> str | None:
    """Return what the header promised beyond what was read; None if nothing is missing.

    Only exact promises count, so that no intact file is called truncated: the index of an MP4
    (after its edit list), the size of a Matroska segment or its track's duration, the length of an
    AVI. Formats without a promise (MPEG-TS, raw streams) can end anywhere. The stream was read to
    its end: `num_packets`, `until` when the last frame ends; `slack` of its seconds may be missing.
    """
    if "mp4" in container.format.name.split(","):
        promised = len(stream.index_entries)
        return f"{promised} frames" if num_packets < promised else None
    if path is not None and (size := segment_end(path)) and size > path.stat().st_size:
        return f"a segment up to byte {size}"
    seconds = promised_seconds(container, stream)
    return f"{float(seconds):.3f} seconds" if seconds and until < seconds - slack else None


AV_TIME_BASE = 1_000_000
"""Ticks in a second of a container's own duration."""


def describe(
    stream: VideoStream,
    first: VideoFrame,
    verdict: RateVerdict,
    field_order: FieldOrder | None,
    embedded: Embedded | None = None,
) -> StreamInfo:
    """Combine what a stream, its packets and its first frame say about the pictures.

    Raises:
        UnsupportedMedia: if the pixel format has no planar equivalent.
    """
    pix_fmt = planar_pix_fmt(pix_fmt_of(first))
    tags = tags_of_frame(stream, first, embedded)
    sited = PixelFormat.parse(pix_fmt).chroma_shift_x > 0
    return StreamInfo(
        width=first.width,
        height=first.height,
        pix_fmt=pix_fmt,
        time_base=stream.time_base or Fraction(1, 90_000),
        rate=verdict.rate,
        average_rate=verdict.average_rate or stream.average_rate or None,
        color=tags.color if sited else replace(tags.color, chroma_location=None),
        sample_aspect_ratio=tags.sample_aspect_ratio,
        rotation=tags.rotation,
        hflip=tags.hflip,
        field_order=field_order,
        mastering_display=tags.mastering_display,
        content_light=tags.content_light,
        icc_profile=None if embedded is None else embedded.icc_profile,
        exif=None if embedded is None else embedded.exif,
        stereo=tags.stereo,
        view_boxes=tags.view_boxes,
    )


def end_of_stream(container: InputContainer, stream: VideoStream) -> int | None:
    """Return the tick at which a stream ends, where the container stores it: MP4 and MOV."""
    if "mp4" not in container.format.name.split(",") or not stream.duration:
        return None
    return (stream.start_time or 0) + stream.duration

"""A look at a file's packets before the first is decoded: how many, when, and is the end there.

Demuxing without decoding costs a read of the file and little else. Small files are surveyed
whole; of large ones the beginning and a few places further on, which is enough to tell a constant
rate from a variable one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ...filters.frame import Color, PixelFormat, StreamInfo
from ..errors import MediaError
from ..extent import segment_end
from ..pictures.pixels import pix_fmt_of, planar_pix_fmt
from ..pictures.tags import (
    chroma_location,
    color_of,
    content_light,
    mastering_display,
    orientation_of,
    side_data,
)
from ..timestamps import RateVerdict, judge_rate, settled
from .deinterlace import FieldOrder
from .demuxer import Target, best_video, open_container

WHOLE_FILE_BYTES = 256 << 20
"""Up to this size all packets are looked at."""

HEAD_PACKETS = 1000
SPOT_PACKETS = 250
SPOTS = (Fraction(1, 4), Fraction(1, 2), Fraction(3, 4))
"""Of the duration: where a large file is looked at, after its beginning."""


@dataclass(slots=True)
class Survey:
    """What the packets of the video stream say."""

    complete: bool = False
    """Whether all packets were seen."""
    runs: list[list[int]] = field(default_factory=list[list[int]])
    """The pts of consecutive packets, in decoding order; one list for each place looked at."""
    num_packets: int = 0
    """Packets that become frames, among those seen."""
    num_all: int = 0
    """Packets of any kind, among those seen."""
    last_duration: int = 0
    """Ticks that the frame shown last lasts, where its packet says it."""

    @property
    def span(self) -> tuple[int, int] | None:
        """First and last pts of a complete survey."""
        if not self.complete or not self.runs or not self.runs[0]:
            return None
        return min(self.runs[0]), max(self.runs[0])

    def judge(self, time_base: Fraction, candidates: list[Fraction | None]) -> RateVerdict:
        """Decide between constant and variable; every place must agree on the rate."""
        verdicts = [
            judge_rate(run, time_base, candidates=candidates, last_duration=self.last_duration)
            for run in self.runs
            if len(run) > 1
        ]
        if not verdicts:
            return judge_rate((), time_base, candidates=candidates)
        for verdict in verdicts:
            if verdict.rate is None or verdict.rate != verdicts[0].rate:
                return RateVerdict(None, verdict.average_rate, verdict.evidence)
        return verdicts[0]


def survey(target: Target) -> Survey | None:
    """Look at a local file's packets, through a container of its own.

    Returns:
        None where that is not possible: a stream, a URL, an image sequence.
    """
    if target.path is None:
        return None
    try:
        with open_container(target) as container:
            stream = best_video(container, target.name)
            whole = target.path.stat().st_size <= WHOLE_FILE_BYTES
            return look_through(container, stream, whole=whole)
    except (MediaError, FFmpegError, OSError):  # opening it for real will say what is wrong
        return None


def look_through(container: InputContainer, stream: VideoStream, *, whole: bool) -> Survey:
    """Look at all packets of an open file, or at its beginning and a few places further on."""
    seen = Survey()
    limit = None if whole else HEAD_PACKETS
    seen.complete = _look(container, stream, seen, limit)
    if seen.complete or container.duration is None:
        return seen
    start = container.start_time or 0
    for spot in SPOTS:
        try:
            container.seek(start + int(container.duration * spot))
            _look(container, stream, seen, SPOT_PACKETS)
        except FFmpegError:  # cannot seek here: what was seen must do
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
                stamps.append((shown, packet.dts))
                if shown == max(pts for pts, _ in stamps[-32:]):
                    # AVI counts slots, of which a frame may take several
                    seen.last_duration = 0 if in_order else packet.duration or 0
            if len(stamps) == limit:
                whole = False
                break
    except (FFmpegError, OSError):  # damaged: decoding will come upon it too, and count
        whole = False
    seen.runs.append([pts for pts, _ in stamps] if whole else settled(stamps))
    return whole


def becomes_frame(packet: Packet[VideoStream]) -> bool:
    """Tell whether a packet holds a frame to show: not empty, and not cut away by an edit list."""
    return packet.size > 0 and not packet.is_discard


def has_no_pts(container: InputContainer) -> bool:
    """Tell whether packets' pts are made up, so that only the order of their dts means anything.

    AVI stores none. libavformat rebuilds them for MPEG-4 but for the last frame; for H.264 with
    B-frames it hands out those of decoding order.
    """
    return container.format.name == "avi"


# Did the input end where its header says that it ends?
#
# Only what a container promises exactly is held against it, so that no intact file is accused: the
# index of an MP4 (after its edit list), the size of a Matroska segment or its track's duration,
# the length of an AVI. Formats without a promise (MPEG-TS, raw streams) can end anywhere.

_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
_SLACK_FRAMES = 3  # Matroska and AVI round their durations


def missing_end(
    container: InputContainer,
    stream: VideoStream,
    path: Path | None,
    *,
    num_packets: int,
    end_seconds: Fraction,
    frame_seconds: Fraction,
) -> str | None:
    """Say what the header promised beyond what came; None if all came, or nothing was promised.

    Args:
        container: Read to its end.
        stream: The video stream.
        path: The file, if it is one.
        num_packets: Those of the stream that were read.
        end_seconds: Where the last frame ends, in the stream's own time.
        frame_seconds: What one frame lasts, about.
    """
    if "mp4" in container.format.name.split(","):
        promised = len(stream.index_entries)
        return f"{promised} frames" if num_packets < promised else None
    if path is not None and (size := segment_end(path)) and size > path.stat().st_size:
        return f"a segment up to byte {size}"
    promised_seconds = _promised_seconds(container, stream)
    if promised_seconds and end_seconds < promised_seconds - _SLACK_FRAMES * frame_seconds:
        return f"{float(promised_seconds):.3f} seconds"
    return None


def ends_inside_frame(container: InputContainer, path: Path | None, end_byte: int) -> bool:
    """Tell whether a YUV4MPEG2 file goes on after its last whole frame: FFmpeg drops that rest.

    Args:
        container: Read to its end.
        path: The file, if it is one.
        end_byte: Where the last whole frame ends.
    """
    is_y4m = container.format.name == "yuv4mpegpipe"
    return is_y4m and path is not None and path.stat().st_size > end_byte


def _promised_seconds(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """What the header says about this very stream, in seconds; None if it says nothing."""
    kinds = container.format.name.split(",")
    if "avi" in kinds and stream.time_base:
        return stream.frames * stream.time_base
    clock = _CLOCK.match(stream.metadata.get("DURATION", ""))
    if "matroska" in kinds and clock:
        hours, minutes, seconds = clock.groups()
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    return None


# What holds for all pictures of a stream.

AV_TIME_BASE = 1_000_000
"""Ticks in a second of a container's own duration."""


def describe(
    container: InputContainer,
    stream: VideoStream,
    first: VideoFrame,
    *,
    verdict: RateVerdict,
    field_order: FieldOrder | None,
    seen: Survey | None,
    num_images: int | None,
    path: Path | None,
) -> StreamInfo:
    """Put together what a container, a stream, its packets and its first frame say.

    Raises:
        UnsupportedMedia: if the pixel format is none that we can take apart.
    """
    pix_fmt = planar_pix_fmt(pix_fmt_of(first))
    time_base = stream.time_base or Fraction(1, 90_000)
    rotation, hflip, _ = orientation_of(first, path)
    data = side_data(first)
    return StreamInfo(
        width=first.width,
        height=first.height,
        pix_fmt=pix_fmt,
        time_base=time_base,
        rate=verdict.rate,
        average_rate=verdict.average_rate or stream.average_rate or None,
        color=_color(stream, first, PixelFormat.parse(pix_fmt)),
        sample_aspect_ratio=stream.sample_aspect_ratio or None,
        rotation=rotation,
        hflip=hflip,
        field_order=field_order,
        num_frames=num_images or _num_frames(stream, seen, field_order),
        duration_seconds=num_images / verdict.rate
        if num_images and verdict.rate
        else _duration(container, stream, seen, time_base, verdict.rate),
        mastering_display=mastering_display(data),
        content_light=content_light(data),
    )


def _color(stream: VideoStream, first: VideoFrame, form: PixelFormat) -> Color:
    """Take each tag from the first frame, or from the stream where the frame does not say."""
    said, fallback = color_of(first), color_of(stream.codec_context)
    location = chroma_location(stream) if form.chroma_shift_x else None
    return Color(
        range=said.range or fallback.range,
        primaries=said.primaries or fallback.primaries,
        trc=said.trc or fallback.trc,
        matrix=said.matrix or fallback.matrix,
        chroma_location=location,
    )


def _num_frames(
    stream: VideoStream, seen: Survey | None, field_order: FieldOrder | None
) -> int | None:
    if seen is not None and seen.complete and field_order in (None, "progressive"):
        return seen.num_packets or None
    return stream.frames or None  # a packet of an interlaced stream may be one field only


def _duration(
    container: InputContainer,
    stream: VideoStream,
    seen: Survey | None,
    time_base: Fraction,
    rate: Fraction | None,
) -> Fraction | None:
    if seen is not None and (span := seen.span) is not None:
        end = end_of_stream(container, stream)
        if end is not None and end > span[1] and len(stream.index_entries) <= seen.num_all:
            return (end - span[0]) * time_base
        last = seen.last_duration * time_base or (1 / rate if rate else 0)
        return (span[1] - span[0]) * time_base + last
    if stream.duration:
        return stream.duration * time_base
    return Fraction(container.duration, AV_TIME_BASE) if container.duration else None


def end_of_stream(container: InputContainer, stream: VideoStream) -> int | None:
    """Tell the tick at which a stream ends, where the container keeps it exactly: MP4 and MOV."""
    if "mp4" not in container.format.name.split(",") or not stream.duration:
        return None
    return (stream.start_time or 0) + stream.duration


def whole_end(container: InputContainer, stream: VideoStream, num_packets: int) -> int | None:
    """Tell where the container ends the stream, if it knows that and all of it came."""
    if len(stream.index_entries) > num_packets:
        return None
    return end_of_stream(container, stream)

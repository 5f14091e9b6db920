"""A look at a file's packets before the first is decoded: how many, when, and is the end there.

Demuxing without decoding costs a read of the file and little else. Small files are surveyed
whole; of large ones the beginning and a few places further on, which is enough to tell a constant
rate from a variable one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from ..errors import MediaError
from ..timestamps import RateVerdict, judge_rate, settled
from .opening import Target, best_video, open_container

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
    except (MediaError, FFmpegError):  # opening it for real will say what is wrong
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
    except FFmpegError:  # damaged: decoding will come upon it too, and count
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

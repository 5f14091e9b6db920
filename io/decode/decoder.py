"""Packets to frames: the decoder drained, damage counted, no frame skipped.

Damage does not change the number of frames: one that could not be decoded is replaced by the one
before it. Packets' pts show which ones these are, because a decoder with frame threads reports an
error later than it happens.
"""

from __future__ import annotations

import heapq
import logging
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Literal

import torch
from av.codec import CodecContext
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.error import BlockingIOError as NoThreads
from av.error import EOFError as EndOfFile
from av.error import FFmpegError
from av.error import MemoryError as NoMemory
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ..calls import frames_of
from ..errors import MediaError, TruncatedMedia, UnsupportedMedia, reason_of
from ..pictures.image_files import Embedded, embedded_in
from ..pictures.metadata import make_harmless
from ..pictures.pixels import color_of, form_of, is_on_card, matrix_of, on_cpu
from ..pictures.t35 import MessageReader
from ..timestamps import settled
from .alpha import alpha_decoder, is_tagged
from .deinterlace import FIELD_ORDERS, FilterChain
from .demuxer import Target, best_video, open_container
from .survey import becomes_frame, has_no_pts

# Frames that change their form in the middle of a stream, made like the first one.
#
# An output has one size, pixel format and shape of its pixels. A frame of another size or shape is
# scaled into the first one's, with black bars where it is narrower or lower, so that nothing looks
# stretched. Other colour tags and rotations are only counted: an output has one of each, too.

_ALIKE = Fraction(3, 100)
"""Shapes that differ by less are one: 720x576 is 4:3 by pixels of 12:11, of 16:15 and of 59:54."""

_CODED_SHAPE = ("mpegts", "mpeg", "mpegvideo", "m4v", "h264", "hevc", "vvc", "vc1")
"""Containers without a shape of the pixels of their own, which would hold for the whole track."""


class Conformer:
    """Makes the frames of a stream like its first one, and counts those that were not.

    The stream's decoder says which shape the pixels have; the first frame's is None if unknown.
    """

    def __init__(
        self,
        first: VideoFrame,
        container: InputContainer,
        stream: VideoStream,
        sample_aspect_ratio: Fraction | None,
    ) -> None:
        self._first = first
        self._stream = stream
        self._follows = bool(sample_aspect_ratio) and container.format.name in _CODED_SHAPE
        self._first_ratio = self._ratio = sample_aspect_ratio or Fraction(1)
        self._tags = _tags_of(first)
        self._counts: Counter[str] = Counter()

    def __call__(self, frame: VideoFrame, *, counts: bool = True) -> VideoFrame:
        """Return the frame itself if it is like the first one, else what it becomes."""
        if self._follows and frame.key_frame:
            # the decoder may be ahead of its frames, but a new shape begins with a key frame
            self._ratio = self._stream.codec_context.sample_aspect_ratio or self._ratio
        is_other = form_of(frame) != form_of(self._first)
        if _tags_of(frame) != self._tags:
            has, had = color_of(frame), color_of(self._first)
            changed = [("primaries", has.primaries, had.primaries), ("transfer", has.trc, had.trc)]
            if not is_other:
                changed += [("range", has.range, had.range), ("matrix", has.matrix, had.matrix)]
            if frame.rotation != self._first.rotation:
                changed += [("rotation", str(frame.rotation), str(self._first.rotation))]
            for name, new, old in changed:
                if new is not None and new != old:
                    what = f"of {name} {new}: tagged {old or 'unspecified'}, as the first"
                    self._counts[what] += counts
        if not is_other and self._ratio == self._first_ratio:
            return frame
        size = Fraction(frame.width * self._first.height, frame.height * self._first.width)
        times_wider = size * self._ratio / self._first_ratio
        if abs(times_wider - 1) <= _ALIKE:
            times_wider = Fraction(1)
        else:
            self._counts["of another shape: shown between black bars"] += counts
        if is_other:
            self._counts["of another size or pixel format: converted"] += counts
        elif times_wider == 1:
            return frame
        return conform(on_cpu(frame), on_cpu(self._first), times_wider)

    def lines(self) -> list[str]:
        """Return how many frames were not like the first one, for people."""
        return [f"{count} frames {what}" for what, count in self._counts.items() if count]


def _tags_of(frame: VideoFrame) -> tuple[int, ...]:
    """Return what an output can say only once."""
    color = frame.color_range, frame.colorspace, frame.color_primaries, frame.color_trc
    return *color, frame.rotation


def conform(
    frame: VideoFrame, first: VideoFrame, times_wider: Fraction = Fraction(1)
) -> VideoFrame:
    """Convert a frame to the size, pixel format and colour of the first; both on the CPU.

    It is shown `times_wider` than the first one, at the same height; if not 1, bars fill the
    first one's size.
    """
    width = first.width if times_wider >= 1 else _even(first.width * times_wider)
    height = first.height if times_wider <= 1 else _even(first.height / times_wider)
    converted = frame.reformat(
        width,
        height,
        first.format.name,
        src_colorspace=matrix_of(frame),
        dst_colorspace=matrix_of(first),
        src_color_range=frame.color_range,
        dst_color_range=first.color_range,
        interpolation="BICUBIC",
        threads=1,  # with more, swscale writes beyond its slice's end into packed formats
    )
    if times_wider != 1:
        bars = f"{first.width}:{first.height}:(ow-iw)/2:(oh-ih)/2"
        filters = ("pad", bars), ("format", first.format.name)
        chain = FilterChain(converted, Fraction(1, 1000), *filters)
        (converted,) = (*chain(converted), *chain(None))
    converted.pts = frame.pts
    return converted


def _even(size: Fraction) -> int:
    return max(2, round(size / 2) * 2)


# Decoding by an NVIDIA card, whose frames stay there: no pixel crosses to the CPU and back.
#
# Only for formats with the same result either way: progressive 4:2:0 of 8 or 10 bits. Anything
# else, and whatever the card refuses, is decoded in software, which is logged.

HardwareName = Literal["none", "auto", "cuda"]

_CODED = ("yuv420p", "yuv420p10le")
"""Pixel formats that a card decodes to the same values: as nv12 and p010le."""
_EXTRA_SURFACES = "8"
"""Beyond the codec's reference frames: its caller holds the first and the last frame."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """Which hardware may decode, beside software."""

    name: HardwareName
    """``none``; ``auto`` where `device` is a card; ``cuda``, with a warning where it cannot."""
    device: torch.device
    """Where the pictures are processed."""


logger = logging.getLogger(__name__)


def open_for_card(container: InputContainer, target: Target, wanted: Hardware) -> InputContainer:
    """Open an input again for decoding by a card, if possible; its container is closed then."""
    device = wanted.device
    if wanted.name == "none" or (wanted.name == "auto" and device.type != "cuda"):
        return container
    if (fault := _fault(container, target, device)) is None:
        card = HWAccel("cuda", device.index or 0, allow_software_fallback=True, is_hw_owned=True)
        try:
            accelerated = open_container(target, hwaccel=card)
        except MediaError as error:
            fault = f"the card cannot be used: {error.__cause__ or error}"
        else:
            context = best_video(accelerated, target.name).codec_context
            if context.is_hwaccel:
                container.close()
                context.options = {**context.options, "extra_hw_frames": _EXTRA_SURFACES}
                return accelerated
            accelerated.close()
            fault = f"it does not support {context.name}"
    level = logging.INFO if wanted.name == "auto" else logging.WARNING
    logger.log(level, "%s: decoded by software, not by the card: %s", target.name, fault)
    return container


def log_decoder(name: str, stream: VideoStream, first: VideoFrame) -> None:
    """Log what decoded the first frame, if a card was to: it may not support the profile."""
    if stream.codec_context.is_hwaccel:
        fault = "software: the card does not support its profile"
        logger.info("%s: decoded by %s", name, "the card" if is_on_card(first) else fault)


def _fault(container: InputContainer, target: Target, device: torch.device) -> str | None:
    """Return why a card should not decode an input; None if it may."""
    if device.type != "cuda":
        return f"frames are needed on {device}"
    if target.path is None or target.num_images is not None:
        return "it is not a file that can be opened twice"
    stream = best_video(container, target.name)
    context = stream.codec_context
    if is_tagged(stream):
        return "it has alpha"
    if context.pix_fmt not in _CODED:
        return f"the pixel format is {context.pix_fmt}, not {' or '.join(_CODED)}"
    if FIELD_ORDERS.get(context.field_order) not in (None, "progressive"):
        return "it is interlaced"
    return None


MAX_DAMAGED_SHARE = Fraction(1, 10)
"""An input with a larger share of damaged frames is given up."""
MAX_DAMAGED_RUN = 100
"""So many damaged frames in a row, likewise."""
_JUDGED_FROM = 100  # frames: a share of fewer means little

_NO_MEMORY = (NoMemory, NoThreads)
"""What a decoder raises without memory for frames, or for the stacks of its threads."""

_SLOT = Fraction(3, 4)
"""Of a frame's duration: a gap at least that far from both its neighbours was a frame. (The
second field of a frame, or a hidden reference frame, lies closer to one of them.)"""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A frame in presentation order."""

    frame: VideoFrame
    pts: int | None
    duration: int
    """Ticks; 0 where unknown."""


class VideoDecoder:
    """Decodes one video stream to its end."""

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        name: str,
        *,
        packets: Iterator[Packet[VideoStream]] | None = None,
        num_skipped: int = 0,
        counted: tuple[int | None, int | None] = (None, None),
        judges: bool = True,
    ) -> None:
        """Decode a stream of a container with a `name` for people.

        Only `packets` if given, before which `num_skipped` are left out. Damage counts from the
        first pts of `counted` up to before the second; None: from the beginning, to the end. If it
        `judges`, a share of damage is too much, else only many frames in a row are.
        """
        self.stream = stream
        self.described: VideoFrame | None = None
        """The first frame without its alpha, but with what the container says about it."""
        self.embedded: Embedded | None = None
        """What an image file says about its picture, once its packet is read."""
        self._container = container
        self._is_begun = False
        self._codec = stream.codec_context
        self._name = name
        self.step: Fraction | None = None
        """Ticks that a frame lasts; set by the source if the rate is constant."""
        self._packets = container.demux(stream) if packets is None else packets
        self._counted = counted
        self._judges = judges
        self._decoded: Iterator[Decoded] | None = None
        self._in_order = has_no_pts(container)
        self._messages = MessageReader(stream.codec_context)
        self._peeked: deque[Packet[VideoStream]] = deque()
        self._waiting: list[int] = []  # pts of packets sent whose frame has not come, a heap
        self._unexplained = 0  # errors for which no missing frame has been found yet
        self._previous: Decoded | None = None
        self._damaged_run = 0
        self.num_packets = 0
        self.num_skipped = num_skipped
        self.num_frames = 0
        self.num_damaged = 0
        self._num_counted = 0
        self.num_leading = 0
        self._failure: FFmpegError | OSError | None = None
        self.end_byte = 0
        """Where in the file the last packet ends."""
        self.cut_packet = False
        """Whether the input ended inside a packet."""

    def peek(self, num_packets: int, num_bytes: int) -> list[int]:
        """Read ahead where the input cannot be opened twice; return the pts that were seen."""
        size = 0
        while len(self._peeked) < num_packets and size < num_bytes:
            if (packet := self._read()) is None:
                break
            self._peeked.append(packet)
            size += packet.size
        frames = [packet for packet in self._peeked if becomes_frame(packet)]
        stamps = [(self._shown(packet), packet.dts) for packet in frames]
        return settled([(pts, dts) for pts, dts in stamps if pts is not None])

    def peeked_frames(self) -> Iterator[VideoFrame]:
        """Decode what was read ahead with a decoder of its own, as far as there is no damage."""
        own = self.stream.codec_context
        decoder = CodecContext.create(own.name, "r")
        assert isinstance(decoder, VideoCodecContext)
        decoder.extradata = own.extradata
        decoder.width, decoder.height = own.width, own.height
        if own.pix_fmt is not None:
            decoder.pix_fmt = own.pix_fmt
        try:
            for packet in (*self._peeked, None):
                yield from frames_of(decoder, packet)
        except FFmpegError:
            return

    def _read(self) -> Packet[VideoStream] | None:
        """Demux the next packet with data; None at the end."""
        try:
            # an empty one is a repeat of the frame before, or PyAV's own mark of the end
            packet = next((packet for packet in self._packets if packet.size), None)
        except (FFmpegError, OSError) as error:  # of FFmpeg, or of our own reads for it
            self._failure = error
            return None
        if packet is not None:
            if not self._is_begun:
                self._is_begun, self.embedded = True, embedded_in(self._container, packet)
            make_harmless(packet, self.stream.codec_context)
        return packet

    def begins_whole(self, key_pts: int, needed_pts: int) -> bool:
        """Decode up to a key frame, the first packet; return whether frames are whole from it on.

        At least from `needed_pts` on all must be.
        """
        ahead: list[Decoded] = []
        for decoded in (whole := iter(self)):
            ahead.append(decoded)
            if decoded.pts is not None and decoded.pts >= key_pts:
                break
        self._decoded = chain(ahead, whole)
        found = ahead[-1] if ahead else None
        if found is None or found.pts is None or found.frame.is_corrupt:
            return False
        # where pictures are refreshed bit by bit, the first that is whole comes later
        return found.pts == key_pts or (not self._unexplained and found.pts <= needed_pts)

    def __iter__(self) -> Iterator[Decoded]:
        """Yield every frame, in presentation order.

        Raises:
            UnsupportedMedia: if too much of it is damaged.
        """
        return self._run_through() if self._decoded is None else self._decoded

    def counts(self, pts: int | None) -> bool:
        """Return whether a frame's damage counts."""
        start, end = self._counted
        return pts is None or ((start is None or pts >= start) and (end is None or pts < end))

    def _run_through(self) -> Iterator[Decoded]:
        held: Packet[VideoStream] | None = None
        while True:
            packet = self._peeked.popleft() if self._peeked else self._read()
            if packet is None and held is not None and held.is_corrupt:
                self.cut_packet, held = True, None  # its beginning alone is no frame
            if held is not None:
                yield from self._take(self._decode(held))
            if packet is None:
                break
            held = packet
        yield from self._take(self._frames_of(None))
        yield from self._fill_up_to(None)

    def check(self) -> None:
        """Judge the whole, after the last frame.

        Raises:
            UnsupportedMedia: if too much of it was damaged.
            TruncatedMedia: if reading failed, so that there may be more.
        """
        if self._judges:
            check_damage(self._name, self.num_damaged, self._num_counted)
        if self._failure is not None:
            raise TruncatedMedia(
                f"{self._name}: reading failed after {self.num_frames} frames: "
                f"{reason_of(self._failure)}"
            ) from self._failure

    def close(self) -> None:
        """Release packets and frames, so that their memory is freed at once."""
        self._packets = self._decoded = iter(())
        self._peeked.clear()
        self._previous = self.described = None

    def lines(self) -> list[str]:
        """Return what was damaged, for people."""
        said = [
            (self.num_damaged, "damaged frames: repeated the one before, or used what was left"),
            (self.num_leading, "frames before the first that can be decoded: left out"),
        ]
        return [f"{count} {what}" for count, what in said if count]

    def _decode(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        if not self.num_packets and (with_alpha := alpha_decoder(self.stream, packet)):
            self._codec, described = with_alpha
            self.described = next(iter(described), None)
        self.num_packets += 1
        self.end_byte = (packet.pos or 0) + packet.size
        shown = self._shown(packet)
        if becomes_frame(packet) and shown is not None:
            heapq.heappush(self._waiting, shown)
        self._messages.send(packet)
        return self._frames_of(packet)

    def _shown(self, packet: Packet[VideoStream]) -> int | None:
        return packet.dts if self._in_order else packet.pts

    def _frames_of(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        try:
            return frames_of(self._codec, packet)
        except _NO_MEMORY as error:
            raise MemoryError(f"{self._name}: no memory to decode a frame") from error
        except FFmpegError as error:  # at the end it yields no more frames; the gaps are filled
            self._unexplained += packet is None or not isinstance(error, EndOfFile)
            return []

    def _take(self, frames: list[VideoFrame]) -> Iterator[Decoded]:
        for frame in frames:
            self._messages.receive(frame)
            pts = None if self._in_order else frame.pts
            if pts is None and self._unexplained and self._previous is not None:
                yield from self._repeat(self._next_waiting())  # at the place of the error
            if self._in_order:
                pts = self._next_waiting()
            if pts is not None:
                yield from self._fill_up_to(pts)
            duration = 0 if self._in_order else frame.duration  # AVI counts slots, not frames
            self._previous = Decoded(frame, pts, duration)
            self._count(pts, damaged=frame.is_corrupt)
            yield self._previous

    def _next_waiting(self) -> int | None:
        return heapq.heappop(self._waiting) if self._in_order and self._waiting else None

    def _fill_up_to(self, pts: int | None) -> Iterator[Decoded]:
        """Repeat the previous frame for every packet before `pts` that yielded no frame."""
        while self._waiting and (pts is None or self._waiting[0] <= pts):
            missing = heapq.heappop(self._waiting)
            if missing == pts:
                continue
            if self._previous is None:
                self.num_leading += self.counts(missing)
            elif self._was_frame(self._previous.pts, missing, pts):
                yield from self._repeat(missing)

    def _was_frame(self, before: int | None, missing: int, after: int | None) -> bool:
        if before is None or missing <= before or self._unexplained:
            return before is not None and missing > before
        if self.step is None:  # unless packets may be fields, or hidden reference frames
            is_field = self._previous is not None and self._previous.frame.interlaced_frame
            return self.stream.codec_context.name != "vp8" and not is_field
        room = self.step * _SLOT
        return missing - before >= room and (after is None or after - missing >= room)

    def _repeat(self, pts: int | None) -> Iterator[Decoded]:
        assert self._previous is not None
        self._unexplained = max(0, self._unexplained - 1)
        self._previous = Decoded(self._previous.frame, pts, 0)
        self._count(pts, damaged=True)
        yield self._previous

    def _count(self, pts: int | None, *, damaged: bool) -> None:
        self.num_frames += 1
        if not self.counts(pts):
            return
        self._num_counted += 1
        self.num_damaged += damaged
        self._damaged_run = self._damaged_run + 1 if damaged else 0
        is_judged = self._judges and self._num_counted >= _JUDGED_FROM
        if is_judged or self._damaged_run >= MAX_DAMAGED_RUN:
            check_damage(self._name, self.num_damaged, self._num_counted, self._damaged_run)


def check_damage(name: str, num_damaged: int, num_frames: int, run: int = 0) -> None:
    """Judge the damage of a film, or of all of its segments together; `run`: at its end, in a row.

    Raises:
        UnsupportedMedia: if it is too much.
    """
    if run >= MAX_DAMAGED_RUN or num_damaged > MAX_DAMAGED_SHARE * num_frames:
        raise UnsupportedMedia(f"{name}: too much is damaged: {num_damaged} of {num_frames} frames")

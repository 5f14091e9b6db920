"""Packets of a live connection to frames with their times: only undamaged ones, deinterlaced.

Nothing is shown before a keyframe, and after damage nothing until the next one: a decoder would go
on with what it has, and its errors would move over the screen until then.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, replace
from fractions import Fraction
from functools import cached_property
from statistics import median

from av.audio.stream import AudioStream
from av.error import EOFError as EndOfFile
from av.error import FFmpegError
from av.error import MemoryError as NoMemory
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ..decode.deinterlace import FIELD_ORDERS, FLAGS_FRAMES, INTERLACED, Deinterlacer, FieldOrder
from ..pictures.t35 import MessageReader
from .values import DecodedFrame, SoundPacket

_REGULAR_INTERVALS = 8
"""So many intervals must have been alike before a longer one counts as a loss."""

_ALIKE = Fraction(1, 5)
"""Of an interval: how far those of a regular stream differ."""

_HOLE = Fraction(3, 2)
"""Intervals: from here on a frame is missing."""


class KeyframeGate:
    """Closed from a damaged packet's frame on, until a keyframe that was sent after the damage.

    Packets are numbered in the order in which they come; frames leave the decoder later.
    """

    def __init__(self) -> None:
        self._shut_from: int | None = 0
        self._opens_at = 0
        self._lost = False

    @property
    def is_shut(self) -> bool:
        """Whether frames are hidden until a keyframe comes."""
        return self._shut_from is not None

    def shut(self, number: int, *, opens_at: int) -> None:
        """Hide packet `number` and all later ones, until a keyframe from `opens_at` on."""
        if self._shut_from is None:
            self._lost = True
            self._shut_from = number
        self._opens_at = max(self._opens_at, opens_at)

    def passes(self, number: int, *, is_keyframe: bool) -> bool:
        """Return whether the frame of a packet may be shown."""
        if self._shut_from is None or number < self._shut_from:
            return True
        if is_keyframe and number >= self._opens_at:
            self._shut_from = None
        return self._shut_from is None

    def take_loss(self) -> bool:
        """Return once, for the first frame after damage, that there was some."""
        lost = self._lost and self._shut_from is None
        self._lost = self._lost and not lost
        return lost


class GapDetector:
    """Finds missing packets by the timestamps, where the transport loses some silently.

    A decoder conceals a missing frame silently. Only a stream with equal intervals shows the gap;
    one of a variable rate has longer intervals anyway.
    """

    def __init__(self) -> None:
        self._intervals: deque[Fraction] = deque(maxlen=_REGULAR_INTERVALS)
        self._last: Fraction | None = None
        self._found = False

    def before(self, seconds: Fraction | None) -> bool:
        """Return whether a packet is missing before the one of this time; in any order."""
        if seconds is None or self._last is None:
            self._last = seconds
            return False
        interval, self._last = seconds - self._last, seconds
        found = self._is_hole(interval)
        if found and self._found:  # two in a row: the rate has changed
            found = False
            self._intervals.clear()
        if not found:
            self._intervals.append(interval)
        self._found = found
        return found

    def _is_hole(self, interval: Fraction) -> bool:
        if len(self._intervals) < _REGULAR_INTERVALS:
            return False
        usual = median(self._intervals)
        if usual <= 0 or any(abs(each - usual) > _ALIKE * usual for each in self._intervals):
            return False
        return interval >= _HOLE * usual


class FirstPtsFixer:
    """Holds a first frame without time until the next one, which determines it; RTP needs this."""

    def __init__(self) -> None:
        self._held: tuple[DecodedFrame, Fraction] | None = None
        self._done = False

    def __call__(self, frame: DecodedFrame, duration_seconds: Fraction) -> Iterator[DecodedFrame]:
        """Accept a frame and its duration (0 if unknown); yield the frames that are ready."""
        if self._done:
            yield frame
        elif self._held is None and frame.seconds is None and duration_seconds:
            self._held = frame, duration_seconds
        else:
            self._done = True
            if self._held is not None:
                first, duration = self._held
                seconds = None if frame.seconds is None else frame.seconds - duration
                yield replace(first, seconds=seconds)
            yield frame


_MOST_SENT = 64
"""Packets that a decoder may keep before their frames; more are without a frame."""

_FLAGGED_EARLY = 2
"""Packets: libavformat finds a gap in MPEG-TS by what follows, and flags the packet it is reading.
A keyframe between the two does not end the damage."""

_MOST_BURST_SECONDS = 5
"""Frames that come at once after a pause of the network; more than that is a jump."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """A packet that was sent to the decoder."""

    number: int
    pts: int | None
    arrived: float


@dataclass(eq=False)
class LiveDecoder:
    """Decodes the video packets of one connection, and passes on those of the sound."""

    video: VideoStream
    """To decode."""
    sound: AudioStream | None
    """To pass on."""
    _: KW_ONLY
    lossy: bool
    """Whether the transport loses packets silently, as RTP over UDP does."""
    counts: Counter[str]
    """Receives frames_decoded, frames_damaged and packets_corrupt."""

    def __post_init__(self) -> None:
        self.video.thread_type = "SLICE"  # frame threads would add their number to the delay
        self._time_base = self.video.time_base or Fraction(1, 90_000)
        self._gate = KeyframeGate()
        self._gaps = GapDetector() if self.lossy else None
        self._sent: deque[_Sent] = deque(maxlen=_MOST_SENT)
        self._messages = MessageReader(self.video.codec_context)
        self._number = 0
        self._first_pts = FirstPtsFixer()
        self._deinterlacer: Deinterlacer[DecodedFrame] | None = None
        self._last_keyframe: tuple[Fraction, float] | None = None  # its time, its arrival
        self.gop_seconds: Fraction | None = None
        """From keyframe to keyframe, the last time."""
        self.errors_in_a_row = 0
        """Packets that the decoder refused since the last frame that was shown."""

    def take(self, packet: Packet[Stream], arrived: float) -> Iterator[DecodedFrame | SoundPacket]:
        """Accept a packet of either stream; yield what is ready."""
        if self.sound is not None and packet.stream_index == self.sound.index:
            if packet.size and not packet.is_corrupt:
                yield _sound_packet(packet, arrived)
        elif packet.stream_index == self.video.index:
            if packet.size:
                self._number += 1
                if packet.is_corrupt:
                    self.counts["packets_corrupt"] += 1
                    self._gate.shut(self._number, opens_at=self._number + 1 + _FLAGGED_EARLY)
                elif self._gaps is not None and self._gaps.before(
                    _time_of(packet, self._time_base)
                ):
                    self._gate.shut(self._number, opens_at=self._number)
            for frame in self._decoded(packet, arrived):
                yield from self._shown(frame, arrived)
            if not packet.size:  # the end: all that is held
                yield from self._flushed()

    def _measure_gop(self, seconds: Fraction | None, arrived: float) -> None:
        """Measure by the timestamps, except across a jump of them, which comes at once."""
        before, self._last_keyframe = self._last_keyframe, None
        if seconds is None:
            return
        self._last_keyframe = seconds, arrived
        if before is not None:
            distance = seconds - before[0]
            came_after = Fraction(max(0.0, arrived - before[1]))
            if 0 < distance <= came_after + _MOST_BURST_SECONDS:
                self.gop_seconds = distance

    def _decoded(self, packet: Packet[Stream], arrived: float) -> list[VideoFrame]:
        if packet.size:
            self._sent.append(_Sent(self._number, packet.pts, arrived))
            self._messages.send(packet)
        try:
            frames = packet.decode()
        except NoMemory as error:
            raise MemoryError("no memory to decode a frame") from error
        except EndOfFile:
            return []
        except FFmpegError:
            self._damaged(self._number)
            self.errors_in_a_row += 1
            return []
        return [frame for frame in frames if isinstance(frame, VideoFrame)]

    def _damaged(self, number: int) -> None:
        if not self._gate.is_shut:
            self.counts["frames_damaged"] += 1
        self._gate.shut(number, opens_at=number + 1)

    def _shown(self, frame: VideoFrame, arrived: float) -> Iterator[DecodedFrame]:
        sent = self._sent_as(frame.pts) or _Sent(self._number, frame.pts, arrived)
        if frame.is_corrupt:
            self._damaged(sent.number)
        if not self._gate.passes(sent.number, is_keyframe=frame.key_frame):
            return
        self.errors_in_a_row = 0
        self._messages.receive(frame)
        decoded = DecodedFrame(
            frame,
            None if frame.pts is None else frame.pts * self._time_base,
            sent.arrived,
            is_keyframe=frame.key_frame,
            after_loss=self._gate.take_loss(),
            sample_aspect_ratio=self.video.codec_context.sample_aspect_ratio or None,
        )
        for timed in self._first_pts(decoded, frame.duration * self._time_base):
            if timed.is_keyframe:
                self._measure_gop(timed.seconds, timed.arrived)
            for each in self._progressive(timed):
                self.counts["frames_decoded"] += 1
                yield each

    def _sent_as(self, pts: int | None) -> _Sent | None:
        """Find a frame's packet by its pts; the oldest one for a frame without."""
        found = next((sent for sent in self._sent if sent.pts == pts), None)
        if found is None and pts is None and self._sent:
            found = self._sent[0]
        if found is not None:
            self._sent.remove(found)
        return found

    @cached_property
    def _order(self) -> FieldOrder | None:
        """By the stream's header, as the decoder has it at the first frame."""
        return FIELD_ORDERS.get(self.video.codec_context.field_order)

    def _progressive(self, decoded: DecodedFrame) -> Iterator[DecodedFrame]:
        frame, order = decoded.frame, self._order
        if self._deinterlacer is not None and not self._deinterlacer.accepts(frame):
            yield from self._flushed()
        if self._deinterlacer is None and (frame.interlaced_frame or order in INTERLACED):
            codec = self.video.codec_context.name
            every_frame = not (frame.interlaced_frame or codec in FLAGS_FRAMES)
            self._deinterlacer = Deinterlacer[DecodedFrame](
                frame, self._time_base, field_order=order, every_frame=every_frame
            )
        if self._deinterlacer is None:
            yield decoded
        else:
            yield from _with_frames(self._deinterlacer(frame, decoded))

    def _flushed(self) -> Iterator[DecodedFrame]:
        """Yield the frame that the deinterlacer holds, and deinterlace no more."""
        deinterlacer, self._deinterlacer = self._deinterlacer, None
        if deinterlacer is not None:
            yield from _with_frames(deinterlacer.flush())


def _with_frames(made: Iterable[tuple[VideoFrame, DecodedFrame]]) -> Iterator[DecodedFrame]:
    return (replace(decoded, frame=frame) for frame, decoded in made)


def _sound_packet(packet: Packet[Stream], arrived: float) -> SoundPacket:
    time_base = packet.time_base or Fraction(1, 90_000)
    return SoundPacket(
        data=bytes(packet),
        seconds=_time_of(packet, time_base),
        duration_seconds=(packet.duration or 0) * time_base,
        arrived=arrived,
    )


def _time_of(packet: Packet[Stream], time_base: Fraction) -> Fraction | None:
    return None if packet.pts is None else packet.pts * time_base

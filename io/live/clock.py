"""The output's own clock: times that only rise, for frames whose sender's clock may do anything."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass
from fractions import Fraction
from operator import itemgetter
from statistics import median_low
from typing import Literal

_GAIN = 1 / 16
"""Of an error, that the next position takes: jitter of 5 ms becomes one of 1 ms or so."""

_STEERED_GAIN = 1 / 32
"""The same by arrivals, which jitter more than timestamps."""

_LEAST_LOSS_SECONDS = 0.008
_BACKWARD_SECONDS = 0.020
_FALLEN_BACK_SECONDS = 0.5
_FORWARD_SECONDS = 1.0

_RECENT_FRAMES, _ENOUGH_FRAMES = 16, 8
_OTHER_PACE, _LIKE_PACE = 1 / 8, 1 / 4


@dataclass(frozen=True, slots=True)
class Step:
    """From one frame to the next."""

    seconds: float
    intervals: int
    """1 where nothing is missing between them."""


class StepFilter:
    """Steps from frame to frame: by the interval of the stream, corrected by its timestamps.

    An alpha-beta filter: a part of every error goes into the position, and a much smaller part
    into the interval, so that neither a clock that drifts nor a nominal rate that is a little off
    leaves a lasting error. The smaller gain, alpha^2 / 4, is that of critical damping. A stream
    that has quite another pace than its nominal one, as cameras have in the dark, is seen at once.
    """

    def __init__(self, interval: float) -> None:
        """Take the nominal interval in seconds."""
        self._nominal = interval
        self.interval = interval
        """Seconds from frame to frame, as learned so far."""
        self._behind = 0.0  # of the latest timestamp, its position
        self._recent: deque[float] = deque(maxlen=_RECENT_FRAMES)  # from timestamp to timestamp
        self._steps = 0

    def restart(self) -> None:
        """Begin a new row: of the old one only the pace holds."""
        self._steps = 0
        self._behind = 0.0

    def is_backward(self, error: float) -> bool:
        """Tell whether a timestamp jumps back, or stands still for good.

        Args:
            error: Seconds by which it is after what was expected.
        """
        too_far = max(_FALLEN_BACK_SECONDS, 4 * self.interval)
        return self._difference(error) < -_BACKWARD_SECONDS or error < -too_far

    def is_forward(self, error: float) -> bool:
        """Tell whether a timestamp jumps forward, further than frames that were lost."""
        return error > max(_FORWARD_SECONDS, 2 * self.interval)

    def step(self, error: float) -> Step:
        """Step to a frame whose timestamp is `error` seconds after what was expected; no jump.

        A frame that is late by half an interval or more is taken for one after a loss. The first
        frames of a row count for more, so that its phase is soon known.
        """
        self._recent.append(self._difference(error))
        expected, interval = self.interval + error, self.interval
        self._steps += 1
        gain = max(_GAIN, 1 / (self._steps + 1))
        count = 1
        if error > max(interval / 2, _LEAST_LOSS_SECONDS):
            count = round(expected / interval)
        rest = expected - count * interval
        seconds = max(count * interval + gain * rest, interval / 2)
        self._behind = expected - seconds
        self._learn(gain * gain / 4 * rest / count)
        if self._steps % _ENOUGH_FRAMES == 0:
            self._look_at_pace()
        return Step(seconds, count)

    def steer(self, error: float) -> Step:
        """Step to a frame without a timestamp, which came `error` seconds after it was expected."""
        most = self.interval / 2
        seconds = self.interval + min(max(_STEERED_GAIN * error, -most), most)
        self._learn(_STEERED_GAIN * _STEERED_GAIN / 4 * error)
        return Step(seconds, 1)

    def _difference(self, error: float) -> float:
        """Give the seconds from the latest timestamp to this one."""
        return self.interval + error - self._behind

    def _learn(self, change: float) -> None:
        self.interval = min(max(self.interval + change, self._nominal / 2), self._nominal * 2)

    def _look_at_pace(self) -> None:
        """Take another interval where most of the latest timestamps agree on it."""
        usual = median_low(self._recent)
        if abs(usual - self.interval) <= _OTHER_PACE * self.interval:
            return
        alike = sum(abs(one - usual) <= _LIKE_PACE * usual for one in self._recent)
        if usual > 0 and alike >= 0.7 * len(self._recent):
            self._nominal = self.interval = usual
            self._steps = 0


# Whole ticks for the times of an output, and differences of times in floats.

_TICKS = 90_000
_MOST_TICKS = 2**27
"""Pictures between two frames need finer ones still, and FFmpeg holds them in 31 bits."""


def ticks_per_second(rate: Fraction) -> int:
    """Give ticks of which slots are whole numbers, and 90 kHz too unless that needs too many."""
    slots = rate.numerator
    exact = math.lcm(_TICKS, slots)
    return exact if exact <= _MOST_TICKS else slots * max(1, _MOST_TICKS // slots)


def seconds_between(earlier: Fraction, later: Fraction) -> float:
    """Subtract in whole numbers: several times as fast as Fractions, and as exact as a float."""
    top = later.numerator * earlier.denominator - earlier.numerator * later.denominator
    return top / (later.denominator * earlier.denominator)


# Where sound belongs: it goes along with the picture, by the same offset.


class AudioOffset:
    """Places the sound of a sender by the offset of its pictures.

    Sound and pictures do not jump in the same moment. Sound that still comes with the old
    timestamps after the pictures jumped is placed by the offset before; sound that jumped first is
    dropped until the pictures follow.
    """

    def __init__(self) -> None:
        self._offset: Fraction | None = None
        self._before: Fraction | None = None
        self._last: Fraction | None = None

    def disconnected(self) -> None:
        """Forget all offsets: sound waits for the first picture of the next connection."""
        self._offset = self._before = None

    def begin(self, offset: Fraction) -> None:
        """Take an offset where there is none yet, for pictures that give none."""
        if self._offset is None:
            self._offset = offset

    def anchored(self, offset: Fraction) -> None:
        """Take the offset from the sender's time to output time, in seconds, from now on."""
        self._before, self._offset = self._offset, offset

    def place(self, seconds: Fraction, latest: Fraction) -> Fraction | None:
        """Give the output time of a packet.

        Args:
            seconds: On the sender's clock, without wraps.
            latest: Output time after which no sound can be now.

        Returns:
            Seconds from 0 on, after those of the packet before; None where it has no place.
        """
        for offset in (self._offset, self._before):
            if offset is None:
                continue
            time = seconds + offset
            if time <= latest and (time >= 0 if self._last is None else time > self._last):
                if offset == self._offset:
                    self._before = None  # it has followed the pictures
                self._last = time
                return time
        return None


# What comes after the output went on without it.

_LATE_SLOTS = Fraction(3, 4)
"""Before the next slot, from which on a frame may find none any more."""

_LONG_SECONDS = 1.0
_CATCHING_UP = 1.25


class LagTracker:
    """Knows how far the output was filled, and tells a burst from a stream that stays behind."""

    def __init__(self, out_rate: Fraction, ticks: int) -> None:
        """Take the slots of the output per second, and the ticks."""
        self._rate = out_rate
        self._ticks = ticks
        self._filled = Fraction(0)  # seconds
        self._late_until = -1  # ticks
        self._since: tuple[float, int] | None = None  # arrival, ticks

    @property
    def next_slot(self) -> int:
        """The first slot that was not filled."""
        return math.ceil(self._filled * self._rate)

    def advance(self, to: Fraction) -> None:
        """Note that the output was filled up to a time in seconds."""
        if to > self._filled:
            self._filled = to
            self._late_until = int((to - _LATE_SLOTS / self._rate) * self._ticks)

    def restart(self) -> None:
        """Forget who was late: the next frame has a new place."""
        self._since = None

    def is_late(self, position: int) -> bool:
        """Tell whether the output went past a position, in ticks."""
        return position <= self._late_until

    def stays(self, position: int, arrived: float) -> bool:
        """Tell whether the output went on without this frame and those before for a while now.

        Not while they come faster than in real time: that is a burst after a stall, which catches
        up by itself.
        """
        if not self.is_late(position):
            self._since = None
            return False
        if self._since is None:
            self._since = (arrived, position)
        passed = arrived - self._since[0]
        if passed < _LONG_SECONDS:
            return False
        came = (position - self._since[1]) / self._ticks
        self._since = (arrived, position)
        return came < _CATCHING_UP * passed


# Which time on the output's time line belongs to a moment, as the arrivals of frames tell it.

_WINDOW_SECONDS = 20
"""Long enough that a source which comes in bursts, like HLS, shows its latest frames in it."""

_SLIP = 1e-3
"""Seconds a second, by which a sender's clock may be slower than ours; crystals keep to 2e-4."""

_MOST_BEHIND_SECONDS = 2.0


class ArrivalOffset:
    """How far output time is ahead of the clock of arrivals, in seconds.

    It follows the frames that take longest on their way, for whoever asks what is due wants to
    know what is overdue: the least of (output time - arrival) of the last 20 s of arrivals. So a
    sender's clock is followed wherever it drifts. A sender that falls behind real time faster than
    any clock drifts is followed for 2 s only, for the output goes by real time.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._base = 0.0
        self._least: deque[tuple[int, float]] = deque()  # (second of arrival, least lead in it)
        self._arrived = 0.0

    @property
    def recovered_seconds(self) -> float:
        """The same without what frames were late by lately, beyond the drift of clocks."""
        return self._base

    def begin(self, lead: float, arrived: float) -> None:
        """Begin with the first of all frames, or with a moment before it."""
        self._base = lead
        self.jump(lead, arrived)

    def jump(self, lead: float, arrived: float) -> None:
        """Go on with a frame that was given a new place: how late others were tells no more."""
        self.seconds = lead
        self._base = max(self._base, lead)
        self._arrived = arrived
        self._least = deque([(int(arrived), lead)])

    def note(self, lead: float, arrived: float) -> None:
        """Take in a frame that came at `arrived` and whose output time is `lead` ahead of that."""
        second = int(arrived)
        if self._least and second <= self._least[-1][0]:
            self._least[-1] = (self._least[-1][0], min(self._least[-1][1], lead))
        else:
            self._least.append((second, lead))
            while self._least[0][0] < second - _WINDOW_SECONDS:
                self._least.popleft()
        least = min(self._least, key=itemgetter(1))[1]
        # a silence says nothing of the sender's clock: no more than a second of it counts
        passed = min(max(arrived - self._arrived, 0.0), 1.0)
        self._base = max(least, self._base - _SLIP * passed)
        self._arrived = arrived
        self.seconds = max(least, self._base - _MOST_BEHIND_SECONDS)


# Timestamps that start again at zero because their field is full.

PERIODS = (Fraction(2**33, 90000), Fraction(2**32, 90000))
"""Seconds after which MPEG-TS (33 bits) and RTP video (32 bits) wrap, at 90 kHz."""

_NEAR_SECONDS = 10.0


class PtsUnwrapper:
    """Continues the row of a sender's timestamps where they wrap."""

    def __init__(self) -> None:
        self._added = Fraction(0)

    def unwrapped(self, seconds: Fraction) -> Fraction:
        """Give a time without the wraps so far."""
        return seconds + self._added if self._added else seconds

    def wrapped(self, error: float, tolerance: float) -> bool:
        """Tell whether a time wrapped just now, and continue the row there if so.

        Args:
            error: Seconds by which the unwrapped time is after what was expected.
            tolerance: Seconds that it may be off besides the wrap.
        """
        for period in PERIODS:
            if abs(error + float(period)) <= tolerance:
                self._added += period
                return True
        return False

    def near(self, seconds: Fraction, reference: Fraction) -> Fraction:
        """Give the time without wraps of the sender's other stream, which wraps a little apart.

        Args:
            seconds: As the sender gives it.
            reference: A time, without wraps, of the stream whose wraps are followed.
        """
        unwrapped = self.unwrapped(seconds)
        away = float(unwrapped - reference)
        for period in PERIODS:
            if abs(abs(away) - float(period)) <= _NEAR_SECONDS:
                return unwrapped - period if away > 0 else unwrapped + period
        return unwrapped


Discontinuity = Literal["backward", "forward", "wrap", "missing", "late"]
"""What was wrong with a timestamp; `late`: nothing, but the stream is behind real time for good."""

_KINDS: tuple[Discontinuity, ...] = ("backward", "forward", "wrap", "missing", "late")
_BREAKING_INTERVALS = 3
_STEERED_AFTER_SECONDS = 1.0
_WRAP_TOLERANCE_SECONDS = 1.0
_SOUND_AHEAD_SECONDS = 1


@dataclass(frozen=True, slots=True)
class PlacedFrame:
    """A frame's place on the output's time line."""

    pts: int
    """In ticks of the clock's time base, after that of every frame before."""
    discontinuity: Discontinuity | None
    """What was found with this frame, and counted."""
    breaks: bool
    """Nothing may be interpolated between the frame before and this one."""
    late: bool = False
    """The output has gone past it by itself, so that it can only be shown later, or not at all."""


class LiveClock:
    """Maps a sender's timestamps to output time.

    From an anchor on, output time goes with the sender's clock and drifts with it, while jitter is
    smoothed. Anchors are the first frame of a connection and every frame whose timestamp jumps;
    they are placed by the moment of their arrival. What comes late, but with continuous
    timestamps, is no jump: it keeps its place, even where the output did not wait for it.

    A pure value, for one thread at a time.
    """

    def __init__(self, out_rate: Fraction) -> None:
        """Take the slots per second of the output: anchors lie on them.

        Raises:
            ValueError: for a rate that is not positive.
        """
        self._ticks = ticks_per_second(_positive(out_rate))
        self.time_base = Fraction(1, self._ticks)
        """Seconds a tick; slots of the output begin at whole ticks."""
        self._out_rate = out_rate
        self._behind = LagTracker(out_rate, self._ticks)
        self._pace: StepFilter | None = None
        self._anchor: int | None = None  # ticks
        self._run = 0.0  # seconds since the anchor
        self._sender: Fraction | None = None  # the sender's time at the anchor, without wraps
        self._last: int | None = None  # ticks
        self._last_arrived = 0.0
        self._missing = 0  # timestamps in a row
        self._missing_lead = 0.0
        self._lead = ArrivalOffset()
        self._wraps = PtsUnwrapper()
        self._sound = AudioOffset()
        self._counts: Counter[str] = Counter()

    @property
    def counts(self) -> dict[str, int]:
        """Discontinuities so far, by kind."""
        return {kind: self._counts[kind] for kind in _KINDS}

    def connected(self, rate: Fraction, *, now: float) -> None:
        """Begin with a new connection: its first frame is placed by its arrival.

        Args:
            rate: Its nominal frames per second.
            now: Monotonic seconds. The very first connection begins at output time 0.

        Raises:
            ValueError: for a rate that is not positive.
        """
        self._pace = StepFilter(float(1 / _positive(rate)))
        self._anchor = self._sender = None
        self._missing = 0
        self._wraps = PtsUnwrapper()
        self._sound.disconnected()
        if self._last is None:
            self._lead.begin(-now, now)

    def place(
        self, seconds: Fraction | None, arrived: float, *, after_loss: bool = False
    ) -> PlacedFrame:
        """Place the next frame.

        Args:
            seconds: On the sender's clock; None where it gave none.
            arrived: Monotonic seconds of the packet's arrival.
            after_loss: Whether frames before it were lost or not shown.

        Raises:
            RuntimeError: before any connection was told.
        """
        if self._pace is None:
            raise RuntimeError("a frame was placed before a connection was told")
        if self._anchor is None:
            kind, breaks = self._begin(self._pace, seconds, arrived), True
        elif seconds is None:
            kind, breaks = self._go_on(self._pace, arrived)
        else:
            kind, breaks = self._follow(self._pace, seconds, arrived)
        if kind is None and seconds is not None and self._behind.stays(self._position(), arrived):
            recovered = arrived + self._lead.recovered_seconds
            self._set_anchor(self._pace, self._wraps.unwrapped(seconds), recovered, arrived)
            kind, breaks = "late", True
        if kind is not None:
            self._counts[kind] += 1
        return self._placed(arrived, kind, breaks or after_loss)

    def sound(self, seconds: Fraction | None, arrived: float) -> Fraction | None:
        """Give the output time of a packet of sound: it has the offset of the pictures.

        Args:
            seconds: On the sender's clock; None where it gave none.
            arrived: Monotonic seconds.

        Returns:
            Seconds, rising from packet to packet; None for one that has no place: before the first
            picture of a connection, out of order, or on the other side of a jump.
        """
        if self._anchor is None or self._last is None or seconds is None:
            return None
        due = self.due(arrived)
        if self._sender is None:  # the pictures have no timestamps: by its own arrival, then
            unwrapped = self._wraps.unwrapped(seconds)
            self._sound.begin(due - unwrapped)
        else:
            unwrapped = self._wraps.near(seconds, self._sender + int(self._run))
        latest = max(due, self._last * self.time_base) + _SOUND_AHEAD_SECONDS
        return self._sound.place(unwrapped, latest)

    def due(self, now: float) -> Fraction:
        """Give the output time, in seconds, that belongs to a moment.

        That of a frame that comes at that moment after the longest way that was usual lately: all
        before it is overdue.

        Args:
            now: Monotonic seconds.
        """
        return Fraction(max(0, round((now + self._lead.seconds) * self._ticks)), self._ticks)

    def advance(self, to: Fraction) -> None:
        """Note that the output was filled up to a time, in seconds: anchors are not before it."""
        self._behind.advance(to)

    def _begin(
        self, pace: StepFilter, seconds: Fraction | None, arrived: float
    ) -> Discontinuity | None:
        wanted = 0.0 if self._last is None else arrived + self._lead.recovered_seconds
        self._set_anchor(pace, seconds, wanted, arrived)
        return "missing" if seconds is None else None

    def _follow(
        self, pace: StepFilter, seconds: Fraction, arrived: float
    ) -> tuple[Discontinuity | None, bool]:
        """Step to a frame with a timestamp."""
        self._missing = 0
        kind: Discontinuity | None = None
        unwrapped = self._wraps.unwrapped(seconds)
        error = self._error(pace, unwrapped)
        if self._wraps.wrapped(error, max(_WRAP_TOLERANCE_SECONDS, 2 * pace.interval)):
            kind = "wrap"
            unwrapped = self._wraps.unwrapped(seconds)
            error = self._error(pace, unwrapped)
        if pace.is_backward(error) or pace.is_forward(error):
            self._set_anchor(pace, unwrapped, float(self.due(arrived)), arrived)
            return ("backward" if error < 0 else "forward"), True
        step = pace.step(error)
        self._run += step.seconds
        return kind, step.intervals >= _BREAKING_INTERVALS

    def _go_on(self, pace: StepFilter, arrived: float) -> tuple[Discontinuity, bool]:
        """Step to a frame without a timestamp: by the interval, and if that lasts by arrivals."""
        assert self._last is not None
        last = self._last / self._ticks
        if self._missing == 0:
            self._missing_lead = last - self._last_arrived
        self._missing += 1
        is_lasting = self._missing * pace.interval > _STEERED_AFTER_SECONDS
        if self._sender is not None and not is_lasting:
            self._run += pace.step(0.0).seconds
            return "missing", False
        error = arrived + self._missing_lead - (last + pace.interval)
        if pace.is_forward(error):
            self._set_anchor(pace, None, arrived + self._missing_lead, arrived)
            return "missing", True
        self._run += pace.steer(error).seconds
        return "missing", False

    def _error(self, pace: StepFilter, unwrapped: Fraction) -> float:
        """Give the seconds by which a timestamp is after what was expected."""
        expected = self._run + pace.interval
        if self._sender is None:  # the first timestamp after an anchor without one
            assert self._anchor is not None
            self._sender = unwrapped - Fraction(round(expected * self._ticks), self._ticks)
            self._sound.anchored(self._anchor * self.time_base - self._sender)
        return seconds_between(self._sender, unwrapped) - expected

    def _set_anchor(
        self, pace: StepFilter, unwrapped: Fraction | None, wanted: float, arrived: float
    ) -> None:
        """Begin a new row at the slot that is nearest to a time, but after all that went before."""
        earliest = self._behind.next_slot
        if self._last is not None:
            last = self._last / self._ticks
            wanted = max(wanted, last + pace.interval)
            after = math.ceil((last + pace.interval / 2) * float(self._out_rate))
            earliest = max(earliest, after)
        slot = max(earliest, round(wanted * float(self._out_rate)))
        self._anchor = round(slot / self._out_rate * self._ticks)
        self._run = 0.0
        self._sender = unwrapped
        self._behind.restart()
        pace.restart()
        place_lead = self._lead.begin if self._last is None else self._lead.jump
        place_lead(self._anchor / self._ticks - arrived, arrived)
        if unwrapped is not None:
            self._sound.anchored(self._anchor * self.time_base - unwrapped)

    def _position(self) -> int:
        assert self._anchor is not None
        position = self._anchor + round(self._run * self._ticks)
        return position if self._last is None else max(position, self._last + 1)

    def _placed(self, arrived: float, kind: Discontinuity | None, breaks: bool) -> PlacedFrame:
        pts = self._position()
        is_late = self._behind.is_late(pts)
        if not is_late:
            self._lead.note(pts / self._ticks - arrived, arrived)
        self._last, self._last_arrived = pts, arrived
        return PlacedFrame(pts, kind, breaks, is_late)


def _positive(rate: Fraction) -> Fraction:
    if rate <= 0:
        raise ValueError(f"rate must be positive, got {rate}")
    return rate

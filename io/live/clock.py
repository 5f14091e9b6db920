"""The output's own clock: times that only rise, whatever the clock of the sender does."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass
from fractions import Fraction
from operator import itemgetter
from statistics import median_low
from threading import RLock
from typing import Literal

_GAIN = 1 / 16
"""Share of an error that the next position takes: jitter of 5 ms becomes one of about 1 ms."""

_STEERED_GAIN = 1 / 32
"""The same for errors of arrivals, which jitter more than timestamps."""

_LEAST_LOSS_SECONDS = 0.008
_BACKWARD_SECONDS = 0.020
_FALLEN_BACK_SECONDS = 0.5
_FORWARD_SECONDS = 1.0

_RECENT_FRAMES, _ENOUGH_FRAMES = 16, 8
_OTHER_PACE, _LIKE_PACE = 1 / 8, 1 / 4


@dataclass(frozen=True, slots=True)
class Step:
    """The distance from one frame to the next."""

    seconds: float
    intervals: int
    """1 if no frame is missing between them."""


class StepFilter:
    """Smooths the steps from frame to frame: the stream's interval, corrected by its timestamps.

    An alpha-beta filter: a part of every error goes into the position, and a much smaller part
    into the interval, so that neither a drifting clock nor a slightly wrong nominal rate leaves a
    lasting error. The smaller gain, alpha^2 / 4, is that of critical damping. A stream whose
    interval differs much from its nominal one, as cameras' do in the dark, is followed at once.
    """

    def __init__(self, interval: float) -> None:
        self._nominal = interval
        self.interval = interval
        """Seconds from frame to frame, as learned so far."""
        self._behind = 0.0  # seconds of the latest position after its timestamp
        self._recent: deque[float] = deque(maxlen=_RECENT_FRAMES)  # from timestamp to timestamp
        self._steps = 0

    def restart(self) -> None:
        """Start after a jump: only the interval is kept."""
        self._steps = 0
        self._behind = 0.0

    def is_backward(self, error: float) -> bool:
        """Return whether a timestamp, so far after the expected one, jumps back or stands still."""
        too_far = max(_FALLEN_BACK_SECONDS, 4 * self.interval)
        return self._difference(error) < -_BACKWARD_SECONDS or error < -too_far

    def is_forward(self, error: float) -> bool:
        """Return whether a timestamp jumps further forward than lost frames explain."""
        return error > max(_FORWARD_SECONDS, 2 * self.interval)

    def step(self, error: float) -> Step:
        """Step to a frame whose timestamp is `error` seconds after the expected one; no jump.

        A frame that is late by half an interval or more counts as the first one after a loss. The
        first frames after a restart have more weight, so that the phase is soon known.
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
            self._check_interval()
        return Step(seconds, count)

    def steer(self, error: float) -> Step:
        """Step to a frame without timestamp that arrived `error` seconds later than expected."""
        most = self.interval / 2
        seconds = self.interval + min(max(_STEERED_GAIN * error, -most), most)
        self._learn(_STEERED_GAIN * _STEERED_GAIN / 4 * error)
        return Step(seconds, 1)

    def _difference(self, error: float) -> float:
        """Return the seconds from the latest timestamp to this one."""
        return self.interval + error - self._behind

    def _learn(self, change: float) -> None:
        self.interval = min(max(self.interval + change, self._nominal / 2), self._nominal * 2)

    def _check_interval(self) -> None:
        """Adopt another interval if most of the latest timestamps agree on it."""
        usual = median_low(self._recent)
        if abs(usual - self.interval) <= _OTHER_PACE * self.interval:
            return
        alike = sum(abs(one - usual) <= _LIKE_PACE * usual for one in self._recent)
        if usual > 0 and alike >= 0.7 * len(self._recent):
            self._nominal = self.interval = usual
            self._steps = 0


_TICKS = 90_000
_MOST_TICKS = 2**27
"""Inserted pictures need finer ticks still, and FFmpeg holds a time base in 31 bits."""


def ticks_per_second(rate: Fraction) -> int:
    """Return the ticks in which slots are whole numbers, and 90 kHz too if few enough suffice."""
    slots = rate.numerator
    exact = math.lcm(_TICKS, slots)
    return exact if exact <= _MOST_TICKS else slots * max(1, _MOST_TICKS // slots)


def seconds_between(earlier: Fraction, later: Fraction) -> float:
    """Subtract in integers: several times as fast as Fractions, and as exact as a float."""
    top = later.numerator * earlier.denominator - earlier.numerator * later.denominator
    return top / (later.denominator * earlier.denominator)


class AudioOffset:
    """Places a sender's sound by the offset of its pictures.

    Sound and pictures do not jump at the same moment. Sound that still has the old timestamps
    after the pictures jumped is placed by the previous offset; sound that jumps first is dropped
    until the pictures follow.
    """

    def __init__(self) -> None:
        self._offset: Fraction | None = None
        self._before: Fraction | None = None
        self._last: Fraction | None = None

    def disconnected(self) -> None:
        """Forget all offsets: sound waits for the first picture of the next connection."""
        self._offset = self._before = None

    def begin(self, offset: Fraction) -> None:
        """Set an offset if there is none yet, for pictures without timestamps."""
        if self._offset is None:
            self._offset = offset

    def anchored(self, offset: Fraction) -> None:
        """Set the seconds from the sender's time to output time, from now on."""
        self._before, self._offset = self._offset, offset

    def place(self, seconds: Fraction, latest: Fraction) -> Fraction | None:
        """Return the output time of a packet in seconds, after that of the one before, or None.

        `seconds` is on the sender's clock, unwrapped; no sound can be after the output time
        `latest`.
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


_LATE_SLOTS = Fraction(3, 4)
"""Before the next slot; a frame that is later may find no free slot."""

_LONG_SECONDS = 1.0
_CATCHING_UP = 1.25


class LagTracker:
    """Knows how far the output was filled, and tells a burst from a stream that stays behind."""

    def __init__(self, out_rate: Fraction, ticks: int) -> None:
        self._rate = out_rate
        self._ticks = ticks  # per second
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
        """Forget which frames were late: the next one has a new place."""
        self._since = None

    def is_late(self, position: int) -> bool:
        """Return whether the output has passed a position in ticks."""
        return position <= self._late_until

    def stays(self, position: int, arrived: float) -> bool:
        """Return whether the output has gone on without this and earlier frames for a while.

        False while they come faster than in real time: a burst after a stall catches up by itself.
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


_WINDOW_SECONDS = 20
"""Long enough to contain the latest frames of a source that comes in bursts, as HLS does."""

_SLIP = 1e-3
"""Seconds a second by which a sender's clock may be slower than ours; crystals keep to 2e-4."""

_MOST_BEHIND_SECONDS = 2.0


class ArrivalOffset:
    """Measures how far output time is ahead of the clock of arrivals, in seconds.

    It follows the frames with the longest delay, since what is due depends on what is overdue: the
    least of (output time - arrival) over the last 20 s of arrivals. So a drifting sender's clock is
    followed. A sender that falls behind real time faster than any clock drifts is followed for 2 s
    only, since the output keeps real time.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.recovered_seconds = 0.0
        """The offset without the recent lateness of frames, beyond the drift of clocks."""
        self._least: deque[tuple[int, float]] = deque()  # (second of arrival, least offset in it)
        self._arrived = 0.0

    def begin(self, lead: float, arrived: float) -> None:
        """Begin with the first of all frames, or with a moment before it."""
        self.recovered_seconds = lead
        self.jump(lead, arrived)

    def jump(self, lead: float, arrived: float) -> None:
        """Continue with a frame that got a new place: the lateness of earlier ones is void."""
        self.seconds = lead
        self.recovered_seconds = max(self.recovered_seconds, lead)
        self._arrived = arrived
        self._least = deque([(int(arrived), lead)])

    def note(self, lead: float, arrived: float) -> None:
        """Add a frame that arrived at `arrived` and whose output time is `lead` ahead of that."""
        second = int(arrived)
        if self._least and second <= self._least[-1][0]:
            self._least[-1] = (self._least[-1][0], min(self._least[-1][1], lead))
        else:
            self._least.append((second, lead))
            while self._least[0][0] < second - _WINDOW_SECONDS:
                self._least.popleft()
        least = min(self._least, key=itemgetter(1))[1]
        # a silence says nothing about the sender's clock: at most a second of it counts
        passed = min(max(arrived - self._arrived, 0.0), 1.0)
        self.recovered_seconds = max(least, self.recovered_seconds - _SLIP * passed)
        self._arrived = arrived
        self.seconds = max(least, self.recovered_seconds - _MOST_BEHIND_SECONDS)


PERIODS = (Fraction(2**33, 90000), Fraction(2**32, 90000))
"""Seconds after which MPEG-TS (33 bits) and RTP video (32 bits) wrap, at 90 kHz."""

_NEAR_SECONDS = 10.0


class PtsUnwrapper:
    """Continues a sender's timestamps where they restart at zero because their field is full."""

    def __init__(self) -> None:
        self._added = Fraction(0)

    def unwrapped(self, seconds: Fraction) -> Fraction:
        """Return a time without the wraps so far."""
        return seconds + self._added if self._added else seconds

    def wrapped(self, error: float, tolerance: float) -> bool:
        """Return whether a time wrapped just now, and count the wrap if so.

        `error` is in seconds from the expected time to the unwrapped one, and is `tolerance` at
        most besides the wrap.
        """
        for period in PERIODS:
            if abs(error + float(period)) <= tolerance:
                self._added += period
                return True
        return False

    def near(self, seconds: Fraction, reference: Fraction) -> Fraction:
        """Unwrap a time of the sender's other stream, which wraps a little earlier or later.

        `reference` is an unwrapped time of the stream whose wraps are counted.
        """
        unwrapped = self.unwrapped(seconds)
        away = float(unwrapped - reference)
        for period in PERIODS:
            if abs(abs(away) - float(period)) <= _NEAR_SECONDS:
                return unwrapped - period if away > 0 else unwrapped + period
        return unwrapped


Discontinuity = Literal["backward", "forward", "wrap", "missing", "late"]
"""What was wrong with a timestamp; `late`: nothing, but the stream stays behind real time."""

_KINDS: tuple[Discontinuity, ...] = ("backward", "forward", "wrap", "missing", "late")
_BREAKING_INTERVALS = 3
_STEERED_AFTER_SECONDS = 1.0
_WRAP_TOLERANCE_SECONDS = 1.0
_SOUND_AHEAD_SECONDS = 1


@dataclass(frozen=True, slots=True)
class PlacedFrame:
    """A frame's place on the output's time line."""

    pts: int
    """In ticks of the clock's time base; rises from frame to frame."""
    discontinuity: Discontinuity | None
    """What was found at this frame, and counted."""
    breaks: bool
    """Whether nothing may be interpolated between the frame before and this one."""
    late: bool = False
    """Whether the output has already passed it."""


class LiveClock:
    """Maps a sender's timestamps to output time.

    From an anchor on, output time follows the sender's clock and drifts with it, while jitter is
    smoothed. Anchors are the first frame of a connection and every frame whose timestamp jumps;
    they are placed by the moment of their arrival. A frame that arrives late, but with a continuous
    timestamp, is no jump: it keeps its place, even if the output did not wait for it.

    May be called from any thread: one reads the input, another fills the output. Anchors lie on
    slots, of which the output has `out_rate` a second.

    Raises:
        ValueError: for a rate that is not positive.
    """

    def __init__(self, out_rate: Fraction) -> None:
        self._ticks = ticks_per_second(positive(out_rate))
        self.time_base = Fraction(1, self._ticks)
        """Seconds a tick; slots of the output begin at whole ticks."""
        self._out_rate = out_rate
        self._lag = LagTracker(out_rate, self._ticks)
        self._steps: StepFilter | None = None
        self._anchor: int | None = None  # ticks
        self._run = 0.0  # seconds since the anchor
        self._sender: Fraction | None = None  # the sender's time at the anchor, unwrapped
        self._last: int | None = None  # ticks
        self._last_arrived = 0.0
        self._missing = 0  # timestamps in a row
        self._missing_lead = 0.0
        self._lead = ArrivalOffset()
        self._wraps = PtsUnwrapper()
        self._sound = AudioOffset()
        self._counts: Counter[str] = Counter()
        self._lock = RLock()

    @property
    def counts(self) -> dict[str, int]:
        """Discontinuities so far, by kind."""
        with self._lock:
            return {kind: self._counts[kind] for kind in _KINDS}

    def connected(self, rate: Fraction, *, now: float) -> None:
        """Begin a new connection: its first frame is placed by its arrival.

        It has a nominal rate of frames per second. The very first one begins at output time 0;
        `now` is in monotonic seconds.

        Raises:
            ValueError: for a rate that is not positive.
        """
        with self._lock:
            self._steps = StepFilter(float(1 / positive(rate)))
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

        `seconds` are on the sender's clock; None if the sender gave none. Its packet `arrived` then
        (monotonic); `after_loss` tells that frames before it were lost or not shown.

        Raises:
            RuntimeError: before `connected` was called.
        """
        with self._lock:
            if self._steps is None:
                raise RuntimeError("a frame was placed before a connection was begun")
            if self._anchor is None:
                wanted = 0.0 if self._last is None else arrived + self._lead.recovered_seconds
                self._set_anchor(self._steps, seconds, wanted, arrived)
                kind, breaks = ("missing" if seconds is None else None), True
            elif seconds is None:
                kind, breaks = self._go_on(self._steps, arrived)
            else:
                kind, breaks = self._follow(self._steps, seconds, arrived)
            if kind is None and seconds is not None and self._lag.stays(self._position(), arrived):
                recovered = arrived + self._lead.recovered_seconds
                unwrapped = self._wraps.unwrapped(seconds)
                self._set_anchor(self._steps, unwrapped, recovered, arrived)
                kind, breaks = "late", True
            if kind is not None:
                self._counts[kind] += 1
            pts = self._position()
            is_late = self._lag.is_late(pts)
            if not is_late:
                self._lead.note(pts / self._ticks - arrived, arrived)
            self._last, self._last_arrived = pts, arrived
            return PlacedFrame(pts, kind, breaks or after_loss, is_late)

    def sound(self, seconds: Fraction | None, arrived: float) -> Fraction | None:
        """Return the output time of a packet of sound, by the offset of the pictures.

        `seconds` are on the sender's clock, None if the sender gave none; `arrived` is monotonic.
        What is returned rises from packet to packet; None for one that has no place: before the
        first picture of a connection, out of order, or on the other side of a jump.
        """
        with self._lock:
            if self._anchor is None or self._last is None or seconds is None:
                return None
            due = self.due(arrived)
            if self._sender is None:  # the pictures have no timestamps: place it by its arrival
                unwrapped = self._wraps.unwrapped(seconds)
                self._sound.begin(due - unwrapped)
            else:
                unwrapped = self._wraps.near(seconds, self._sender + int(self._run))
            latest = max(due, self._last * self.time_base) + _SOUND_AHEAD_SECONDS
            return self._sound.place(unwrapped, latest)

    def due(self, now: float) -> Fraction:
        """Return the output time, in seconds, of a moment in monotonic seconds.

        It is that of a frame that arrives at that moment with the longest delay of the recent
        past: everything before it is overdue.
        """
        with self._lock:
            return Fraction(max(0, round((now + self._lead.seconds) * self._ticks)), self._ticks)

    def advance(self, to: Fraction) -> None:
        """Note that the output was filled up to a time in seconds: anchors are not before it."""
        with self._lock:
            self._lag.advance(to)

    def _follow(
        self, steps: StepFilter, seconds: Fraction, arrived: float
    ) -> tuple[Discontinuity | None, bool]:
        """Step to a frame with a timestamp."""
        self._missing = 0
        kind: Discontinuity | None = None
        unwrapped = self._wraps.unwrapped(seconds)
        error = self._error(steps, unwrapped)
        if self._wraps.wrapped(error, max(_WRAP_TOLERANCE_SECONDS, 2 * steps.interval)):
            kind = "wrap"
            unwrapped = self._wraps.unwrapped(seconds)
            error = self._error(steps, unwrapped)
        if steps.is_backward(error) or steps.is_forward(error):
            self._set_anchor(steps, unwrapped, float(self.due(arrived)), arrived)
            return ("backward" if error < 0 else "forward"), True
        step = steps.step(error)
        self._run += step.seconds
        return kind, step.intervals >= _BREAKING_INTERVALS

    def _go_on(self, steps: StepFilter, arrived: float) -> tuple[Discontinuity, bool]:
        """Step to a frame without timestamp: by the interval, and if that lasts by arrivals."""
        assert self._last is not None
        last = self._last / self._ticks
        if self._missing == 0:
            self._missing_lead = last - self._last_arrived
        self._missing += 1
        is_lasting = self._missing * steps.interval > _STEERED_AFTER_SECONDS
        if self._sender is not None and not is_lasting:
            self._run += steps.step(0.0).seconds
            return "missing", False
        error = arrived + self._missing_lead - (last + steps.interval)
        if steps.is_forward(error):
            self._set_anchor(steps, None, arrived + self._missing_lead, arrived)
            return "missing", True
        self._run += steps.steer(error).seconds
        return "missing", False

    def _error(self, steps: StepFilter, unwrapped: Fraction) -> float:
        """Return the seconds from the expected timestamp to this one."""
        expected = self._run + steps.interval
        if self._sender is None:  # the first timestamp after an anchor without one
            assert self._anchor is not None
            self._sender = unwrapped - Fraction(round(expected * self._ticks), self._ticks)
            self._sound.anchored(self._anchor * self.time_base - self._sender)
        return seconds_between(self._sender, unwrapped) - expected

    def _set_anchor(
        self, steps: StepFilter, unwrapped: Fraction | None, wanted: float, arrived: float
    ) -> None:
        """Set an anchor at the slot that is nearest to a time, but after every earlier frame."""
        earliest = self._lag.next_slot
        if self._last is not None:
            last = self._last / self._ticks
            wanted = max(wanted, last + steps.interval)
            after = math.ceil((last + steps.interval / 2) * float(self._out_rate))
            earliest = max(earliest, after)
        slot = max(earliest, round(wanted * float(self._out_rate)))
        self._anchor = round(slot / self._out_rate * self._ticks)
        self._run = 0.0
        self._sender = unwrapped
        self._lag.restart()
        steps.restart()
        place_lead = self._lead.begin if self._last is None else self._lead.jump
        place_lead(self._anchor / self._ticks - arrived, arrived)
        if unwrapped is not None:
            self._sound.anchored(self._anchor * self.time_base - unwrapped)

    def _position(self) -> int:
        assert self._anchor is not None
        position = self._anchor + round(self._run * self._ticks)
        return position if self._last is None else max(position, self._last + 1)


def positive(rate: Fraction) -> Fraction:
    """Return a rate; raise ValueError unless it is above 0."""
    if rate <= 0:
        raise ValueError(f"rate must be positive, got {rate}")
    return rate

"""The output's own clock: times that only rise, for frames whose sender's clock may do anything."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from .alongside import Alongside
from .behind import Behind
from .lead import Lead
from .pace import Pace
from .ticks import seconds_between, ticks_per_second
from .wraps import Wraps

Discontinuity = Literal["backward", "forward", "wrap", "missing", "late"]
"""What was wrong with a timestamp; `late`: nothing, but the stream is behind real time for good."""

_KINDS: tuple[Discontinuity, ...] = ("backward", "forward", "wrap", "missing", "late")
_BREAKING_INTERVALS = 3
_STEERED_AFTER_SECONDS = 1.0
_WRAP_TOLERANCE_SECONDS = 1.0
_SOUND_AHEAD_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Placed:
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
        self._behind = Behind(out_rate, self._ticks)
        self._pace: Pace | None = None
        self._anchor: int | None = None  # ticks
        self._run = 0.0  # seconds since the anchor
        self._sender: Fraction | None = None  # the sender's time at the anchor, without wraps
        self._last: int | None = None  # ticks
        self._last_arrived = 0.0
        self._missing = 0  # timestamps in a row
        self._missing_lead = 0.0
        self._lead = Lead()
        self._wraps = Wraps()
        self._sound = Alongside()
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
        self._pace = Pace(float(1 / _positive(rate)))
        self._anchor = self._sender = None
        self._missing = 0
        self._wraps = Wraps()
        self._sound.disconnected()
        if self._last is None:
            self._lead.begin(-now, now)

    def place(
        self, seconds: Fraction | None, arrived: float, *, after_loss: bool = False
    ) -> Placed:
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

    def _begin(self, pace: Pace, seconds: Fraction | None, arrived: float) -> Discontinuity | None:
        wanted = 0.0 if self._last is None else arrived + self._lead.recovered_seconds
        self._set_anchor(pace, seconds, wanted, arrived)
        return "missing" if seconds is None else None

    def _follow(
        self, pace: Pace, seconds: Fraction, arrived: float
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

    def _go_on(self, pace: Pace, arrived: float) -> tuple[Discontinuity, bool]:
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

    def _error(self, pace: Pace, unwrapped: Fraction) -> float:
        """Give the seconds by which a timestamp is after what was expected."""
        expected = self._run + pace.interval
        if self._sender is None:  # the first timestamp after an anchor without one
            assert self._anchor is not None
            self._sender = unwrapped - Fraction(round(expected * self._ticks), self._ticks)
            self._sound.anchored(self._anchor * self.time_base - self._sender)
        return seconds_between(self._sender, unwrapped) - expected

    def _set_anchor(
        self, pace: Pace, unwrapped: Fraction | None, wanted: float, arrived: float
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

    def _placed(self, arrived: float, kind: Discontinuity | None, breaks: bool) -> Placed:
        pts = self._position()
        is_late = self._behind.is_late(pts)
        if not is_late:
            self._lead.note(pts / self._ticks - arrived, arrived)
        self._last, self._last_arrived = pts, arrived
        return Placed(pts, kind, breaks, is_late)


def _positive(rate: Fraction) -> Fraction:
    if rate <= 0:
        raise ValueError(f"rate must be positive, got {rate}")
    return rate

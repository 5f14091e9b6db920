"""Timestamps: strictly rising pts, matching durations, and the frame rate they show.

Plain arithmetic on integers and Fractions, independent of containers. The rate is derived from the
timestamps themselves: a header's rate is only a candidate that they must confirm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from statistics import median
from typing import Generic, TypeVar

JITTER = Fraction(1, 20)
"""Of a frame's duration: how far capture devices deviate at a rate that is still constant."""

RESET_SECONDS = 1
"""A larger step back is a new time line, not a frame out of order."""

_STANDARD_DENOMINATORS = (1, 1001)
_MAX_RATE = 1000

T = TypeVar("T")


@dataclass(slots=True)
class TimestampFixes:
    """Number of timestamps that had to be corrected, by kind."""

    total: int = 0
    missing: int = 0
    not_rising: int = 0
    resets: int = 0

    def lines(self) -> list[str]:
        """Describe them for people; empty if there are none."""
        if self.total and self.missing == self.total:
            return ["no timestamps in the input: frames were counted instead"]
        return [
            f"{count} {what}"
            for count, what in (
                (self.missing, "frames without a timestamp: filled in from the frame before"),
                (self.not_rising, "timestamps not after the one before: moved behind it"),
                (self.resets, "jumps back in time: the time line was continued without them"),
            )
            if count
        ]


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """An item with its pts and duration, in ticks."""

    item: T
    pts: int
    duration: int


class TimestampFixer:
    """Fixes times: every pts is after the one before, every duration ends at the next pts."""

    def __init__(
        self,
        time_base: Fraction,
        rate: Fraction | None = None,
        *,
        end_of_stream: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Create it for one stream.

        Args:
            time_base: Seconds in a tick.
            rate: Frames per second, if known to be constant.
            end_of_stream: Called after the last item: returns the tick at which the container ends
                the stream, None if unknown.
        """
        self._time_base = time_base
        self._end_of_stream = end_of_stream
        self._step = None if rate is None else 1 / (rate * time_base)  # ticks, exact
        self._offset = 0
        self._pts: int | None = None
        self._unrounded = Fraction(0)  # the same, kept exact while timestamps are missing
        self._duration = 0
        self.fixes = TimestampFixes()

    def run(self, items: Iterable[Timed[T] | tuple[T, int | None, int]]) -> Iterator[Timed[T]]:
        """Fix the times of `(item, pts or None, duration or 0)`, one item behind."""
        held: Timed[T] | None = None
        for entry in items:
            item, pts, duration = entry if isinstance(entry, tuple) else (entry.item, entry.pts, 0)
            placed = self._place(pts)
            if held is not None:
                yield Timed(held.item, held.pts, placed - held.pts)
                self._duration = placed - held.pts
            held = Timed(item, placed, duration)
        if held is not None:
            yield Timed(held.item, held.pts, self._last_duration(held))

    def _last_duration(self, last: Timed[T]) -> int:
        """Return the last frame's duration by the container, else by the frame, else a guess.

        With reordered frames of variable duration a packet's duration is that of its place in
        decoding order, so the container's end of the stream is better.
        """
        end = self._end_of_stream() if not self._offset else None
        if end is not None and end > last.pts:
            return end - last.pts
        if last.duration:
            return last.duration
        return max(1, round(self._step)) if self._step is not None else max(1, self._duration)

    def _advance(self) -> Fraction:
        return self._step if self._step is not None else Fraction(max(1, self._duration))

    def _place(self, pts: int | None) -> int:
        self.fixes.total += 1
        if self._pts is None:
            placed = pts or 0
            self.fixes.missing += pts is None
            self._unrounded = Fraction(placed)
        elif pts is None:
            self.fixes.missing += 1
            self._unrounded += self._advance()
            placed = max(self._pts + 1, round(self._unrounded))
        else:
            placed = self._after(pts + self._offset, self._pts)
            self._unrounded = Fraction(placed)
        self._pts = placed
        return placed

    def _after(self, pts: int, previous: int) -> int:
        if pts > previous:
            return pts
        if (previous - pts) * self._time_base > RESET_SECONDS:
            placed = previous + max(1, round(self._advance()))
            self._offset += placed - pts
            self.fixes.resets += 1
            return placed
        # half a step only, so that one bad timestamp does not move the next one
        self.fixes.not_rising += 1
        return previous + max(1, int(self._advance() / 2))


@dataclass(frozen=True, slots=True)
class RateVerdict:
    """The frame rate that the timestamps of a stream show."""

    rate: Fraction | None
    """Frames per second where constant; None where variable or unknown."""
    average_rate: Fraction | None
    evidence: str
    """One line for people."""
    holes: int = 0
    """Steps of two frames or more in an otherwise even rate."""


def judge_rate(
    pts: Sequence[int],
    time_base: Fraction,
    *,
    candidates: Iterable[Fraction | None] = (),
    last_duration: int = 0,
) -> RateVerdict:
    """Decide from timestamps whether a stream's rate is constant, and which it is.

    A rate r is confirmed if every pts lies on the grid p0 + i/r, up to rounding to the time base
    (Matroska rounds to 1 ms) or a jitter of a twentieth of a frame.

    Args:
        pts: In ticks, of consecutive frames, in any order.
        time_base: Seconds in a tick.
        candidates: Rates by the headers; the first that is confirmed is used.
        last_duration: Ticks that the last frame lasts; 0 where unknown.
    """
    ordered = sorted(set(pts))
    claimed = [usual_rate(r) for r in candidates if r is not None and 0 < r <= _MAX_RATE]
    if len(ordered) < 2:
        rate = claimed[0] if claimed else None
        return RateVerdict(rate, rate, "one frame only: the header's rate, unconfirmed")
    span = (ordered[-1] - ordered[0]) * time_base
    measured = (len(ordered) - 1) / span
    usual = (*claimed, *_near_standard(measured))
    # a usual rate that fits exactly, else any that fits to two ticks, else a usual one with jitter
    tries = [(rate, Fraction(0)) for rate in usual]
    tries += [(rate, 2 * rate * time_base) for rate in _simplest(ordered, time_base)]
    tries += [(rate, JITTER) for rate in usual]
    for rate, jitter in tries:
        if on_grid(ordered, time_base, rate, jitter):
            text = f"{len(ordered)} timestamps lie on a grid of {rate} frames a second"
            return RateVerdict(rate, rate, f"constant: {text}")
    steps = [after - before for before, after in pairwise(ordered)]
    if last_duration:
        measured = len(ordered) / (span + last_duration * time_base)
    text = (
        f"variable: {len(ordered)} frames last {float(min(steps) * time_base) * 1000:.3g} "
        f"to {float(max(steps) * time_base) * 1000:.3g} ms"
    )
    if holes := _holes(steps):
        text += f"; even but for {holes} holes, where frames may be missing"
    return RateVerdict(None, measured.limit_denominator(1_000_000), text, holes)


def _holes(steps: Sequence[int]) -> int:
    """Count the steps of two frames or more in an otherwise even rate; 0 if it is not even."""
    usual = median(steps)
    rounding = 1 if usual > 1 else 0
    odd = [step for step in steps if abs(step - usual) > max(rounding, usual * JITTER)]
    whole = all(step >= 1.5 * usual and abs(step / usual % 1 - 0.5) > 0.4 for step in odd)
    return len(odd) if whole and len(odd) * 10 < len(steps) else 0


def settled(stamps: Sequence[tuple[int, int | None]]) -> list[int]:
    """Return those pts of an excerpt between which no later packet can lie, in decoding order.

    A later packet is decoded later, so it is shown after every dts seen so far; an earlier packet
    is shown before the excerpt's first, which is a key frame.

    Args:
        stamps: (pts, dts) of consecutive packets, the first a key frame.
    """
    decoded = [dts for _, dts in stamps if dts is not None]
    if not decoded:
        return []
    first, last = stamps[0][0], max(decoded)
    return [pts for pts, _ in stamps if first <= pts <= last]


def header_rate(claimed: Sequence[Fraction | None]) -> RateVerdict:
    """Derive a rate from the header alone, where timestamps cannot be read in advance.

    Args:
        claimed: The average rate first, then other rates; all must agree within 1 %.
    """
    rates = [rate for rate in claimed if rate]
    if not rates or not 0 < rates[0] <= _MAX_RATE:
        return RateVerdict(None, None, "unknown: the header gives no rate")
    average = rates[0]
    if any(abs(rate / average - 1) > Fraction(1, 100) for rate in rates):
        said = ", ".join(str(rate) for rate in rates)
        return RateVerdict(None, average, f"variable: the header gives several rates: {said}")
    exact = usual_rate(average)
    return RateVerdict(exact, exact, f"constant: {exact} frames a second by the header alone")


def on_grid(
    ordered: Sequence[int], time_base: Fraction, rate: Fraction, jitter: Fraction = JITTER
) -> bool:
    """Return whether rising pts lie on a constant grid, up to rounding, or jitter (of a frame)."""
    step = 1 / (rate * time_base)
    # in integers: this runs over every timestamp of a file
    away = [
        (pts - ordered[0]) * step.denominator - index * step.numerator
        for index, pts in enumerate(ordered)
    ]
    spread = Fraction(max(away) - min(away), step.denominator)  # ticks
    # rounding takes less than a tick, or just one where halves are rounded to even numbers
    return spread < 1 or spread <= max(step * jitter, 1 if step >= 2 else 0)


def usual_rate(rate: Fraction) -> Fraction:
    """Return the usual rate that a header's rate stands for, or the rate itself.

    FFmpeg converts Matroska's nanoseconds per frame to a fraction of at most 30000, which cannot
    represent 48000/1001 and yields 7001/146.
    """
    return next((r for r in _near_standard(rate) if abs(r / rate - 1) < 1e-5), rate)


def _near_standard(measured: Fraction) -> Iterator[Fraction]:
    """Yield whole rates and their 1000/1001 that are within 1 % of a measured one."""
    for denominator in _STANDARD_DENOMINATORS:
        scale = Fraction(1000, denominator) if denominator != 1 else Fraction(1)
        whole = round(measured / scale)
        if whole and abs(whole * scale / measured - 1) < Fraction(1, 100):
            yield whole * scale


def _simplest(ordered: Sequence[int], time_base: Fraction) -> Iterator[Fraction]:
    """Yield the simplest fractions near the measured rate, if ticks are fine enough.

    With coarse ticks nearly any rate fits; then only a claimed or a usual one is accepted.
    """
    ticks, count = ordered[-1] - ordered[0], len(ordered) - 1
    if ticks < 8 * count:
        return
    exact = Fraction(count) / (ticks * time_base)
    # both ends are rounded to ticks: the true rate is within that distance
    for limit in (1, 10, 100, 1001, 10_000):
        near = exact.limit_denominator(limit)
        if near and abs(near / exact - 1) <= Fraction(1, ticks):
            yield near

"""Timestamps: strictly rising pts, durations that fit, and the rate they amount to.

Plain arithmetic on integers and Fractions; knows no container. A rate is decided from the
timestamps themselves: a header's rate is only a candidate that they must confirm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Generic, TypeVar

JITTER = Fraction(1, 20)
"""Of a frame's duration: how far real capture devices stray from a rate that is still constant."""

RESET_SECONDS = 1
"""A step back of more than this is a new time line, not a frame out of order."""

_STANDARD_DENOMINATORS = (1, 1001)
_MAX_RATE = 1000

T = TypeVar("T")


@dataclass(slots=True)
class Mended:
    """How many timestamps had to be mended, by kind."""

    missing: int = 0
    not_rising: int = 0
    resets: int = 0

    def lines(self) -> list[str]:
        """Say it for people; nothing where nothing was mended."""
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
    """Something with its place in time, in ticks."""

    item: T
    pts: int
    duration: int


class Timeline:
    """Puts items in time: every pts after the one before, every duration up to the next pts."""

    def __init__(self, time_base: Fraction, rate: Fraction | None = None) -> None:
        self._time_base = time_base
        self._step = None if rate is None else 1 / (rate * time_base)  # ticks, exact
        self._offset = 0
        self._pts: int | None = None
        self._unrounded = Fraction(0)  # the same, kept exact while timestamps are missing
        self._duration = 0
        self.mended = Mended()

    def run(self, items: Iterable[Timed[T] | tuple[T, int | None, int]]) -> Iterator[Timed[T]]:
        """Time `(item, pts or None, duration or 0)`; holds one item back to know its duration."""
        held: Timed[T] | None = None
        for entry in items:
            item, pts, duration = entry if isinstance(entry, tuple) else (entry.item, entry.pts, 0)
            placed = self._place(pts)
            if held is not None:
                yield Timed(held.item, held.pts, placed - held.pts)
                self._duration = placed - held.pts
            held = Timed(item, placed, duration)
        if held is not None:
            yield Timed(held.item, held.pts, held.duration or self._last_duration())

    def _last_duration(self) -> int:
        """What the last frame lasts where neither frame nor packet says it."""
        return max(1, round(self._step)) if self._step is not None else max(1, self._duration)

    def _advance(self) -> Fraction:
        return self._step if self._step is not None else Fraction(max(1, self._duration))

    def _place(self, pts: int | None) -> int:
        if self._pts is None:
            placed = pts or 0
            self.mended.missing += pts is None
            self._unrounded = Fraction(placed)
        elif pts is None:
            self.mended.missing += 1
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
            self.mended.resets += 1
            return placed
        # half a step only: room for the next one, so that one bad timestamp moves no other
        self.mended.not_rising += 1
        return previous + max(1, int(self._advance() / 2))


@dataclass(frozen=True, slots=True)
class RateVerdict:
    """What the timestamps of a stream amount to."""

    rate: Fraction | None
    """Frames per second where constant; None where variable or unknown."""
    average_rate: Fraction | None
    evidence: str
    """One line for people."""


def judge_rate(
    pts: Sequence[int],
    time_base: Fraction,
    *,
    candidates: Iterable[Fraction | None] = (),
    last_duration: int = 0,
) -> RateVerdict:
    """Decide from timestamps whether a stream's rate is constant, and which one it is.

    A rate r is confirmed if every pts lies on the grid p0 + i/r, up to rounding to the time base
    (Matroska rounds to 1 ms) or a twentieth of a frame of jitter.

    Args:
        pts: In ticks, of consecutive frames, in any order.
        time_base: Seconds in a tick.
        candidates: Rates that headers claim; the first one confirmed wins.
        last_duration: Ticks that the last frame lasts; 0 where unknown.
    """
    ordered = sorted(set(pts))
    claimed = [rate for rate in candidates if rate is not None and 0 < rate <= _MAX_RATE]
    if len(ordered) < 2:
        rate = claimed[0] if claimed else None
        return RateVerdict(rate, rate, "one frame only: the header's rate, unconfirmed")
    span = (ordered[-1] - ordered[0]) * time_base
    measured = (len(ordered) - 1) / span
    for rate in (*claimed, *_near_standard(measured), _simplest(ordered, time_base)):
        if rate is not None and on_grid(ordered, time_base, rate):
            text = f"constant: {len(ordered)} timestamps lie on a grid of {rate} frames a second"
            return RateVerdict(rate, rate, text)
    steps = [after - before for before, after in pairwise(ordered)]
    if last_duration:
        measured = len(ordered) / (span + last_duration * time_base)
    text = (
        f"variable: {len(ordered)} frames last {float(min(steps) * time_base) * 1000:.3g} "
        f"to {float(max(steps) * time_base) * 1000:.3g} ms"
    )
    return RateVerdict(None, measured.limit_denominator(1_000_000), text)


def header_rate(claimed: Sequence[Fraction | None]) -> RateVerdict:
    """Take a header's word where timestamps cannot be looked at in advance.

    Args:
        claimed: The average rate first, then what else is claimed; all must agree within 1 %.
    """
    rates = [rate for rate in claimed if rate is not None and 0 < rate <= _MAX_RATE]
    if not rates:
        return RateVerdict(None, None, "unknown: the header gives no rate")
    average = rates[0]
    if any(abs(rate / average - 1) > Fraction(1, 100) for rate in rates):
        said = ", ".join(str(rate) for rate in rates)
        return RateVerdict(None, average, f"variable: the header gives several rates: {said}")
    exact = next((r for r in _near_standard(average) if abs(r / average - 1) < 1e-5), average)
    return RateVerdict(exact, exact, f"constant: {exact} frames a second by the header alone")


def on_grid(ordered: Sequence[int], time_base: Fraction, rate: Fraction) -> bool:
    """Tell whether rising pts lie on a constant grid, up to rounding and jitter."""
    step = 1 / (rate * time_base)
    # in integers: this runs over every timestamp of a file
    away = [
        (pts - ordered[0]) * step.denominator - index * step.numerator
        for index, pts in enumerate(ordered)
    ]
    spread = Fraction(max(away) - min(away), step.denominator)  # ticks
    return spread < 1 or spread <= step * JITTER


def _near_standard(measured: Fraction) -> Iterator[Fraction]:
    """Give whole rates and their 1000/1001 that are within 1 % of a measured one."""
    for denominator in _STANDARD_DENOMINATORS:
        scale = Fraction(1000, denominator) if denominator != 1 else Fraction(1)
        whole = round(measured / scale)
        if whole and abs(whole * scale / measured - 1) < Fraction(1, 100):
            yield whole * scale


def _simplest(ordered: Sequence[int], time_base: Fraction) -> Fraction | None:
    """Give the simplest rate that the whole span allows, with its ends rounded to ticks."""
    ticks, count = ordered[-1] - ordered[0], len(ordered) - 1
    exact = Fraction(count) / (ticks * time_base)
    for limit in (1, 10, 100, 1001, 10_000):
        near = exact.limit_denominator(limit)
        if near and on_grid(ordered, time_base, near):
            return near
    return exact

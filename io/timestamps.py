"""Timestamps: strictly rising pts, matching durations, and the frame rate they show.

Plain arithmetic on integers and Fractions, independent of containers. The rate is derived from the
timestamps themselves: a header's rate is only a candidate that they must confirm. Film that is
shown for two and three fields in turn gets even times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import count, islice, pairwise
from statistics import median
from typing import TypeVar

JITTER = Fraction(1, 20)
"""Of a frame's duration: how far a step of an even rate deviates, where ticks are fine."""

RESET_SECONDS = 1
"""A larger step back is a new time line, not a frame out of order."""

_MAX_RATE = 1000

_FINE_TICKS = 8
"""In a frame: with fewer, a missing frame looks like rounding."""
_MANY_TICKS = 100
"""In all frames: with fewer, and coarse ones, timestamps show no rate."""
_TELLING_TICKS = 1000
"""In all frames: with fewer, 24 frames a second look like 24000/1001."""

_FILM_RATES = {
    Fraction(60_000, 1001): (Fraction(24_000, 1001),),
    Fraction(60): (Fraction(24),),
    Fraction(50): (Fraction(24), Fraction(24_000, 1001)),
}
"""Frames of film that are shown at so many fields a second."""
_FIELD_PARTS = 16
"""A frame begins with a field if it is no further away than such a part of it."""
_FEWEST_CHANGES = 6
"""From two fields to three or back: with fewer it is no cadence."""

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


class TimestampFixer:
    """Fixes times: every pts is after the one before, every duration ends at the next pts."""

    def __init__(
        self,
        time_base: Fraction,
        rate: Fraction | None = None,
        *,
        end_of_stream: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Create it for one stream, with a rate if that is known to be constant.

        `end_of_stream` is called after the last item: it returns the tick at which the container
        ends the stream, None if unknown.
        """
        self._time_base = time_base
        self._end_of_stream = end_of_stream
        self._step = None if rate is None else 1 / (rate * time_base)  # ticks, exact
        self._offset = 0
        self._pts: int | None = None
        self._unrounded = Fraction(0)  # the same, kept exact while timestamps are missing
        self._duration = 0
        self.fixes = TimestampFixes()

    def run(self, items: Iterable[tuple[T, int | None, int]]) -> Iterator[tuple[T, int, int]]:
        """Fix the times of `(item, pts or None, duration or 0)`, one item behind."""
        held: tuple[T, int, int] | None = None
        for item, pts, duration in items:
            placed = self._place(pts)
            if held is not None:
                self._duration = placed - held[1]
                yield held[0], held[1], self._duration
            held = item, placed, duration
        if held is not None:
            yield held[0], held[1], self._last_duration(*held[1:])

    def _last_duration(self, pts: int, duration: int) -> int:
        """Return the last frame's duration by the container, else by the frame, else a guess.

        With reordered frames of variable duration a packet's duration is that of its place in
        decoding order, so the container's end of the stream is better.
        """
        end = self._end_of_stream() if not self._offset else None
        if end is not None and end > pts:
            return end - pts
        if duration:
            return duration
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


class FilmFixer:
    """Moves frames that are shown for two and three fields in turn to even times.

    Of a stream that is film throughout, each frame is moved to its place on the grid of the film's
    rate, at most by a field. Of one that is so in part, a frame between steps of two and three
    fields is moved by a quarter of a field, which makes such steps equal; all others stay.
    """

    def __init__(
        self,
        time_base: Fraction,
        field_rate: Fraction,
        rate: Fraction | None,
        first: int | None = None,
    ) -> None:
        """Create it for one stream: `rate` of film is None if it is film in part only.

        `first` is the pts of the stream's first frame, where items begin later.
        """
        self._field = 1 / (field_rate * time_base)  # ticks, exact
        self._step = None if rate is None else 1 / (rate * time_base)
        self._first = first
        farthest = (1 if rate else Fraction(1, 4)) / field_rate * 1000
        self.line = f"soft telecine: timestamps made even, by at most {float(farthest):.3g} ms"
        """What is done, for people."""

    def run(
        self, items: Iterable[tuple[T, int | None, int]]
    ) -> Iterator[tuple[T, int | None, int]]:
        """Move `(item, pts or None, duration or 0)`, one item behind."""
        before: int | None = None
        held: tuple[T, int | None, int] | None = None
        for entry in items:
            if held is not None:
                yield held[0], self._moved(before, held[1], entry[1]), held[2]
                before = held[1]
            held = entry
        if held is not None:
            item, pts, duration = held
            after = pts + duration if pts is not None and duration else None
            yield item, self._moved(before, pts, after), duration

    def _moved(self, before: int | None, pts: int | None, after: int | None) -> int | None:
        if pts is not None and self._step is not None:
            self._first = pts if self._first is None else self._first
            place = self._first + round(round((pts - self._first) / self._step) * self._step)
            return place if abs(place - pts) <= self._field + 1 else pts
        if before is None or pts is None or after is None:
            return pts
        shown = {round((pts - before) / self._field), round((after - pts) / self._field)}
        return round(Fraction(before + 2 * pts + after, 4)) if shown == {2, 3} else pts


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
    field_rate: Fraction | None = None
    """Fields per second, where frames are shown for two or three: soft telecine."""

    def evened(self, pts: Sequence[int], time_base: Fraction) -> list[int]:
        """Return when a stream's frames are shown, by their rising pts: as `FilmFixer` does."""
        if self.field_rate is None:
            return list(pts)
        film = FilmFixer(time_base, self.field_rate, self.rate)
        return [shown or 0 for _, shown, _ in film.run((None, one, 0) for one in pts)]

    def of_excerpt(self) -> RateVerdict:
        """Return what an excerpt proves: elsewhere, film may give way to video in all fields."""
        return self if self.field_rate is None else replace(self, rate=None)


def judge_rate(
    pts: Sequence[int],
    time_base: Fraction,
    candidates: Iterable[Fraction | None] = (),
    last_duration: int = 0,
) -> RateVerdict:
    """Decide from timestamps whether a stream's rate is constant, and which it is.

    A rate r is confirmed if every pts lies on the grid p0 + i/r, up to a tick (:func:`on_grid`). A
    rate that no header claims must be the only usual one that is confirmed. `pts` are in ticks of
    `time_base`, of consecutive frames, in any order. Of the `candidates`, which are rates by the
    headers, the first that is confirmed is used. The last frame lasts `last_duration` ticks; 0
    where unknown.
    """
    ordered = sorted(set(pts))
    claimed = [usual_rate(r) for r in candidates if r is not None and 0 < r <= _MAX_RATE]
    if len(ordered) < 2:
        rate = claimed[0] if claimed else None
        return RateVerdict(rate, rate, "one frame only: the header's rate, unconfirmed")
    steps = [after - before for before, after in pairwise(ordered)]
    even = [1 / (steps[0] * time_base)] if min(steps) == max(steps) else []
    found = next((rate for rate in (*claimed, *even) if on_grid(ordered, time_base, rate)), None)
    ticks = ordered[-1] - ordered[0]
    # ticks as coarse as fields make film look even
    is_open = found is None or ticks < _FINE_TICKS * len(steps)
    if is_open and (telecine := _soft_telecine(ordered, time_base, claimed)):
        return telecine
    average = len(steps) / (ticks * time_base)
    guessed = _guessed(ordered, time_base, average) if found is None else []
    if len(guessed) == 1 and ticks >= _TELLING_TICKS:
        found = guessed[0]
    if found is not None:
        text = f"constant: {len(ordered)} timestamps lie on a grid of {found} frames a second"
        return RateVerdict(found, found, text)
    if last_duration:
        average = len(ordered) / ((ticks + last_duration) * time_base)
    average = average.limit_denominator(1_000_000)
    if guessed:
        fit = " or ".join(map(str, guessed))
        text = f"unknown: {len(ordered)} timestamps are too few to tell {fit} frames a second"
        return RateVerdict(None, average, text)
    text = (
        f"variable: {len(ordered)} frames last {float(min(steps) * time_base) * 1000:.3g} "
        f"to {float(max(steps) * time_base) * 1000:.3g} ms"
    )
    if holes := _holes(steps):
        text += f"; even but for {holes} holes, where frames may be missing"
    return RateVerdict(None, average, text, holes)


def _guessed(ordered: Sequence[int], time_base: Fraction, measured: Fraction) -> list[Fraction]:
    """Return the usual rates near the measured one that fit, else the simplest that does."""
    usual = [rate for rate in _near_standard(measured) if on_grid(ordered, time_base, rate)]
    others = (rate for rate in _simplest(ordered, time_base) if on_grid(ordered, time_base, rate))
    return usual or [*islice(others, 1)]


def _soft_telecine(
    ordered: Sequence[int], time_base: Fraction, claimed: Sequence[Fraction]
) -> RateVerdict | None:
    """Recognise film shown for two and three fields in turn, in all of a stream or in part.

    Flags in MPEG-2 and H.264 ask for that; a demuxer rounds the film's times to whole fields.
    """
    found = {
        fields: places
        for fields in _FILM_RATES
        if (places := _fields_of_cadence(ordered, 1 / (fields * time_base)))
    }
    # a few frames fit 60 fields as well as 60000/1001: then the header decides
    told = [rate for rate in found if {rate, rate / 2, *_FILM_RATES[rate]} & set(claimed)]
    if len(told or found) != 1:
        return None
    fields = (told or [*found])[0]
    text = f"soft telecine: {len(ordered)} frames are shown for 2 or 3 of {fields} fields a second"
    for film in _FILM_RATES[fields]:
        behind, ahead = _deviation(found[fields], fields / film)
        if ahead - behind <= 1:
            text += f", made {film} frames a second"
            return RateVerdict(film, film, text, field_rate=fields)
    measured = (len(ordered) - 1) / ((ordered[-1] - ordered[0]) * time_base)
    text += ", not always in turn: made even where they are"
    return RateVerdict(None, measured.limit_denominator(1_000_000), text, field_rate=fields)


def _fields_of_cadence(ordered: Sequence[int], field: Fraction) -> list[int] | None:
    """Return with which field each frame begins, if all are shown for two or three, often in turn.

    `field` is how many ticks a field lasts.
    """
    size, parts = field.numerator, field.denominator
    steps = [after - before for before, after in pairwise(ordered)]
    # in integers, and no further than the first other step: most streams are no film
    if not all(2 <= (2 * step * parts + size) // (2 * size) <= 3 for step in steps):
        return None
    places = [(2 * (pts - ordered[0]) * parts + size) // (2 * size) for pts in ordered]
    shown = [after - before for before, after in pairwise(places)]
    changes = sum(one != other for one, other in pairwise(shown))
    if changes < max(_FEWEST_CHANGES, len(shown) / 20) or set(shown) != {2, 3}:
        return None
    low, high = _deviation(ordered, field, places)
    # MPEG-PS gives times to some frames only; the demuxer rounds the durations between them
    away = min(field / 4, max(1, field / _FIELD_PARTS))
    return places if max(high, -low) <= away else None


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
    is shown before the excerpt's first, which is a key frame. `stamps` are (pts, dts).
    """
    decoded = [dts for _, dts in stamps if dts is not None]
    if not decoded:
        return []
    first, last = stamps[0][0], max(decoded)
    return [pts for pts, _ in stamps if first <= pts <= last]


def header_rate(claimed: Sequence[Fraction | None]) -> RateVerdict:
    """Derive a rate from the header alone, where timestamps cannot be read in advance.

    The average rate is the first of those claimed; all must agree within 1 %.
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


def on_grid(ordered: Sequence[int], time_base: Fraction, rate: Fraction) -> bool:
    """Return whether rising pts lie on the constant grid of the first, up to a tick.

    A tick that is not small against a frame explains nearly any steps: 0, 2, 3 could be rounded
    from 0, 1.5, 3. Then only many frames prove a grid, and none one of less than two ticks.
    """
    step = 1 / (rate * time_base)
    low, high = _deviation(ordered, step)
    if low == high:
        return True
    if step < 2 or (step < _FINE_TICKS and ordered[-1] - ordered[0] < _MANY_TICKS):
        return False
    # rounding takes less than a tick, or just one where halves are rounded to even numbers
    if high - low < 1 or (high - low == 1 and step.denominator % 2 == 0):
        return True
    return max(high, -low) <= 1 and step >= 2 * _FINE_TICKS


def _deviation(
    ordered: Sequence[int], step: Fraction, places: Iterable[int] | None = None
) -> tuple[Fraction, Fraction]:
    """Return how far rising numbers lie before and behind the grid of the first, at most.

    `places` are those of the numbers on the grid; 0, 1, 2, … if None.
    """
    # in integers: this runs over every timestamp of a file
    away = [
        (value - ordered[0]) * step.denominator - place * step.numerator
        for value, place in zip(ordered, places or count(), strict=False)
    ]
    return Fraction(min(away), step.denominator), Fraction(max(away), step.denominator)


def usual_rate(rate: Fraction) -> Fraction:
    """Return the usual rate that a header's rate stands for, or the rate itself.

    FFmpeg converts Matroska's nanoseconds per frame to a fraction of at most 30000, which cannot
    represent 48000/1001 and yields 7001/146.
    """
    return next((r for r in _near_standard(rate) if abs(r / rate - 1) < 1e-5), rate)


def _near_standard(measured: Fraction) -> Iterator[Fraction]:
    """Yield whole rates and their 1000/1001 that are within 1 % of a measured one."""
    for scale in (Fraction(1), Fraction(1000, 1001)):
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

"""The nominal rate of a live stream: what it claims, if its timestamps say so too.

Cameras claim rates that they do not keep (25 in the bitstream, 15 on the wire), and FFmpeg's
estimate from a few jittering timestamps is a crooked number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from statistics import median
from typing import Literal

DEFAULT_RATE = Fraction(25)
"""Where nothing tells."""

MIN_RATE, MAX_RATE = Fraction(1, 10), Fraction(240)
"""Frames per second that a claim may be without any timestamps."""

ENOUGH_PACKETS = 12
"""From so many on, timestamps that jitter by a tenth of a frame tell the rate to one per cent."""

FEWEST_PACKETS = 4
"""Fewer tell nothing."""

_NEAR = Fraction(1, 25)
"""Of the measured rate: a claim that far from it is meant."""

_WHOLE = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 24, 25, 30, 48, 50, 60, 100, 120)
_PLAIN = (*(Fraction(rate) for rate in _WHOLE), Fraction(15, 2), Fraction(25, 2))
_NTSC = tuple(Fraction(rate * 1000, 1001) for rate in (24, 30, 60))
_STANDARD = (*_PLAIN, *_NTSC)

_EVEN = Fraction(1, 100)
"""Of an interval: timestamps that jitter by more cannot tell 29.97 from 30."""


def agreed_rate(times: Sequence[Fraction], claims: Sequence[Fraction | None]) -> Fraction | None:
    """Give the rate that all claims name, where the first few timestamps say so too."""
    claim, measured = claims[0] if claims else None, measured_rate(times)
    if not claim or claim not in _STANDARD or any(other != claim for other in claims):
        return None
    return claim if measured is not None and _is_near(claim, measured) else None


def nominal_rate(times: Sequence[Fraction], claims: Iterable[Fraction | None]) -> Fraction:
    """Decide on a rate.

    Args:
        times: Of some packets in a row, seconds, in any order.
        claims: What the stream says of itself, the most exact first.

    Returns:
        Frames per second: a claim, else a usual rate near to what was measured, else that.
    """
    said = [claim for claim in claims if claim]
    measured = measured_rate(times)
    if measured is None:
        plausible = (claim for claim in said if MIN_RATE <= claim <= MAX_RATE)
        return next(plausible, DEFAULT_RATE)
    for claim in said:
        if _is_near(claim, measured) and (claim in _STANDARD or claim.denominator <= 2):
            return claim
    usual = min(_STANDARD if _is_even(times) else _PLAIN, key=lambda rate: abs(rate - measured))
    if _is_near(usual, measured):
        return usual
    return measured.limit_denominator(100)


def measured_rate(times: Sequence[Fraction]) -> Fraction | None:
    """Measure frames per second by their times; None where these do not tell."""
    gaps = _gaps(times)
    return len(gaps) / sum(gaps, Fraction(0)) if gaps else None


def _gaps(times: Sequence[Fraction]) -> list[Fraction]:
    """Give the intervals between packets, but for holes and bursts; none where they are too few."""
    rising = sorted(times)
    gaps = [after - before for before, after in pairwise(rising) if after > before]
    if len(gaps) < FEWEST_PACKETS - 1:
        return []
    usual = median(gaps)
    return [gap for gap in gaps if usual / 2 < gap < usual * 3 / 2]


def _is_even(times: Sequence[Fraction]) -> bool:
    gaps = _gaps(times)
    return bool(gaps) and max(gaps) - min(gaps) <= _EVEN * min(gaps)


def _is_near(claim: Fraction, measured: Fraction) -> bool:
    return abs(claim - measured) <= _NEAR * measured


# When a connection that gives no frames is stalled, and when it is lost.

Verdict = Literal["running", "stalled", "lost"]

_STALLED_SECONDS, _STALLED_INTERVALS = 1.0, 8
_LOST_SECONDS, _LOST_GOPS, _LOST_INTERVALS = 10.0, 3, 20
_GOPS_KEPT = 4


class StallRule:
    """Judges silence by the stream's own rate and keyframe interval.

    Silence means no decoded frame: bytes may flow all the while. After damage there is nothing
    to show before the next keyframe, so that a silence of one group of pictures is in order; a
    fixed limit would connect to a slow source over and over.
    """

    def __init__(
        self, rate: Fraction, gop_seconds: Fraction | None, given_seconds: float | None = None
    ) -> None:
        """Take what is known of the stream.

        Args:
            rate: Nominal frames per second.
            gop_seconds: From keyframe to keyframe; None while it is not known.
            given_seconds: What the user says is too long, instead of the stream's own limit.

        Raises:
            ValueError: for a rate that is not positive.
        """
        if rate <= 0:
            raise ValueError(f"rate must be positive, got {rate}")
        self._interval = float(1 / rate)
        self._given = given_seconds
        self._gops: deque[float] = deque(maxlen=_GOPS_KEPT)
        if gop_seconds is not None:
            self.observed(gop_seconds)

    @property
    def stalled_seconds(self) -> float:
        """Silence from which on it is stalled."""
        return min(max(_STALLED_SECONDS, _STALLED_INTERVALS * self._interval), self.lost_seconds)

    @property
    def lost_seconds(self) -> float:
        """Silence from which on the connection is given up."""
        if self._given is not None:
            return self._given
        gop = max(self._gops, default=0.0)
        return max(_LOST_SECONDS, _LOST_GOPS * gop, _LOST_INTERVALS * self._interval)

    def judge(self, silent_seconds: float) -> Verdict:
        """Judge by the seconds since the last decoded frame, or since it was connected."""
        if silent_seconds >= self.lost_seconds:
            return "lost"
        return "stalled" if silent_seconds >= self.stalled_seconds else "running"

    def observed(self, gop_seconds: Fraction | float) -> None:
        """Note the seconds between two keyframes; the longest of the last few counts."""
        self._gops.append(float(gop_seconds))

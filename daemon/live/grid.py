"""The even row of slots that an output consists of, whatever comes in and when."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

T = TypeVar("T")

_REACH = Fraction(3, 4)
"""Of a slot: how far a time may be from the slot that follows from the item before.

More than half of one, so that times that lie near the middle between two slots and jitter a
little do not leave one slot empty and meet in the next, over and over.
"""


@dataclass(frozen=True, slots=True)
class Slot(Generic[T]):
    """One place in the row, and what it shows."""

    index: int
    """Its time is index / rate; without holes from the first slot on."""
    item: T
    is_repeat: bool
    """Whether the item was given in an earlier slot."""


@dataclass(slots=True)
class _Shown(Generic[T]):
    item: T
    was_given: bool


class Grid(Generic[T]):
    """Gives every slot exactly once and in order, an item to each.

    A slot is given as soon as its item comes: nothing is held back.
    """

    def __init__(self, rate: Fraction) -> None:
        """Take the slots per second.

        Raises:
            ValueError: for a rate that is not positive.
        """
        if rate <= 0:
            raise ValueError(f"rate must be positive, got {rate}")
        self._rate = rate
        self._next = 0
        self._shown: _Shown[T] | None = None
        self._before: tuple[Fraction, int] | None = None  # in slots: where it was, where it went
        self._counts: Counter[str] = Counter()

    @property
    def next_time(self) -> Fraction:
        """Seconds at which the next slot begins that was not given yet."""
        return self._next / self._rate

    @property
    def counts(self) -> dict[str, int]:
        """So far: slots `given`, among them `repeated`; items that came `late`, or `surplus`."""
        return {key: self._counts[key] for key in ("given", "repeated", "late", "surplus")}

    def enter(self, time: Fraction, item: T) -> list[Slot[T]]:
        """Put an item in the slot of its time, and repeats of the one before up to there.

        An item for whose slot it is too late is not given there, but it is what is repeated next:
        `surplus` where the item before it took the slot, `late` otherwise.

        Args:
            time: Seconds on the output's time line; the very first one sets where the row starts.
            item: What to show from then on.
        """
        index = self._index_of(time)
        if self._shown is None and not self._counts["given"]:
            self._next = index
        is_second = self._before is not None and index == self._before[1]
        self._before = (time * self._rate, index)
        if index < self._next:
            self._counts["surplus" if is_second else "late"] += 1
            self._shown = _Shown(item, was_given=False)
            return []
        slots = self._give_until(index)
        self._shown = _Shown(item, was_given=False)
        return [*slots, *self._give_until(index + 1)]

    def fill(self, until: Fraction, item: T | None = None) -> list[Slot[T]]:
        """Give all slots before a time.

        Args:
            until: Seconds; the slot that begins there is not given.
            item: What to show instead of a repeat, and from then on.

        Returns:
            The slots; none where there is nothing to repeat yet.
        """
        end = math.ceil(until * self._rate)
        if end <= self._next:
            return []
        if item is not None and (self._shown is None or self._shown.item is not item):
            self._shown = _Shown(item, was_given=False)
        return self._give_until(end)

    def _index_of(self, time: Fraction) -> int:
        """Take the slot that follows from the item before; where that is far off, the nearest."""
        place = time * self._rate
        if self._before is not None:
            was, went = self._before
            index = went + round(place - was)
            if abs(place - index) <= _REACH:
                return index
        return math.floor(place + Fraction(1, 2))

    def _give_until(self, end: int) -> list[Slot[T]]:
        if self._shown is None:
            return []
        slots: list[Slot[T]] = []
        for index in range(self._next, end):
            slots.append(Slot(index, self._shown.item, self._shown.was_given))
            self._counts["given"] += 1
            self._counts["repeated"] += self._shown.was_given
            self._shown.was_given = True
        self._next = max(self._next, end)
        return slots

"""Which worker makes which segments of a film next: only decisions, no processes, files or clocks.

A worker that is free takes a unit of work, one or more neighbouring segments for about 20 s by the
estimate of the film, and then by what it has measured; a slow one so takes fewer. Units shrink
towards the end, and what takes far longer there than it should is begun a second time elsewhere:
the first result counts.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

UNIT_SECONDS = 20.0
_WAITING_UNITS = 4
"""Of each worker, whose results may wait on the disk for an earlier segment."""
MOST_ATTEMPTS = 5
"""To make a segment, before the film is given up."""
_DECAY = 0.7
"""Weight of what a worker has measured, with each new measurement."""


@dataclass(slots=True)
class _Worker:
    unit: list[int] = field(default_factory=list[int])
    """What it has not answered yet; it works on the first."""
    began: float = 0.0
    """When it began with the first, in seconds."""
    seconds: float = 0.0
    size: float = 0.0
    """Measured: how long it took for how much."""


class Schedule:
    """Distributes the segments of a film among workers, by any name that the caller gives them.

    Times are seconds on any clock that the caller passes; they never decrease.

    Args:
        sizes: by number of each segment that is missing, how much work it is, such as its frames.
        estimate: seconds of a worker for one unit of size, until one has measured it; None: a
            worker that has measured nothing begins with one segment.
    """

    def __init__(self, sizes: Mapping[int, float], estimate: float | None = None) -> None:
        self._sizes = dict(sizes)
        self._estimate = estimate
        self._waiting = sorted(self._sizes)  # a heap; those that are done are left out when met
        self._waiting_size = sum(self._sizes.values())
        self._order = sorted(self._sizes)
        self._next = 0  # in the order: the first that is not done
        self._done = set[int]()
        self._ahead = 0.0  # size of what is done behind it
        self._attempts = dict.fromkeys(self._sizes, 0)
        self._workers: dict[Hashable, _Worker] = {}

    @property
    def left(self) -> int:
        """How many segments have no result yet."""
        return len(self._sizes) - len(self._done)

    def join(self, worker: Hashable) -> None:
        """Count on a worker that will take units."""
        self._workers.setdefault(worker, _Worker())

    def take(self, worker: Hashable, now: float) -> tuple[int, ...]:
        """Give a free worker its next unit; none where it must wait for other workers.

        Ask again after each result or loss, and every second.

        Raises:
            ValueError: if it has not answered its last unit.
        """
        state = self._workers.setdefault(worker, _Worker())
        if state.unit:
            raise ValueError(f"{worker} works on segment {state.unit[0]}")
        self._drop_done()
        unit: list[int] = []
        if self._waiting and not self._is_blocked() and not self._is_too_slow(state, now):
            unit = self._next_unit(state)
        elif (number := self._straggler(state, now)) is not None:
            unit = [number]
        state.unit, state.began = unit, now
        return tuple(unit)

    def finish(self, worker: Hashable, number: int, now: float) -> bool:
        """Take a worker's result of a segment.

        Returns:
            Whether it counts; False where another worker was faster.

        Raises:
            ValueError: if the worker was not given that segment.
        """
        state = self._workers[worker]
        if number not in state.unit:
            raise ValueError(f"segment {number} is none of those of {worker}")
        state.unit.remove(number)
        state.seconds = state.seconds * _DECAY + now - state.began
        state.size = state.size * _DECAY + self._sizes[number]
        state.began = now
        if number in self._done:
            return False
        self._done.add(number)
        self._ahead += self._sizes[number]
        while self._next < len(self._order) and self._order[self._next] in self._done:
            self._ahead -= self._sizes[self._order[self._next]]
            self._next += 1
        return True

    def lose(self, worker: Hashable) -> int | None:
        """Give back what a worker had, since it has died.

        Returns:
            The segment that has now ended too many workers; None if the film can go on.
        """
        state = self._workers.setdefault(worker, _Worker())
        unit, state.unit, ended = state.unit, [], None
        for number in unit[:1]:
            self._attempts[number] += 1
            if number not in self._done and self._attempts[number] >= MOST_ATTEMPTS:
                ended = number
        held = self._held()
        for number in unit:
            if number not in self._done and not held[number]:
                heapq.heappush(self._waiting, number)
                self._waiting_size += self._sizes[number]
        return ended

    def _next_unit(self, state: _Worker) -> list[int]:
        rate, most = self._rate(state), 0.0
        if rate is not None and (state.size or self._estimate is not None):
            most = min(UNIT_SECONDS, self._waiting_size / self._speed() / 2) / rate
        unit, size = [self._pop()], 0.0
        while True:
            size += self._sizes[unit[-1]]
            self._drop_done()
            is_near = bool(self._waiting) and self._waiting[0] == unit[-1] + 1
            if not is_near or size + self._sizes[self._waiting[0]] > most:
                return unit
            unit.append(self._pop())

    def _pop(self) -> int:
        number = heapq.heappop(self._waiting)
        self._waiting_size -= self._sizes[number]
        return number

    def _drop_done(self) -> None:
        """Leave out what was given back, and was then done by another worker."""
        while self._waiting and self._waiting[0] in self._done:
            self._pop()

    def _is_blocked(self) -> bool:
        """Whether so much is done ahead of a missing segment that the disk is to be spared."""
        most = _WAITING_UNITS * UNIT_SECONDS * self._speed()
        return self._ahead > most and self._waiting[0] != self._order[self._next]

    def _is_too_slow(self, state: _Worker, now: float) -> bool:
        """Whether the others end everything before this one could end one more segment."""
        others = [each for each in self._workers.values() if each is not state and each.unit]
        speed = sum(1 / rate for each in others if (rate := self._rate(each)))
        size, rate = self._sizes[self._waiting[0]], self._rate(state)
        if not speed or rate is None or (rate * speed <= len(others)):
            return False  # faster than their average
        ends = max(self._end_of(each, len(each.unit) - 1, now) for each in others)
        slowest = max(self._rate(each) or 0.0 for each in others)
        return rate * size > max(self._waiting_size / speed + slowest * size, ends - now)

    def _straggler(self, state: _Worker, now: float) -> int | None:
        """Find what another worker will probably end later than this one, begun now, would."""
        rate, most, found, held = self._rate(state), 0.0, None, self._held()
        for other in self._workers.values():
            for index, number in enumerate(other.unit if rate is not None else ()):
                if number in self._done or held[number] > 1:
                    continue
                saved = self._end_of(other, index, now) - now - (rate or 0.0) * self._sizes[number]
                if saved > most:
                    most, found = saved, number
        return found

    def _end_of(self, state: _Worker, index: int, now: float) -> float:
        """When a worker probably ends a segment of its unit.

        One that takes longer than expected probably takes as long again as it is late.
        """
        rate = self._rate(state) or 0.0
        expected = state.began + rate * self._sizes[state.unit[0]]
        following = sum(self._sizes[each] for each in state.unit[1 : index + 1])
        return max(expected, 2 * now - expected) + rate * following

    def _held(self) -> Counter[int]:
        """How many workers have each segment."""
        return Counter(number for each in self._workers.values() for number in each.unit)

    def _rate(self, state: _Worker) -> float | None:
        """Return a worker's seconds for one unit of size; before it has measured, the others'."""
        if state.size:
            return max(state.seconds / state.size, 1e-9)
        known = [each.seconds / each.size for each in self._workers.values() if each.size]
        return sum(known) / len(known) if known else self._estimate

    def _speed(self) -> float:
        """Return the size that all workers make in a second, as far as it is known."""
        return sum(1 / rate for each in self._workers.values() if (rate := self._rate(each)))

"""What a frame costs at each level: measured at the one in force, remembered of the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, log

from .levels import Level

SETTLED_FRAMES = 3
"""Costs that a judgement is made on, unless there is no time for that."""
_RECENT_SECONDS = 0.5
_DRIFT = 0.02
"""Of the difference, by which each frame moves what is remembered of the level in force."""
_FLOOR = 0.05
"""Of the interval: differences between costs below it are noise, and tell nothing of the load."""
_LASTING, _REHEARSED = 15, 4
"""Times a patience, in which what is usual comes to count half; and what was only rehearsed."""


@dataclass(slots=True)
class _Memory:
    """Of one level."""

    usual: float | None = None
    """Seconds a frame, in usual load; None where it was never measured."""
    usual_at: float = -inf
    least: float = inf
    """The lowest that `usual` ever was."""
    is_rehearsed: bool = False
    """Whether all that is known of it was measured beforehand, beside who knows what."""
    failed: float = 0.0
    """Seconds a frame when it was tried last, in vain."""
    failed_at: float = -inf


class Costs:
    """Keeps the latest costs at the level in force, and what is known of the others.

    Load is taken to weigh on all levels alike: where the level in force takes half of what it
    usually takes, so would the others. And where it takes less than it did beforehand, so would
    those of which no more is known than that: other streams and programs may have started then.

    Args:
        levels: All there are.
        span_seconds: Of the costs that make `steady`.
    """

    def __init__(self, levels: Sequence[Level], span_seconds: float) -> None:
        self._levels = tuple(levels)
        self._span = span_seconds
        self._memory = [_Memory() for _ in self._levels]
        self._latest: deque[tuple[float, float]] = deque()
        self._index = 0
        self._begun: float | None = None
        self._is_first = False  # whether no cost but the first is kept

    @property
    def num_frames(self) -> int:
        """Costs that are kept of the level in force."""
        return len(self._latest)

    def expect(self, costs: Mapping[str, float], now: float) -> None:
        """Take costs that were measured beforehand, by the level's name."""
        for level, memory in zip(self._levels, self._memory, strict=True):
            if level.name in costs:
                memory.usual = memory.least = costs[level.name]
                memory.usual_at, memory.is_rehearsed = now, True

    def enter(self, index: int) -> None:
        """Go to another level."""
        self._index = index
        self._latest.clear()
        self._begun = None

    def add(self, now: float, seconds: float) -> None:
        """Take the cost of one frame at the level in force."""
        if self._begun is None:
            self._begun, self._is_first = now, True
        elif self._is_first:
            self._is_first = False
            if self._levels[self._index].exp:
                self._latest.clear()  # nothing was inserted before the first frame
        self._latest.append((now, seconds))
        while len(self._latest) > SETTLED_FRAMES and self._latest[0][0] < now - self._span:
            self._latest.popleft()

    def is_steady(self, now: float) -> bool:
        """Tell whether `steady` is made of as much as it should be."""
        old = self._begun is not None and now - self._begun >= self._span
        return old and self.num_frames >= SETTLED_FRAMES

    def recent(self, now: float) -> float:
        """Seconds a frame in the last half second, without its dearest frame."""
        latest = [seconds for _, seconds in self._latest]
        count = sum(at >= now - _RECENT_SECONDS for at, _ in self._latest)
        return _robust_mean(latest[-max(count, SETTLED_FRAMES) :])

    def steady(self) -> float:
        """Seconds a frame over the whole span, without its dearest frame."""
        return _robust_mean([seconds for _, seconds in self._latest])

    def remember(self, now: float, interval_seconds: float) -> None:
        """Let what is remembered of the level in force follow what it takes.

        Args:
            now: Monotonic seconds.
            interval_seconds: From one input frame to the next.
        """
        memory, steady = self._memory[self._index], self.steady()
        before = steady if memory.usual is None else memory.usual
        memory.usual, memory.usual_at = before + _DRIFT * (steady - before), now
        memory.is_rehearsed = False
        if memory.usual < memory.least:
            if memory.least < inf:
                self._correct(_ratio(memory.usual, memory.least, interval_seconds))
            memory.least = memory.usual

    def leave(self, now: float, *, in_vain: bool) -> None:
        """Remember why the level in force is given up; `in_vain`: it had only been tried."""
        memory, cost = self._memory[self._index], self.recent(now)
        if memory.usual is None:
            memory.usual = cost
        if in_vain:
            memory.failed, memory.failed_at = cost, now
        memory.usual_at = now

    def estimate(self, index: int, interval_seconds: float, cost: float | None = None) -> float:
        """Estimate the seconds of a frame at a level.

        Args:
            index: Of the level.
            interval_seconds: From one input frame to the next.
            cost: Of a frame at the level in force; None where none was measured.
        """
        known, usual = self._nearest(index, cost)
        guess = usual * self._levels[index].work() / self._levels[known].work()
        return guess * self._load(interval_seconds, cost)

    def hope(
        self, index: int, interval_seconds: float, now: float, *, patience_seconds: float
    ) -> float:
        """Estimate as `estimate` does, for a better level: the older the knowledge, the lower.

        Args:
            index: Of the level.
            interval_seconds: From one input frame to the next.
            now: Monotonic seconds.
            patience_seconds: In which what made a try fail comes to count half; what is usual
                does so in 15 times as long, what was only measured beforehand in 4 times.
        """
        cost = self.steady()
        memory = self._memory[self._nearest(index, cost)[0]]
        usual = self.estimate(index, interval_seconds, cost)
        lasting = _REHEARSED if memory.is_rehearsed else _LASTING
        usual *= 0.5 ** ((now - memory.usual_at) / (lasting * patience_seconds))
        own = self._memory[index]
        return max(usual, own.failed * 0.5 ** ((now - own.failed_at) / patience_seconds))

    def _correct(self, ratio: float) -> None:
        """Lower what was measured of other levels beforehand, as that of the one in force was."""
        for memory in self._memory:
            if memory.is_rehearsed and memory.usual is not None:
                memory.usual = memory.least = memory.usual * ratio

    def _nearest(self, index: int, cost: float | None) -> tuple[int, float]:
        """Find the level whose cost is known and whose work is the most alike; and that cost."""
        work = self._levels[index].work()
        known = {
            other: memory.usual
            for other, memory in enumerate(self._memory)
            if memory.usual is not None
        }
        if cost is not None:
            known.setdefault(self._index, cost)
        nearest = min(known, key=lambda other: abs(log(self._levels[other].work() / work)))
        return nearest, known[nearest]

    def _load(self, interval_seconds: float, cost: float | None) -> float:
        """Give what a frame costs now, as a multiple of what it usually costs."""
        usual = self._memory[self._index].usual
        if cost is None or usual is None:
            return 1.0
        return _ratio(cost, usual, interval_seconds)


def _ratio(cost: float, other: float, interval_seconds: float) -> float:
    floor = _FLOOR * interval_seconds
    return max(cost, floor) / max(other, floor)


def _robust_mean(costs: list[float]) -> float:
    """Average without the dearest one, which may be an accident, where enough remain."""
    if len(costs) >= SETTLED_FRAMES:
        costs = sorted(costs)[:-1]
    return sum(costs) / len(costs)

"""The schedule of segments, with simulated workers and a simulated clock.

    python bench/segments_schedule.py          prints a table; ends with 1 where a goal is missed

10,000 segments of log-normal durations on 64 workers, of which the slowest takes four times as long
as the fastest. One segment in a hundred ends its worker, which is back some seconds later.
"""

from __future__ import annotations

import heapq
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass

from upframe.daemon.convert.schedule import Schedule

FRAMES = 64
"""Of a segment."""
MEAN_SECONDS = 4.0
"""Of a segment, on the fastest worker."""
SIGMA = 0.5
"""Of the logarithm of durations."""
RESTART_SECONDS = 5.0


@dataclass(frozen=True)
class Simulated:
    """What came of a simulation; times in simulated seconds but for the scheduler's."""

    results: Counter[int]
    """By segment, how often its result was taken."""
    seconds: float
    tail_seconds: float
    """From when no segment was left to be begun."""
    busy: float
    """Share of the workers' time until then in which they worked."""
    useful: float
    """The same without work that was lost or done twice."""
    most_waiting: int
    """Results that waited for an earlier one, at most."""
    scheduler_seconds: float
    """Of this machine's processor."""
    num_lost: int
    """Workers that died."""
    num_twice: int
    """Results that came too late."""


class Simulation:
    """Runs a schedule on simulated workers."""

    def __init__(
        self,
        segments: int = 10_000,
        workers: int = 64,
        failures: float = 0.01,
        seed: int = 1,
        restart_seconds: float = RESTART_SECONDS,
    ) -> None:
        self._restart_seconds = restart_seconds
        self._chance = random.Random(seed)
        self._failures = failures
        self._schedule = Schedule(dict.fromkeys(range(segments), FRAMES))
        self._slowness = [self._chance.uniform(1, 4) for _ in range(workers)]
        self._events: list[tuple[float, int, int, int | None]] = []  # time, serial, worker, what
        self._units: dict[int, list[int]] = {}
        self._idle = set(range(workers))
        self._results = Counter[int]()
        self._begun: dict[int, float] = {}
        self._spans: list[tuple[float, float, bool]] = []  # begin, end, whether it was useful
        self._serial = self._most_waiting = self._num_lost = self._num_twice = 0
        self._first = 0
        self._spent = 0.0

    def __call__(self) -> Simulated:
        now, tail = 0.0, None
        while True:
            taken = self._ask(now)
            if tail is None and self._results and not taken and self._all_begun():
                tail = now
            if not self._schedule.left:
                break
            now, _, worker, number = heapq.heappop(self._events)
            self._happen(now, worker, number)
        tail = now if tail is None else tail
        useful = sum(max(0.0, min(b, tail) - a) for a, b, counts in self._spans if counts)
        # what was in flight at the end would have been killed
        worked = sum(max(0.0, min(b, tail) - a) for a, b, _ in self._spans)
        worked += sum(max(0.0, tail - began) for began in self._begun.values())
        whole = tail * len(self._slowness)
        return Simulated(
            self._results, now, now - tail, worked / whole, useful / whole, self._most_waiting,
            self._spent, self._num_lost, self._num_twice,
        )  # fmt: skip

    def _all_begun(self) -> bool:
        held = {number for unit in self._units.values() for number in unit}
        return len(held - self._results.keys()) == self._schedule.left

    def _ask(self, now: float) -> bool:
        taken = False
        for worker in sorted(self._idle):
            began = time.process_time()
            unit = self._schedule.take(worker, now)
            self._spent += time.process_time() - began
            if unit:
                taken = True
                self._idle.discard(worker)
                self._units[worker] = list(unit)
                self._begin(now, worker)
        return taken

    def _begin(self, now: float, worker: int) -> None:
        self._begun[worker] = now
        seconds = self._chance.lognormvariate(0, SIGMA) * MEAN_SECONDS * self._slowness[worker]
        if self._chance.random() < self._failures:
            self._push(now + seconds * self._chance.random(), worker, None)
        else:
            self._push(now + seconds, worker, self._units[worker][0])

    def _push(self, at: float, worker: int, what: int | None) -> None:
        self._serial += 1
        heapq.heappush(self._events, (at, self._serial, worker, what))

    def _happen(self, now: float, worker: int, number: int | None) -> None:
        if worker not in self._units:  # it is back
            self._idle.add(worker)
            return
        began = time.process_time()
        counts = number is not None and self._schedule.finish(worker, number, now)
        ended = self._schedule.lose(worker) if number is None else None
        self._spent += time.process_time() - began
        assert ended is None, f"segment {ended} ended too many workers"
        self._spans.append((self._begun.pop(worker), now, counts))
        if number is None:
            self._num_lost += 1
            del self._units[worker]
            self._push(now + self._restart_seconds, worker, None)
            return
        self._num_twice += not counts
        self._results.update([number] if counts else [])
        self._most_waiting = max(self._most_waiting, len(self._results) - self._joined())
        self._units[worker].pop(0)
        if self._units[worker]:
            self._begin(now, worker)
        else:
            del self._units[worker]
            self._idle.add(worker)

    def _joined(self) -> int:
        while self._results[self._first]:
            self._first += 1
        del self._results[self._first]  # looking has added it
        return self._first


def rows(made: Simulated, segments: int = 10_000) -> list[tuple[str, str, bool]]:
    """Return what was wanted, what was seen, and whether the goal is reached."""
    once = len(made.results) == segments and set(made.results.values()) == {1}
    share = made.scheduler_seconds / made.seconds
    return [
        (f"{segments:,} segments, each taken once", f"{sum(made.results.values()):,}", once),
        ("scheduler <= 1 % of the time", f"{share:.3%}", share <= 0.01),
        ("workers >= 95 % busy until the tail", f"{made.busy:.1%}", made.busy >= 0.95),
    ]


def main() -> int:
    made = Simulation()()
    for wanted, seen, reached in rows(made):
        print(f"{wanted:44} {seen:>10}{'' if reached else '  MISSED'}")
    print(
        f"{made.seconds:.0f} s simulated, of which the tail {made.tail_seconds:.0f} s; "
        f"{made.num_lost} workers died, {made.num_twice} segments were made twice, "
        f"useful {made.useful:.1%}, at most {made.most_waiting} results waited; "
        f"scheduler {made.scheduler_seconds:.2f} s"
    )
    return int(not all(reached for *_, reached in rows(made)))


if __name__ == "__main__":
    sys.exit(main())

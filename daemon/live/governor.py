"""The governor: it chooses the best level that the machine sustains, by what frames really cost."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, log

from .levels import Level, meaning

# The cost of a frame at each level: measured at the one in force, remembered for the others.
#
# A cost is in seconds of the whole machine: of several frames that are computed at the same time,
# each has its share, so that costs compare with the interval between frames.

SETTLED_FRAMES = 3
"""Costs that a decision needs, unless there is no time for that."""
_RECENT_SECONDS = 0.5
_DRIFT = 0.02
"""Share of the difference by which each frame moves the usual cost of the level in force."""
_FLOOR = 0.05
"""Of the interval: costs below it do not show the load, their differences are noise."""
_LASTING, _REHEARSED = 15, 4
"""Half-lives of usual and of rehearsed costs, in multiples of the patience."""
_KEPT_CHANGES = 100


@dataclass(slots=True)
class _Memory:
    """What is known of one level."""

    usual: float | None = None
    """Seconds a frame, in usual load; None if it was never measured."""
    usual_at: float = -inf
    least: float = inf
    """The lowest value of `usual` so far."""
    is_rehearsed: bool = False
    """Whether it was only measured before the start, concurrently with unknown other work."""
    failed: float = 0.0
    """Seconds a frame at the last try that failed."""
    failed_at: float = -inf


class Costs:
    """Keeps the latest costs at the level in force, and what is known of the others.

    Load is assumed to affect all levels alike: if the level in force takes half of its usual cost,
    so would the others. And if it takes less than before the start, so would those that were only
    measured then: other streams and programs may have been starting. `steady` averages those of
    `span_seconds`. Times are in monotonic seconds; `interval_seconds` is from one input frame to
    the next by the nominal rate, also if every second one is skipped.
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
        """Number of costs kept for the level in force."""
        return len(self._latest)

    def expect(self, costs: Mapping[str, float], now: float) -> None:
        """Accept costs that were measured before the start, by the level's name."""
        for level, memory in zip(self._levels, self._memory, strict=True):
            if level.name in costs:
                memory.usual = memory.least = costs[level.name]
                memory.usual_at, memory.is_rehearsed = now, True

    def enter(self, index: int) -> None:
        """Change to another level."""
        self._index = index
        self._latest.clear()
        self._begun = None

    def add(self, now: float, seconds: float) -> None:
        """Add the cost of one frame at the level in force."""
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
        """Return whether `steady` averages as much as it should."""
        old = self._begun is not None and now - self._begun >= self._span
        return old and self.num_frames >= SETTLED_FRAMES

    def recent(self, now: float) -> float:
        """Return the seconds a frame in the last half second, without its most expensive frame."""
        latest = [seconds for _, seconds in self._latest]
        count = sum(at >= now - _RECENT_SECONDS for at, _ in self._latest)
        return _robust_mean(latest[-max(count, SETTLED_FRAMES) :])

    def steady(self) -> float:
        """Return the seconds a frame over the whole span, without its most expensive frame."""
        return _robust_mean([seconds for _, seconds in self._latest])

    def remember(self, now: float, interval_seconds: float) -> None:
        """Let the usual cost of the level in force follow its steady cost."""
        memory, steady = self._memory[self._index], self.steady()
        before = steady if memory.usual is None else memory.usual
        memory.usual, memory.usual_at = before + _DRIFT * (steady - before), now
        memory.is_rehearsed = False
        if memory.usual < memory.least:
            if memory.least < inf:
                # so are those of other levels that were only measured before the start
                ratio = _ratio(memory.usual, memory.least, interval_seconds)
                for other in self._memory:
                    if other.is_rehearsed and other.usual is not None:
                        other.usual = other.least = other.usual * ratio
            memory.least = memory.usual

    def leave(self, now: float, *, in_vain: bool) -> None:
        """Remember the cost of the level in force, which is given up; `in_vain`: a failed try."""
        memory, cost = self._memory[self._index], self.recent(now)
        if memory.usual is None:
            memory.usual = cost
        if in_vain:
            memory.failed, memory.failed_at = cost, now
        memory.usual_at = now

    def estimate(self, index: int, interval_seconds: float, cost: float | None = None) -> float:
        """Estimate the seconds of a frame at a level, by the cost at the one in force if known."""
        known, usual = self._nearest(index, cost)
        guess = usual * self._levels[index].work() / self._levels[known].work()
        if cost is None or (before := self._memory[self._index].usual) is None:
            return guess
        return guess * _ratio(cost, before, interval_seconds)

    def hope(
        self, index: int, interval_seconds: float, now: float, *, patience_seconds: float
    ) -> float:
        """Estimate like `estimate`, for a better level, and lower the older the knowledge is.

        `patience_seconds` is the half-life of the cost of a failed try; that of a usual cost is 15
        times as long, that of one measured before the start 4 times.
        """
        cost = self.steady()
        memory = self._memory[self._nearest(index, cost)[0]]
        usual = self.estimate(index, interval_seconds, cost)
        lasting = _REHEARSED if memory.is_rehearsed else _LASTING
        usual *= 0.5 ** ((now - memory.usual_at) / (lasting * patience_seconds))
        own = self._memory[index]
        return max(usual, own.failed * 0.5 ** ((now - own.failed_at) / patience_seconds))

    def _nearest(self, index: int, cost: float | None) -> tuple[int, float]:
        """Return the level of known cost whose work is the most similar, and its cost."""
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


def _ratio(cost: float, other: float, interval_seconds: float) -> float:
    floor = _FLOOR * interval_seconds
    return max(cost, floor) / max(other, floor)


def _robust_mean(costs: list[float]) -> float:
    """Average without the highest one, which may be an accident, if enough remain."""
    if len(costs) >= SETTLED_FRAMES:
        costs = sorted(costs)[:-1]
    return sum(costs) / len(costs)


OVERLOADED = 0.97
"""Share of the interval: a level that takes more over a longer time is given up once frames wait. A
machine on which none waits keeps up, however near it is to its limit."""
_FAR_OVERLOADED = 1.25
"""A level that takes more is given up as soon as frames wait: a start may be slow for a moment."""
_CALM_SECONDS = 8.0
"""After the start or a silence: connecting, probing and the encoder's start slow the first frames,
which then wait. A level that takes a little too much is given up only if they wait for longer."""
_SILENCE_SECONDS, _SILENCE_INTERVALS = 1.0, 4.0
"""Without work, the longer of the two: frames after it are like those after the start."""
_FAR_AT_START = 2.0
"""A level that takes more is given up at once even then."""
_FITS = 0.85
"""A level is resumed only if it takes less, by estimate."""
_ENOUGH = 0.8
"""The level that replaces another must take less, by estimate."""
_HOPELESS = 1.5
"""A level that took more before the start is not begun with."""
_BUSY = 0.6
"""Below it, frames wait for another reason than the work."""

# Shares of the latency budget. Frames that wait for 0.4 of it are lost.
_LONG_WAIT = 0.2
_WAIT_GROWS = 0.05
_SHORT_WAIT = 0.1
_LONG_TRY = 0.25

_STEADY_SECONDS = 2.0
_DROPS_GO_ON_SECONDS = 2.0
_DROPS_KEPT_SECONDS = 5.0
_LEAST_QUIET_SECONDS, _MOST_QUIET_SECONDS = 5.0, 300.0
_TRY_SECONDS = 60.0
"""A level that is given up again within it was tried in vain."""
_PATIENCE = 12
"""Half-life of a failed try, in quiet times."""
_WARY = 4
"""Times as much patience if a single frame of a failed try may cost others."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the level."""

    at: float
    """Monotonic seconds."""
    name: str
    """Of the new level."""
    reason: str
    """For people."""


_WINDOW_SECONDS, _JUDGED_SECONDS = 60.0, 20.0
_MOSTLY = 0.9


class Fulfilment:
    """Measures which share of the frames is what was asked for. It reads no clock."""

    def __init__(self) -> None:
        self._seen = deque[tuple[float, int, int]]()

    def share(self, now: float, as_asked: int, total: int) -> float | None:
        """Note the frames by now; return the share in the last minute, None if it is too early."""
        self._seen.append((now, as_asked, total))
        while self._seen[0][0] < now - _WINDOW_SECONDS:
            self._seen.popleft()
        begun, as_asked_before, total_before = self._seen[0]
        if now - begun < _JUDGED_SECONDS or total == total_before:
            return None
        return (as_asked - as_asked_before) / (total - total_before)


def shortfall(share: float | None, level: str, when: str) -> str:
    """Say that too few frames `when` are as asked for, and which level fits; empty if enough."""
    if share is None or share >= _MOSTLY:
        return ""
    text = f"this machine is too slow: {100 * share:.0f} % of the frames {when} are as asked for"
    if level == "full":
        return f"{text}; to do less, give a smaller upscaling_scale or frame_interpolation_exp"
    return f"{text}; what fits is level {level}: {meaning(level)}"


class Governor:
    """Chooses the level of a live stream. It reads no clock: callers pass the time.

    It gives up a level that costs too much as soon as frames wait, before any is lost: at once if
    frames take far longer than the interval between them, within two seconds (or the latency
    budget) if a little longer, and if the wait grows. In the first seconds after the start or a
    silence only the wait counts, unless frames take twice the interval. It may skip several levels
    by estimate. It resumes a level that has fitted well, by estimate, for a quiet time, which
    doubles with each failed try. The first of `levels`, which are from `parse_levels`, is in force.
    Times and intervals are those of `Costs`.
    """

    def __init__(self, levels: Sequence[Level], *, latency_seconds: float) -> None:
        self._levels = tuple(levels)
        self._latency = latency_seconds
        self._index = 0
        self.changes = 0
        """Number of changes of the level."""
        self.history: deque[Change] = deque(maxlen=_KEPT_CHANGES)
        """The latest changes, the oldest first."""
        self._span = min(_STEADY_SECONDS, latency_seconds)
        self._costs = Costs(levels, self._span)
        self._waits: deque[tuple[float, float]] = deque()
        self._drops: deque[float] = deque(maxlen=1000)
        self._fits_since = [inf] * len(self._levels)
        self._quiet = _LEAST_QUIET_SECONDS
        self._raised_at = -inf
        self._computed_at = self._calm_until = -inf

    @property
    def level(self) -> Level:
        """The one in force."""
        return self._levels[self._index]

    def expect(self, costs: Mapping[str, float], *, now: float, interval_seconds: float) -> Level:
        """Accept seconds a frame by `LiveCompute.warm_up`, and return the level to begin with."""
        self._costs.expect(costs, now)
        for index, level in enumerate(self._levels if costs else ()):
            cost = self._costs.estimate(index, interval_seconds)
            if cost <= _HOPELESS * interval_seconds * level.stride or level is self._levels[-1]:
                if index:
                    self._enter(index, now, f"before the start, {self.level.name} took too long")
                break
        return self.level

    def computed(
        self, now: float, *, busy_seconds: float, interval_seconds: float, waiting_seconds: float
    ) -> Level | None:
        """Report a frame that was computed, and return the level to change to, if any.

        Args:
            now: monotonic seconds.
            busy_seconds: that the frame took, without waiting for other threads; its share, if
                several were computed at the same time. Skipped frames are not reported.
            interval_seconds: from one input frame to the next by the nominal rate, also if every
                second one is skipped.
            waiting_seconds: age of the oldest frame that waits for work; 0 if none does.
        """
        # the calm time begins with the first frame, or the first after a silence
        silence = max(_SILENCE_SECONDS, _SILENCE_INTERVALS * interval_seconds * self.level.stride)
        if now - busy_seconds - self._computed_at > silence:
            self._calm_until = now + _CALM_SECONDS
        self._computed_at = now
        self._costs.add(now, busy_seconds)
        self._waits.append((now, waiting_seconds))
        while self._waits[0][0] < now - self._span:
            self._waits.popleft()
        before = self._index
        if reason := self._why_give_up(now, interval_seconds, waiting_seconds):
            self._give_up(now, interval_seconds, reason)
        else:
            self._resume(now, interval_seconds, waiting_seconds)
        return None if self._index == before else self.level

    def dropped(self, now: float) -> None:
        """Report a frame that was dropped because it had waited for too long."""
        self._drops.append(now)

    def _why_give_up(self, now: float, interval: float, waiting: float) -> str | None:
        costs, available = self._costs, interval * self.level.stride
        urgent, waits = waiting > _LONG_WAIT * self._latency, waiting > _SHORT_WAIT * self._latency
        is_calm = now < self._calm_until
        if costs.num_frames < (1 if urgent else SETTLED_FRAMES):
            return None
        share = costs.recent(now) / available
        if share > (_FAR_AT_START if is_calm else _FAR_OVERLOADED) and waits:
            return f"frames take {share:.2f} of the time there is"
        if costs.num_frames < SETTLED_FRAMES:
            return None
        growth = self._waits[-1][1] - self._waits[0][1]
        if urgent and share > _BUSY and growth > _WAIT_GROWS * self._latency:
            return f"frames wait for {waiting:.2f} s"
        if self._loses_frames(now, share):
            return f"{len(self._drops)} frames were lost"
        share = costs.steady() / available
        if share > OVERLOADED and waits and not is_calm and costs.is_steady(now):
            return f"frames take {share:.2f} of the time there is"
        return None

    def _loses_frames(self, now: float, share: float) -> bool:
        while self._drops and self._drops[0] < now - _DROPS_KEPT_SECONDS:
            self._drops.popleft()
        if not self._drops:
            return False
        # a late burst is lost once; if frames are still lost later, the load is too high
        return share > _BUSY or self._drops[-1] - self._drops[0] > _DROPS_GO_ON_SECONDS

    def _give_up(self, now: float, interval: float, reason: str) -> None:
        if self._index == len(self._levels) - 1:
            return
        in_vain = now - self._raised_at < _TRY_SECONDS
        quiet = self._quiet * (2 if in_vain else 0.5)
        self._quiet = min(max(quiet, _LEAST_QUIET_SECONDS), _MOST_QUIET_SECONDS)
        self._costs.leave(now, in_vain=in_vain)
        cost = self._costs.recent(now)
        for index in range(self._index + 1, len(self._levels)):
            available = interval * self._levels[index].stride
            if self._costs.estimate(index, interval, cost) <= _ENOUGH * available:
                break
        else:
            index = len(self._levels) - 1
        self._enter(index, now, reason)

    def _resume(self, now: float, interval: float, waiting: float) -> None:
        costs = self._costs
        if not costs.is_steady(now):
            return
        costs.remember(now, interval)
        calm = waiting <= _SHORT_WAIT * self._latency and not self._drops
        for index in range(self._index):
            if not (calm and self._fits(index, now, interval)):
                self._fits_since[index] = inf
                continue
            self._fits_since[index] = min(self._fits_since[index], now)
            if now - self._fits_since[index] >= self._quiet:
                self._raised_at = now
                self._enter(index, now, f"{self._levels[index].name} fits again")
                return

    def _fits(self, index: int, now: float, interval: float) -> bool:
        fitting = _FITS * interval * self._levels[index].stride
        cost = self._costs.estimate(index, interval, self._costs.steady())
        patience = _PATIENCE * self._quiet
        if cost > max(fitting, _LONG_TRY * self._latency):
            patience *= _WARY
        return self._costs.hope(index, interval, now, patience_seconds=patience) <= fitting

    def _enter(self, index: int, now: float, reason: str) -> None:
        self._index = index
        self._costs.enter(index)
        self._waits.clear()
        self._drops.clear()
        self._fits_since = [inf] * len(self._levels)
        self.changes += 1
        self.history.append(Change(now, self.level.name, reason))

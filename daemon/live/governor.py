"""The governor: from the time that frames really take to the level that the machine can keep up."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, log

from .levels import Level

# What a frame costs at each level: measured at the one in force, remembered of the others.

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


OVERLOADED = 0.97
"""Share of the time there is for a frame: what takes more over a longer time is given up, once
frames wait. A full machine on which none does keeps up, however near it is to its limit."""
_FAR_OVERLOADED = 1.25
"""What takes more is given up as soon as frames wait for it: a start may be slow for a moment."""
_CALM_SECONDS = 8.0
"""After the start, or a silence: connecting, probing and the encoder's start take time from the
first frames, which then wait. What is only a little too much must let them wait for longer."""
_SILENCE_SECONDS, _SILENCE_INTERVALS = 1.0, 4.0
"""Without work, the longer of the two: whatever comes then begins anew."""
_FAR_AT_START = 2.0
"""What takes more is given up at once even then."""
_FITS = 0.85
"""What is to be taken up again must take less."""
_ENOUGH = 0.8
"""What something is given up for must take less, by estimate."""
_HOPELESS = 1.5
"""What takes more before the stream begins is not begun with."""
_BUSY = 0.6
"""Below it, frames that wait do so for another reason than the work."""

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
"""What is given up again within it was tried in vain."""
_PATIENCE = 12
"""Quiet times in which a failed try comes to count half."""
_WARY = 4
"""Times as much patience, where a single frame may cost frames if the try is in vain."""
_KEPT_CHANGES = 100


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the level."""

    at: float
    """Monotonic seconds."""
    name: str
    """Of the new level."""
    reason: str
    """For people."""


class Governor:
    """Chooses the level of a live stream. It knows no clock: times are told.

    It gives up what costs too much before frames are lost, as soon as frames wait: at once where
    they take far longer than there is time for, within two seconds (or the latency budget) where
    a little longer, and where the wait grows. In the first seconds after the start or a silence
    only the wait counts, unless frames take twice the time there is. By estimate it goes several
    levels at once. It takes up again what has fitted well, by estimate, for a quiet time, which
    doubles with each try in vain.

    Args:
        levels: From `parse_levels`; the first is in force.
        latency_seconds: The stream's budget.
    """

    def __init__(self, levels: Sequence[Level], *, latency_seconds: float) -> None:
        self._levels = tuple(levels)
        self._latency = latency_seconds
        self._index = 0
        self.changes = 0
        """How often the level has changed."""
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

    @property
    def index(self) -> int:
        """Of the level in force: 0 where nothing is given up."""
        return self._index

    def expect(self, costs: Mapping[str, float], *, now: float, interval_seconds: float) -> Level:
        """Take what `LiveCompute.warm_up` has measured, and choose the level to begin with.

        Args:
            costs: Seconds that a frame takes, by the level's name.
            now: Monotonic seconds.
            interval_seconds: From one input frame to the next.
        """
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
        """Take note of a frame that was worked on; to be called after each of them.

        Args:
            now: Monotonic seconds.
            busy_seconds: How long the work on it took, without waiting for anybody. Frames that
                were skipped (`LiveCompute.skips`) are not told.
            interval_seconds: From one input frame to the next, by the nominal rate, also where
                every second one is skipped.
            waiting_seconds: Age of the oldest frame that waits for work; 0 where none does.

        Returns:
            The level to work at from now on; None: the same as before.
        """
        self._begin_anew(now, busy_seconds, interval_seconds)
        self._costs.add(now, busy_seconds)
        self._waits.append((now, waiting_seconds))
        while self._waits[0][0] < now - self._span:
            self._waits.popleft()
        before = self._index
        if reason := self._why_give_up(now, interval_seconds, waiting_seconds):
            self._give_up(now, interval_seconds, reason)
        else:
            self._take_up(now, interval_seconds, waiting_seconds)
        return None if self._index == before else self.level

    def dropped(self, now: float) -> None:
        """Take note of a frame that was lost because it had waited for too long."""
        self._drops.append(now)

    def _begin_anew(self, now: float, busy: float, interval: float) -> None:
        """See whether this frame is the first one, or the first after a silence."""
        silence = max(_SILENCE_SECONDS, _SILENCE_INTERVALS * interval * self.level.stride)
        if now - busy - self._computed_at > silence:
            self._calm_until = now + _CALM_SECONDS
        self._computed_at = now

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
        if urgent and share > _BUSY and self._wait_grows():
            return f"frames wait for {waiting:.2f} s"
        if self._loses_frames(now, share):
            return f"{len(self._drops)} frames were lost"
        share = costs.steady() / available
        if share > OVERLOADED and waits and not is_calm and costs.is_steady(now):
            return f"frames take {share:.2f} of the time there is"
        return None

    def _wait_grows(self) -> bool:
        return self._waits[-1][1] - self._waits[0][1] > _WAIT_GROWS * self._latency

    def _loses_frames(self, now: float, share: float) -> bool:
        while self._drops and self._drops[0] < now - _DROPS_KEPT_SECONDS:
            self._drops.popleft()
        if not self._drops:
            return False
        # a burst that came late is lost once; what goes on is too much, wherever the time goes
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

    def _take_up(self, now: float, interval: float, waiting: float) -> None:
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
        """Tell whether a better level may be tried."""
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

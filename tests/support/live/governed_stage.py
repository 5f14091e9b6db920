"""A simulated compute stage for the governor: frames arrive, wait, are lost or worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from upframe.daemon.live.governor import Governor
from upframe.daemon.live.levels import Level
from upframe.filters.options import FilterOptions

LATENCY = 2.0
RATE = 15.0
FULL = FilterOptions.model_validate(
    {"enable_frame_interpolation": True, "enable_upscaling": True, "upscaling_scale": 2}
)
DEEP = FilterOptions.model_validate(
    {
        "enable_frame_interpolation": True,
        "frame_interpolation_exp": 3,
        "enable_upscaling": True,
        "upscaling_scale": 2,
    }
)

Cost = Callable[[Level, float], float]
"""Seconds that a frame takes at a level, at a time."""


def share_of_full(level: Level) -> float:
    """What a frame costs, as measured at 320x180 with exp 1: not as the governor guesses it."""
    if level.exp == 0 and level.upscale != "network":
        return 0.004
    inserting, enlarging = 2**level.exp - 1, 2**level.exp
    return (0.3 * inserting + 0.35 * enlarging) if level.upscale == "network" else 0.3 * inserting


@dataclass
class Stage:
    """A compute stage that takes the oldest frame that is not too old, one after the other."""

    governor: Governor
    cost: Cost
    rate: float = RATE
    latency: float = LATENCY
    silent: Callable[[float], bool] = lambda _: False
    """Whether no frame comes at a time."""
    now: float = 0.0
    num_arrived: int = 0
    lost: list[float] = field(default_factory=list[float])
    delays: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    levels: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    waiting: deque[float] = field(default_factory=deque[float])
    skip_next: bool = False

    def run(self, until: float) -> Stage:
        while self.now < until:
            self._arrive()
            self._lose()
            if not self.waiting:
                self.now = self.num_arrived / self.rate
                continue
            arrived = self.waiting.popleft()
            if self.governor.level.half_rate and self.skip_next:
                self.skip_next = False
                continue
            self.skip_next = True
            self._work(arrived)
        return self

    def changes(self, since: float = 0.0) -> int:
        return sum(change.at >= since for change in self.governor.history)

    def _work(self, arrived: float) -> None:
        busy = self.cost(self.governor.level, self.now)
        self.now += busy
        self.delays.append((self.now, self.now - arrived))
        self._arrive()
        level = self.governor.computed(
            self.now,
            busy_seconds=busy,
            interval_seconds=1 / self.rate,
            waiting_seconds=self.now - self.waiting[0] if self.waiting else 0.0,
        )
        if level is not None:
            self.levels.append((self.now, level.name))

    def _arrive(self) -> None:
        while self.num_arrived / self.rate <= self.now:
            if not self.silent(self.num_arrived / self.rate):
                self.waiting.append(self.num_arrived / self.rate)
            self.num_arrived += 1

    def _lose(self) -> None:
        while len(self.waiting) > 1 and self.now - self.waiting[0] > 0.4 * self.latency:
            self.waiting.popleft()
            self.lost.append(self.now)
            self.governor.dropped(self.now)

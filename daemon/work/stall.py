"""How long a worker has stood still, and when that means that it hangs."""

from __future__ import annotations

from collections.abc import Mapping

from .messages import Event, Progressed, Stage, StageBegun


class Stall:
    """The time without progress, held against what the stage may take.

    Args:
        budgets: seconds that each stage may go without progress.

    Time is told to it rather than taken from a clock, so that a daemon that was stopped itself, or
    a machine that slept, does not take its workers for hung.
    """

    def __init__(self, budgets: Mapping[Stage, float]) -> None:
        self._budgets = budgets
        self._frames = (0, 0)
        self.stage: Stage = "loading"
        self.still_seconds = 0.0
        """Since the last progress."""

    def note(self, event: Event) -> None:
        """Take an event for progress, if it is some: another stage, more frames."""
        if isinstance(event, StageBegun):
            self.stage = event.stage
            self.still_seconds = 0.0
        elif isinstance(event, Progressed):
            frames = (event.frames_in, event.frames_out)
            if frames != self._frames:
                self._frames = frames
                self.still_seconds = 0.0

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.still_seconds += seconds

    @property
    def budget_seconds(self) -> float:
        """What the stage may take."""
        return self._budgets[self.stage]

    @property
    def left_seconds(self) -> float:
        """Until it counts as hung; 0 from then on."""
        return max(0.0, self.budget_seconds - self.still_seconds)

    def __str__(self) -> str:
        return (
            f"no progress in {self.stage} for {self.still_seconds:.0f} s, "
            f"wanted some within {self.budget_seconds:g} s"
        )

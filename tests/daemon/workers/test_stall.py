"""When a worker counts as hung."""

from __future__ import annotations

from upframe.daemon.workers.messages import Logged, Progressed, StageBegun
from upframe.daemon.workers.process import Stall

BUDGETS = {"loading": 10.0, "streaming": 5.0, "publishing": 20.0}


def progressed(frames_in: int, frames_out: int) -> Progressed:
    return Progressed(
        frames_in=frames_in, frames_out=frames_out, total=None, fps=0, eta_seconds=None
    )


def test_frames_and_stages_are_progress() -> None:
    stall = Stall(BUDGETS)
    stall.wait(9)
    stall.note(StageBegun(stage="streaming"))
    assert (stall.still_seconds, stall.left_seconds) == (0, 5)
    for event in (progressed(1, 0), progressed(1, 1)):
        stall.wait(4)
        stall.note(event)
        assert stall.still_seconds == 0


def test_what_repeats_itself_is_no_progress() -> None:
    stall = Stall(BUDGETS)
    stall.note(progressed(3, 2))
    stall.wait(4)
    stall.note(progressed(3, 2))
    stall.note(Logged(level=20, logger="upframe", message="still here"))
    stall.wait(7)
    assert stall.left_seconds == 0
    assert str(stall) == "no progress in loading for 11 s, wanted some within 10 s"

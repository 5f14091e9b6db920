"""When a worker counts as hung."""

from __future__ import annotations

from upframe.daemon.specification import Stage
from upframe.daemon.workers.messages import Logged, Progressed
from upframe.daemon.workers.process import Stall

BUDGETS = {"loading": 10.0, "streaming": 5.0, "publishing": 20.0}


def progressed(frames_in: int, frames_out: int, stage: Stage = "streaming") -> Progressed:
    return Progressed(stage=stage, frames_in=frames_in, frames_out=frames_out)


def test_frames_and_stages_are_progress() -> None:
    stall = Stall(BUDGETS)
    stall.wait(9)
    stall.note(Progressed(stage="streaming"))
    assert (stall.still_seconds, stall.left_seconds) == (0, 5)
    for event in (progressed(1, 0), progressed(1, 1)):
        stall.wait(4)
        stall.note(event)
        assert stall.still_seconds == 0


def test_what_repeats_itself_is_no_progress() -> None:
    stall = Stall(BUDGETS)
    stall.note(progressed(3, 2, "loading"))
    stall.wait(4)
    stall.note(progressed(3, 2, "loading"))
    stall.note(Logged(level=20, logger="upframe", message="still here"))
    stall.wait(7)
    assert stall.left_seconds == 0
    assert str(stall) == "no progress in loading for 11 s, wanted some within 10 s"


def test_a_job_that_waits_for_a_cluster_does_not_hang() -> None:
    stall = Stall(BUDGETS)
    stall.note(progressed(3, 2))
    stall.wait(4)
    stall.note(progressed(3, 2).model_copy(update={"waits": True}))
    assert stall.still_seconds == 0

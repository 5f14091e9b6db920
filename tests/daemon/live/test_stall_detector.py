"""Work stands still where frames come in and no new picture goes out; waiting is none of that."""

from __future__ import annotations

from upframe.daemon.live.status import LiveStatus, StallDetector
from upframe.io.live.values import InputState


def at(decoded: int, new: int, repeated: int = 0, state: InputState = "running") -> LiveStatus:
    counts = {"frames_decoded": decoded, "frames_encoded": new + repeated}
    return LiveStatus("gate", state=state, counts=counts | {"frames_repeated": repeated})


def seconds(*statuses: LiveStatus) -> list[float]:
    """One status a second."""
    work = StallDetector()
    return [work.seconds(status, float(second)) for second, status in enumerate(statuses)]


def test_while_pictures_go_out_nothing_stands_still() -> None:
    assert seconds(*(at(15 * n, 30 * n) for n in range(5))) == [0.0] * 5


def test_repeats_alone_are_no_work() -> None:
    assert seconds(*(at(15 * n, 30, 30 * n) for n in range(1, 5))) == [0.0, 1.0, 2.0, 3.0]


def test_a_new_picture_ends_it() -> None:
    assert seconds(at(15, 30), at(30, 30), at(45, 31), at(60, 31)) == [0.0, 1.0, 0.0, 1.0]


def test_without_frames_there_is_nothing_to_do() -> None:
    assert seconds(*(at(15, 30, 30 * n) for n in range(4))) == [0.0] * 4


def test_without_input_there_is_nothing_to_do() -> None:
    lost = (at(15 * n, 30, 30 * n, "reconnecting") for n in range(4))
    assert seconds(*lost) == [0.0] * 4


def test_before_the_first_picture_it_is_only_loading() -> None:
    work = StallDetector()
    for second in range(5):
        assert not work.began
        assert work.seconds(at(15 * second, 0), float(second)) == second
    work.seconds(at(90, 1), 6.0)
    assert work.began

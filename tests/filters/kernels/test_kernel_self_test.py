"""Fast ways that prove themselves."""

from collections.abc import Callable, Iterator

import pytest
import torch

from upframe.filters.kernels.cuda import (
    KernelSelfTest,
    Slower,
    disagrees,
    mismatch,
    slower,
    warn_once,
)


def test_a_trial_is_made_once() -> None:
    trials: list[int] = []
    self_test = KernelSelfTest("this is done")

    def trial() -> None:
        trials.append(1)

    assert self_test.passed(trial)
    assert self_test.passed(trial)
    assert trials == [1]


def test_what_fails_is_left_alone_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def trial() -> str | None:
        raise ModuleNotFoundError("No module named 'triton'")

    for _ in range(2):  # as two streams of one process
        self_test = KernelSelfTest("a certain thing is done plainly")
        assert not self_test.passed(trial)
        assert not self_test.passed(trial)
    (record,) = caplog.records
    assert record.message == (
        "a certain thing is done plainly: ModuleNotFoundError: No module named 'triton'"
    )


def test_a_lack_of_memory_decides_nothing() -> None:
    def trial() -> str | None:
        raise torch.OutOfMemoryError("tried to allocate 1 GiB")

    self_test = KernelSelfTest("another thing is done")
    with pytest.raises(torch.OutOfMemoryError):
        self_test.passed(trial)
    assert self_test.passed(lambda: None)


def test_rounding_as_large_as_the_plain_ways_is_no_fault() -> None:
    exact = torch.rand(64, 64)
    plain, fast = (exact + 1e-3 * torch.randn(64, 64) for _ in range(2))
    assert mismatch(fast, plain, exact) is None
    assert mismatch(exact, exact, exact) is None


def test_more_than_rounding_is_a_fault() -> None:
    exact = torch.rand(64, 64)
    plain = exact + 1e-3 * torch.randn(64, 64)
    assert "disagrees" in (mismatch(exact + 0.01, plain, exact) or "")
    assert "disagrees" in (mismatch(exact * float("nan"), plain, exact) or "")
    assert "wanted (64, 64)" in (mismatch(exact[:32], plain, exact) or "")


def test_a_text_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    warn_once("a text of this test alone")
    warn_once("a text of this test alone")
    assert len(caplog.records) == 1


class Trials:
    """Trials of which each ends as it is told; the last one's end is that of all after it."""

    def __init__(self, *ends: str | Exception | None) -> None:
        self.ends = ends
        self.count = 0

    def __call__(self) -> str | None:
        end = self.ends[min(self.count, len(self.ends) - 1)]
        self.count += 1
        if isinstance(end, Exception):
            raise end
        return end


def test_kernels_that_were_slower_are_timed_again_ever_more_seldom() -> None:
    self_test, trials = KernelSelfTest("a slow thing is done"), Trials(Slower("slower"))
    counts = []
    for _ in range(12_000):
        assert not self_test.passed(trials)
        counts.append(trials.count)
    assert [counts.count(count) for count in (1, 2)] == [1000, 10_000]


def test_kernels_that_a_neighbour_had_slowed_down_are_used_from_the_next_trial_on() -> None:
    self_test = KernelSelfTest("a thing is done beside others")
    trials = Trials(Slower("slower"), None)
    assert [self_test.passed(trials) for _ in range(1002)] == [False] * 1000 + [True] * 2
    assert trials.count == 2


def test_a_later_trial_for_which_there_is_no_memory_fails_no_frame() -> None:
    self_test = KernelSelfTest("a large thing is done")
    trials = Trials(Slower("slower"), torch.OutOfMemoryError("tried to allocate"), None)
    passed = [self_test.passed(trials) for _ in range(11_002)]
    assert passed[:11_000] == [False] * 11_000
    assert passed[11_000:] == [True] * 2


def test_kernels_that_were_wrong_are_not_tried_again() -> None:
    self_test, trials = KernelSelfTest("a wrong thing is done"), Trials("disagrees")
    assert not any(self_test.passed(trials) for _ in range(2000))
    assert trials.count == 1


def clock(fast: list[float], plain: list[float]) -> Callable[[Callable[[], object]], float]:
    readings: Iterator[float] = iter([ms for pair in zip(fast, plain, strict=True) for ms in pair])
    return lambda work: next(readings)


def test_the_best_of_several_readings_in_turn_decides() -> None:
    fast, plain = [9.0, 8.0, 1.0, 9.0, 9.0], [2.0, 2.0, 8.0, 9.0, 2.0]
    assert slower(int, int, clock(fast, plain)) is None
    reason = slower(int, int, clock(plain, fast))
    assert isinstance(reason, Slower)
    assert reason == "the kernels take 2.00 ms, plain torch 1.00 ms"


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_two_ways_agree_by_a_share_of_what_they_give(scale: float) -> None:
    """Flow is given in pixels: what is rounding at 100 is none at 1."""
    wanted = scale * torch.rand(64, 64)
    assert disagrees(wanted.half(), wanted) is None
    assert "disagrees" in (disagrees(wanted * 1.01, wanted) or "")
    assert "disagrees" in (disagrees(wanted / 0, wanted) or "")
    assert "wanted (64, 64)" in (disagrees(wanted[:9], wanted) or "")


def test_a_black_frame_may_differ_by_noise() -> None:
    black, noise = torch.zeros(8, 8), torch.full((8, 8), 1e-4)
    assert disagrees(noise, black, 1e-3)
    assert disagrees(noise, black, 1e-3, noise=1e-6) is None

"""Fast ways that prove themselves."""

import pytest
import torch

from upframe.filters.kernels.cuda import KernelSelfTest, mismatch, warn_once


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

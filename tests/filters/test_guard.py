"""What is damage, and when a card is waited for to find out."""

from __future__ import annotations

import pytest
import torch
from support.kernels.card import Card, OnCard, card

from upframe.filters.guard import Verdict

__all__ = ["card"]

BRIGHT = torch.full((3, 4, 5), 0.5)
BLACK = torch.zeros(3, 4, 5)


def is_damaged(result: torch.Tensor, *sources: torch.Tensor) -> bool:
    return Verdict([result], *sources)()


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_no_number_is_damage(dtype: torch.dtype, value: float) -> None:
    result = torch.full((3, 8, 9), 0.5, dtype=dtype)
    result[1, 7, 3] = value
    assert is_damaged(result, BRIGHT)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_black_result_of_a_bright_frame_is_damage(dtype: torch.dtype) -> None:
    assert is_damaged(torch.zeros(3, 8, 9, dtype=dtype), BRIGHT)


def test_negative_values_are_black_too() -> None:
    assert is_damaged(torch.full((3, 8, 9), -0.25), BRIGHT)


def test_a_black_result_of_a_black_frame_is_right() -> None:
    assert not is_damaged(torch.zeros(3, 8, 9), BLACK)


def test_faint_noise_may_be_smoothed_to_black() -> None:
    assert not is_damaged(torch.zeros(3, 8, 9), torch.full((3, 4, 5), 4 / 255))


def test_between_a_black_and_a_bright_frame_black_is_right() -> None:
    assert not is_damaged(torch.zeros(3, 8, 9), BLACK, BRIGHT)


def test_black_between_two_bright_frames_is_damage() -> None:
    assert is_damaged(torch.zeros(3, 8, 9), BRIGHT, BRIGHT)


def test_one_bright_pixel_is_not_black() -> None:
    result = torch.zeros(3, 8, 9)
    result[0, 2, 2] = 1.0
    assert not is_damaged(result, BRIGHT)


def test_values_beyond_the_range_are_no_damage() -> None:
    assert not is_damaged(torch.tensor([-0.2, 1.3]), BRIGHT)


def test_channels_last_results_are_looked_at_whole() -> None:
    result = torch.full((1, 3, 8, 9), 0.5).to(memory_format=torch.channels_last)
    result[0, 2, 5, 6] = float("nan")
    assert is_damaged(result, BRIGHT)


def test_a_result_without_a_source_is_a_bug() -> None:
    with pytest.raises(ValueError, match="at least one source, got none"):
        is_damaged(BRIGHT)


@pytest.mark.filterwarnings("ignore")  # of memory that no card pins
@pytest.mark.parametrize(
    ("value", "source", "damaged"),
    [(0.5, BRIGHT, False), (float("nan"), BRIGHT, True), (0.0, BRIGHT, True), (0.0, BLACK, False)],
)
def test_a_card_is_waited_for_where_the_verdict_is_asked_for(
    card: Card, value: float, source: torch.Tensor, damaged: bool
) -> None:
    results = [torch.full((3, 4, 5), given).as_subclass(OnCard) for given in (0.5, value)]
    verdict = Verdict(results, source.as_subclass(OnCard))
    assert card.num_waits == 0
    results[1].fill_(0.5)  # as clamping does: what counts is how it was
    assert verdict() == damaged
    assert verdict.is_finite == (value == value)
    assert card.num_waits == 1


def test_one_damaged_result_of_several_is_damage() -> None:
    assert not Verdict([BRIGHT, BRIGHT], BRIGHT)()
    assert Verdict([BRIGHT, BLACK], BRIGHT)()
    assert Verdict([BRIGHT / 0, BRIGHT], BRIGHT)()

from __future__ import annotations

import statistics

import pytest
from support.scripts import script

rounds = script("rounds")


def test_everything_fits_where_there_is_time() -> None:
    choice = rounds.affordable({"a": 1.0, "b": 2.0}, rounds=7, budget_seconds=100)
    assert (choice.kept, choice.rounds, choice.too_long) == (("a", "b"), 7, ())


def test_there_are_fewer_rounds_where_time_is_short() -> None:
    assert rounds.affordable({"a": 1.0, "b": 2.0}, rounds=7, budget_seconds=16).rounds == 5


def test_the_costliest_goes_first_and_is_named() -> None:
    choice = rounds.affordable({"a": 1.0, "b": 9.0, "c": 2.0}, rounds=7, budget_seconds=12)
    assert (choice.kept, choice.rounds, choice.too_long) == (("a", "c"), 4, ("b",))


def test_warming_up_counts() -> None:
    assert rounds.affordable({"a": 1.0}, rounds=7, budget_seconds=9, extra_runs=4).rounds == 5
    assert rounds.affordable({"a": 1.0}, rounds=7, budget_seconds=6, extra_runs=4).too_long == (
        "a",
    )


def test_nothing_may_fit() -> None:
    choice = rounds.affordable({"a": 5.0}, rounds=7, budget_seconds=1)
    assert choice.kept == ()
    assert choice.rounds >= rounds.LEAST_ROUNDS


def test_one_round_may_be_all_that_is_wanted() -> None:
    assert rounds.affordable({"a": 5.0}, rounds=1, budget_seconds=6).kept == ("a",)


@pytest.mark.parametrize(("seconds", "runs"), [(1.0, 1), (0.04, 1), (0.015, 3), (0.0, 2000)])
def test_a_reading_lasts_long_enough_for_the_clock(seconds: float, runs: int) -> None:
    assert rounds.runs_for(seconds, 0.04) == runs


def test_variants_take_turns_and_a_reading_is_of_one_run() -> None:
    order: list[str] = []

    def variant(name: str, runs: int) -> rounds.Variant:
        def run(count: int) -> float:
            order.append(f"{name}{count}")
            return 0.5 * count

        return rounds.Variant(name, run, runs)

    readings = rounds.interleave([variant("a", 1), variant("b", 4)], rounds=3)
    assert order == ["a1", "b4", "b4", "a1", "a1", "b4"]
    assert readings == {"a": [0.5] * 3, "b": [0.5] * 3}


def test_quartiles_are_those_of_the_standard_library() -> None:
    readings = [7.0, 1.0, 4.0, 9.0, 2.0, 8.0]
    low, median, high = statistics.quantiles(readings, n=4, method="inclusive")
    spread = rounds.spread_of(readings)
    assert (spread.low, spread.median, spread.high) == pytest.approx((low, median, high))
    assert (spread.least, spread.most, spread.count) == (1.0, 9.0, 6)


def test_a_single_reading_has_no_spread() -> None:
    spread = rounds.spread_of([3.0])
    assert spread.least == spread.low == spread.median == spread.high == spread.most == 3.0


def test_the_factor_changes_the_unit() -> None:
    assert rounds.spread_of([0.001, 0.003], 1e3).median == pytest.approx(2.0)


def test_nothing_has_no_median() -> None:
    with pytest.raises(ValueError, match="at least one reading"):
        rounds.spread_of([])

from __future__ import annotations

import statistics

import pytest

from upframe.daemon.bench.spread import spread_of


def test_quartiles_are_those_of_the_standard_library() -> None:
    readings = [7.0, 1.0, 4.0, 9.0, 2.0, 8.0]
    low, median, high = statistics.quantiles(readings, n=4, method="inclusive")
    spread = spread_of(readings)
    assert (spread.low, spread.median, spread.high) == pytest.approx((low, median, high))
    assert (spread.least, spread.most, spread.count) == (1.0, 9.0, 6)


def test_a_single_reading_has_no_spread() -> None:
    spread = spread_of([3.0])
    assert spread.least == spread.low == spread.median == spread.high == spread.most == 3.0


def test_the_factor_changes_the_unit() -> None:
    assert spread_of([0.001, 0.003], 1e3).median == pytest.approx(2.0)


def test_nothing_has_no_median() -> None:
    with pytest.raises(ValueError, match="at least one reading"):
        spread_of([])

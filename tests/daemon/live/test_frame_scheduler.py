"""Every slot is given once and in order, whatever comes and when."""

import random
from fractions import Fraction
from itertools import pairwise

import pytest

from upframe.daemon.live.output import FrameScheduler, FrameSlot

RATE = Fraction(25)


def at(slots: float) -> Fraction:
    """The time of a slot, or between two."""
    return Fraction(slots).limit_denominator(10_000) / RATE


def shown(slots: list[FrameSlot[str]]) -> str:
    """Items in their slots, repeats in small letters."""
    return "".join(slot.item.lower() if slot.is_repeat else slot.item for slot in slots)


def grid_with(*times: float) -> tuple[FrameScheduler[str], str]:
    """Enter A, B, C … at these places, in slots."""
    grid: FrameScheduler[str] = FrameScheduler(RATE)
    slots = [
        slot
        for place, name in zip(times, "ABCDEFGHIJ", strict=False)
        for slot in grid.enter(at(place), name)
    ]
    assert [slot.index for slot in slots] == list(
        range(slots[0].index, slots[0].index + len(slots))
    )
    return grid, shown(slots)


def test_items_in_their_slots_are_given_at_once_and_as_they_are() -> None:
    grid: FrameScheduler[str] = FrameScheduler(RATE)
    for index in range(100):
        assert grid.enter(index / RATE, f"{index}") == [FrameSlot(index, f"{index}", False)]
    assert grid.counts == {"given": 100, "repeated": 0, "late": 0, "surplus": 0}


def test_the_first_item_sets_where_the_row_starts() -> None:
    grid: FrameScheduler[str] = FrameScheduler(RATE)
    assert grid.enter(Fraction(4), "A") == [FrameSlot(100, "A", False)]
    assert grid.next_time == Fraction(101, 25)


def test_slots_that_nothing_came_for_repeat_the_item_before() -> None:
    grid, given = grid_with(0, 1, 4)
    assert given == "ABbbC"
    assert grid.counts == {"given": 5, "repeated": 2, "late": 0, "surplus": 0}


def test_the_second_item_of_a_slot_is_surplus_and_is_what_is_repeated() -> None:
    grid, given = grid_with(0, 1, 1.2)
    assert given == "AB"
    assert grid.counts["surplus"] == 1
    assert shown(grid.fill(at(4))) == "Cc"


def test_an_item_for_a_slot_that_was_filled_is_late_and_is_shown_next() -> None:
    grid, given = grid_with(0, 1)
    assert shown(grid.fill(at(5))) == "bbb"
    assert grid.enter(at(3), "C") == []
    assert grid.counts["late"] == 1
    assert shown(grid.enter(at(6), "D")) == "CD"  # newer than what was repeated so far
    assert given == "AB"


def test_a_fill_ends_before_its_time() -> None:
    grid, _ = grid_with(0)
    assert grid.fill(at(1)) == []
    assert shown(grid.fill(at(1.001))) == "a"
    assert shown(grid.fill(at(4))) == "aa"
    assert grid.next_time == at(4)
    assert grid.fill(at(2)) == []
    assert grid.next_time == at(4)


def test_another_item_can_fill_and_stays_until_the_next() -> None:
    grid, _ = grid_with(0, 1)
    assert shown(grid.fill(at(4), "S")) == "Ss"
    assert shown(grid.fill(at(6), "S")) == "ss"
    assert shown(grid.enter(at(8), "C")) == "ssC"
    assert grid.counts == {"given": 9, "repeated": 5, "late": 0, "surplus": 0}


def test_there_is_nothing_to_repeat_before_the_first_item() -> None:
    grid: FrameScheduler[str] = FrameScheduler(RATE)
    assert grid.fill(at(3)) == []
    assert grid.next_time == 0
    assert shown(grid.fill(at(2), "S")) == "Ss"
    assert shown(grid.enter(at(4), "A")) == "ssA"


@pytest.mark.parametrize("phase", [0.3, 0.45, 0.49, 0.5, 0.51, 0.7])
def test_jitter_of_a_quarter_of_a_slot_leaves_no_hole_at_any_phase(phase: float) -> None:
    chance = random.Random(4)
    grid: FrameScheduler[int] = FrameScheduler(RATE)
    for index in range(2000):
        grid.enter(at(index + phase + chance.uniform(-0.12, 0.12)), index)
    assert grid.counts == {"given": 2000, "repeated": 0, "late": 0, "surplus": 0}


@pytest.mark.parametrize("phase", [0.0, 0.4, 0.5])
def test_items_for_every_second_slot_are_repeated_evenly(phase: float) -> None:
    """As they come while the exponent is lowered."""
    chance = random.Random(5)
    grid: FrameScheduler[int] = FrameScheduler(RATE)
    slots = [
        slot
        for index in range(500)
        for slot in grid.enter(at(2 * index + phase + chance.uniform(-0.12, 0.12)), index)
    ]
    assert [slot.is_repeat for slot in slots] == ([False, True] * 500)[:999]


def test_a_clock_that_drifts_is_followed_by_one_slot_at_a_time() -> None:
    """One ten-thousandth faster: a slot in 10 000, and not back and forth near the edge."""
    chance = random.Random(6)
    grid: FrameScheduler[int] = FrameScheduler(RATE)
    for index in range(40_000):
        grid.enter(at(index * 0.9999 + chance.uniform(-0.1, 0.1)), index)
    assert grid.counts["repeated"] == 0
    assert grid.counts["surplus"] in (3, 4)
    assert grid.counts["late"] == 0


@pytest.mark.parametrize("seed", range(30))
def test_whatever_comes_each_slot_is_given_once_and_shows_nothing_older(seed: int) -> None:
    chance = random.Random(seed)
    rate = chance.choice([Fraction(15), Fraction(60000, 1001), Fraction(7, 2)])
    grid: FrameScheduler[int] = FrameScheduler(rate)
    slots: list[FrameSlot[int]] = []
    time, entered = Fraction(0), 0
    for number in range(400):
        time += Fraction(chance.randint(0, 300), 1000) if chance.random() < 0.9 else -time / 50
        if chance.random() < 0.8:
            slots += grid.enter(time, number)
            entered += 1
        else:
            slots += grid.fill(time + chance.randint(-1, 2), None)
    assert [slot.index for slot in slots] == list(
        range(slots[0].index, slots[0].index + len(slots))
    )
    assert all(before.item <= after.item for before, after in pairwise(slots))
    assert all(a.is_repeat == (a.item == b.item) for b, a in pairwise(slots))
    counts = grid.counts
    assert counts["given"] == len(slots)
    assert counts["repeated"] == sum(slot.is_repeat for slot in slots)
    firsts = len(slots) - counts["repeated"]
    assert firsts <= entered <= firsts + counts["late"] + counts["surplus"]


@pytest.mark.parametrize("seed", range(10))
def test_an_item_in_time_is_shown_less_than_a_slot_from_its_time(seed: int) -> None:
    chance = random.Random(seed)
    grid: FrameScheduler[Fraction] = FrameScheduler(RATE)
    time = Fraction(0)
    for _ in range(500):
        for slot in grid.enter(time, time):
            if slot.item == time:
                assert abs(slot.index / RATE - time) <= Fraction(3, 4) / RATE
        time += Fraction(chance.randint(200, 3000), 1000) / RATE


def test_a_rate_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="rate must be positive, got 0"):
        FrameScheduler[str](Fraction(0))

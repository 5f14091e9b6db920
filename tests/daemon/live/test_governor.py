"""The governor at a simulated compute stage: what it gives up, when, and what it takes up again."""

from __future__ import annotations

import pickle
import random
from collections import Counter

import pytest
from support.live.governed_stage import DEEP, FULL, LATENCY, RATE, Cost, Stage, share_of_full

from upframe.daemon.live.governor import Fulfilment, Governor, shortfall
from upframe.daemon.live.levels import Level, meaning, parse_levels
from upframe.daemon.specification import DEFAULT_LEVELS
from upframe.filters.options import FilterOptions


def governor(filters: FilterOptions = FULL, latency: float = LATENCY) -> Governor:
    return Governor(parse_levels(DEFAULT_LEVELS, filters), latency_seconds=latency)


def times(factor: float, rate: float = RATE) -> Cost:
    """Cost where full takes so many times what there is time for."""
    return lambda level, _: factor * share_of_full(level) / rate


def varying(factor: float, spread: float, seed: int = 1) -> Cost:
    chance = random.Random(seed)
    return lambda level, now: times(factor)(level, now) * chance.uniform(1 - spread, 1 + spread)


def test_what_fits_is_never_given_up() -> None:
    stage = Stage(governor(), times(0.85)).run(600)
    assert (stage.levels, stage.lost, stage.governor.level.name) == ([], [], "full")


def test_costs_that_vary_by_a_third_from_frame_to_frame_change_nothing() -> None:
    stage = Stage(governor(), varying(0.8, 0.3)).run(600)
    assert (stage.levels, stage.lost) == ([], [])


@pytest.mark.parametrize("filters", [FULL, DEEP], ids=["exp-1", "exp-3"])
@pytest.mark.parametrize("factor", [1.05, 1.1, 1.5, 2.0, 4.0, 10.0])
def test_too_much_is_given_up_before_frames_are_lost_and_settles_within_ten_seconds(
    filters: FilterOptions, factor: float
) -> None:
    full = share_of_full(parse_levels(["full"], filters)[0])
    stage = Stage(governor(filters), times(factor / full)).run(120)
    assert stage.changes() >= 1
    assert stage.changes(since=10) == 0
    assert stage.lost == []
    assert max(delay for _, delay in stage.delays) < LATENCY / 2


def test_a_slow_start_is_no_load() -> None:
    """As seen at 160x90: 1.3 of the time there is while all starts, less than it from then on."""
    stage = Stage(governor(), lambda level, now: times(1.3 if now < 1.5 else 0.93)(level, now))
    stage.run(600)
    assert (stage.levels, stage.lost) == ([], [])
    assert max(delay for _, delay in stage.delays) < LATENCY / 2


def test_a_slow_return_after_a_silence_is_no_load() -> None:
    def cost(level: Level, now: float) -> float:
        return times(1.3 if 35 <= now < 36.5 else 0.93)(level, now)

    stage = Stage(governor(), cost, silent=lambda at: 30 <= at < 35).run(600)
    assert (stage.levels, stage.lost) == ([], [])


@pytest.mark.parametrize("factor", [1.05, 1.3, 4.0])
def test_too_much_from_a_return_on_settles_within_ten_seconds(factor: float) -> None:
    def cost(level: Level, now: float) -> float:
        return times(factor if now >= 35 else 0.8)(level, now)

    stage = Stage(governor(), cost, silent=lambda at: 30 <= at < 35).run(50)
    assert stage.changes(since=35) >= 1
    assert stage.changes(since=45) == 0
    assert stage.lost == []
    assert max(delay for _, delay in stage.delays) < LATENCY / 2


def test_four_times_too_much_goes_down_several_levels_at_once() -> None:
    stage = Stage(governor(), times(4)).run(120)
    assert [name for _, name in stage.levels] == ["bicubic"]
    assert stage.levels[0][0] < 2


def test_no_level_is_better_than_the_last_one() -> None:
    stage = Stage(governor(), lambda _level, _now: 1.0).run(60)
    assert stage.governor.level.name == "pass"
    assert stage.changes(since=10) == 0


def test_a_second_of_load_is_recovered_from_by_itself() -> None:
    def cost(level: Level, now: float) -> float:
        return times(3.0 if 30 <= now < 31 else 0.6)(level, now)

    stage = Stage(governor(), cost).run(60)
    assert stage.governor.level.name == "full"
    assert stage.lost == []
    assert stage.changes() == 2
    assert stage.levels[-1][0] < 40


def test_a_single_slow_frame_changes_nothing() -> None:
    def cost(level: Level, now: float) -> float:
        return 0.5 if 30 <= now < 30.06 else times(0.6)(level, now)

    stage = Stage(governor(), cost).run(60)
    assert (stage.levels, stage.lost) == ([], [])


@pytest.mark.parametrize("measured", [False, True], ids=["unmeasured", "measured"])
@pytest.mark.parametrize("feels", [False, True], ids=["networks-alone", "every-level"])
def test_load_that_falls_away_gives_everything_back(measured: bool, feels: bool) -> None:
    """Whether the cheap levels notice the load or not, as they hardly do on two cores."""

    def cost(level: Level, now: float) -> float:
        loaded = 20 <= now < 200 and (feels or level.upscale == "network")
        return times(2.4 if loaded else 0.6)(level, now)

    governed = governor()
    if measured:
        costs = {level.name: cost(level, 0) for level in parse_levels(DEFAULT_LEVELS, FULL)}
        governed.expect(costs, now=0, interval_seconds=1 / RATE)
    stage = Stage(governed, cost).run(200)
    assert stage.governor.level.name in ("bicubic", "no-interpolation")
    assert stage.changes() <= 8
    stage.run(600)
    assert stage.governor.level.name == "full"
    assert stage.lost == []


@pytest.mark.parametrize("seed", range(4))
def test_load_that_wanders_about_the_limit_changes_the_level_a_few_times_in_ten_minutes(
    seed: int,
) -> None:
    chance = random.Random(seed)
    load, drawn = 0.85, 0

    def cost(level: Level, now: float) -> float:
        nonlocal load, drawn
        while drawn < now:  # a new load each second, never far from the one before
            load = min(max(load + chance.uniform(-0.08, 0.08), 0.65), 1.15)
            drawn += 1
        return times(load * chance.uniform(0.85, 1.15))(level, now)

    stage = Stage(governor(), cost).run(600)
    assert stage.changes() <= 10
    assert stage.lost == []


def test_tries_in_vain_become_rare() -> None:
    """Only the networks are slow: the level in force tells nothing of the load."""
    governed = governor()
    usual = {level.name: times(0.6)(level, 0) for level in parse_levels(DEFAULT_LEVELS, FULL)}
    governed.expect(usual, now=0, interval_seconds=1 / RATE)

    def cost(level: Level, now: float) -> float:
        return times(2.4 if level.upscale == "network" else 0.6)(level, now)

    stage = Stage(governed, cost).run(1500)
    by_time = Counter(int(at // 750) for at, _ in stage.levels)
    assert 3 <= by_time[0] <= 10
    assert by_time[1] <= 3
    assert stage.lost == []


def test_a_level_that_was_measured_as_hopeless_is_not_begun_with() -> None:
    governed = governor()
    levels = parse_levels(DEFAULT_LEVELS, FULL)
    costs = {level.name: times(4)(level, 0) for level in levels}
    assert governed.expect(costs, now=0, interval_seconds=1 / RATE).name == "no-interpolation"
    assert [change.name for change in governed.history] == ["no-interpolation"]


def test_a_level_that_was_not_reached_while_measuring_is_guessed_from_its_neighbour() -> None:
    governed = governor()
    costs = {"pass": 0.001, "half-rate": 0.002, "bicubic": 0.002, "no-interpolation": 3.0}
    assert governed.expect(costs, now=0, interval_seconds=1 / RATE).name == "bicubic"


@pytest.mark.parametrize(("busy", "until"), [(3, 40), (20, 1500)])
def test_what_was_measured_beside_the_start_of_others_is_corrected(busy: int, until: float) -> None:
    """By what the level in force takes, or by time where that is next to nothing."""
    governed = governor()
    levels = parse_levels(DEFAULT_LEVELS, FULL)
    costs = {level.name: times(0.6 * busy)(level, 0) for level in levels}
    assert governed.expect(costs, now=0, interval_seconds=1 / RATE).name != "full"
    stage = Stage(governed, times(0.6)).run(until)
    assert stage.governor.level.name == "full"
    assert stage.lost == []


def test_measurements_that_fit_begin_with_everything() -> None:
    governed = governor()
    costs = {level.name: times(0.9)(level, 0) for level in parse_levels(DEFAULT_LEVELS, FULL)}
    assert governed.expect(costs, now=0, interval_seconds=1 / RATE).name == "full"
    assert governed.changes == 0


def test_frames_that_are_lost_where_work_is_not_the_reason_give_up_only_if_it_goes_on() -> None:
    governed = governor()

    def frame(index: int) -> Level | None:
        return governed.computed(
            index / RATE, busy_seconds=0.01, interval_seconds=1 / RATE, waiting_seconds=0.0
        )

    for _ in range(20):
        governed.dropped(0.5)  # a burst that came late
    assert all(frame(index) is None for index in range(300))
    for index in range(300, 400):
        governed.dropped(index / RATE)
        if level := frame(index):
            assert level.name == "no-interpolation"
            assert "lost" in governed.history[-1].reason
            return
    pytest.fail("frames were lost for seconds, and the level stayed")


def test_a_small_budget_is_kept_too() -> None:
    stage = Stage(governor(latency=0.4), times(4, 60), rate=60, latency=0.4).run(120)
    assert stage.changes(since=10) == 0
    assert max(delay for at, delay in stage.delays if at > 1) < 0.4


def test_half_rate_counts_two_intervals_for_each_frame() -> None:
    levels = parse_levels(["half-rate"], FULL)
    stage = Stage(Governor(levels, latency_seconds=LATENCY), times(1.4)).run(120)
    assert [name for _, name in stage.levels] == ["half-rate"]
    assert stage.lost == []


def test_what_takes_long_is_tried_again_too_but_later() -> None:
    """One frame a second: a frame in vain takes a good part of the budget."""

    def cost(level: Level, now: float) -> float:
        return times(4 if now < 30 else 0.6, 1)(level, now)

    stage = Stage(governor(), cost, rate=1)
    assert stage.run(25).governor.level.name == "bicubic"
    assert stage.run(1800).governor.level.name == "bicubic"
    assert stage.run(3 * 3600).governor.level.name == "full"


def test_it_keeps_no_more_after_hours_than_after_minutes() -> None:
    stage = Stage(governor(), varying(0.8, 0.3)).run(60)
    before = len(pickle.dumps(stage.governor))
    assert len(pickle.dumps(stage.run(600).governor)) < 1.2 * before


def test_the_history_tells_when_what_and_why_and_does_not_grow_for_ever() -> None:
    stage = Stage(governor(), times(4)).run(10)
    (change,) = stage.governor.history
    assert change.name == "bicubic"
    assert change.at == stage.levels[0][0]
    assert "of the time" in change.reason
    assert stage.governor.history.maxlen is not None


def test_the_share_of_what_was_asked_for_is_that_of_the_last_minute() -> None:
    fulfilment, as_asked, total = Fulfilment(), 0, 0
    shares: list[float | None] = []
    for second in range(300):
        as_asked += 10 if second < 100 or second >= 200 else 1
        total += 10
        shares.append(fulfilment.share(float(second), as_asked, total))
    assert shares[:20] == [None] * 20  # too early to judge
    assert shares[99] == 1.0
    assert shares[130] == pytest.approx(1 - 31 / 60 * 0.9, abs=0.01)
    assert shares[180] == pytest.approx(0.1)
    assert shares[299] == 1.0


def test_without_frames_there_is_no_share() -> None:
    fulfilment = Fulfilment()
    assert [fulfilment.share(float(second), 0, 0) for second in range(60)] == [None] * 60


@pytest.mark.parametrize(
    ("share", "level", "wanted"),
    [
        (None, "pass", ""),
        (1.0, "full", ""),
        (0.95, "bicubic", ""),
        (0.123, "bicubic", "12 % of the frames of the last minute are as asked for; what fits is "
         "level bicubic: frames are enlarged without a network"),
        (0.0, "exp-2", "what fits is level exp-2: frames are inserted with exponent 2"),
        (0.5, "full", "to do less, give a smaller upscaling_scale or frame_interpolation_exp"),
    ],
)  # fmt: skip
def test_too_slow_is_said_in_plain_words(share: float | None, level: str, wanted: str) -> None:
    text = shortfall(share, level, "of the last minute")
    assert wanted in text
    assert bool(wanted) == text.startswith("this machine is too slow: ") == bool(text)


def test_every_level_has_a_meaning() -> None:
    names = {level.name for level in parse_levels(DEFAULT_LEVELS, DEEP)}
    meanings = {name: meaning(name) for name in names}
    assert len(set(meanings.values())) == len(names)
    assert meanings["full"] == "all that was asked for"

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest

from upframe.io.timestamps import (
    FilmFixer,
    RateVerdict,
    TimestampFixer,
    header_rate,
    judge_rate,
    on_grid,
    settled,
)

NTSC_FILM = Fraction(24_000, 1001)
NTSC = Fraction(30_000, 1001)
FIELDS = Fraction(60_000, 1001)
MS = Fraction(1, 1000)


def times(
    *pts: int | None,
    rate: Fraction | None = Fraction(25),
    duration: int = 0,
    end: int | None = None,
) -> tuple[list[tuple[int, int]], TimestampFixer]:
    timeline = TimestampFixer(MS, rate, end_of_stream=lambda: end)
    timed = list(timeline.run((index, value, duration) for index, value in enumerate(pts)))
    assert [item for item, _, _ in timed] == list(range(len(pts)))
    return [(time, lasts) for _, time, lasts in timed], timeline


def test_duration_reaches_to_the_next_pts() -> None:
    assert times(0, 40, 100, 130)[0][:3] == [(0, 40), (40, 60), (100, 30)]


def test_last_frame_keeps_its_own_duration() -> None:
    assert times(0, 40, duration=70)[0][-1] == (40, 70)


def test_last_frame_ends_where_the_container_says_the_stream_ends() -> None:
    assert times(0, 40, duration=70, end=90)[0][-1] == (40, 50)


def test_end_before_the_last_frame_is_not_believed() -> None:
    assert times(0, 40, duration=70, end=30)[0][-1] == (40, 70)


def test_last_frame_lasts_as_the_rate_says_where_nothing_else_does() -> None:
    assert times(0, 33, rate=Fraction(30))[0][-1] == (33, 33)


def test_last_frame_lasts_as_the_one_before_where_no_rate_is_known() -> None:
    assert times(0, 60, 90, rate=None)[0][-1] == (90, 30)


def test_start_offset_is_kept() -> None:
    assert times(1400, 1440)[0][0] == (1400, 40)


def test_negative_start_is_kept() -> None:
    assert times(-80, -40, 0)[0][0] == (-80, 40)


def test_missing_pts_are_filled_in_without_drift() -> None:
    timed, timeline = times(*[None] * 1001, rate=NTSC_FILM)
    assert timed[1000][0] == round(1000 / NTSC_FILM / MS)
    assert timeline.fixes.lines() == ["no timestamps in the input: frames were counted instead"]


def test_single_missing_pts_is_filled_in_and_counted() -> None:
    timed, timeline = times(0, None, 80)
    assert [pts for pts, _ in timed] == [0, 40, 80]
    assert timeline.fixes.lines() == [
        "1 frames without a timestamp: filled in from the frame before"
    ]


def test_doubled_timestamp_moves_no_other_frame() -> None:
    timed, timeline = times(0, 40, 40, 80, 120)
    assert [pts for pts, _ in timed] == [0, 40, 60, 80, 120]
    assert timeline.fixes.not_rising == 1


def test_small_step_back_is_mended_at_its_place() -> None:
    timed, timeline = times(0, 40, 10, 120, 160)
    assert [pts for pts, _ in timed] == [0, 40, 60, 120, 160]
    assert timeline.fixes.not_rising == 1


def test_time_line_that_starts_over_is_continued() -> None:
    timed, timeline = times(10_000, 10_040, 0, 40, 80)
    assert [pts for pts, _ in timed] == [10_000, 10_040, 10_080, 10_120, 10_160]
    assert timeline.fixes.resets == 1


def test_pts_rise_whatever_comes() -> None:
    timed, _ = times(5, 5, None, 3, 5000, 4999, 0, 0, None, 1, rate=None)
    pts = [value for value, _ in timed]
    assert all(after > before for before, after in pairwise(pts))
    assert all(duration > 0 for _, duration in timed)


def test_no_frame_gives_no_time() -> None:
    assert times()[0] == []


@pytest.mark.parametrize(
    "rate",
    [Fraction(25), NTSC_FILM, Fraction(30_000, 1001), Fraction(60_000, 1001), Fraction(120)],
)
@pytest.mark.parametrize("time_base", [MS, Fraction(1, 90_000), Fraction(1, 48_000)])
def test_rounded_timestamps_of_a_constant_rate_give_exactly_that_rate(
    rate: Fraction, time_base: Fraction
) -> None:
    pts = [round(index / rate / time_base) + 7 for index in range(200)]
    assert judge_rate(pts, time_base).rate == rate


def test_truncated_timestamps_of_a_constant_rate_give_exactly_that_rate() -> None:
    pts = [int(index / NTSC_FILM / MS) for index in range(200)]
    assert judge_rate(pts, MS).rate == NTSC_FILM


def test_claimed_rate_wins_where_the_timestamps_confirm_it() -> None:
    verdict = judge_rate([0, 42, 83], MS, candidates=[None, Fraction(0), NTSC_FILM])
    assert verdict.rate == NTSC_FILM


def test_wrong_claim_of_a_header_is_not_believed() -> None:
    """Others took r_frame_rate at its word: 2.3 times too fast (TheAnimeScripter 2.9.5)."""
    assert judge_rate(range(0, 4000, 40), MS, candidates=[Fraction(90_000)]).rate == 25


def test_odd_rate_is_found_where_ticks_are_fine() -> None:
    rate = Fraction(25_003, 1000)
    pts = [round(index / rate * 90_000) for index in range(300)]
    found = judge_rate(pts, Fraction(1, 90_000)).rate
    assert found is not None
    assert abs(found / rate - 1) < 1e-4


def test_small_jitter_is_still_constant() -> None:
    pts = [index * 40 + (0, 1, -1)[index % 3] for index in range(100)]
    assert judge_rate(pts, MS).rate == 25


def test_variable_rate_is_none_with_its_average() -> None:
    verdict = judge_rate([0, 40, 80, 180, 220, 300], MS, last_duration=20)
    assert verdict.rate is None
    assert verdict.average_rate == 6 / Fraction(320, 1000)
    assert verdict.evidence == "variable: 6 frames last 40 to 100 ms"


def test_dropped_frame_makes_a_coarse_time_base_variable() -> None:
    pts = [index for index in range(60) if index != 30]
    verdict = judge_rate(pts, Fraction(1, 25), candidates=[Fraction(25)])
    assert verdict.rate is None
    assert verdict.holes == 1


@pytest.mark.parametrize(
    ("ticks", "dropped"),
    [
        *((ticks, [ticks // 2]) for ticks in (4, 5, 9, 20, 50, 99, 100, 101, 300, 400, 1000)),
        (30, [10, 20]),
        (100, [30, 60, 90]),
        (40, range(3, 40, 5)),
        (50, range(2, 50, 6)),
        (30, range(1, 30, 3)),
    ],
)
@pytest.mark.parametrize("rate", [Fraction(25), NTSC, NTSC_FILM])
def test_frames_that_were_left_out_do_not_make_another_rate(
    ticks: int, dropped: list[int], rate: Fraction
) -> None:
    """AVI counts in frames: a grid that absorbs a hole moves a frame by nearly its duration."""
    pts = [index for index in range(ticks) if index not in dropped]
    average = rate * len(pts) / ticks  # what MP4's header says then
    for candidates in ([], [rate], [average, rate]):
        verdict = judge_rate(pts, 1 / rate, candidates=candidates)
        assert (verdict.rate, verdict.field_rate) == (None, None)


@pytest.mark.parametrize("pts", [[0, 2, 3], [0, 1, 3], [0, 2, 6], [0, 2, 5]])
@pytest.mark.parametrize("time_base", [1 / NTSC, Fraction(1, 25), Fraction(1, 60)])
def test_three_frames_at_uneven_times_are_no_rate(pts: list[int], time_base: Fraction) -> None:
    span = pts[-1] * time_base
    candidates = [2 / span, 3 / (span + time_base), NTSC, Fraction(20)]
    assert judge_rate(pts, time_base, candidates=candidates).rate is None


@pytest.mark.parametrize("num_frames", [3, 8, 20])
def test_usual_rate_is_not_named_where_its_neighbour_fits_as_well(num_frames: int) -> None:
    pts = [round(index / NTSC_FILM / MS) for index in range(num_frames)]
    verdict = judge_rate(pts, MS)
    assert verdict.rate is None
    assert "too few to tell" in verdict.evidence
    assert verdict.average_rate is not None
    assert abs(verdict.average_rate / NTSC_FILM - 1) < Fraction(1, 40)
    assert judge_rate(pts, MS, candidates=[NTSC_FILM]).rate == NTSC_FILM


def test_even_steps_are_a_rate_however_few() -> None:
    assert judge_rate([0, 33, 66], MS).rate == Fraction(1000, 33)
    assert judge_rate([0, 3003, 6006], Fraction(1, 90_000)).rate == NTSC


@pytest.mark.parametrize(
    ("rate", "time_base", "jitter"),
    [
        (NTSC, Fraction(1, 90_000), 120),
        (Fraction(25), MS, 2),
        (Fraction(25), MS, -2),
        (NTSC, MS, 3),
    ],
)
def test_a_frame_further_than_a_tick_from_its_place_is_not_moved(
    rate: Fraction, time_base: Fraction, jitter: int
) -> None:
    pts = [round(index / rate / time_base) for index in range(300)]
    pts[100] += jitter
    assert judge_rate(pts, time_base, candidates=[rate]).rate is None


def shown_for(fields: list[int], time_base: Fraction, rate: Fraction = FIELDS) -> list[int]:
    """The pts of frames that are shown for so many fields each, in ticks."""
    return [round(sum(fields[:index]) / rate / time_base) for index in range(len(fields))]


def made_even(verdict: RateVerdict, pts: list[int], time_base: Fraction) -> list[int]:
    assert verdict.field_rate is not None
    fixer = FilmFixer(time_base, verdict.field_rate, verdict.rate)
    made = list(fixer.run((index, value, 0) for index, value in enumerate(pts)))
    assert [index for index, _, _ in made] == list(range(len(pts)))
    return [value for _, value, _ in made if value is not None]


@pytest.mark.parametrize("cadence", [[2, 3], [3, 2], [2, 3, 3, 2], [3, 2, 2, 3]])
@pytest.mark.parametrize("time_base", [MS, Fraction(1, 90_000), 1 / FIELDS])
@pytest.mark.parametrize("claimed", [NTSC, NTSC_FILM, FIELDS])
def test_film_shown_for_two_and_three_fields_in_turn_gets_its_rate(
    cadence: list[int], time_base: Fraction, claimed: Fraction
) -> None:
    pts = shown_for(cadence * 12, time_base)
    verdict = judge_rate(pts, time_base, candidates=[claimed])
    assert (verdict.rate, verdict.field_rate) == (NTSC_FILM, FIELDS)
    even = made_even(verdict, pts, time_base)
    assert even == [round(index / NTSC_FILM / time_base) for index in range(len(pts))]
    assert max(abs(a - b) * time_base for a, b in zip(even, pts, strict=True)) <= 1 / FIELDS + MS


def test_film_shown_at_50_fields_gets_its_rate() -> None:
    pts = shown_for([2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3] * 6, MS, Fraction(50))
    verdict = judge_rate(pts, MS, candidates=[Fraction(25)])
    assert (verdict.rate, verdict.field_rate) == (24, 50)


def test_video_between_film_stays_where_it_is() -> None:
    base = Fraction(1, 90_000)
    pts = shown_for([3, 2] * 10 + [2] * 30 + [3, 2] * 10, base)
    verdict = judge_rate(pts, base, candidates=[NTSC])
    assert (verdict.rate, verdict.field_rate) == (None, FIELDS)
    assert "soft telecine" in verdict.evidence
    made = made_even(verdict, pts, base)
    assert made[21:50] == pts[21:50]
    film = [after - before for before, after in pairwise(made[1:19])]
    assert {abs(step - 1 / NTSC_FILM / base) < 2 for step in film} == {True}
    assert max(abs(a - b) for a, b in zip(made, pts, strict=True)) <= 376  # a quarter of a field


def test_excerpt_of_film_does_not_prove_it_for_all() -> None:
    pts = shown_for([3, 2] * 10, MS)
    verdict = judge_rate(pts, MS, candidates=[NTSC]).of_excerpt()
    assert (verdict.rate, verdict.average_rate, verdict.field_rate) == (None, NTSC_FILM, FIELDS)


@pytest.mark.parametrize("fields", [[2] * 20 + [3] * 20, [2] * 30 + [3] + [2] * 30, [2, 3, 4] * 9])
def test_two_or_three_fields_without_a_cadence_are_variable(fields: list[int]) -> None:
    verdict = judge_rate(shown_for(fields, MS), MS, candidates=[NTSC])
    assert (verdict.rate, verdict.field_rate) == (None, None)


def test_film_without_some_timestamps_keeps_the_others_even() -> None:
    pts = shown_for([3, 2] * 10, MS)
    given = [(index, None if index == 7 else value, 0) for index, value in enumerate(pts)]
    made = [value for _, value, _ in FilmFixer(MS, FIELDS, NTSC_FILM).run(given)]
    assert made[7] is None
    assert made[8:] == [round(index / NTSC_FILM / MS) for index in range(8, 20)]


def test_b_frame_order_does_not_matter() -> None:
    assert judge_rate([0, 160, 80, 40, 120], MS).rate == 25


@pytest.mark.parametrize("pts", [[], [5]])
def test_single_frame_takes_the_claimed_rate_and_says_so(pts: list[int]) -> None:
    verdict = judge_rate(pts, MS, candidates=[Fraction(30)])
    assert (verdict.rate, "unconfirmed" in verdict.evidence) == (30, True)


def test_header_that_contradicts_itself_is_variable() -> None:
    assert header_rate([Fraction(17), Fraction(90_000)]).rate is None


def test_header_rate_is_snapped_to_the_exact_fraction() -> None:
    assert header_rate([Fraction(23_976_024, 1_000_000)]).rate == NTSC_FILM


def test_header_without_a_rate_is_unknown() -> None:
    verdict = header_rate([None, Fraction(0)])
    assert (verdict.rate, verdict.average_rate) == (None, None)


def test_excerpt_leaves_out_frames_whose_neighbours_are_still_to_come() -> None:
    stamps = [(0, -80), (160, -40), (80, 0), (40, 40), (120, 80), (320, 120), (240, 160)]
    assert sorted(settled(stamps)) == [0, 40, 80, 120, 160]


def test_excerpt_leaves_out_frames_before_its_key_frame() -> None:
    assert settled([(200, 100), (120, 120), (160, 160), (240, 200)]) == [200]


def test_grid_tolerates_rounding_but_not_a_missing_frame() -> None:
    pts = [round(index / NTSC_FILM / MS) for index in range(50)]
    assert on_grid(pts, MS, NTSC_FILM)
    assert not on_grid([*pts[:20], *pts[21:]], MS, NTSC_FILM)

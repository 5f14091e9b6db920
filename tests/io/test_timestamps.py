from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest

from upframe.io.timestamps import TimestampFixer, header_rate, judge_rate, on_grid, settled

NTSC_FILM = Fraction(24_000, 1001)
MS = Fraction(1, 1000)


def times(
    *pts: int | None,
    rate: Fraction | None = Fraction(25),
    duration: int = 0,
    end: int | None = None,
) -> tuple[list[tuple[int, int]], TimestampFixer]:
    timeline = TimestampFixer(MS, rate, end_of_stream=lambda: end)
    timed = list(timeline.run((index, value, duration) for index, value in enumerate(pts)))
    assert [entry.item for entry in timed] == list(range(len(pts)))
    return [(entry.pts, entry.duration) for entry in timed], timeline


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
    pts = [index * 40 + (index % 3 - 1) for index in range(100)]
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

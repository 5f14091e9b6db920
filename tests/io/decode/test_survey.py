from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
from support.media.clips import make_clip, make_sequence

from upframe.io.decode.demuxer import find_target
from upframe.io.decode.survey import HEAD_PACKETS, SPOT_PACKETS, SPOTS, Survey, look_through, survey

MS = Fraction(1, 1000)


def excerpt(path: Path) -> tuple[Survey, Fraction]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        return look_through(container, stream, whole=False), stream.time_base


def long_clip(path: Path, pts: list[int]) -> Path:
    options = {"preset": "ultrafast", "g": "100"}
    return make_clip(
        path, frames=len(pts), width=16, height=16, pts=pts, time_base=MS, options=options
    )


def test_small_file_is_seen_whole(tmp_path: Path) -> None:
    seen = survey(find_target(str(make_clip(tmp_path / "clip.mp4", frames=30))))
    assert seen is not None
    assert (seen.complete, seen.num_packets) == (True, 30)
    assert seen.span == (0, 29 * 512)


def test_streams_and_sequences_are_not_surveyed(tmp_path: Path) -> None:
    assert survey(find_target(make_sequence(tmp_path))) is None
    assert survey(find_target("tcp://127.0.0.1:9")) is None


def test_excerpt_of_a_large_file_finds_the_constant_rate(tmp_path: Path) -> None:
    rate = Fraction(24_000, 1001)
    pts = [round(index / rate / MS) for index in range(2000)]
    seen, time_base = excerpt(long_clip(tmp_path / "clip.mkv", pts))
    assert not seen.complete
    assert HEAD_PACKETS <= seen.num_packets <= HEAD_PACKETS + len(SPOTS) * SPOT_PACKETS
    assert seen.span is None
    assert seen.judge(time_base, []).rate == rate


def test_excerpt_of_a_large_file_finds_a_variable_rate_far_from_the_beginning(
    tmp_path: Path,
) -> None:
    pts = [40 * index for index in range(1200)]
    while len(pts) < 2000:
        pts.append(pts[-1] + (20 if len(pts) % 7 else 110))
    seen, time_base = excerpt(long_clip(tmp_path / "clip.mkv", pts))
    assert seen.judge(time_base, [Fraction(25)]).rate is None


def test_places_that_disagree_on_the_rate_make_it_variable() -> None:
    seen = Survey(runs=[list(range(0, 1000, 40)), list(range(5000, 6000, 20))])
    assert seen.judge(MS, []).rate is None


def test_nothing_seen_leaves_the_rate_to_the_header() -> None:
    assert Survey(runs=[[]]).judge(MS, [Fraction(30)]).rate == 30


def test_places_with_few_frames_confirm_the_rate_of_the_beginning() -> None:
    """Eight timestamps alone do not tell 24000/1001 from 24."""
    rate = Fraction(24_000, 1001)
    pts = [round(index / rate / MS) for index in range(600)]
    assert Survey(runs=[pts[:500], pts[592:]]).judge(MS, []).rate == rate


def test_film_in_a_part_of_a_large_file_is_not_its_rate() -> None:
    film = [
        round(index / Fraction(60_000, 1001) / MS) for index in (0, 3, 5, 8, 10, 13, 15, 18, 20)
    ]
    video = [10_000 + round(index / Fraction(30_000, 1001) / MS) for index in range(50)]
    verdict = Survey(runs=[film, video]).judge(MS, [Fraction(30_000, 1001)])
    assert (verdict.rate, verdict.field_rate) == (None, Fraction(60_000, 1001))

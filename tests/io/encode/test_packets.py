"""The encoder's clock, and packets that come back to their exact places."""

from __future__ import annotations

from fractions import Fraction

import av
import pytest
from support.media.sinks import constant

from upframe.filters.frame import StreamInfo
from upframe.io.encode.packets import (
    DecodingTimes,
    EncoderTimeline,
    SampleClock,
    VideoTiming,
    choose_timing,
    common_time_base,
    fix_dts,
    shift_packet,
)

NTSC = Fraction(24000, 1001)


def packet(pts: int | None, dts: int | None, duration: int, time_base: Fraction) -> av.Packet:
    """A packet of one byte."""
    made = av.Packet(b"0")
    made.pts, made.dts, made.duration, made.time_base = pts, dts, duration, time_base
    return made


def variable(time_base: Fraction) -> StreamInfo:
    """A stream of variable rate."""
    return StreamInfo(64, 48, "yuv420p", time_base, None, Fraction(24))


@pytest.mark.parametrize(
    ("info", "codec", "tick", "rate"),
    [
        (constant(NTSC * 2), "libx264", 1 / NTSC / 2, NTSC * 2),
        (constant(NTSC, time_base=Fraction(1, 1000)), "libx264", 1 / NTSC, NTSC),
        (variable(Fraction(1, 180_000)), "libx264", Fraction(1, 180_000), Fraction(24)),
        (variable(Fraction(1, 90_000)), "mpeg4", Fraction(1, 65_535), Fraction(24)),
        (variable(Fraction(1, 90_000)), "mpeg2video", Fraction(1, 24), Fraction(24)),
        (variable(Fraction(1, 1 << 40)), "libx264", Fraction(1, 90_000), Fraction(24)),
        (constant(), "gif", Fraction(1, 100), Fraction(25)),
    ],
)
def test_the_time_base_is_exact_where_it_can_be(
    info: StreamInfo, codec: str, tick: Fraction, rate: Fraction
) -> None:
    assert choose_timing(info, codec) == VideoTiming(tick, rate)


def test_rounded_timestamps_of_a_constant_rate_come_back_to_their_places() -> None:
    """Matroska's milliseconds for 24000/1001, behind a start offset."""
    clock = EncoderTimeline(VideoTiming(1 / NTSC, NTSC), Fraction(1, 1000))
    times = [round(500 + 1000 * index / NTSC) for index in range(2000)]
    got = [clock.enter(pts, 42) for pts in times]
    assert got == [(index, 1) for index in range(2000)]
    assert clock.num_rounded == 0


def test_frames_off_the_grid_are_counted_and_keep_rising() -> None:
    clock = EncoderTimeline(VideoTiming(Fraction(1, 25), Fraction(25)), Fraction(1, 1000))
    assert [clock.enter(pts, 40)[0] for pts in (0, 40, 60, 61, 62, 200)] == [
        0,
        1,
        2,
        3,
        4,
        5,
    ]
    assert clock.num_rounded == 3


def test_a_longer_last_frame_keeps_its_length() -> None:
    clock = EncoderTimeline(VideoTiming(Fraction(1, 25), Fraction(25)), Fraction(1, 1000))
    ends = (0, 40), (40, 200)
    assert [clock.enter(pts, end - pts) for pts, end in ends] == [(0, 1), (1, 4)]
    assert clock.duration_seconds == Fraction(5, 25)


@pytest.mark.parametrize(
    ("time_base", "offset", "common"),
    [
        (Fraction(1, 25), Fraction(0), Fraction(1, 25)),
        (Fraction(1, 48_000), Fraction(1, 1000), Fraction(1, 48_000)),
        (Fraction(1, 25), Fraction(1, 1000), Fraction(1, 1000)),
        (Fraction(1001, 24_000), Fraction(-21, 1000), Fraction(7, 24_000)),
        (Fraction(1, 90_000), Fraction(1, (1 << 31) - 1), Fraction(1, 90_000)),
    ],
)
def test_an_offset_is_exact_unless_ticks_would_be_too_fine(
    time_base: Fraction, offset: Fraction, common: Fraction
) -> None:
    assert common_time_base(time_base, offset) == common


def test_a_shifted_packet_is_where_it_should_be() -> None:
    moved = packet(10, 8, 2, Fraction(1, 25))
    shift_packet(moved, Fraction(1, 1000))
    tick = moved.time_base
    assert tick is not None
    assert [value * tick for value in (moved.pts, moved.dts, moved.duration)] == [
        Fraction(401, 1000), Fraction(321, 1000), Fraction(80, 1000),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pts", "dts", "last", "mended"),
    [
        (0, 35_747_867_511_423_104, 0, 0),
        (0, -35_747_867_511_423_104, 0, 0),
        (0, -2, 40, -2),
        (5, None, 40, 5),
        (5, 3, 40, 3),
    ],
)
def test_only_an_impossible_dts_is_mended(
    pts: int, dts: int | None, last: int, mended: int
) -> None:
    made = packet(pts, dts, 1, Fraction(1, 25))
    fix_dts(made, last)
    assert made.dts == mended


def test_sound_rounded_to_milliseconds_is_counted_in_samples_again() -> None:
    clock = SampleClock(48_000, 1024)
    starts: list[int | None] = []
    for index in range(500):
        made = packet(round(index * 1024 / 48), None, 21, Fraction(1, 1000))
        clock(made, lambda: 0)
        starts.append(made.pts)
        assert (made.duration, made.time_base) == (1024, Fraction(1, 48_000))
    assert starts == [1024 * index for index in range(500)]


def test_a_gap_in_the_sound_stays_a_gap() -> None:
    clock = SampleClock(48_000, 1024)
    got: list[int | None] = []
    for pts in (0, 21, 2000, 2021):
        made = packet(pts, None, 21, Fraction(1, 1000))
        clock(made, lambda: 0)
        got.append(made.pts)
    assert got == [0, 1024, 96_000, 97_024]


def test_exact_sound_is_left_alone() -> None:
    made = packet(1234, 1234, 999, Fraction(1, 48_000))
    SampleClock(48_000, 1024)(made, lambda: 0)
    assert (made.pts, made.duration) == (1234, 999)


# Decoding times that a container does not store.

_PYRAMID = [0, 160, 80, 40, 120, 320, 240, 200, 280, 480, 400, 360, 440]


def decoding_times(
    pts: list[int], dts: list[int | None], frame_ticks: int = 0
) -> tuple[list[int | None], list[int | None]]:
    """The pts and dts of packets that went through, in ms."""
    order, done = DecodingTimes(frame_ticks), list[av.Packet]()
    for one, two in zip(pts, dts, strict=True):
        done += order(packet(one, two, 40, Fraction(1, 1000)))
    done += order(None)
    return [one.pts for one in done], [one.dts for one in done]


@pytest.mark.parametrize(
    ("pts", "num_missing", "depth"),
    [
        ([0, 80, 40, 160, 120, 240, 200], 1, 1),  # one B-frame
        ([0, 120, 40, 80, 240, 160, 200], 1, 1),  # two, as MPEG-2 has them
        (_PYRAMID, 2, 2),  # three, one of them referenced
        (_PYRAMID, 5, 2),  # a demuxer that has seen little
        (_PYRAMID, len(_PYRAMID), 2),  # one that says nothing
        ([0, 40, 80, 120], 4, 0),  # none
        ([0, 40, 80, 120], 0, 0),
        ([700, 860, 780, 740, 820], 3, 2),
    ],
)
def test_missing_dts_are_counted_back_by_the_depth_of_the_reordering(
    pts: list[int], num_missing: int, depth: int
) -> None:
    right = [min(pts) + 40 * (index - depth) for index in range(len(pts))]
    given = [None] * num_missing + right[num_missing:]
    assert decoding_times(pts, given, 40) == (pts, right)


def test_missing_dts_of_a_variable_rate_are_pts_of_other_pictures() -> None:
    pts = [0, 500, 130, 30, 340, 900]
    wanted = [-60, -30, 0, 30, 130, 340]
    assert decoding_times(pts, [None] * 6) == (pts, wanted)
    assert decoding_times(pts, [*[None] * 4, 130, 340]) == (pts, wanted)


def test_a_long_stream_without_any_dts_has_rising_ones_and_holds_few_packets() -> None:
    order, held, most = DecodingTimes(), 0, 0
    pts = [480 * group + one for group in range(50) for one in _PYRAMID[1:]]
    done: list[av.Packet] = []
    for one in [0, *pts]:
        made = order(packet(one, None, 40, Fraction(1, 1000)))
        held += 1 - len(made)
        most = max(most, held)
        done += made
    done += order(None)
    assert most <= 32
    assert [one.pts for one in done] == [0, *pts]
    assert [one.dts for one in done] == [40 * index - 80 for index in range(len(done))]


def test_a_first_dts_that_no_pts_equals_is_counted_back_by_the_frame() -> None:
    pts = [0, 160, 80, 40, 120]
    assert decoding_times(pts, [None, None, 1, 41, 81], 40) == (pts, [-79, -39, 1, 41, 81])


def test_no_dts_is_counted_to_lie_behind_its_pts() -> None:
    """A demuxer's dts that fits no reordering of the pictures."""
    pts = [0, 160, 80, 40, 120]
    got_pts, got = decoding_times(pts, [None, None, None, None, 120])
    assert got_pts == pts
    assert all(one is not None and one <= two for one, two in zip(got, pts, strict=True))
    assert got == sorted(got, key=lambda one: one or 0)

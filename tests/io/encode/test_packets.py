"""The encoder's clock, and packets that come back to their exact places."""

from __future__ import annotations

from fractions import Fraction

import av
import pytest
from support.media.sinks import constant

from upframe.filters.frame import StreamInfo
from upframe.io.encode.containers import container_of
from upframe.io.encode.packets import (
    EncoderClock,
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
    ("info", "codec", "name", "tick", "rate"),
    [
        (constant(NTSC * 2), "libx264", "a.mp4", 1 / NTSC / 2, NTSC * 2),
        (constant(NTSC, time_base=Fraction(1, 1000)), "libx264", "a.mp4", 1 / NTSC, NTSC),
        (variable(Fraction(1, 180_000)), "libx264", "a.mp4", Fraction(1, 180_000), Fraction(24)),
        (variable(Fraction(1, 90_000)), "mpeg4", "a.mp4", Fraction(1, 65_535), Fraction(24)),
        (variable(Fraction(1, 90_000)), "mpeg2video", "a.ts", Fraction(1, 24), Fraction(24)),
        (variable(Fraction(1, 1 << 40)), "libx264", "a.mp4", Fraction(1, 90_000), Fraction(24)),
        (constant(), "gif", "a.gif", Fraction(1, 100), Fraction(25)),
    ],
)
def test_the_time_base_is_exact_where_it_can_be(
    info: StreamInfo, codec: str, name: str, tick: Fraction, rate: Fraction
) -> None:
    assert choose_timing(info, codec, container_of(name)) == VideoTiming(tick, rate)


def test_rounded_timestamps_of_a_constant_rate_come_back_to_their_places() -> None:
    """Matroska's milliseconds for 24000/1001, behind a start offset."""
    clock = EncoderClock(VideoTiming(1 / NTSC, NTSC), Fraction(1, 1000))
    times = [round(500 + 1000 * index / NTSC) for index in range(2000)]
    got = [clock(pts, 42) for pts in times]
    assert got == [(index, 1) for index in range(2000)]
    assert clock.num_rounded == 0


def test_frames_off_the_grid_are_counted_and_keep_rising() -> None:
    clock = EncoderClock(VideoTiming(Fraction(1, 25), Fraction(25)), Fraction(1, 1000))
    assert [clock(pts, 40)[0] for pts in (0, 40, 60, 61, 62, 200)] == [0, 1, 2, 3, 4, 5]
    assert clock.num_rounded == 3


def test_a_longer_last_frame_keeps_its_length() -> None:
    clock = EncoderClock(VideoTiming(Fraction(1, 25), Fraction(25)), Fraction(1, 1000))
    assert [clock(pts, end - pts) for pts, end in ((0, 40), (40, 200))] == [(0, 1), (1, 4)]
    assert clock.end == 5


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

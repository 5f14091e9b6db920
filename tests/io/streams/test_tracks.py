"""Copied packets from any iterator: in step with the video, mended, never piling up."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import pytest
from av.container import InputContainer, OutputContainer
from support.media import clips as samples

from upframe.io.streams.plan import StreamFate
from upframe.io.streams.tracks import StreamCopy, Track

MS = Fraction(1, 1000)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[InputContainer]:
    clip = samples.make_clip(tmp_path / "in.mp4", audio="aac", frames=25)
    with av.open(str(clip)) as opened:
        yield opened


@pytest.fixture
def output(source: InputContainer) -> Iterator[tuple[OutputContainer, BytesIO, Track]]:
    written = BytesIO()
    with av.open(written, "w", format="matroska") as opened:
        stream = source.streams.audio[0]
        target = opened.add_stream_from_template(stream, True)
        fate = StreamFate(stream.index, "audio", "aac", "copy")
        yield opened, written, Track(fate, stream, target)


def sounds(times: list[tuple[int | None, int | None]], index: int = 1) -> Iterator[av.Packet]:
    """Packets with these (pts, dts) in milliseconds, as a live demuxer might give them."""
    for pts, dts in times:
        made = av.Packet(b"\x21\x00\x49\x90\x02\x19\x00\x23\x80")
        made.pts, made.dts, made.duration, made.time_base = pts, dts, 20, MS
        made.is_keyframe = True
        yield _of_stream(made, index)


def _of_stream(packet: av.Packet, index: int) -> av.Packet:
    holder = av.open(BytesIO(), "w", format="matroska")
    for _ in range(index + 1):
        stream = holder.add_stream("libx264", rate=25)
    packet.stream = stream
    return packet


def muxed(written: BytesIO) -> list[int | None]:
    written.seek(0)
    with av.open(written) as opened:
        return [packet.pts for packet in opened.demux(audio=0) if packet.size]


def test_packets_from_a_queue_are_muxed_only_when_they_are_due(
    output: tuple[OutputContainer, BytesIO, Track],
) -> None:
    container, written, track = output
    taken: list[int] = []

    def feed() -> Iterator[av.Packet]:
        for index, packet in enumerate(sounds([(20 * one, 20 * one) for one in range(100)])):
            taken.append(index)
            yield packet

    copy = StreamCopy({track.fate.index: track}, feed(), container)
    copy.begin(Fraction(0))
    copy.mux_until(Fraction(-1))
    assert len(taken) <= 1
    copy.mux_until(Fraction(1, 2))
    assert len(taken) == 27  # up to 0.5 s, and one that waits
    copy.mux_until(None)
    container.close()
    assert muxed(written) == [20 * index for index in range(100)]
    assert copy.warnings() == []


@pytest.mark.parametrize(
    ("given", "got", "count"),
    [
        ([(0, 0), (20, 20), (None, None), (60, 60)], [0, 20, 40, 60], 1),
        ([(0, 0), (20, 20), (20, 20), (60, 60)], [0, 20, 21, 60], 1),
        ([(0, 0), (20, 20), (5, 5), (60, 60)], [0, 20, 21, 60], 1),
        ([(0, None), (20, None), (40, None)], [0, 20, 40], 0),
        ([(None, None), (None, None)], [0, 20], 2),
    ],
)
def test_bad_timestamps_are_mended_and_counted(
    output: tuple[OutputContainer, BytesIO, Track],
    given: list[tuple[int | None, int | None]],
    got: list[int],
    count: int,
) -> None:
    container, written, track = output
    copy = StreamCopy({track.fate.index: track}, sounds(given), container)
    copy.begin(Fraction(0))
    copy.mux_until(None)
    container.close()
    assert muxed(written) == got
    wanted = [f"audio #1: timestamps of {count} packets were corrected"] if count else []
    assert copy.warnings() == wanted


def test_packets_of_other_streams_and_empty_ones_are_passed_over(
    output: tuple[OutputContainer, BytesIO, Track],
) -> None:
    container, written, track = output
    empty = _of_stream(av.Packet(), 1)
    feed = iter([*sounds([(0, 0)]), empty, *sounds([(7, 7)], index=0), *sounds([(20, 20)])])
    copy = StreamCopy({track.fate.index: track}, feed, container)
    copy.begin(Fraction(0))
    copy.mux_until(None)
    container.close()
    assert muxed(written) == [0, 20]


@pytest.mark.parametrize(
    ("video", "sound", "origin"),
    [
        (Fraction(0), Fraction(0), Fraction(0)),
        (Fraction(5), Fraction(6), Fraction(5)),
        (Fraction(5), Fraction(4), Fraction(4)),
        (Fraction(5), None, Fraction(5)),
        (Fraction(0), Fraction(-21, 1000), Fraction(-21, 1000)),
    ],
)
def test_the_output_begins_with_whatever_begins_first(
    output: tuple[OutputContainer, BytesIO, Track],
    video: Fraction,
    sound: Fraction | None,
    origin: Fraction,
) -> None:
    container, _, track = output
    copy = StreamCopy({track.fate.index: track}, sounds([(0, 0)]), container, (), sound)
    assert copy.begin(video) == origin
    copy.mux_until(None)


def test_a_source_that_fails_in_the_middle_ends_its_streams_and_says_so(
    output: tuple[OutputContainer, BytesIO, Track],
) -> None:
    container, written, track = output

    def feed() -> Iterator[av.Packet]:
        yield from sounds([(0, 0), (20, 20)])
        raise av.InvalidDataError(1, "Invalid data found when processing input")

    copy = StreamCopy({track.fate.index: track}, feed(), container)
    copy.begin(Fraction(0))
    copy.mux_until(None)
    container.close()
    assert muxed(written) == [0, 20]
    assert copy.warnings() == [
        "the source's other streams end early: Invalid data found when processing input"
    ]


def with_its_header_again(flv: bytes, after: int) -> bytes:
    """Repeat AAC's header behind some packets of sound, as a publisher does that came back."""
    at, header, seen = 9 + 4, b"", 0
    while at < len(flv):
        end = at + 11 + int.from_bytes(flv[at + 1 : at + 4]) + 4
        if flv[at] == 8:  # sound: of its two first bytes the second tells what follows
            if flv[at + 12] == 0:
                header = flv[at:end]
            elif (seen := seen + 1) == after:
                return flv[:end] + header[:4] + flv[at + 4 : at + 8] + header[8:] + flv[end:]
        at = end
    raise AssertionError("too short a clip")


@pytest.mark.parametrize("format_name", ["matroska", "flv", "mpegts"])
def test_a_header_that_comes_again_on_the_way_spoils_no_file(
    format_name: str, tmp_path: Path
) -> None:
    clip = samples.make_clip(tmp_path / "in.flv", audio="aac", frames=25)
    clip.write_bytes(with_its_header_again(clip.read_bytes(), 5))
    copy = tmp_path / "out"
    with av.open(str(clip)) as opened, av.open(str(copy), "w", format=format_name) as written:
        stream = opened.streams.audio[0]
        fate = StreamFate(stream.index, "audio", "aac", "copy")
        track = Track(fate, stream, written.add_stream_from_template(stream, True))
        packets = [packet for packet in opened.demux(stream) if packet.size]
        assert any(packet.has_sidedata("new_extradata") for packet in packets)
        for packet in packets:
            for placed in track.prepare(packet, Fraction(0), heard=True):
                track.mux(written, placed)
    with av.open(str(copy)) as read:
        (sound,) = read.streams
        assert len([packet for packet in read.demux(sound) if packet.size]) == len(packets)

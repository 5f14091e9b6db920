"""What goes through the pipes of the process that muxes a live output."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import pytest

from upframe.io.errors import OutputLost, SinkFull, SinkRefused, VerificationFailed
from upframe.io.live.publisher_protocol import (
    Connected,
    Event,
    Finished,
    Header,
    Note,
    PublishFailed,
    Recorded,
    Removed,
    Skipped,
    Written,
    event_line,
    header_bytes,
    packet_bytes,
    read_event,
    read_header,
    read_packet,
)
from upframe.io.live.target import find_live_target
from upframe.io.live.values import Encoded

TARGET = find_live_target("rtsp://user:secret@camera/out")
PACKET = Encoded("video", b"\x00\x01data", -3, -7, 2, Fraction(1001, 30_000), True)


def through(packet: Encoded, number: int) -> tuple[int, Encoded]:
    pipe = io.BytesIO()
    pipe.write(packet_bytes(packet, number))
    pipe.seek(0)
    got = read_packet(pipe)
    assert got is not None
    assert read_packet(pipe) is None
    return got


def fields(packet: Encoded) -> tuple[object, ...]:
    names = ("kind", "data", "pts", "dts", "duration", "time_base", "is_keyframe")
    return tuple(getattr(packet, name) for name in names)


def test_a_header_comes_out_as_it_went_in() -> None:
    pipe = io.BytesIO()
    pipe.write(header_bytes(Header(TARGET, b"primer\n")))
    pipe.write(packet_bytes(PACKET, 1))
    pipe.seek(0)
    assert read_header(pipe) == Header(TARGET, b"primer\n")
    assert read_packet(pipe) is not None


@pytest.mark.parametrize(
    "packet",
    [
        PACKET,
        replace(PACKET, kind="sound", is_keyframe=False, data=b""),
        replace(PACKET, pts=1 << 62, time_base=Fraction(1, 1 << 40)),
    ],
)
def test_a_packet_comes_out_as_it_went_in(packet: Encoded) -> None:
    number, got = through(packet, 1 << 40)
    assert number == 1 << 40
    assert fields(got) == fields(packet)


@pytest.mark.parametrize("size", [0, 1, 30, 60])
def test_a_packet_that_was_cut_off_is_the_end(size: int) -> None:
    pipe = io.BytesIO()
    pipe.write(packet_bytes(replace(PACKET, data=bytes(100)), 1))
    assert read_packet(io.BytesIO(pipe.getvalue()[:size])) is None


def test_what_is_no_packet_is_told() -> None:
    with pytest.raises(ValueError, match="not the head of a packet"):
        read_packet(io.BytesIO(b"\xff" * 100))


@pytest.mark.parametrize("text", [b"", b'{"target"', b"{}"])
def test_a_header_that_is_cut_off_is_the_end_of_the_stream(text: bytes) -> None:
    with pytest.raises(EOFError):
        read_header(io.BytesIO(text))


@pytest.mark.parametrize(
    "event",
    [
        Connected(),
        Written(7, 12.5),
        Skipped(3),
        Recorded("/a/b.mp4", 25, 1.0),
        Removed("/a/b.mp4", 14.5),
        Note("sound is left out"),
        PublishFailed("refused", "OutputLost", "nobody listens"),
        Finished(),
    ],
)
def test_an_event_comes_out_as_it_went_in(event: Event) -> None:
    assert read_event(event_line(event)) == event


@pytest.mark.parametrize("line", [b"", b"text", b"[]", b'{"kind": "party"}', b'{"kind": "Note"}'])
def test_what_is_no_event_is_told(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"not an event|Expecting value"):
        read_event(line)


@pytest.mark.parametrize("kind", [SinkRefused, SinkFull, VerificationFailed])
def test_a_failure_of_a_file_is_raised_as_what_it_is(kind: type[Exception]) -> None:
    error = PublishFailed("failed", kind.__name__, "the text").exception()
    assert type(error) is kind
    assert str(error) == "the text"


def test_a_failure_of_a_connection_keeps_its_reason() -> None:
    error = PublishFailed("unauthorised", "OutputLost", "401").exception()
    assert isinstance(error, OutputLost)
    assert error.reason == "unauthorised"


def test_the_child_loads_nothing_that_computes() -> None:
    """It is started anew for every connection, and has to be there at once."""
    code = "import upframe.io.live.publisher_child, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True)
    assert done.stdout == b"False\n"

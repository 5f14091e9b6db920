"""The queue between an encoder and a connection: never waited for, and a keyframe after a gap."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

from upframe.daemon.live.publisher import PacketBuffer
from upframe.io.live.values import Encoded

TICK = Fraction(1, 25)


def packet(
    index: int,
    *,
    keyframe: bool = False,
    kind: Literal["video", "sound"] = "video",
    size: int = 10,
) -> Encoded:
    return Encoded(kind, bytes(size), index, index, 1, TICK, keyframe or kind == "sound")


def drained(outbox: PacketBuffer) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    while (one := outbox.take()) is not None:
        found.append((one.kind, one.pts))
    return found


def test_takes_nothing_while_there_is_no_connection() -> None:
    outbox = PacketBuffer(max_seconds=2)
    assert not outbox.wants_keyframe
    assert not outbox.put(packet(0, keyframe=True), 0.0)
    assert not outbox.put(packet(0, kind="sound"), 0.0)
    assert (outbox.take(), outbox.dropped) == (None, {"away": 1})


def test_begins_with_a_keyframe_after_connecting() -> None:
    outbox = PacketBuffer(max_seconds=2)
    outbox.open()
    assert outbox.wants_keyframe
    given = [packet(0), packet(0, kind="sound"), packet(1, keyframe=True), packet(2)]
    taken = [outbox.put(one, 0.0) for one in (*given, packet(1, kind="sound"))]
    assert taken == [False, False, True, True, True]
    assert not outbox.wants_keyframe
    assert drained(outbox) == [("video", 1), ("video", 2), ("sound", 1)]
    assert outbox.dropped == {"away": 1}


def test_what_waits_too_long_is_dropped_up_to_the_next_keyframe() -> None:
    outbox = PacketBuffer(max_seconds=2)
    outbox.open()
    for index in range(3):
        assert outbox.put(packet(index, keyframe=index == 0), float(index) / 10)
    assert outbox.put(packet(3), 2.0)
    assert not outbox.put(packet(4), 2.01)
    assert outbox.wants_keyframe
    assert not outbox.put(packet(5), 2.02)
    assert outbox.put(packet(5, kind="sound"), 2.02)
    assert outbox.put(packet(6, keyframe=True), 2.03)
    assert outbox.put(packet(7), 2.04)
    assert drained(outbox) == [("sound", 5), ("video", 6), ("video", 7)]
    assert outbox.dropped == {"full": 6}


def test_a_keyframe_goes_in_by_itself_where_too_much_waits() -> None:
    outbox = PacketBuffer(max_seconds=2)
    outbox.open()
    assert outbox.put(packet(0, keyframe=True), 0.0)
    assert outbox.put(packet(1, keyframe=True), 9.0)
    assert drained(outbox) == [("video", 1)]
    assert outbox.dropped == {"full": 1}


def test_too_many_bytes_are_too_much_as_well() -> None:
    outbox = PacketBuffer(max_seconds=100, max_bytes=100)
    outbox.open()
    assert outbox.put(packet(0, keyframe=True, size=60), 0.0)
    assert outbox.put(packet(1, size=40), 0.0)
    assert not outbox.put(packet(2, size=1), 0.0)
    assert (outbox.is_empty, outbox.dropped) == (True, {"full": 3})
    assert outbox.put(packet(3, keyframe=True, size=200), 0.0)  # alone it may be larger


def test_bytes_are_free_again_once_taken() -> None:
    outbox = PacketBuffer(max_seconds=100, max_bytes=100)
    outbox.open()
    for index in range(10):
        assert outbox.put(packet(index, keyframe=index == 0, size=90), 0.0)
        assert outbox.take() is not None
    assert outbox.dropped == {}


def test_what_waits_when_the_connection_ends_is_lost() -> None:
    outbox = PacketBuffer(max_seconds=2)
    outbox.open()
    outbox.put(packet(0, keyframe=True), 0.0)
    outbox.put(packet(0, kind="sound"), 0.0)
    sent = outbox.take()
    assert sent is not None
    outbox.put(packet(1), 0.0)
    outbox.close()
    outbox.lost(sent)
    assert not outbox.put(packet(2), 0.0)
    assert outbox.dropped == {"lost": 2, "away": 1}
    outbox.open()
    assert not outbox.put(packet(3), 0.0)
    assert outbox.put(packet(4, keyframe=True), 0.0)


def test_stopped_it_takes_no_more_and_gives_what_waits() -> None:
    outbox = PacketBuffer(max_seconds=2)
    outbox.open()
    outbox.put(packet(0, keyframe=True), 0.0)
    outbox.stop()
    assert not outbox.put(packet(1, keyframe=True), 0.0)
    assert not outbox.wants_keyframe
    assert drained(outbox) == [("video", 0)]

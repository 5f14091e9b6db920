"""Outputs that are kept up: real receivers killed, frozen and refused, and never waited for."""

from __future__ import annotations

import logging
import socket
from fractions import Fraction
from pathlib import Path

import pytest
from support.live.publishing import (
    DEADLINE_SECONDS,
    LARGE,
    RATE,
    Source,
    Told,
    command_of,
    publishers,
    publishing,
)
from support.live.sound import PACKET_SAMPLES, SAMPLE_RATE, aac_stream
from support.servers.camera import free_port
from support.servers.receivers import Receiver, rises

from upframe.io.live.target import find_live_target


def test_publishes_again_when_the_receiver_is_back(tmp_path: Path) -> None:
    told = Told()
    with Receiver(tmp_path) as receiver:
        with publishing(find_live_target(receiver.url), told) as source:
            for number in range(1, 3):
                source.until(lambda number=number: source.publisher.state.connections == number)
                source.until(lambda: receiver.pictures() >= 10)
                receiver.kill()
                source.until(lambda: not source.publisher.state.connected)
                receiver.start()
            source.until(lambda: source.publisher.state.connections == 3)
            source.until(lambda: receiver.pictures() >= 10)
            state = source.publisher.finish(DEADLINE_SECONDS)
            assert receiver.wait() == 0
        assert receiver.log == ""
        got = receiver.got()
    assert got[0].is_keyframe
    assert rises(got)
    assert state.written + sum(state.dropped.values()) == source.given
    assert state.dropped["away"] > 0
    assert source.publisher.failure is None
    indices = [index for index, _ in told.written]
    assert indices == sorted(set(indices))


def test_a_receiver_that_takes_nothing_is_given_up_and_found_again(tmp_path: Path) -> None:
    told = Told()
    with (
        Receiver(tmp_path) as receiver,
        publishing(find_live_target(receiver.url), told, LARGE, stall_seconds=1.0) as source,
    ):
        source.until(lambda: told.written)
        receiver.freeze()
        source.until(lambda: "stalled" in told.reasons, 0.002, Source.keyframe)
        stalled = next(state for state in told.states if state.reason == "stalled")
        assert "has taken nothing for 1 s" in stalled.message
        receiver.restart()
        before = source.publisher.state.connections
        source.until(lambda: source.publisher.state.connections > before, 0.02)
        source.until(lambda: receiver.pictures() >= 5, 0.02)
        state = source.publisher.finish(DEADLINE_SECONDS)
    assert state.dropped["full"] > 0
    assert state.written + sum(state.dropped.values()) == source.given


def test_pictures_do_not_wait_for_sound_that_does_not_come(tmp_path: Path) -> None:
    told = Told()
    with (
        aac_stream(tmp_path, 20) as (sound, packets),
        Receiver(tmp_path, "tcp") as receiver,
        publishing(find_live_target(receiver.url), told, sound=sound) as source,
    ):
        source.until(lambda: told.written)
        begins = source.given / RATE
        for index, data in enumerate(packets):  # and no more after these
            seconds = begins + Fraction(index * PACKET_SAMPLES, SAMPLE_RATE)
            source.publisher.give(source.encoder.sound_packet(data, seconds))
        taken = source.taken
        source.until(lambda: source.taken >= taken + 50, pause_seconds=0.02)
        source.until(lambda: source.given - told.written[-1][0] <= 10, pause_seconds=0.02)
        given = source.given
        source.until(lambda: told.written[-1][0] >= given)
        source.publisher.finish(DEADLINE_SECONDS)
        assert receiver.wait() == 0
        assert rises(receiver.got())


def test_refused_connections_are_tried_again_and_say_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told, port = Told(), free_port()
    target = find_live_target(f"rtsp://user:hidden@127.0.0.1:{port}/x")
    with (
        caplog.at_level(logging.DEBUG, logger="upframe"),
        publishing(target, told) as source,
    ):
        source.until(lambda: told.reasons.count("refused") >= 2)
        for pid in publishers():
            assert b"hidden" not in command_of(pid)
        assert not source.publisher.wants_keyframe
        state = source.publisher.finish(DEADLINE_SECONDS)
    assert (state.connections, state.written, state.reason) == (0, 0, "refused")
    assert state.dropped == {"away": source.given}
    assert "hidden" not in caplog.text + repr(told.states) + repr(target)
    assert "***@127.0.0.1" in state.message
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1, "what is said again and again is said once"


def test_one_that_never_answers_is_given_up_in_time() -> None:
    told = Told()
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # connects, and says nothing
        port = deaf.getsockname()[1]
        target = find_live_target(f"rtsp://127.0.0.1:{port}/x")
        with publishing(target, told, connect_seconds=1.0) as source:
            source.until(lambda: "timed-out" in told.reasons)
            assert "not connected within 1 s" in source.publisher.state.message

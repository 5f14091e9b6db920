"""The process that muxes a live output, against real receivers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import get_args

import av
import pytest
from support.live.publishing_child import DEADLINE_SECONDS, RATE, Child, encoded, later
from support.servers.camera import Camera, free_port
from support.servers.receivers import Protocol, Receiver, rises

from upframe.io.errors import Reason
from upframe.io.live.publisher_protocol import Connected, Finished, Note, PublishFailed, Written
from upframe.io.live.target import LiveTarget, find_live_target


def until(condition: Callable[[], object], what: str) -> None:
    ends = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < ends, what
        time.sleep(0.02)


def failure(target: LiveTarget, *, packets: int = 50) -> PublishFailed:
    """Feed an output that must fail until it does."""
    primer, pictures = encoded(packets)
    with Child(target, primer) as child:
        child.give(pictures)
        assert child.finish() != 0, child.events
        return child.told(PublishFailed)[0]


_ARRIVE = {"udp": 50, "srt": 25}
"""Frames; SRT gives up on what is under way at its end."""


@pytest.mark.parametrize("protocol", get_args(Protocol))
def test_what_is_published_arrives(protocol: Protocol, tmp_path: Path) -> None:
    count = 150 if protocol == "udp" else 50
    primer, pictures = encoded(count)
    with Receiver(tmp_path, protocol) as receiver:
        with Child(find_live_target(receiver.url), primer) as child:
            child.connected()
            child.give(later(pictures, 1000), paced=protocol == "srt")
            if protocol == "udp":  # has no end of its own
                receiver.until_pictures(50)
            assert child.finish() == 0, (child.events[-1], child.stderr)
            assert child.written == list(range(1, count + 1))
            assert child.told(Finished)
        if protocol != "udp":
            assert receiver.wait() == 0, receiver.log
        got = receiver.got()
        assert len(got) >= _ARRIVE.get(protocol, count - 1), receiver.log
        assert got[0].is_keyframe
        assert got[0].pts < 3  # and not at 1000 s
        assert rises(got)


def test_the_connection_stands_before_the_first_packet(tmp_path: Path) -> None:
    with (
        Receiver(tmp_path, "rtsp") as receiver,
        Child(find_live_target(receiver.url), encoded(2)[0]) as child,
    ):
        child.connected()
        assert child.events == [Connected()]


def test_nothing_goes_out_before_a_keyframe(tmp_path: Path) -> None:
    primer, pictures = encoded(60)
    with Receiver(tmp_path, "tcp") as receiver:
        with Child(find_live_target(receiver.url), primer) as child:
            child.give(pictures[10:])
            assert child.finish() == 0
            assert child.skipped == list(range(1, 16))
            assert child.written == list(range(16, 51))
        assert receiver.wait() == 0, receiver.log
        assert receiver.got()[0].is_keyframe
        assert receiver.pictures() == 35


@pytest.mark.parametrize("protocol", ["rtsp", "rtmp", "tcp"])
def test_sound_keeps_its_place_beside_the_picture(protocol: Protocol, tmp_path: Path) -> None:
    primer, packets = encoded(50, sound="aac")
    packets = later(packets, 500)
    with Receiver(tmp_path, protocol) as receiver:
        with Child(find_live_target(receiver.url), primer) as child:
            child.connected()
            child.give(packets)
            assert child.finish() == 0, (child.events[-1], child.stderr)
            assert child.written == [
                number for number, one in enumerate(packets, 1) if one.kind == "video"
            ]
        assert receiver.wait() == 0, receiver.log
        got = receiver.got()
    assert rises(got, "video")
    assert rises(got, "audio")
    ends = {kind: max(one.pts for one in got if one.kind == kind) for kind in ("video", "audio")}
    last = {kind: max(one.seconds for one in packets if one.kind == kind) for kind in _KINDS}
    wanted = last["video"] - last["sound"]
    assert abs(ends["video"] - ends["audio"] - wanted) <= Fraction(25, 1000)


_KINDS = ("video", "sound")


def test_sound_that_a_format_does_not_know_is_left_out_and_told(tmp_path: Path) -> None:
    primer, packets = encoded(30, sound="pcm_s16le")
    with Receiver(tmp_path, "tcp") as receiver:
        with Child(find_live_target(receiver.url), primer) as child:
            child.give(packets)
            assert child.finish() == 0
            assert "mpegts cannot hold pcm_s16le" in child.told(Note)[0].message
            assert len(child.written) == 30
        assert receiver.wait() == 0
        assert {one.kind for one in receiver.got()} == {"video"}


@pytest.mark.parametrize("scheme", ["rtsp", "rtmp", "tcp"])
def test_a_port_where_nobody_listens_refuses(scheme: str) -> None:
    failed = failure(find_live_target(f"{scheme}://127.0.0.1:{free_port()}/x"))
    assert (failed.reason, failed.error) == ("refused", "OutputLost")


def test_an_srt_that_nobody_takes_is_told_and_leaves_no_process() -> None:
    target = find_live_target(f"srt://127.0.0.1:{free_port()}?connect_timeout=300")
    primer, pictures = encoded(50)
    with Child(target, primer) as child:
        child.give(pictures)
        assert child.finish() != 0
        assert child.told(PublishFailed)[0].error == "OutputLost"
        assert not members(child.process.pid)


@pytest.mark.parametrize(
    ("path", "login", "reason"), [("nowhere", None, "not-found"), ("in", "u:pw", "unauthorised")]
)
def test_a_server_that_does_not_want_it_says_why(
    path: str, login: str | None, reason: Reason, tmp_path: Path
) -> None:
    with Camera(login=login, record=tmp_path / "in.ts") as camera:
        failed = failure(find_live_target(camera.url_of(path)))
    assert failed.reason == reason, failed


def test_a_host_that_is_nowhere_is_unreachable() -> None:
    assert failure(find_live_target("rtsp://nowhere.invalid/x")).reason == "unreachable"


@pytest.mark.parametrize("protocol", ["rtsp", "tcp", "rtmp", "srt"])
def test_a_receiver_that_is_killed_ends_it(protocol: Protocol, tmp_path: Path) -> None:
    primer, pictures = encoded(1000)
    with (
        Receiver(tmp_path, protocol) as receiver,
        Child(find_live_target(receiver.url), primer) as child,
    ):
        child.connected()
        child.give(pictures[:25])
        if protocol == "srt":  # would wait five seconds for one that does not say goodbye
            receiver.stop()
        receiver.kill()
        child.give(pictures[25:], paced=True)
        assert child.wait() != 0
        failed = child.told(PublishFailed)[0]
        assert failed.error == "OutputLost", failed
        assert failed.reason in ("ended", "timed-out"), failed
        assert not members(child.process.pid)


def test_it_serves_an_rtsp_server_with_a_password(tmp_path: Path) -> None:
    primer, pictures = encoded(75)
    record = tmp_path / "in.ts"
    with Camera(login="user:s3cret", record=record) as camera:
        url = camera.record_url.replace("://", "://user:s3cret@")
        with Child(find_live_target(url), primer) as child:
            child.connected()
            command = Path(f"/proc/{child.process.pid}/cmdline").read_bytes()
            assert b"s3cret" not in command
            child.give(pictures)
            until(lambda: record.exists() and record.stat().st_size, "nothing was recorded")
            assert child.finish() == 0, (child.events[-1], child.stderr)


def test_a_failure_does_not_tell_the_password() -> None:
    failed = failure(find_live_target(f"rtsp://user:s3cret@127.0.0.1:{free_port()}/x"))
    assert "***" in failed.message
    assert "s3cret" not in failed.message


def test_sigterm_is_the_end_of_its_input(tmp_path: Path) -> None:
    primer, pictures = encoded(50)
    with Receiver(tmp_path, "tcp") as receiver:
        with Child(find_live_target(receiver.url), primer) as child:
            child.give(pictures)
            child.until(Written, 50)
            child.process.send_signal(signal.SIGTERM)
            assert child.wait() == 0, child.stderr
            assert child.told(Finished)
        assert receiver.wait() == 0
        assert receiver.pictures() == 50


@pytest.mark.parametrize("protocol", ["rtsp", "srt"])
def test_a_publication_ends_with_its_parent(protocol: Protocol, tmp_path: Path) -> None:
    """Also while its receiver takes nothing."""
    with Receiver(tmp_path, protocol) as receiver:
        parent, pid = orphaning(find_live_target(receiver.url).url, "url", protocol)
        processes = members(pid)
        receiver.freeze()
        parent.kill()
        parent.wait()
        assert parent.stdout is not None
        parent.stdout.close()
        until(lambda: not any(alive(one) for one in processes), "it lives on")
    assert len(processes) == (2 if protocol == "srt" else 1)


def test_a_recording_is_completed_when_its_parent_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    parent, pid = orphaning(str(path), "file", "mp4")
    parent.kill()
    parent.wait()
    assert parent.stdout is not None
    parent.stdout.close()
    until(path.exists, "it was not completed")
    until(lambda: not alive(pid), "it lives on")
    with av.open(str(path)) as container:
        assert sum(packet.size > 0 for packet in container.demux(video=0)) == 2 * RATE


_PARENT = """
import sys, time
from support.live.publishing_child import Child, encoded
from upframe.io.live.target import LiveTarget, find_live_target
url, kind, form = sys.argv[1:]
target = find_live_target(url)
primer, pictures = encoded(50)
child = Child(target, primer)
child.connected()
child.give(pictures)
while len(child.written) < 50:
    time.sleep(0.01)
print(child.process.pid, flush=True)
time.sleep(1000)
"""


def orphaning(url: str, kind: str, form: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start a parent with a child that has written all it was given; tell the child's number."""
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, url, kind, form],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


def members(group: int) -> list[int]:
    """The living processes of a process group."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, number = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has ended meanwhile
            continue
        if int(number) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

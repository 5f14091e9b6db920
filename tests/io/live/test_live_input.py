"""A live input against a real RTSP server and real senders of MPEG-TS."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager, suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from support.media.clips import make_clip
from support.media.ts_senders import TsSender, jumping, missing, steady
from support.servers.camera import DEADLINE_SECONDS, Camera, free_port

from upframe.io.errors import InputLost
from upframe.io.live.address import AddressMemory, LiveAddress, Transport, find_address
from upframe.io.live.live_input import LiveInput
from upframe.io.live.values import DecodedFrame, LiveForm, SoundPacket

TRANSPORTS: tuple[Transport, ...] = ("tcp", "udp")


@pytest.fixture(scope="module")
def camera() -> Generator[Camera]:
    """One that plays all the time, with sound."""
    with Camera(sound=True) as running:
        yield running


@contextmanager
def opened(address: LiveAddress | str, *, sound: bool = True) -> Generator[LiveInput]:
    found = find_address(address) if isinstance(address, str) else address
    with closing(connected(found, sound=sound)) as live:
        yield live


def connected(address: LiveAddress, *, sound: bool = True) -> LiveInput:
    """Connect; again where the server is busy with the end of the client before."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        live = LiveInput(address, sound=sound)
        try:
            live.connect()
        except InputLost as error:
            live.close()
            if "5XX" not in str(error) or time.monotonic() > deadline:
                raise
        else:
            return live


def frames_of(live: LiveInput, count: int) -> list[DecodedFrame]:
    """The next frames, the sound left out."""
    found: list[DecodedFrame] = []
    for event in live:
        if isinstance(event, DecodedFrame):
            found.append(event)
        if len(found) == count:
            return found
    raise AssertionError("a live input ends only by InputLost")


def lost(address: LiveAddress | str) -> InputLost:
    """Why an input is lost, whenever that is."""
    try:
        with opened(address) as live:
            live.probe()
            frames_of(live, 10**6)
    except InputLost as error:
        return error
    raise AssertionError(f"{address} gave a million frames")


def test_the_probe_tells_what_a_camera_sends(camera: Camera) -> None:
    with opened(camera.url) as live:
        form = live.probe()
        assert isinstance(form, LiveForm)
        assert (form.info.width, form.info.height, form.info.rate) == (160, 90, 15)
        assert (form.info.pix_fmt, form.info.field_order) == ("yuv420p", "progressive")
        assert (form.info.num_frames, form.info.duration_seconds) == (None, None)
        assert form.codec == "h264"
        assert form.sound is not None


def test_frames_start_at_a_keyframe_and_come_in_order_at_their_times(camera: Camera) -> None:
    with opened(camera.url) as live:
        assert live.gop_seconds is None
        live.probe()
        frames = frames_of(live, 20)
        assert frames[0].is_keyframe
        assert sum(frame.is_keyframe for frame in frames) > 1
        assert live.gop_seconds is not None
        assert abs(live.gop_seconds - 1) < Fraction(1, 10)
        assert not any(frame.after_loss for frame in frames)
        times = [frame.seconds for frame in frames]
        steps = [after - before for before, after in pairwise(times) if before and after]
        assert len(steps) == 19  # the first one has a time, too
        assert all(abs(step - Fraction(1, 15)) < Fraction(1, 100) for step in steps)
        assert live.counts["frames_decoded"] >= 20
        assert (live.counts["frames_damaged"], live.counts["packets_corrupt"]) == (0, 0)
        assert live.last_frame_at is not None
        assert live.last_frame_at >= frames[-1].arrived >= frames[0].arrived


def test_sound_comes_along_unless_it_is_unwanted(camera: Camera) -> None:
    with opened(camera.url) as live:
        live.probe()
        events = iter(live)
        assert isinstance(next(events), DecodedFrame)
        packets = [event for event, _ in zip(events, range(30), strict=False)]
        sound = [packet for packet in packets if isinstance(packet, SoundPacket)]
        assert sound
        assert all(packet.data and packet.duration_seconds for packet in sound)
        times = [packet.seconds for packet in sound if packet.seconds is not None]
        assert len(times) == len(sound)
        assert times == sorted(times)
    with opened(camera.url, sound=False) as live:
        assert live.probe().sound is None
        assert all(
            isinstance(event, DecodedFrame) for event, _ in zip(live, range(6), strict=False)
        )


def test_rtsp_over_udp(camera: Camera) -> None:
    with opened(find_address(camera.url, transport="udp")) as live:
        assert live.probe().info.rate == 15
        assert frames_of(live, 3)[0].is_keyframe
        assert live.lines() == ["connected by UDP"]


@pytest.mark.parametrize(("tcp_only", "expected"), [(False, "udp"), (True, "tcp")])
def test_auto_tries_udp_first_and_remembers_what_worked(tcp_only: bool, expected: str) -> None:
    remembered = AddressMemory()
    with Camera(tcp_only=tcp_only) as camera:
        for _ in range(2):
            address = find_address(camera.url, transport="auto", remembered=remembered)
            with opened(address) as live:
                live.probe()
                said = live.lines()
    assert remembered.transport == expected
    assert said == [f"connected by {expected.upper()}"]  # the second time at once


@pytest.mark.parametrize(
    ("path", "reason", "text"),
    [("nothing", "not-found", "404"), ("deaf", "unsupported", "no video stream, got: 1 audio")],
)
def test_why_a_camera_gives_nothing(camera: Camera, path: str, reason: str, text: str) -> None:
    error = lost(camera.url_of(path))
    assert error.reason == reason
    assert text in str(error)


def test_a_login_is_asked_for_and_taken_and_never_shown(tmp_path: Path) -> None:
    login = tmp_path / "login"
    login.write_text("me:right#word")
    login.chmod(0o600)
    with Camera(login="me:right#word") as camera:
        with opened(find_address(camera.url, credentials_file=login)) as live:
            assert live.probe().info.width == 160
        wrong = lost(camera.url.replace("://", "://me:wrongword@"))
        assert (wrong.reason, lost(camera.url).reason) == ("unauthorised", "unauthorised")
        assert "wrongword" not in f"{wrong} {wrong!r} {wrong.__cause__!r}"
        assert wrong.__suppress_context__


def test_a_closed_port_refuses() -> None:
    for protocol in ("rtsp", "tcp", "rtmp"):
        error = lost(f"{protocol}://127.0.0.1:{free_port()}/live")
        assert (error.reason, "refused" in str(error)) == ("refused", True)


def test_a_device_that_is_not_there_is_not_found() -> None:
    assert lost("/dev/video63").reason == "not-found"


@pytest.mark.parametrize("protocol", ["rtsp", "tcp", "rtmp", "http"])
def test_a_server_that_never_answers_times_out(protocol: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"{protocol}://127.0.0.1:{server.getsockname()[1]}/live"
        error = lost(find_address(url, connect_seconds=0.5, read_seconds=0.5))
    assert error.reason == "timed-out"


def test_udp_without_a_sender_times_out() -> None:
    url = f"udp://127.0.0.1:{free_port()}"
    assert lost(find_address(url, connect_seconds=0.5, read_seconds=0.5)).reason == "timed-out"


def test_a_camera_that_freezes_times_out_and_one_that_dies_has_ended() -> None:
    with Camera() as camera, ExitStack() as stack:
        lives = [
            stack.enter_context(
                opened(find_address(camera.url, transport=transport, read_seconds=0.7))
            )
            for transport in TRANSPORTS
        ]
        for live in lives:
            live.probe()
        camera.freeze()
        for live in lives:
            with pytest.raises(InputLost) as frozen:
                frames_of(live, 10**6)
            assert frozen.value.reason == "timed-out"
        camera.resume()
        last = stack.enter_context(opened(camera.url))
        last.probe()
        camera.kill()
        with pytest.raises(InputLost) as killed:
            frames_of(last, 10**6)
        assert killed.value.reason == "ended"


def test_a_stop_from_another_thread_ends_the_reading(camera: Camera) -> None:
    with opened(camera.url) as live:
        live.probe()
        ended: list[InputLost] = []

        def read() -> None:
            try:
                frames_of(live, 10**6)
            except InputLost as error:
                ended.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        live.stop()
        thread.join(DEADLINE_SECONDS)
        assert [error.reason for error in ended] == ["ended"]


def test_a_stop_before_the_connection_ends_it_too(camera: Camera) -> None:
    with closing(LiveInput(find_address(camera.url))) as live:
        live.stop()
        live.connect()
        with pytest.raises(InputLost, match="stopped"):
            live.probe()


def test_the_sound_of_mpegts_over_udp() -> None:
    with TsSender(protocol="udp", sound=True) as sender, opened(sender.url) as live:
        assert live.probe().sound is not None
        assert len(frames_of(live, 5)) == 5


def test_timestamps_are_given_as_they_were_sent() -> None:
    stamp = missing(jumping(steady(15), {5: 10.0, 8: -10.0}), {11, 12})
    with TsSender(stamp) as sender, opened(sender.url) as live:
        live.probe()
        times = [frame.seconds for frame in frames_of(live, 15)]
    expected = [stamp(number) for number in range(15)]
    assert times == [None if ticks is None else Fraction(ticks, 90_000) for ticks in expected]


def test_a_wrap_is_not_mended_so_that_the_clock_can_count_it() -> None:
    stamp = steady(15, start=2**33 - 8 * 6000)
    with TsSender(stamp) as sender, opened(sender.url) as live:
        live.probe()
        times = [frame.seconds for frame in frames_of(live, 11)]
    assert [round((seconds or 0) * 90_000) for seconds in times] == [
        stamp(number) % 2**33 for number in range(11)
    ]


def test_damaged_frames_are_not_shown_until_the_next_keyframe() -> None:
    with TsSender(damaged={9}) as sender, opened(sender.url) as live:
        live.probe()
        frames = frames_of(live, 11)
        numbers = [round(((frame.seconds or 0) - 1) * 15) for frame in frames]
        first = next(frame for frame in frames if frame.after_loss)
        assert [frame.after_loss for frame in frames].count(True) == 1
        assert first.is_keyframe
        assert not set(range(9, 15)) & set(numbers)
        assert {*range(6), *range(15, 17)} <= set(numbers)
        assert live.counts["packets_corrupt"] >= 1


def test_another_size_within_a_connection_goes_on() -> None:
    with TsSender(sizes={5: "96x64"}) as sender, opened(sender.url) as live:
        assert live.probe().info.width == 64
        frames = frames_of(live, 18)
    assert [frame.frame.width for frame in frames] == [64] * 15 + [96] * 3
    assert [frame.frame.height for frame in frames] == [48] * 15 + [64] * 3


def test_another_codec_within_a_connection_needs_a_new_one(tmp_path: Path) -> None:
    first = make_clip(tmp_path / "first.ts", frames=30, options={"tune": "zerolatency"})
    second = make_clip(tmp_path / "second.ts", frames=300, codec="mpeg2video")
    data = first.read_bytes() + second.read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(DEADLINE_SECONDS)

        def send() -> None:
            connection, _ = server.accept()
            with connection, suppress(ConnectionError):
                connection.sendall(data)

        thread = threading.Thread(target=send)
        thread.start()
        error = lost(f"tcp://127.0.0.1:{server.getsockname()[1]}")
        thread.join(DEADLINE_SECONDS)
    assert error.reason == "format-changed"
    assert "100 packets in a row are no h264" in str(error)


def test_a_sender_that_hangs_up_has_ended() -> None:
    with TsSender() as sender, opened(sender.url) as live:
        live.probe()
        sender.hang_up()
        with pytest.raises(InputLost) as caught:
            frames_of(live, 10**6)
        assert caught.value.reason == "ended"


def test_a_probe_without_a_whole_frame_has_a_deadline(camera: Camera) -> None:
    with opened(camera.url) as live, pytest.raises(InputLost, match="no whole frame") as caught:
        live.probe(deadline_seconds=-1.0)
    assert caught.value.reason == "timed-out"


def test_nothing_stays_open_after_a_connection(camera: Camera) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    with opened(camera.url) as live:
        live.probe()
    before, threads = descriptors(), threading.active_count()
    for _ in range(2):
        with opened(camera.url) as live:
            live.probe()
        lost(camera.url_of("nothing"))
    deadline = time.monotonic() + DEADLINE_SECONDS
    while descriptors() > before or threading.active_count() > threads:
        assert time.monotonic() < deadline, "a connection was left open"
        time.sleep(0.05)

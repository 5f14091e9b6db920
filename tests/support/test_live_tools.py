"""What tests of live streams stand on does what it says."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.error
import pytest
from support.media.ts_packets import WRAP
from support.media.ts_senders import TsSender, jumping, missing, steady
from support.servers.camera import DEADLINE_SECONDS, PACKAGES, Camera
from support.servers.line import Line
from support.servers.receivers import Receiver, gaps, packets_of, rises

SECONDS = (10.0, 10.0)


def opened(url: str) -> av.container.InputContainer:
    options = (
        {"rtsp_transport": "tcp", "analyzeduration": "300000"} if url.startswith("rtsp") else {}
    )
    return av.open(url, options=options, timeout=SECONDS)


def video_stamps(sender: TsSender, number: int) -> Iterator[Fraction | None]:
    """Presentation times of the first video packets, in seconds."""
    with sender, opened(sender.url) as container:
        for packet, _ in zip(container.demux(video=0), range(number), strict=False):
            yield None if packet.pts is None else packet.pts * packet.time_base


def test_a_camera_asks_for_its_password_and_comes_back_changed() -> None:
    with Camera(size="64x48", rate=10, sound=True, login="cook:egg") as camera:
        with pytest.raises(av.error.HTTPUnauthorizedError):
            opened(camera.url)
        with opened(camera.secret_url) as container:
            assert [stream.codec.name for stream in container.streams] == ["h264", "aac"]
            assert container.streams.video[0].width == 64
        camera.restart(size="96x64", rate=20)
        with opened(camera.secret_url) as container:
            assert container.streams.video[0].width == 96
            assert container.streams.video[0].guessed_rate == 20


def test_a_frozen_camera_says_nothing_and_goes_on() -> None:
    with Camera(size="64x48", rate=10) as camera, opened(camera.url) as container:
        packets = container.demux(video=0)
        next(packets)
        camera.freeze()
        state = Path(f"/proc/{camera.pid}/stat")
        deadline = time.monotonic() + DEADLINE_SECONDS
        while state.read_text().rpartition(")")[2].split()[0] != "T":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        camera.resume()
        for _ in range(5):
            assert next(packets).size


SENT = (
    *("ffmpeg", "-nostdin", "-v", "error", "-re", "-f", "lavfi"),
    *("-i", "testsrc=size=64x48:rate=10:duration=1", "-c:v", "libx264", "-pix_fmt", "yuv420p"),
    *("-tune", "zerolatency", "-g", "5", "-f", "rtsp", "-rtsp_transport", "tcp"),
)


def test_a_receiver_keeps_what_it_gets(tmp_path: Path) -> None:
    with Receiver(tmp_path) as receiver:
        subprocess.run([*SENT, receiver.url], check=True, timeout=DEADLINE_SECONDS)
        assert receiver.wait() == 0
        assert receiver.log == ""
        assert receiver.pictures() == 10
        assert rises(receiver.got())
        assert {round(gap, 3) for gap in gaps(receiver.got())} == {Fraction(1, 10)}


def test_a_camera_takes_what_is_published(tmp_path: Path) -> None:
    with Camera(record=tmp_path / "taken.ts") as camera:
        subprocess.run([*SENT, camera.record_url], check=True, timeout=DEADLINE_SECONDS)
        assert len(packets_of(tmp_path / "taken.ts")) >= 5


def test_stamps_are_sent_as_they_are_wanted() -> None:
    stamps = missing(jumping(steady(30), {10: 10.0, 20: -10.0}), (5, 25))
    found = list(video_stamps(TsSender(stamps, rate=30), 30))
    expected = (stamps(number) for number in range(30))
    assert found == [None if each is None else Fraction(each, 90_000) for each in expected]


def test_stamps_wrap_at_33_bits() -> None:
    """FFmpeg shows them as negative before the wrap, where it is near."""
    found = list(video_stamps(TsSender(steady(30, WRAP - 30_000), rate=30), 20))
    assert [each * 90_000 for each in found if each] == [
        number * 3000 - 30_000 for number in range(20) if number != 10
    ]


def test_what_is_lost_on_the_way_shows_in_the_packets() -> None:
    with TsSender(size="320x240", rate=30, damaged=(10,)) as sender, opened(sender.url) as source:
        packets = [packet for packet, _ in zip(source.demux(video=0), range(30), strict=False)]
    damaged = [packet.pts * packet.time_base for packet in packets if packet.is_corrupt]
    assert len(damaged) == 1
    # FFmpeg marks a packet that was still being put together when the loss was seen.
    assert abs(damaged[0] - (1 + Fraction(10, 30))) <= Fraction(2, 30)


def test_a_line_that_is_cut_is_silent_until_it_is_mended() -> None:
    with TsSender(rate=30) as sender, Line(sender.port) as line:
        with opened(line.through(sender.url)) as container:
            packets = container.demux(video=0)
            next(packets)
            line.cut()
            sent = sender.sent
            sender.until_sent(sent + 10)
            line.mend()
            for _ in range(20):
                assert next(packets).size
        assert (sender.connections, line.connections) == (1, 1)


def test_make_installs_the_packages_that_a_skipped_test_names() -> None:
    text = (Path(__file__).parents[2] / "Makefile").read_text()
    (listed,) = re.findall(r"^RTSP_PACKAGES := (.*\n(?:  .*\n)?)", text, re.M)
    assert set(listed.replace("\\", " ").split()) == set(PACKAGES)

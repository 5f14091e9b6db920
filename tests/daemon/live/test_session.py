"""A whole live session in this process: real cameras and files in, real files out."""

from __future__ import annotations

import base64
import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from support.media.clips import make_clip
from support.servers.camera import Camera, free_port
from support.servers.hls import hls_server

from upframe.daemon.errors import Hung, Stopped
from upframe.daemon.exits import exit_code_of
from upframe.daemon.live import live_pipeline
from upframe.daemon.live.live_pipeline import LiveRequest
from upframe.daemon.live.session import LiveReport, LiveSession, children_of
from upframe.daemon.live.status import LiveStatus
from upframe.daemon.specification import StreamSpec
from upframe.filters.device import Runtime
from upframe.filters.errors import WeightsUnavailable
from upframe.filters.frame import Picture
from upframe.filters.options import FilterOptions
from upframe.io.encode.options import EncoderOptions
from upframe.io.errors import InputLost, SinkRefused, SourceMissing, UnsupportedMedia
from upframe.io.live.live_encoder import LiveEncoder
from upframe.io.live.live_input import PacedFile
from upframe.io.live.values import Encoded

DEADLINE_SECONDS = 30.0
RUNTIME = Runtime(torch.device("cpu"), torch.float32, "builtin")
NO_WEIGHTS = FilterOptions(enable_upscaling=True, upscaling_model_path="/nowhere/RealESRGAN_x4.pth")
PATIENT: dict[str, Any] = {"latency_seconds": 60}
"""So patient that nothing is dropped, however busy the machine is."""


@pytest.fixture(autouse=True)
def _one_thread() -> Generator[None]:
    """Leave a core to the camera and the encoder: threads that wait for each other spin."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_thread_left() -> Generator[None]:
    """Hold that no thread is left that the test has started; one of a test before may end yet."""
    before = set(threading.enumerate())
    yield
    started = set(threading.enumerate()) - before
    assert not {thread.name for thread in started if thread.name.startswith("upframe-")}


def request_of(
    source: str | Path, sink: Path, options: dict[str, Any] | None = None, **more: Any
) -> LiveRequest:
    ends = {"name": "test", "input": str(source), "output": str(sink)}
    given = {"filters": {"enable_frame_interpolation": True}, **ends, **(options or {})}
    spec = StreamSpec.model_validate(given)
    return LiveRequest(spec, RUNTIME, **more)


class Running:
    """A session on a thread of its own, and all that it says."""

    def __init__(self, request: LiveRequest) -> None:
        self.statuses: list[LiveStatus] = []
        self.report: LiveReport | None = None
        self.error: BaseException | None = None
        self.session = LiveSession(request, on_status=self.statuses.append)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.report = self.session.run()
        except BaseException as error:
            self.error = error

    def until(self, is_so: Callable[[LiveStatus], bool]) -> LiveStatus:
        deadline = time.monotonic() + DEADLINE_SECONDS
        seen = 0
        while True:
            for status in self.statuses[seen:]:
                seen += 1
                if is_so(status):
                    return status
            assert self._thread.is_alive(), f"it has ended: {self.error or self.report}"
            assert time.monotonic() < deadline, self.statuses[-1:]
            time.sleep(0.02)

    def ended(self) -> LiveReport:
        self._thread.join(2 * DEADLINE_SECONDS)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        assert self.report is not None
        return self.report

    def stop(self) -> LiveReport:
        self.session.stop(15)
        return self.ended()


def slots_of(path: Path, rate: int) -> list[Fraction]:
    """Times of all pictures in slots of an output, from the first one on."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        times = sorted(
            packet.pts * packet.time_base for packet in packets if packet.pts is not None
        )
    return [(one - times[0]) * rate for one in times]


def assert_even(path: Path, rate: int) -> None:
    """Every slot has its picture, to the millisecond of Matroska, whatever the input did."""
    steps = {round(float(b - a), 1) for a, b in pairwise(slots_of(path, rate))}
    assert steps == {1.0}


@pytest.mark.usefixtures("no_thread_left")
def test_a_file_goes_through_at_its_pace_with_its_sound(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", rate=Fraction(15), frames=15, audio="aac")
    out = tmp_path / "out.mkv"
    report = Running(request_of(clip, out, PATIENT)).ended()
    assert len(slots_of(out, 30)) == 29
    assert_even(out, 30)
    assert report.written == 29
    assert report.counts["frames_dropped"] == 0
    assert "its end" in report.ended_by
    assert report.delay_seconds["max"] < 60
    with av.open(str(out)) as container:
        sound = [packet for packet in container.demux(audio=0) if packet.size]
    assert len(sound) > 40
    assert abs(float(sound[0].pts * sound[0].time_base)) < 0.04


@pytest.mark.parametrize("ends", [True, False])
def test_a_playlist_behind_a_login_is_a_file_once_it_has_ended(ends: bool, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.ts", rate=Fraction(15), frames=15)
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nin.ts\n" + "#EXT-X-ENDLIST\n" * ends
    pages = {"/list.m3u8": playlist.encode(), "/in.ts": clip.read_bytes()}
    login = tmp_path / "login"
    login.write_text("me:secret\n")
    login.chmod(0o600)
    out = tmp_path / "out.mkv"
    with hls_server(pages, login=base64.b64encode(b"me:secret").decode()) as server:
        request = request_of(server.url("/list.m3u8"), out, PATIENT | {"credentials_file": login})
        running = Running(request)
        if not ends:
            running.until(lambda status: status.output_state.written > 5)
            running.stop()
            return
        report = running.ended()
    assert "its end" in report.ended_by
    assert len(slots_of(out, 30)) == 29


def test_time_may_pass_faster_than_it_does(tmp_path: Path) -> None:
    """Ten seconds of a file in two and a half, by a clock that is as much faster.

    Two frames a second: the output waits for some intervals, which are as much shorter.
    """
    clip = make_clip(tmp_path / "in.mkv", rate=Fraction(2), frames=20, audio="aac")
    out = tmp_path / "out.mkv"
    began = time.monotonic()

    def now() -> float:
        return 4 * (time.monotonic() - began)

    def make_input(_: float | None) -> PacedFile:
        return PacedFile(clip, speed=4.0, now=now)

    request = request_of(clip, out, PATIENT)
    report = LiveSession(request, now=now, speed=4.0, make_input=make_input).run()
    assert len(slots_of(out, 4)) == 39
    assert_even(out, 4)
    assert report.counts["frames_dropped"] == 0


@pytest.mark.slow
def test_a_machine_that_is_too_slow_says_so_once_and_again_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a minute by a clock that is four times as fast, at which no machine enlarges in time."""
    size = {"width": 320, "height": 240}
    clip = make_clip(tmp_path / "in.mkv", rate=Fraction(60), frames=1800, **size)
    began = time.monotonic()

    def now() -> float:
        return 4 * (time.monotonic() - began)

    def make_input(_: float | None) -> PacedFile:
        return PacedFile(clip, speed=4.0, now=now)

    work = {"filters": {"enable_upscaling": True, "upscaling_scale": 2}}
    request = request_of(clip, tmp_path / "out.mkv", work | {"levels": ["full", "pass"]})
    statuses: list[LiveStatus] = []
    session = LiveSession(
        request, now=now, speed=4.0, make_input=make_input, on_status=statuses.append
    )
    report = session.run()
    said = [line for line in report.warnings if "too slow" in line]
    assert [line.partition(" are as")[0].rpartition("frames ")[2] for line in said] == [
        "of the last minute",
        "of the whole run",
    ]
    assert all("what fits is level pass: frames are only resized" in line for line in said)
    logged = [record for record in caplog.records if "too slow" in record.getMessage()]
    assert [record.levelname for record in logged] == ["WARNING", "WARNING"]
    shown = [status for status in statuses if status.warning]
    assert shown[-1].to_json()["warning"].startswith("this machine is too slow")
    assert shown[-1].as_asked is not None
    assert shown[-1].as_asked < 0.5


class HangingEncoder(LiveEncoder):
    """Never returns from the call for a picture in mid-stream, until the test is over."""

    over = threading.Event()

    def __call__(self, picture: Picture, index: int, *, keyframe: bool = False) -> list[Encoded]:
        if index == 20:
            self.over.wait(DEADLINE_SECONDS)
        return super().__call__(picture, index, keyframe=keyframe)


def test_an_encoder_that_never_returns_ends_the_session_and_the_recording_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_pipeline, "LiveEncoder", HangingEncoder)
    clip, out = make_clip(tmp_path / "in.mkv", rate=Fraction(15), frames=600), tmp_path / "out.mkv"
    session = LiveSession(request_of(clip, out, PATIENT), still_seconds=3.0)
    try:
        with pytest.raises(Hung, match=r"^no new picture has gone out for \d s, though"):
            session.run()
    finally:
        HangingEncoder.over.set()
    assert len(slots_of(out, 30)) == 20
    assert exit_code_of(Hung()) == 70


def test_the_duration_is_that_of_the_output(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", rate=Fraction(15), frames=60)
    out = tmp_path / "out.mp4"
    report = Running(request_of(clip, out, PATIENT, duration_seconds=1.0)).ended()
    assert len(slots_of(out, 30)) == 30
    assert report.ended_by == "its duration has passed"


def test_it_says_that_it_is_there_while_a_long_recording_is_completed(tmp_path: Path) -> None:
    """A silent worker is killed after half a minute; verifying days of video takes longer."""
    clip = make_clip(tmp_path / "in.mkv", rate=Fraction(15), frames=150)
    running = Running(request_of(clip, tmp_path / "out.mkv", PATIENT))
    running.until(lambda status: status.output_state.written > 5)
    (publisher,) = children_of(os.getpid())
    os.kill(publisher, signal.SIGSTOP)  # as if it had much to do
    running.session.stop(15)
    status = running.until(lambda status: status.message == "the output is being completed")
    running.until(lambda later: later.message == status.message and later is not status)
    os.kill(publisher, signal.SIGCONT)
    assert running.ended().written > 5
    assert running.statuses[-1].message == ""


@pytest.mark.usefixtures("no_thread_left")
def test_a_camera_that_goes_and_returns_in_another_form_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    with Camera(size="64x48") as camera:
        running = Running(request_of(camera.url, out))
        running.until(lambda status: status.output_state.written > 10)
        camera.kill()
        running.until(lambda status: status.showing == "slate")
        assert running.statuses[-1].reason in ("ended", "refused")
        camera.start(size="96x64", rate=10)
        running.until(lambda status: status.input.get("width") == 96)
        running.until(lambda status: status.state == "running" and status.showing == "input")
        report = running.stop()
    assert_even(out, 30)
    with av.open(str(out)) as container:
        assert {(frame.width, frame.height) for frame in container.decode(video=0)} == {(64, 48)}
    assert {"connecting", "running", "reconnecting"} <= {one.state for one in running.statuses}
    assert {"freeze", "slate"} <= {one.showing for one in running.statuses}
    assert sum(report.reconnects.values()) >= 1
    assert report.output["rate"] == "30"


def test_without_input_it_stops_where_that_is_wanted(tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    with Camera(size="64x48") as camera:
        running = Running(request_of(camera.url, out, {"on_loss": "stop"}))
        running.until(lambda status: status.output_state.written > 5)
        camera.kill()
        report = running.ended()
    assert report.ended_by.startswith("the input is over")
    assert len(slots_of(out, 30)) == report.written


def test_a_first_connection_that_cannot_work_ends_it(tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    with Camera(login="user:secret") as camera:
        for url, error in (
            (camera.url, SourceMissing),
            (camera.secret_url.replace("/camera", "/nothing"), SourceMissing),
            (camera.secret_url.replace("/camera", "/deaf"), UnsupportedMedia),
        ):
            with pytest.raises(error) as caught:
                Running(request_of(url, out, give_up=True)).ended()
            assert "secret" not in str(caught.value)
    assert not out.exists()


def test_what_refuses_is_tried_until_somebody_stops_it(tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    running = Running(request_of(f"rtsp://127.0.0.1:{free_port()}/x", out, give_up=True))
    running.until(lambda status: status.reconnects.get("refused", 0) >= 2)
    with pytest.raises(Stopped):
        running.stop()
    assert list(tmp_path.iterdir()) == []


def test_a_camera_that_is_not_there_at_the_start_is_waited_for(tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    with Camera(size="64x48") as camera:
        camera.kill()
        running = Running(request_of(camera.url, out))
        running.until(lambda status: status.reconnects.get("refused", 0) >= 1)
        camera.start()
        running.until(lambda status: status.output_state.written > 5)
        running.stop()
    assert_even(out, 30)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"encoder": EncoderOptions(codec="h265000")}, SinkRefused),
        ({"encoder": EncoderOptions(preset="13")}, SinkRefused),
        ({"encoder": EncoderOptions(options={"profile": "none"})}, SinkRefused),
        ({"filters": NO_WEIGHTS}, WeightsUnavailable),
    ],
    ids=["codec", "preset", "option", "weights"],
)
@pytest.mark.usefixtures("no_thread_left")
def test_what_no_camera_can_change_is_told_without_one(
    wrong: dict[str, Any], error: type[Exception], tmp_path: Path
) -> None:
    url = f"rtsp://127.0.0.1:{free_port()}/x"
    with pytest.raises(error):
        Running(request_of(url, tmp_path / "out.mkv", wrong)).ended()
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    out.write_bytes(b"mine")
    with pytest.raises(SinkRefused):
        Running(request_of("rtsp://127.0.0.1:1/x", out)).ended()
    assert out.read_bytes() == b"mine"


@pytest.mark.usefixtures("no_thread_left")
def test_the_reason_why_a_file_cannot_go_on_ends_the_session(tmp_path: Path) -> None:
    """A recording that is gone for good cannot be gone on with."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with Camera(size="64x48") as camera:
        running = Running(request_of(camera.url, folder / "out.mkv"))
        running.until(lambda status: status.output_state.written > 5)
        (folder / "out.mkv").write_bytes(b"somebody else's")
        with pytest.raises(SinkRefused):
            running.stop()
    assert (folder / "out.mkv").read_bytes() == b"somebody else's"


def test_a_connection_knows_which_transport_worked_for_the_one_before(tmp_path: Path) -> None:
    with Camera(tcp_only=True) as camera:
        request = request_of(camera.url, tmp_path / "out.mkv", {"rtsp_transport": "auto"})
        session = LiveSession(request)
        _lines_of_connection(session)
        assert _lines_of_connection(session) == ["connected by TCP"]  # at once


def _lines_of_connection(session: LiveSession) -> list[str]:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        with closing(session._make_source(None)) as source:
            try:
                source.connect()
                source.probe()
                return source.lines()
            except InputLost:  # the server is busy with the end of the client before
                assert time.monotonic() < deadline

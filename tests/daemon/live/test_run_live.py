"""`upframe run` for live streams, as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from support.media.clips import make_clip
from support.servers.camera import Camera

from upframe.daemon.__main__ import main
from upframe.daemon.cli.run import LiveDisplay, name_of, status_text
from upframe.daemon.live.session import children_of
from upframe.daemon.live.status import LiveStatus
from upframe.io.live.values import OutputState

DEADLINE_SECONDS = 60.0
WORDS = ("--interpolate", "1", "--weights", "builtin", "--progress", "json")


class Command:
    """The command in a process of its own, and what it says on stderr."""

    def __init__(self, *words: object) -> None:
        command = [sys.executable, "-m", "upframe.daemon", "run", *map(str, words), *WORDS]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self.statuses: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if line.startswith("{"):
                self.statuses.append(json.loads(line))

    def until(self, is_so: Callable[[dict[str, Any]], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (self.statuses and is_so(self.statuses[-1])):
            assert self.process.poll() is None, "".join(self.lines[-5:])
            assert time.monotonic() < deadline, self.lines[-1:]
            time.sleep(0.02)

    def end(self) -> int:
        code = self.process.wait(DEADLINE_SECONDS)
        self._thread.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


def written(status: dict[str, Any]) -> int:
    return status["output_state"]["written"]


def test_a_recording_ends_well_by_a_signal_and_shows_no_password(tmp_path: Path) -> None:
    out, report = tmp_path / "out.mp4", tmp_path / "report.json"
    secret = tmp_path / "credentials"
    secret.touch(mode=0o600)
    secret.write_text("user:s3cret-word\n")
    with Camera(size="64x48", login="user:s3cret-word") as camera:
        command = Command(camera.url, out, "--credentials-file", secret, "--report", report)
        command.until(lambda status: written(status) > 10)
        assert not out.exists()
        command.process.send_signal(signal.SIGINT)
        assert command.end() == 0
    with av.open(str(out)) as container:
        number = sum(1 for _ in container.decode(video=0))
    said = json.loads(report.read_text())
    assert said["written"] == number
    assert said["schema"] == "upframe.live-report/1"
    assert said["ended_by"] == "stopped by signal 2"
    assert said["weights"][0]["origin"] == "builtin"
    assert command.statuses[-1]["state"] == "running"
    assert command.statuses[-1]["name"] == "127.0.0.1-camera"
    assert "s3cret-word" not in "".join(command.lines) + report.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"out.mp4", "report.json", "credentials"}


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with Camera(size="64x48") as camera:
        command = Command(camera.url, tmp_path / "out.mp4")
        command.until(lambda status: written(status) > 5)
        children = list(children_of(command.process.pid))
        for child in children:
            os.kill(child, signal.SIGSTOP)  # so that the file cannot be completed
        deadline = time.monotonic() + DEADLINE_SECONDS
        while command.process.poll() is None:
            assert time.monotonic() < deadline
            command.process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        assert command.end() == 143
    assert children
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "a process is left behind"
        time.sleep(0.02)
    assert not (tmp_path / "out.mp4").exists()


def run(*words: object) -> int:
    return main(["run", *map(str, words), "--weights", "builtin", "--progress", "none"])


def test_credentials_of_an_output_that_cannot_be_read_are_a_missing_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    login = tmp_path / "login"
    nowhere = ("rtsp://127.0.0.1:1/x", "rtsp://127.0.0.1:1/y", "--interpolate", 1)
    assert run(*nowhere, "--output-credentials-file", login) == 66
    assert f"{login}: the credentials cannot be read" in capsys.readouterr().err


def test_the_first_connection_tells_whether_there_is_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Camera(size="64x48") as camera:
        assert run(camera.url_of("nothing"), tmp_path / "out.mp4", "--interpolate", 1) == 66
        assert "404" in capsys.readouterr().err
        assert run(camera.url_of("deaf"), tmp_path / "out.mp4", "--interpolate", 1) == 65
        assert "no video" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("film.mp4", "out.mp4", "--latency", "1"), "--latency is an option of live streams"),
        (("film.mp4", "out.mp4", "--no-sound"), "--sound is an option of live streams"),
        (("rtsp://c/x", "out.mp4", "--framerate", "24"), "--framerate is no option of live"),
        (("rtsp://c/x", "out.mp4", "--no-live", "--on-loss", "stop"), "--on-loss is an option"),
        (("rtsp://c/x", "out.mp4", "--latency", "0"), "greater than or equal to 0.2"),
        (("rtsp://c/x", "out.mp4", "--levels", "full,fast"), "got 'fast'"),
        (("rtsp://c/x", "out.mp4", "--on-loss", "panic"), "'slate', 'freeze' or 'stop'"),
        (("rtsp://c/x", "out.mp4", "--duration", "0"), "--duration must be above 0"),
        (("rtsp://c/x", "out.mp4", "--name", "a b"), "--name: must be letters"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, "--interpolate", 1) == 64
    assert said in capsys.readouterr().err


def test_a_file_is_live_where_the_user_says_so(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", frames=10)
    out = tmp_path / "out.mkv"
    assert run(clip, out, "--live", "--latency", "60", "--interpolate", 1, "--no-sound") == 0
    with av.open(str(out)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 19


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("rtsp://user:secret@camera-1.local:554/live/x?token=secret", "camera-1.local-live-x"),
        ("rtsp://10.0.0.7/", "10.0.0.7"),
        ("/dev/video0", "dev-video0"),
        ("films/A film.mkv", "films-A-film"),
        ("rtsp://[bad", "live"),
    ],
)  # fmt: skip
def test_a_stream_is_named_after_its_input_without_secrets(address: str, name: str) -> None:
    assert name_of(address) == name


def test_a_line_says_what_matters() -> None:
    status = LiveStatus(
        "x",
        state="reconnecting",
        reason="refused",
        message="Connection refused",
        level="bicubic",
        showing="slate",
        output_state=OutputState(connected=False, reason="timed-out", message="no answer"),
        delay_seconds={"p50": 0.1, "p99": 0.25, "max": 0.3},
        counts={"frames_dropped": 3},
    )
    text = status_text(status, 29.97)
    for part in ("reconnecting", "bicubic", "30.0 fps", "0.10/0.25 s", "3 dropped", "slate"):
        assert part in text
    assert "Connection refused" in text
    assert "no answer" in text


def test_lines_come_on_changes_and_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    moments = [0.0]
    lines = LiveDisplay("line", sys.stderr, now=lambda: moments[0])
    for second in range(12):
        moments[0] = float(second)
        state = "running" if second > 2 else "probing"
        lines(LiveStatus("x", state=state, output_state=OutputState(written=30 * second)))
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in said] == ["probing,", "running,", "running,"]
    assert "30.0 fps" in said[-1]

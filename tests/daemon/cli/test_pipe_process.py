"""`upframe pipe` between real programs: ffmpeg, x264 and mpv, signals, terminals, exit codes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from support.media.pipes import clip, ffprobe, read, write

from upframe.daemon.__main__ import main

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
PIPE = [sys.executable, "-m", "upframe.daemon", "pipe"]
QUICK = ["--weights", "builtin", "--device", "cpu", "--precision", "fp32"]
DOUBLED = [*PIPE, "--interpolate", "1", *QUICK]
FRAME = b"FRAME\n" + bytes(64 * 48 * 3 // 2)
HEADER = b"YUV4MPEG2 W64 H48 F25:1 Ip A1:1 C420jpeg\n"


def run(
    command: Sequence[str], data: bytes | None = None, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command, input=data, capture_output=True, env=ENVIRONMENT, timeout=100, **options
    )


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, **options)


def made_by_ffmpeg(*coded: str) -> list[str]:
    video = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=24000/1001", "-frames:v", "6"]
    return ["ffmpeg", "-nostdin", "-v", "error", *video, *coded, "-strict", "-1", "-"]


@pytest.fixture(scope="module")
def doubled() -> dict[str, bytes]:
    """What the filter makes of six frames from ffmpeg, by pixel format and container."""
    results: dict[str, bytes] = {}
    for pix_fmt, container in (("yuv420p", "y4m"), ("yuv420p10le", "y4m"), ("yuv420p", "nut")):
        muxer = {"y4m": "yuv4mpegpipe"}.get(container, container)
        with start(made_by_ffmpeg("-pix_fmt", pix_fmt, "-c:v", *_codec(muxer), muxer)) as source:
            done = subprocess.run(
                DOUBLED, stdin=source.stdout, capture_output=True, env=ENVIRONMENT, timeout=100
            )
        assert (source.returncode, done.returncode) == (0, 0), done.stderr.decode()
        assert b"Traceback" not in done.stderr
        results[f"{container} {pix_fmt}"] = done.stdout
    return results


def _codec(muxer: str) -> list[str]:
    return ["wrapped_avframe" if muxer == "yuv4mpegpipe" else "rawvideo", "-f"]


@pytest.mark.parametrize("name", ["y4m yuv420p", "y4m yuv420p10le", "nut yuv420p"])
def test_ffmpeg_takes_the_output_as_11_frames_at_exactly_twice_the_rate(
    doubled: dict[str, bytes], name: str
) -> None:
    container, pix_fmt = name.split()
    stream = "stream=codec_name,pix_fmt,r_frame_rate,nb_read_frames"
    found = ffprobe(doubled[name], stream, "format=format_name")
    (video,) = found["streams"]
    assert video["r_frame_rate"] == "48000/1001"
    assert (video["nb_read_frames"], video["pix_fmt"]) == ("11", pix_fmt)
    assert found["format"]["format_name"] == {"y4m": "yuv4mpegpipe"}.get(container, container)


def test_ffmpeg_to_upframe_to_ffmpeg_makes_a_file(tmp_path: Path) -> None:
    encode = ["ffmpeg", "-v", "error", "-i", "-", "-c:v", "libx264", str(tmp_path / "out.mkv")]
    with (
        start(made_by_ffmpeg("-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe")) as source,
        start(DOUBLED, stdin=source.stdout, stderr=subprocess.PIPE) as upframe,
        start(encode, stdin=upframe.stdout) as sink,
    ):
        for process in (source, upframe):
            assert process.stdout is not None
            process.stdout.close()  # only the next process holds it now
        assert upframe.stderr is not None
        said = upframe.stderr.read().decode()
    assert [process.wait() for process in (source, upframe, sink)] == [0, 0, 0]
    assert "6 frames in, 11 out" in said
    shown = ["-show_entries", "stream=r_frame_rate,nb_read_packets", "-of", "json"]
    done = run(["ffprobe", "-v", "error", "-count_packets", *shown, str(tmp_path / "out.mkv")])
    (video,) = json.loads(done.stdout)["streams"]
    assert video["nb_read_packets"] == "11"
    assert abs(Fraction(video["r_frame_rate"]) / Fraction(48000, 1001) - 1) < 1e-5


@pytest.mark.skipif(shutil.which("x264") is None, reason="no x264")
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_x264_takes_the_output(doubled: dict[str, bytes], pix_fmt: str, tmp_path: Path) -> None:
    data = doubled[f"y4m {pix_fmt}"]
    assert data.index(b"\n") < 80
    depth = ["--output-depth", "10" if pix_fmt == "yuv420p10le" else "8"]
    coded = ["--demuxer", "y4m", *depth, "-o", str(tmp_path / "out.264"), "-"]
    done = run(["x264", *coded], data)
    assert done.returncode == 0, done.stderr.decode()
    assert b"encoded 11 frames" in done.stderr
    assert b"48000/1001 fps" in done.stderr


@pytest.mark.skipif(shutil.which("mpv") is None, reason="no mpv")
@pytest.mark.parametrize("name", ["y4m yuv420p", "y4m yuv420p10le", "nut yuv420p"])
def test_mpv_plays_the_output(doubled: dict[str, bytes], name: str) -> None:
    shown = "--term-status-msg=frame ${estimated-frame-number} fps ${container-fps}"
    quiet = ["--no-config", "--vo=null", "--ao=null", "--untimed", shown]
    done = run(["mpv", *quiet, "-"], doubled[name])
    assert done.returncode == 0, done.stdout.decode()
    assert b"64x48" in done.stdout
    assert b"rror" not in done.stdout + done.stderr


def test_a_torn_stream_ends_with_code_65_one_line_and_all_whole_frames(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [*DOUBLED, "--progress", "none", "--report", str(report)]
    done = run(command, HEADER + 3 * FRAME + FRAME[:1000])
    assert done.returncode == 65
    assert done.stderr == b"upframe: truncated: got 994 of 4608 bytes in frame 4\n"
    assert len(read(done.stdout)) == 5
    assert json.loads(report.read_text())["frames_out"] == 5


@pytest.mark.parametrize(("option", "code"), [([], 141), (["--allow-early-close"], 0)])
def test_a_closed_reader_ends_it_with_one_line(option: list[str], code: int) -> None:
    frames = b"".join(b"FRAME\n" + bytes([index]) * 4608 for index in range(20, 120))
    with start([*DOUBLED, *option], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(HEADER.replace(b"C420", b"XLENGTH=100 C420") + frames)
        process.stdin.flush()
        process.stdout.read(10_000)
        process.stdout.close()  # and stdin stays open
        assert process.wait(60) == code
        said = process.stderr.read().decode()
    assert said.startswith("upframe: the reader closed stdout after ")
    assert said.endswith(" of 199 frames\n")
    assert said.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_whole_frames(number: signal.Signals) -> None:
    quiet = [*DOUBLED, "--progress", "none"]
    with start(quiet, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(HEADER + b"".join(b"FRAME\n" + bytes([i]) * 4608 for i in (50, 60, 70)))
        process.stdin.flush()
        head = process.stdout.read(100 + 3 * 4608)  # the rest is on its way, stdin stays open
        process.send_signal(number)
        rest, said = process.stdout.read(), process.stderr.read() if process.stderr else b""
        assert process.wait(60) == 128 + number
    assert said.decode() == f"upframe: stopped by signal {int(number)}\n"
    assert len(read(head + rest)) == 5


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    large = HEADER.replace(b"W64 H48", b"W640 H480")
    (tmp_path / "in.y4m").write_bytes(large + 40 * (b"FRAME\n" + bytes(640 * 480 * 3 // 2)))
    with (
        (tmp_path / "in.y4m").open("rb") as stdin,
        start(DOUBLED, stdin=stdin, stderr=subprocess.DEVNULL) as process,
    ):
        assert process.stdout is not None
        assert len(process.stdout.read(1000)) == 1000  # it writes; from here on nobody reads
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


IMPOSSIBLE = [
    ([], b"", 64, "no filter asked for"),
    (["--interpolate", "1"], b"some text", 65, "must be y4m, nut or matroska"),
    (["--interpolate", "1"], b"", 65, "empty"),
    (["--interpolate", "1"], HEADER.replace(b"F25:1", b"F0:0"), 65, r"frame rate (F)"),
    (
        ["--interpolate", "1", "--format", "avi"],
        b"",
        64,
        "input should be 'y4m', 'nut' or",
    ),
    (
        ["--interpolate", "1", "--expect-frames", "0"],
        b"",
        64,
        "--expect-frames: input should be greater",
    ),
]


@contextmanager
def stdin_of(data: bytes) -> Generator[None]:
    """Let this process have a pipe as its stdin, with no more bytes than a pipe holds."""
    saved = os.dup(0)
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    os.dup2(reading, 0)
    os.close(reading)
    try:
        yield
    finally:
        os.dup2(saved, 0)
        os.close(saved)


@pytest.mark.parametrize(("words", "data", "code", "text"), IMPOSSIBLE)
def test_what_cannot_be_says_why_and_writes_nothing(
    capfd: pytest.CaptureFixture[str], words: list[str], data: bytes, code: int, text: str
) -> None:
    with stdin_of(data):
        assert main(["pipe", *words, *QUICK]) == code
    written, said = capfd.readouterr()
    assert written == ""
    assert text in said
    assert "Traceback" not in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(("words", "data", "code", "text"), IMPOSSIBLE[:2])
def test_a_shell_sees_the_same(words: list[str], data: bytes, code: int, text: str) -> None:
    done = run([*PIPE, *words, *QUICK], data)
    assert (done.returncode, done.stdout) == (code, b"")
    assert text in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_a_closed_stream_is_a_usage_error(closed: str) -> None:
    done = run(["sh", "-c", f'exec "$@" {closed}', "sh", *DOUBLED], b"")
    assert done.returncode == 64
    assert b" is closed, wanted a pipe" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_full_disk_is_an_io_error() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*DOUBLED, "--progress", "none"],
            input=write(*clip(num=3), "y4m"),
            stdout=full,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            timeout=100,
        )
    assert done.returncode == 74
    assert done.stderr == b"upframe: cannot write the output: No space left on device\n"


def test_help_shows_whole_command_lines() -> None:
    done = run([*PIPE, "--help"])
    assert done.returncode == 0
    for words in (
        b"ffmpeg -i - -i in.mkv",
        b"x265 --y4m",
        b"SvtAv1EncApp -i stdin",
        b"| mpv --audio-file",
    ):
        assert words in done.stdout

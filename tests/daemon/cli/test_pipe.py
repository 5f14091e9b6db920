"""`upframe pipe` between two streams of this process: what comes out, and how it ends."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
import torch
from support.media.fakes import moving_pictures, stream_info
from support.media.pipes import RATE, Slot, Tap, clip, read, write

from upframe.daemon.cli.pipe import PipeResult, pipe, standard_streams
from upframe.daemon.convert.progress import Display, LineDisplay
from upframe.daemon.errors import UsageError
from upframe.daemon.specification import PipeOptions
from upframe.filters.device import Runtime
from upframe.filters.options import FilterOptions
from upframe.io.errors import ReaderGone, TruncatedMedia, UnsupportedMedia
from upframe.io.pipes import FORMATS, PipeFormat, open_pipe_source
from upframe.io.rawvideo.bytestream import RawStream

DOUBLED = FilterOptions(enable_frame_interpolation=True, frame_interpolation_exp=1)
ENLARGED = FilterOptions(enable_upscaling=True, upscaling_scale=2)
RUNTIME = Runtime(torch.device("cpu"), torch.float32, "builtin")


def run(
    stdin: RawStream, stdout: RawStream, filters: FilterOptions = DOUBLED, **options: Any
) -> PipeResult:
    return pipe(PipeOptions(filters=filters, **options), RUNTIME, stdin, stdout, Display())


def piped(data: bytes, filters: FilterOptions = DOUBLED, **options: Any) -> bytes:
    outcome = run(Slot(data), tap := Tap(), filters, **options)
    if outcome.ended_by is not None:
        raise outcome.ended_by
    return bytes(tap.data)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny frames: threads would only wait for each other, and the bytes could differ."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=FORMATS)
def format_name(request: pytest.FixtureRequest) -> PipeFormat:
    return request.param


def test_n_frames_become_2n_minus_1_at_twice_the_exact_rate(format_name: PipeFormat) -> None:
    data = piped(write(*clip(num=6), format_name))
    source = open_pipe_source(Slot(data))
    assert source.format == format_name
    assert source.info.rate == 2 * RATE
    pictures = list(source)
    assert len(pictures) == 11
    for index, picture in enumerate(pictures):
        exact = Fraction(index) / (2 * RATE)
        assert abs(picture.pts * picture.time_base - exact) <= Fraction(1, 2000)


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv444p12le", "gray16le"])
def test_pixel_format_and_bit_depth_stay(pix_fmt: str, format_name: PipeFormat) -> None:
    data = piped(write(*clip(pix_fmt, num=2), format_name), ENLARGED)
    source = open_pipe_source(Slot(data))
    assert (source.info.pix_fmt, source.info.width, source.info.height) == (pix_fmt, 128, 96)


@pytest.mark.parametrize(
    ("format_name", "output"), [("y4m", "nut"), ("nut", "matroska"), ("matroska", "y4m")]
)
def test_a_format_becomes_another(format_name: PipeFormat, output: PipeFormat) -> None:
    data = piped(write(*clip(num=2), format_name), format=output)
    source = open_pipe_source(Slot(data))
    assert (source.format, len(list(source))) == (output, 3)


def test_y4m_keeps_aspect_range_siting_and_length() -> None:
    header = b"YUV4MPEG2 W64 H48 F24000:1001 Ip A4:3 C420mpeg2 XCOLORRANGE=LIMITED XLENGTH=2\n"
    data = piped(header + 2 * (b"FRAME\n" + bytes(64 * 48 * 3 // 2)))
    line = data.partition(b"\n")[0] + b"\n"
    assert line == header.replace(b"F24000", b"F48000").replace(b"XLENGTH=2", b"XLENGTH=3")


def test_the_same_input_gives_the_same_bytes(format_name: PipeFormat) -> None:
    data = write(*clip(num=3), format_name)
    assert piped(data) == piped(data)


@pytest.fixture
def ends() -> Iterator[tuple[FileIO, FileIO, FileIO, FileIO]]:
    """Two pipes: ours to write into, the filter's stdin, its stdout, ours to read from."""
    stdin, ours_in = os.pipe()
    ours_out, stdout = os.pipe()
    files = (FileIO(ours_in, "wb"), FileIO(stdin), FileIO(stdout, "wb"), FileIO(ours_out))
    yield files
    for file in files:
        file.close()


def test_the_header_goes_out_before_the_first_frame_has_come(
    ends: tuple[FileIO, FileIO, FileIO, FileIO],
) -> None:
    ours_in, stdin, stdout, ours_out = ends
    seen: list[bytes] = []

    def feed() -> None:
        ours_in.write(b"YUV4MPEG2 W64 H48 F25:1 C420jpeg\n")
        seen.append(ours_out.read(100) or b"")
        ours_in.write(2 * (b"FRAME\n" + bytes(64 * 48 * 3 // 2)))
        ours_in.close()

    feeder = threading.Thread(target=feed)
    feeder.start()
    assert run(stdin, stdout).ended_by is None
    feeder.join()
    assert seen == [b"YUV4MPEG2 W64 H48 F50:1 Ip A0:0 C420jpeg\n"]


class Endless:
    """A y4m stream of equal frames that counts what was taken."""

    FRAME = b"FRAME\n" + bytes(640 * 480 * 3 // 2)

    def __init__(self, num: int) -> None:
        self._data = memoryview(b"YUV4MPEG2 W640 H480 F25:1 C420jpeg\n" + num * self.FRAME)
        self.taken = 0

    def readinto(self, buffer: memoryview, /) -> int:
        size = min(len(buffer), len(self._data) - self.taken)
        buffer[:size] = self._data[self.taken : self.taken + size]
        self.taken += size
        return size

    def write(self, data: memoryview, /) -> int:
        raise NotImplementedError

    def fileno(self) -> int:
        raise AttributeError

    @property
    def frames(self) -> int:
        return self.taken // len(self.FRAME)


def test_reading_stops_while_the_reader_of_the_output_is_slow(
    ends: tuple[FileIO, FileIO, FileIO, FileIO],
) -> None:
    _, _, stdout, ours_out = ends
    stdin = Endless(60)
    seen: list[int] = []
    got = 0

    def read_late() -> None:
        nonlocal got
        while len(seen) < 2 or seen[-1] != seen[-2]:
            time.sleep(0.5)
            seen.append(stdin.frames)
        while piece := ours_out.read(1 << 20):
            got += len(piece)

    reader = threading.Thread(target=read_late)
    reader.start()
    assert run(stdin, stdout).ended_by is None
    stdout.close()
    reader.join()
    # 4 decoded, 4 computed and 2 in the pipe of twice as many, one in hand at each of 3 stages
    assert seen[-1] <= 4 + (4 + 2) / 2 + 3
    assert stdin.frames == 60
    assert got == len(b"YUV4MPEG2 W640 H480 F50:1 Ip A0:0 C420jpeg\n") + 119 * len(Endless.FRAME)


def test_a_torn_input_gives_all_whole_frames_and_says_so(format_name: PipeFormat) -> None:
    data = write(*clip(num=6), format_name)
    outcome = run(Slot(data[: len(data) - 2000]), tap := Tap())
    assert isinstance(outcome.ended_by, TruncatedMedia)
    assert "truncated: got " in str(outcome.ended_by)
    assert len(read(bytes(tap.data))) == 9
    assert outcome.report.warnings[-1] == str(outcome.ended_by)


def test_too_few_frames_give_what_there_is_and_say_so() -> None:
    outcome = run(Slot(write(*clip(num=3), "nut")), tap := Tap(), expect_frames=4)
    assert str(outcome.ended_by) == "truncated: got 3 of 4 expected frames"
    assert len(read(bytes(tap.data))) == 5


@pytest.mark.parametrize(("expected", "due"), [(6, " of 11 frames"), (None, " frames, more were")])
def test_a_reader_that_leaves_ends_the_work(expected: int | None, due: str) -> None:
    data = write(*clip(num=6), "y4m")
    outcome = run(Slot(data), Tap(limit=10_000), expect_frames=expected)
    assert isinstance(outcome.ended_by, ReaderGone)
    assert str(outcome.ended_by).startswith(f"the reader closed stdout after 3{due}")
    assert outcome.report.frames_out == 3


def test_a_reader_that_leaves_does_not_wait_for_a_silent_writer(
    ends: tuple[FileIO, FileIO, FileIO, FileIO],
) -> None:
    ours_in, stdin, _, _ = ends
    frames = b"".join(b"FRAME\n" + bytes([40 + index]) * 4608 for index in range(4))
    ours_in.write(b"YUV4MPEG2 W64 H48 F25:1 C420jpeg\n" + frames)
    began = time.monotonic()
    outcome = run(stdin, Tap(limit=5000))  # stdin stays open, and says nothing more
    assert isinstance(outcome.ended_by, ReaderGone)
    assert time.monotonic() - began < 20


def test_a_reader_that_is_gone_from_the_start_gets_the_same_error() -> None:
    with pytest.raises(ReaderGone, match="after 0 of 11 frames"):
        run(Slot(write(*clip(num=6), "y4m")), Tap(limit=0), expect_frames=6)


def test_variable_rate_to_y4m_is_refused_before_anything_is_written() -> None:
    info = stream_info(rate=None, time_base=Fraction(1, 90000))
    pictures = moving_pictures(4, pts=[0, 3003, 9009, 10010], time_base=info.time_base)
    data = write(info, pictures, "nut")
    tap = Tap()
    with pytest.raises(UnsupportedMedia, match="--format nut and --format matroska"):
        run(Slot(data), tap, format="y4m")
    assert not tap.data
    again = read(piped(data))
    assert [picture.pts * picture.time_base * 180000 for picture in again] == [
        *(0, 3003, 6006, 12012, 18018, 19019, 20020)
    ]


@pytest.mark.parametrize("limit", [10_000, None])
def test_progress_as_text_leaves_the_last_word_to_the_summary_or_the_error(
    limit: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    options, tap = PipeOptions(filters=DOUBLED), Tap(limit=limit)
    pipe(options, RUNTIME, Slot(write(*clip(num=6), "y4m")), tap, LineDisplay(sys.stderr))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("limit", [10_000, None])
def test_progress_as_json_ends_with_an_event_however_it_ends(
    limit: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    options, tap = PipeOptions(filters=DOUBLED), Tap(limit=limit)
    display = LineDisplay(sys.stderr, as_json=True)
    pipe(options, RUNTIME, Slot(write(*clip(num=6), "y4m")), tap, display)
    event = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert event["progress"] == "end"
    assert (event["frame"] == 11) == (limit is None)


def test_what_libraries_print_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    saved = os.dup(0), os.dup(1)
    os.dup2(reading, 0)
    try:
        with standard_streams() as (stdin, stdout):
            os.write(writing, b"in")
            assert stdin.read(2) == b"in"
            os.write(1, b"noise")
            stdout.write(b"video")
        os.write(1, b" again")
    finally:
        os.dup2(saved[0], 0)
        for descriptor in (reading, writing, *saved):
            os.close(descriptor)
    assert capfd.readouterr() == ("video again", "noise")


@pytest.mark.parametrize("descriptor", [0, 1])
def test_a_terminal_is_refused(descriptor: int) -> None:
    pty, terminal = os.openpty()
    saved = os.dup(descriptor)
    reading, writing = os.pipe()
    other = os.dup(0)
    os.dup2(reading, 0)
    os.dup2(terminal, descriptor)
    try:
        with pytest.raises(UsageError, match="is a terminal"), standard_streams():
            pytest.fail("it should have refused")
    finally:
        os.dup2(saved, descriptor)
        os.dup2(other, 0)
        for unused in (pty, terminal, saved, reading, writing, other):
            os.close(unused)


def test_the_report_tells_streams_weights_and_frames(tmp_path: Path) -> None:
    outcome = run(Slot(write(*clip(num=3), "nut")), Tap(), format="matroska")
    outcome.report.write(tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["source"], report["sink"]) == ("stdin (nut)", "stdout (matroska)")
    assert (report["frames_in"], report["frames_out"]) == (3, 5)
    assert report["weights"][0]["origin"] == "builtin"

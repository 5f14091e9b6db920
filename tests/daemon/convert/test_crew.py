"""Several workers make the same film as one process does, whatever becomes of them."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.media import plain_segments
from support.media.clips import make_clip
from support.media.plain_segments import RUNTIME, Film, failing_sink, film_of
from support.media.sinks import decoded_frames

from upframe.daemon.convert.conversion import run
from upframe.daemon.convert.crew import Crew, Setup
from upframe.daemon.convert.plan import plan_folder
from upframe.daemon.convert.preflight import RunRequest
from upframe.daemon.convert.progress import Display, Snapshot
from upframe.daemon.convert.report import Report
from upframe.daemon.errors import Stopped, WorkersLost
from upframe.daemon.live.session import children_of
from upframe.daemon.specification import ConversionOptions
from upframe.filters.device import Runtime
from upframe.filters.errors import WeightsUnavailable
from upframe.filters.options import FilterOptions
from upframe.io.encode.options import EncoderOptions
from upframe.io.errors import SinkFull
from upframe.io.web import NetworkRules

FRAMES, LEAST = 96, 8
CPU = torch.device("cpu")
LOSSLESS = EncoderOptions.model_validate({"codec": "ffv1"})
"""x264 reads memory that it has not written, and decides by it (mbtree with AVX-512)."""
INTERPOLATED = FilterOptions(enable_frame_interpolation=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("crew") / "in.mkv"
    return make_clip(path, frames=FRAMES, options={"g": "8", "bf": "2"}, audio="aac")


def made(
    source: Path,
    target: Path,
    workers: int,
    act: Callable[[Snapshot], None] = lambda _: None,
    **more: Any,
) -> Report:
    """Convert a film on so many workers of one thread; `act` sees the progress."""
    given = {"filters": INTERPOLATED, "encoder": LOSSLESS, "segment_frames": LEAST}
    options = ConversionOptions(**given | more)
    devices = (CPU,) * workers if workers > 1 else ()
    runtime = Runtime(CPU, torch.float32, "builtin", workers=devices)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run(RunRequest(str(source), str(target), options, runtime), _Watch(act))
    finally:
        torch.set_num_threads(before)


class _Watch(Display):
    interval_seconds = 0.05

    def __init__(self, act: Callable[[Snapshot], None]) -> None:
        self._act = act

    def show(self, snapshot: Snapshot, *, ended: bool) -> None:
        if not ended:
            self._act(snapshot)


def workers_of(pid: int) -> list[int]:
    """The processes that make segments for another one."""
    found: list[int] = []
    for child in children_of(pid):
        words = Path(f"/proc/{child}/cmdline").read_bytes()
        found += [child] if b"segment_worker" in words else []
    return found


class Killer:
    """Kills a worker whenever so many more frames are done: now and then it is between segments."""

    def __init__(self) -> None:
        self.killed: list[int] = []

    def __call__(self, snapshot: Snapshot) -> None:
        if snapshot.frames_out > 20 + 60 * len(self.killed):
            for worker in workers_of(os.getpid())[:1]:
                self.killed.append(worker)
                os.kill(worker, signal.SIGKILL)


@pytest.fixture(scope="module")
def whole(source: Path) -> tuple[list[tuple[int, bytes]], Report]:
    """By one process."""
    target = source.with_name("one.mkv")
    report = made(source, target, 1)
    return decoded_frames(target), report


@pytest.mark.parametrize("workers", [2, 3])
def test_several_workers_give_the_frames_and_the_report_of_one_process(
    source: Path, whole: tuple[list[tuple[int, bytes]], Report], workers: int
) -> None:
    target = source.with_name(f"{workers}.mkv")
    report = made(source, target, workers)
    frames, one = whole
    assert len(frames) == 2 * FRAMES - 1
    assert decoded_frames(target) == frames
    for name in ("frames_in", "frames_out", "counters", "streams", "losses", "warnings"):
        assert getattr(report, name) == getattr(one, name), name
    assert workers_of(os.getpid()) == []
    assert not plan_folder(target).exists()


@pytest.mark.parametrize("part", [{}, {"start": 0.5, "end": 3.3}])
def test_segments_on_two_workers_give_the_frames_of_a_single_pass(
    source: Path, part: dict[str, float]
) -> None:
    """Also where everything moves, in which a cut is only seen beside what was before."""
    once, divided = source.with_name("once.mkv"), source.with_name("divided.mkv")
    report = made(source, once, 1, segment_frames=FRAMES, overwrite=True, **part)
    assert report.resumed is None
    parts = made(source, divided, 2, overwrite=True, **part)
    assert parts.resumed is not None
    assert parts.counters == report.counters
    assert decoded_frames(divided) == decoded_frames(once)


def test_a_worker_that_is_killed_loses_nothing_but_its_segment(
    source: Path,
    whole: tuple[list[tuple[int, bytes]], Report],
    caplog: pytest.LogCaptureFixture,
) -> None:
    target, killer = source.with_name("killed.mkv"), Killer()
    report = made(source, target, 2, killer)
    assert killer.killed
    assert decoded_frames(target) == whole[0]
    assert (report.frames_in, report.frames_out) == (FRAMES, 2 * FRAMES - 1)
    assert re.search(r"worker [01] on cpu, over (no )?segment.*, was ended by SIGKILL", caplog.text)


@pytest.mark.slow
def test_progress_never_exceeds_the_film(source: Path) -> None:
    seen: list[Snapshot] = []
    killer = Killer()

    def act(snapshot: Snapshot) -> None:
        seen.append(snapshot)
        killer(snapshot)

    made(source, source.with_name("progress.mkv"), 2, act)
    assert any(0 < each.frames_out < 2 * FRAMES - 1 for each in seen)
    assert max(each.frames_out for each in seen) <= 2 * FRAMES - 1
    assert max(each.frames_in for each in seen) <= FRAMES + 2  # and the one past an end, of each


def program(source: Path, target: Path) -> subprocess.Popen[str]:
    options = ["--interpolate", "1", "--weights", "builtin", "--segment-frames", str(LEAST)]
    command = [sys.executable, "-m", "upframe.daemon", "run", str(source), str(target), *options]
    command += ["--device", "cpu*2", "--threads", "1", "--progress", "json"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def await_frames(child: subprocess.Popen[str]) -> None:
    assert child.stderr is not None
    for line in child.stderr:
        if (found := re.search(r'"frame": (\d+)', line)) and int(found[1]) > 20:
            return
    raise AssertionError("it ended before")


def gone(pids: list[int]) -> bool:
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        if not any(Path(f"/proc/{pid}/cmdline").is_file() for pid in pids):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """A film that takes some seconds."""
    return make_clip(tmp_path / "in.mkv", frames=400, width=160, height=96, options={"g": "8"})


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_the_run_which_is_continued(long: Path, number: signal.Signals) -> None:
    target = long.with_name("out.mkv")
    child = program(long, target)
    await_frames(child)
    workers = workers_of(child.pid)
    assert len(workers) == 2
    child.send_signal(number)
    child.communicate(timeout=30)
    assert child.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert gone(workers)
    assert not target.exists()
    again = program(long, target)
    _, text = again.communicate(timeout=120)
    assert again.returncode == 0, text
    assert (found := re.search(r"of which an earlier run has made (\d+)(?:; (\d+) it had)?", text))
    assert int(found[1]) >= 1
    assert int(found[2] or 0) <= 2  # those in flight
    assert len(decoded_frames(target)) == 799
    assert not plan_folder(target).exists()


# Workers with sinks of the tests' own, which fail where the test wants it.


@pytest.fixture
def film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Film:
    tests = Path(plain_segments.__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", str(tests))
    return film_of(tmp_path, INTERPOLATED)


def crew_of(film: Film, number: int, how: str, weights: Mapping[str, str] | None = None) -> Crew:
    """Two workers that fail at one segment."""
    name = film.plan().path_of(film.cuts.segments[number]).name
    weights = weights or {one.name: one.weights.sha256 for one in film.built if one.weights}
    work = film.work(partial(failing_sink, name, how))
    return Crew(Setup(work, RUNTIME, 1, NetworkRules(), weights), (CPU, CPU))


def test_a_segment_that_ends_every_process_fails_the_film_with_its_number(film: Film) -> None:
    run, joined = film.prepared(), film.joined
    with pytest.raises(WorkersLost, match=r"segment 2 \(frames 16 to 23\): 5 processes") as caught:
        run(joined, crew_of(film, 2, "crash"))
    assert "SIGSEGV" in str(caught.value)
    assert joined.is_aborted
    states = {each.segment.number: each.state for each in film.plan().entries()}
    assert states.pop(2) != "done"
    film.run()  # what was done stays
    assert len(film.made) < len(states) + 1


def test_an_error_of_the_work_ends_the_film_as_it_is(film: Film) -> None:
    run, joined = film.prepared(), film.joined
    with pytest.raises(SinkFull, match="No space left on device"):
        run(joined, crew_of(film, 1, "full"))
    assert joined.is_aborted
    assert list(film.folder.glob("worker-*")) == []


def test_other_weights_are_not_taken(film: Film) -> None:
    crew = crew_of(film, 1, "never", weights={"interpolate": "0" * 64})
    with pytest.raises(WeightsUnavailable, match="the weights of interpolate have changed"):
        film.prepared()(film.joined, crew)


def test_a_crew_that_is_stopped_ends_at_once(film: Film) -> None:
    crew = crew_of(film, 0, "hang")
    crew.stop(signal.SIGTERM)
    with pytest.raises(Stopped):
        film.prepared()(film.joined, crew)
    assert workers_of(os.getpid()) == []


def test_a_worker_that_hangs_is_overtaken(film: Film, caplog: pytest.LogCaptureFixture) -> None:
    """The first process that makes the segment never ends; another one begins it a second time."""
    caplog.set_level(logging.INFO)
    run, joined = film.prepared(), film.joined
    run(joined, crew_of(film, 2, "hang once"))
    assert joined.is_finished
    film.joined = type(joined)()
    pictures = joined.pictures
    film.run()
    assert film.joined.pictures == pictures


def test_a_film_of_one_segment_is_made_by_one_process(
    source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ConversionOptions(filters=INTERPOLATED, segment_frames=FRAMES)
    runtime = Runtime(CPU, torch.float32, "builtin", workers=(CPU, CPU))
    target = source.with_name("short.mkv")
    report = run(RunRequest(str(source), str(target), options, runtime))
    assert "cpu alone makes the film, which is one segment" in report.warnings

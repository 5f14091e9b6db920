"""A call that never returns ends its process; one that is slow, or waits for others, does not."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.jobs.hung import FRAMES, LIMITS, convert
from support.jobs.work import config_of, frames_in, names_in, new_job, running
from support.media.clips import make_clip

from upframe.daemon.hang import CallAges, HangLimits, others_sleep
from upframe.daemon.workers.process import WorkerSettings, worker_command
from upframe.io.calls import Call, calls_at_work

WIDTH, HEIGHT = 320, 240
HUNG = re.compile(
    r"compute: a frame on cpu has not returned for \d+ s, "
    r"and the process used no CPU time meanwhile"
)
MODULE = "support.jobs.hung"
TESTS = str(Path(__file__).parents[1])
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": TESTS}
ENCODE = Call("encode: x", on_card=False)
ON_CARD = Call("compute: y", on_card=True)


def verdicts(*looks: tuple[list[Call], bool], limits: HangLimits | None = None) -> list[str]:
    ages = CallAges(limits or HangLimits(asleep=20, on_card=50))
    found = (ages.look(calls, asleep=asleep) for calls, asleep in looks)
    return [verdict for verdict in found if verdict is not None]


# -------------------------------------------------------------------------------- the judgement


def test_a_call_in_a_process_that_sleeps_for_the_whole_limit_is_hung() -> None:
    assert verdicts(*[([ENCODE], True)] * 19) == []
    text = "encode: x has not returned for 20 s, and the process used no CPU time meanwhile"
    assert verdicts(*[([ENCODE], True)] * 20) == [text]


def test_a_call_that_works_or_waits_for_a_core_is_never_hung() -> None:
    assert verdicts(*[([ENCODE], False)] * 5000) == []


def test_work_now_and_then_is_work_as_long_as_it_is_more_than_that_of_timers() -> None:
    one_in_ten = [([ENCODE], look % 10 > 0) for look in range(5000)]
    assert verdicts(*one_in_ten) == []
    one_in_fifty = [([ENCODE], look % 50 > 0) for look in range(50)]
    assert verdicts(*one_in_fifty)


def test_a_call_that_worked_for_long_and_then_sleeps_is_hung() -> None:
    (text,) = verdicts(*[([ENCODE], False)] * 500, *[([ENCODE], True)] * 20)
    assert text.startswith("encode: x has not returned for 520 s")


def test_each_call_has_an_age_of_its_own() -> None:
    others = ([Call("encode: x", on_card=False)] for _ in range(100))
    assert verdicts(*((calls, True) for calls in others)) == []
    assert verdicts(*[([ENCODE], True)] * 19, ([], True), *[([ENCODE], True)] * 19) == []


def test_a_call_that_waits_for_a_card_is_judged_by_its_time_alone() -> None:
    assert verdicts(*[([ON_CARD], True)] * 49) == []
    for asleep in (True, False):
        (text,) = verdicts(*[([ON_CARD], asleep)] * 50)
        assert text == "compute: y has not returned for 50 s"


def test_a_thread_that_runs_in_native_code_does_not_sleep() -> None:
    def eventually(asleep: bool) -> bool:
        ends = time.monotonic() + 10
        while others_sleep() is not asleep and time.monotonic() < ends:
            time.sleep(0.01)
        return others_sleep() is asleep or time.monotonic() < ends

    assert eventually(True)
    done = threading.Event()

    def compute() -> None:
        while not done.is_set():
            hashlib.pbkdf2_hmac("sha256", b"a", b"b", 200_000)

    thread = threading.Thread(target=compute)
    thread.start()
    assert eventually(False)
    done.set()
    thread.join()


# ------------------------------------------------------------------------------------ processes


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "in.mp4", frames=FRAMES)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@contextmanager
def converting(*words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A process that converts; its filter has begun with what it does."""
    command = [sys.executable, "-m", MODULE, *map(str, words)]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    with process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if line == "begins\n":
                    break
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def test_a_filter_that_never_returns_ends_the_process_and_leaves_nothing(
    clip: Path, out: Path
) -> None:
    before = names_in(clip.parent)
    with converting("pause", clip, out / "a.mp4") as process:
        assert names_in(out) != set()
        code, said = ended(process)
    assert (code, said[:9], said[-1]) == (70, "upframe: ", "\n")
    assert HUNG.fullmatch(said[9:-1])
    assert names_in(out) == set()
    assert names_in(clip.parent) == before


def test_so_does_it_for_a_sequence_of_images(clip: Path, out: Path) -> None:
    with converting("pause", clip, out / "a%03d.png") as process:
        assert names_in(out) != set()
        assert ended(process)[0] == 70
    assert names_in(out) == set()


def test_of_a_film_in_segments_the_finished_ones_are_kept(tmp_path: Path, out: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=3 * FRAMES, options={"g": str(FRAMES)})
    with converting("pause", clip, out / "a.mp4", str(2 * FRAMES)) as process:
        assert ended(process)[0] == 70
    kept = names_in(out / ".a.mp4.upframe")
    assert {Path(name).suffix for name in kept} == {".sqlite", "", ".mkv"}
    with converting("go", clip, out / "a.mp4") as process:
        assert ended(process)[0] == 0
    assert names_in(out) == {"a.mp4"}
    assert frames_in(out / "a.mp4") == 6 * FRAMES - 1


@pytest.mark.parametrize("kind", ["work", "rest"])
def test_a_call_that_is_only_slow_ends_well(clip: Path, out: Path, kind: str) -> None:
    with converting(kind, clip, out / "a.mp4") as process:
        assert ended(process)[0] == 0
    assert frames_in(out / "a.mp4") == 2 * FRAMES - 1


def test_the_time_in_which_the_process_is_stopped_does_not_count(clip: Path, out: Path) -> None:
    with converting("rest", clip, out / "a.mp4") as process:
        process.send_signal(signal.SIGSTOP)
        time.sleep(2 * LIMITS.asleep)
        process.send_signal(signal.SIGCONT)
        assert ended(process)[0] == 0
    assert frames_in(out / "a.mp4") == 2 * FRAMES - 1


@pytest.mark.slow
def test_between_two_programs_that_pause_for_long_it_waits() -> None:
    command = [sys.executable, "-m", MODULE, "pipe", "--interpolate", "1", "--weights", "builtin"]
    ends = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    frame = b"FRAME\n" + bytes(WIDTH * HEIGHT * 3 // 2)
    with subprocess.Popen(command, env=ENVIRONMENT, **ends) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"YUV4MPEG2 W%d H%d F25:1 Ip A1:1 C420jpeg\n" % (WIDTH, HEIGHT))
        process.stdin.write(frame)
        process.stdin.flush()
        head = process.stdout.readline()
        time.sleep(3 * LIMITS.asleep)  # nothing comes
        writer = threading.Thread(target=process.stdin.write, args=(frame * (FRAMES - 1),))
        writer.start()
        time.sleep(3 * LIMITS.asleep)  # nothing is read
        assert process.poll() is None
        rest, said = process.communicate(timeout=60)
        writer.join()
    assert (process.returncode, said.count(b"has not returned")) == (0, 0)
    assert head.startswith(b"YUV4MPEG2")
    assert rest.count(b"FRAME") == 2 * FRAMES - 1


def test_a_second_signal_ends_a_hung_process_and_leaves_nothing(clip: Path, out: Path) -> None:
    with converting("pause", clip, out / "a.mp4") as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert ended(process)[0] == 130
    assert names_in(out) == set()


def test_a_job_that_hangs_is_tried_again_as_often_as_any(
    tmp_path: Path, clip: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", TESTS)

    def command(settings: Any) -> list[str]:
        return worker_command(MODULE, settings.state_dir, settings.name)

    monkeypatch.setattr(WorkerSettings, "command", property(command))

    async def main() -> None:
        async with running(config_of(tmp_path / "state", attempts=2)) as at_work:
            await at_work.queue.submit(new_job("a", clip, out / "a.mp4"))
            job = await at_work.ended("a")
            assert job.error is not None
            assert (job.state, job.attempts, job.error.code) == ("failed", 2, 70)
            assert HUNG.fullmatch(job.error.message)
            counts = at_work.scheduler.statistics()
            assert (counts["retries"], counts["worker_starts"]) == (1, 2)

    asyncio.run(main())
    assert names_in(out) == set()


# ------------------------------------------------------------------------------ what is watched


def test_decoder_deinterlacer_filters_and_encoder_are_watched(tmp_path: Path, out: Path) -> None:
    source = make_clip(
        tmp_path / "in.mkv", width=320, height=240, frames=30, codec="mpeg2video", interlaced=True
    )
    done, seen = threading.Event(), set[str]()

    def look() -> None:
        while not done.wait(0.0002):
            seen.update(call.text for call in calls_at_work())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        convert("go", str(source), str(out / "a.mp4"))
    finally:
        done.set()
        looking.join()
    wanted = {"decode: mpeg2video", "decode: libavfilter", "compute: a frame on cpu"}
    assert seen >= wanted | {"encode: libx264", "decode: h264"}
    assert calls_at_work() == set()

"""Every command, by whatever way it ends, ends with its own code: no thread is torn out of C++."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.media.clips import make_clip

UPFRAME = [sys.executable, "-m", "upframe.daemon"]
FILTERS = ["--interpolate", "1", "--upscale", "2", "--weights", "builtin", "--device", "cpu"]
LANES = {**os.environ, "OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "5000"}
"""With one thread there are no lanes; threads that spin take minutes on a busy machine."""

COMPUTES = """
import sys, threading, torch
from upframe.daemon.__main__ import main
begun = threading.Event()
def compute():
    picture, kernel = torch.rand(1, 16, 600, 600), torch.rand(16, 16, 7, 7)
    while True:
        begun.set()
        torch.conv2d(picture, kernel)
threading.Thread(target=compute, daemon=True).start()
begun.wait()
sys.exit(main())
"""
"""A thread that nothing ends is inside of torch when the command's work is over."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that lanes are at work when the command has what it needs."""
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", width=320, height=176, frames=8)


def ended(
    words: Sequence[object], *, signal_number: int | None = None, after_seconds: float = 0
) -> tuple[int, str]:
    """How a process ended, and what it said on stderr."""
    process = subprocess.Popen(
        [*map(str, words)],
        env=LANES,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if signal_number is not None:
        time.sleep(after_seconds)
        process.send_signal(signal_number)
    _, said = process.communicate(timeout=100)
    return process.returncode, said


@pytest.mark.slow
def test_probe_with_filters_ends_well(clip: Path) -> None:
    for _ in range(3):
        code, said = ended([*UPFRAME, "probe", clip, *FILTERS])
        assert code == 0, said
        assert "terminate called" not in said


@pytest.mark.slow
@pytest.mark.parametrize("after_seconds", [1.0, 2.0, 3.0])
def test_interrupted_probe_ends_with_the_code_of_its_signal(
    clip: Path, after_seconds: float
) -> None:
    # over before the signal on a fast machine; before Python has its handler, killed by it
    words = [*UPFRAME, "probe", clip, *FILTERS]
    code, said = ended(words, signal_number=signal.SIGINT, after_seconds=after_seconds)
    assert code in (0, 130, -signal.SIGINT), said
    assert "terminate called" not in said


@pytest.mark.slow
def test_probe_whose_reader_is_gone_says_so_in_its_last_line(clip: Path) -> None:
    words = [*UPFRAME, "probe", clip, *FILTERS]
    read, write = os.pipe()
    os.close(read)
    ran = subprocess.run(
        list(map(str, words)), env=LANES, stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert "terminate called" not in ran.stderr
    assert ran.returncode == 141
    assert ran.stderr.endswith("upframe: [Errno 32] Broken pipe\n")


@pytest.mark.parametrize("words", [["probe", "{clip}"], ["models", "list"]])
def test_what_is_written_for_a_reader_that_is_gone_ends_with_141(
    words: list[str], clip: Path
) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [*UPFRAME, *(word.format(clip=clip) for word in words)]
    ran = subprocess.run(command, env=LANES, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert ran.returncode == 141, ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["probe", "nowhere.mp4"], 66),
        (["probe", "{clip}"], 0),
        (["run", "{clip}", "out.unknown", "--interpolate", "1"], 73),
        (["verify", "nowhere.mp4"], 66),
        (["pipe"], 64),
        (["models", "check", "builtin"], 0),
        (["jobs", "list", "--config", "nowhere.toml"], 78),
        (["bench", "--device", "cuda:99"], 69),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else str(value),
)
def test_thread_that_nothing_ends_does_not_change_the_code(
    words: list[str], code: int, clip: Path
) -> None:
    given = [word.format(clip=clip) for word in words]
    got, said = ended([sys.executable, "-c", COMPUTES, *given])
    assert got == code, said
    assert "terminate called" not in said

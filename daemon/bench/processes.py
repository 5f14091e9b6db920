"""Whole processes, as a user starts them: how long they take, and the most memory they have."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from ...filters.frame import StreamInfo
from ...io.pipes import open_pipe_sink
from ..convert.report import Report
from .frames import read_pictures
from .watched import ProcessFailed, Watched

_UPFRAME = (sys.executable, "-m", "upframe.daemon")
_FFMPEG = "ffmpeg"
_QUIET = (_FFMPEG, "-v", "error", "-nostdin")
_CHUNK_BYTES = 1 << 20
_ENCODER = ("-c:v", "libx264", "-y", "-preset")


@dataclass(frozen=True, slots=True)
class Ended:
    """What a process came to."""

    seconds: float
    peak_bytes: int
    """Resident set, at most."""


@dataclass(frozen=True, slots=True)
class PipeRun:
    """ffmpeg, `upframe pipe` and ffmpeg again."""

    seconds: float
    peak_bytes: int
    """Of the process in the middle."""
    report: Report


@dataclass(frozen=True, slots=True)
class Started:
    """How soon `upframe pipe` gave its first frame, in seconds since its process was started."""

    header_seconds: float
    first_frame_seconds: float
    peak_bytes: int


def has_ffmpeg() -> bool:
    """Whether there is an ffmpeg program to pipe from and to."""
    return shutil.which(_FFMPEG) is not None


def run_file(clip: Path, target: Path, options: Sequence[str]) -> Ended:
    """Do it with `upframe run`, everything included.

    Raises:
        ProcessFailed: if it fails.
    """
    command = [*_UPFRAME, "run", str(clip), str(target), "--overwrite"]
    began = time.perf_counter()
    with ExitStack() as stack:
        process = Watched(stack, [*command, *options, "--progress", "none"])
        process.wait()
    return Ended(time.perf_counter() - began, process.peak_bytes)


def run_pipes(clip: Path, folder: Path, options: Sequence[str], preset: str) -> PipeRun:
    """Decode, filter and encode in three processes.

    Raises:
        ProcessFailed: if one of them fails.
    """
    report, target = folder / "pipe-report.json", folder / "piped.mp4"
    reading = [*_QUIET, "-i", str(clip), "-f", "yuv4mpegpipe", "-"]
    pipe = [*_UPFRAME, "pipe", *options, "--progress", "none", "--report", str(report)]
    writing = [*_QUIET[:-1], "-i", "-", *_ENCODER, preset, str(target)]
    began = time.perf_counter()
    with ExitStack() as stack:
        first = Watched(stack, reading)
        middle = Watched(stack, pipe, first.stdout)
        last = Watched(stack, writing, middle.stdout, stdout=subprocess.DEVNULL)
        for process in (middle, first, last):
            process.wait()
    seconds = time.perf_counter() - began
    return PipeRun(seconds, middle.peak_bytes, Report.model_validate_json(report.read_text()))


def write_y4m(clip: Path, target: Path, num_frames: int) -> None:
    """Write a clip's first frames as `upframe pipe` reads them."""
    info, pictures = read_pictures(clip, num_frames)
    info = replace(info, num_frames=len(pictures))
    with target.open("wb", buffering=0) as file:
        sink = open_pipe_sink(file, "y4m", info)
        for picture in pictures:
            sink.write(picture)
        sink.finish()


def run_start(y4m: Path, info: StreamInfo, options: Sequence[str]) -> Started:
    """Start `upframe pipe` and wait for its first frame; then let it end.

    Args:
        y4m: its input.
        info: of what comes out, in 8 bits.
        options: which filters, and how.

    Raises:
        ProcessFailed: if it fails.
    """
    command = [*_UPFRAME, "pipe", *options, "--progress", "none"]
    with y4m.open("rb") as file, ExitStack() as stack:
        began = time.perf_counter()
        process = Watched(stack, command, file)
        process.stdout.readline()
        header = time.perf_counter() - began
        process.stdout.readline()
        num_read = len(process.stdout.read(_frame_bytes(info)))
        first_frame = time.perf_counter() - began
        while process.stdout.read(_CHUNK_BYTES):
            pass
        process.wait()
    if num_read != _frame_bytes(info):
        raise ProcessFailed(f"{process.name} gave {num_read} bytes, wanted {_frame_bytes(info)}")
    return Started(header, first_frame, process.peak_bytes)


def _frame_bytes(info: StreamInfo) -> int:
    planes = range(info.format.num_planes)
    sizes = [info.format.plane_size(info.width, info.height, plane) for plane in planes]
    return sum(width * height for width, height in sizes)

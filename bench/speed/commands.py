"""Whole processes, as a user starts them: how long they take, and the most memory they have."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from clips import read_pictures

from upframe.filters.frame import StreamInfo
from upframe.io.pipes import open_pipe_sink

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
    report: dict[str, Any]
    """As `upframe pipe --report` wrote it: only what every version writes is read of it."""


@dataclass(frozen=True, slots=True)
class Started:
    """How soon `upframe pipe` gave its first frame, in seconds since its process was started."""

    header_seconds: float
    first_frame_seconds: float
    peak_bytes: int


def has_ffmpeg() -> bool:
    """Whether there is an ffmpeg program to pipe from and to."""
    return shutil.which(_FFMPEG) is not None


def run_file(upframe: Sequence[str], clip: Path, target: Path, options: Sequence[str]) -> Ended:
    """Convert a clip with `upframe run`, everything included.

    Args:
        upframe: the command, of this or another installation.
        clip: its input.
        target: replaced.
        options: which filters, and how.

    Raises:
        ProcessFailed: if it fails.
    """
    command = [*upframe, "run", str(clip), str(target), "--overwrite"]
    began = time.perf_counter()
    with ExitStack() as stack:
        process = Watched(stack, [*command, *options, "--progress", "none"])
        process.wait()
    return Ended(time.perf_counter() - began, process.peak_bytes)


def run_pipes(
    upframe: Sequence[str], clip: Path, folder: Path, options: Sequence[str], preset: str
) -> PipeRun:
    """Decode, filter and encode in three processes.

    Args:
        upframe: the command, of this or another installation.
        clip: its input.
        folder: for the result and the report.
        options: which filters, and how.
        preset: of x264.

    Raises:
        ProcessFailed: if one of them fails.
    """
    report, target = folder / "pipe-report.json", folder / "piped.mp4"
    reading = [*_QUIET, "-i", str(clip), "-f", "yuv4mpegpipe", "-"]
    pipe = [*upframe, "pipe", *options, "--progress", "none", "--report", str(report)]
    writing = [*_QUIET[:-1], "-i", "-", *_ENCODER, preset, str(target)]
    began = time.perf_counter()
    with ExitStack() as stack:
        first = Watched(stack, reading)
        middle = Watched(stack, pipe, first.stdout)
        last = Watched(stack, writing, middle.stdout, stdout=subprocess.DEVNULL)
        for process in (middle, first, last):
            process.wait()
    seconds = time.perf_counter() - began
    return PipeRun(seconds, middle.peak_bytes, json.loads(report.read_text()))


def write_y4m(clip: Path, target: Path, num_frames: int) -> None:
    """Write a clip's first frames as `upframe pipe` reads them."""
    info, pictures = read_pictures(clip, num_frames)
    info = replace(info, num_frames=len(pictures))
    with target.open("wb", buffering=0) as file:
        sink = open_pipe_sink(file, "y4m", info)
        for picture in pictures:
            sink.write(picture)
        sink.finish()


def run_start(
    upframe: Sequence[str], y4m: Path, info: StreamInfo, options: Sequence[str]
) -> Started:
    """Start `upframe pipe` and wait for its first frame; then let it end.

    Args:
        upframe: the command, of this or another installation.
        y4m: its input.
        info: of what comes out, in 8 bits.
        options: which filters, and how.

    Raises:
        ProcessFailed: if it fails.
    """
    command = [*upframe, "pipe", *options, "--progress", "none"]
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


_POLL_SECONDS = 0.02
_STDERR_BYTES = 500
"""Of a failed process's stderr, at the end."""


class ProcessFailed(RuntimeError):
    """A process of the benchmark ended with another code than 0."""


class Watched:
    """A running process; it is killed where the stack is left before its end.

    The kernel's mark is read again and again: at the end, wait4(2) would give the larger of the
    child's and of ours, which it shares until it becomes another program.

    Args:
        stack: ends it.
        command: what to run.
        stdin: closed here once the process has it; None for nothing to read.
        stdout: as `subprocess` takes it.
    """

    def __init__(
        self,
        stack: ExitStack,
        command: Sequence[str],
        stdin: IO[bytes] | None = None,
        stdout: int = subprocess.PIPE,
    ) -> None:
        self.name = " ".join((Path(command[0]).name, *command[1:4]))
        """For people, without the folders of this machine."""
        self._process = subprocess.Popen(
            command, stdin=stdin or subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE
        )
        stack.callback(self._kill)
        if stdin is not None:
            stdin.close()
        self.peak_bytes = 0
        """Resident set, at most, so far."""
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    @property
    def pid(self) -> int:
        """Of the process, also once it has ended."""
        return self._process.pid

    @property
    def stdout(self) -> IO[bytes]:
        """What it writes."""
        assert self._process.stdout
        return self._process.stdout

    def wait(self) -> None:
        """Wait for its end.

        Raises:
            ProcessFailed: with the end of its stderr, if its code is not 0.
        """
        assert self._process.stderr
        stderr = self._process.stderr.read()
        code = self._process.wait()
        self._stop_watching()
        if code:
            text = stderr.decode(errors="replace").strip()[-_STDERR_BYTES:]
            raise ProcessFailed(f"{self.name} ended with {code}: {text}")

    def _watch(self) -> None:
        while not self._ended.wait(_POLL_SECONDS):
            self.peak_bytes = max(self.peak_bytes, _high_water_bytes(self._process.pid))

    def _stop_watching(self) -> None:
        self._ended.set()
        self._watcher.join()

    def _kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._stop_watching()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


def _high_water_bytes(pid: int) -> int:
    """The most that was resident of a process; 0 where it has ended, or there is no /proc."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    kibibytes = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(kibibytes[0]) * 1024 if kibibytes else 0

"""A child process with its own high-water mark of memory."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

_POLL_SECONDS = 0.02
_SAID_BYTES = 500
"""Of what a failed process has said, at the end."""


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
            ProcessFailed: with the end of what it said, if its code is not 0.
        """
        assert self._process.stderr
        said = self._process.stderr.read()
        code = self._process.wait()
        self._stop_watching()
        if code:
            text = said.decode(errors="replace").strip()[-_SAID_BYTES:]
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
    """The most that was resident of a process; 0 where it has ended or the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    kibibytes = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(kibibytes[0]) * 1024 if kibibytes else 0

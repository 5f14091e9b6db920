"""One `upframe run` from or to a live address, as a user starts it, and all that it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import paths  # noqa: F401  # finds what is imported next
from processes import children_of
from support.jobs.daemon import UPFRAME, lives

WAIT_SECONDS = 60.0
_END_SECONDS = 60.0
_DOUBLED = ("--interpolate", "1", "--upscale", "2", "--weights", "builtin")


@dataclass(frozen=True)
class Sample:
    """What the stream has said of itself at one moment."""

    at: float
    """Monotonic seconds when it was read."""
    status: dict[str, Any]
    """LiveStatus, as JSON has it."""
    resident_bytes: int
    """Of all its processes, as the kernel counts them."""

    def count(self, name: str) -> int:
        return int(self.status["counts"].get(name, 0))

    @property
    def written(self) -> int:
        """Video packets that the other end has taken."""
        return int(self.status["output_state"]["written"])

    @property
    def lost(self) -> int:
        """Video packets that were ready and went nowhere."""
        return sum(self.status["output_state"]["dropped"].values())


class Stream:
    """Twice the rate and twice the size, from one address to another, until it is stopped."""

    def __init__(
        self,
        source: str,
        sink: str,
        *options: str,
        filters: tuple[str, ...] = _DOUBLED,
        threads: int | None = None,
        command: Sequence[str] = UPFRAME,
    ) -> None:
        """Take what is to be run.

        Args:
            source: where from.
            sink: where to.
            options: of `upframe run`.
            filters: those among them that say what is done.
            threads: for computing; None: as many as torch takes.
            command: that is `upframe`.
        """
        self.samples: list[Sample] = []
        self.log: list[str] = []
        """Everything else on its stderr."""
        self.code: int | None = None
        self.pids: set[int] = set()
        """Of all processes that were ever seen to belong to it."""
        self._news = threading.Condition()
        self._environment = dict(os.environ)
        if threads is not None:
            self._environment["OMP_NUM_THREADS"] = str(threads)
        self._command = [*command, "run", source, sink, *filters, "--progress", "json", *options]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="stream-reader", daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            for pid in self.pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    @property
    def now(self) -> Sample:
        """The latest one."""
        return self.samples[-1]

    def until(
        self, wanted: Callable[[Sample], object], what: str, seconds: float = WAIT_SECONDS
    ) -> Sample:
        """Wait for a status, from the latest one on."""
        end = time.monotonic() + seconds
        seen = max(0, len(self.samples) - 1)
        with self._news:
            while True:
                for sample in self.samples[seen:]:
                    if wanted(sample):
                        return sample
                seen = len(self.samples)
                left = end - time.monotonic()
                if left <= 0 or self.process.poll() is not None:
                    raise AssertionError(f"not within {seconds:g} s: {what}\n{self.last_words()}")
                self._news.wait(min(left, 1.0))

    def until_running(self, frames: int = 1, seconds: float = WAIT_SECONDS) -> Sample:
        """Wait until frames come in, and have gone out."""
        return self.until(
            lambda s: s.count("frames_decoded") >= frames and s.written > 0,
            "frames come in and go out",
            seconds,
        )

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Let it end well; gives its exit code."""
        self.process.send_signal(number)
        self.code = self.process.wait(_END_SECONDS)
        self._reader.join(_END_SECONDS)
        return self.code

    def left(self) -> list[int]:
        """Processes of it that are still there."""
        return sorted(pid for pid in self.pids if lives(pid))

    def after(self, at: float) -> list[Sample]:
        return [sample for sample in self.samples if sample.at >= at]

    def last_words(self) -> str:
        """The last things that it said, for a run that fails."""
        last = json.dumps(self.samples[-1].status) if self.samples else "no status"
        return "\n".join([f"exit {self.process.poll()}", *self.log[-20:], last])

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            text = line.decode(errors="replace").strip()
            found = self._status_of(text)
            with self._news:
                if found is None:
                    self.log.append(text)
                else:
                    self.samples.append(Sample(time.monotonic(), found, self._resident_bytes()))
                self._news.notify_all()

    @staticmethod
    def _status_of(text: str) -> dict[str, Any] | None:
        if not text.startswith("{"):
            return None
        try:
            document = json.loads(text)
        except ValueError:
            return None
        return document if "output_state" in document else None

    def _resident_bytes(self) -> int:
        family = family_of(self.process.pid)
        self.pids |= family
        return sum(map(resident_bytes, family))


def family_of(pid: int) -> set[int]:
    """A process and all below it."""
    found = {pid}
    for child in children_of(pid):
        found |= family_of(child)
    return found


def resident_bytes(pid: int) -> int:
    """Memory of its own: what it shares with others, such as libraries, is left out."""
    with suppress(OSError, IndexError):
        words = Path(f"/proc/{pid}/statm").read_text().split()
        return (int(words[1]) - int(words[2])) * os.sysconf("SC_PAGE_SIZE")
    return 0


def growth_bytes(resident: Sequence[int]) -> int:
    """By how much memory in the last third is above that in the first one, each at its peak."""
    third = max(1, len(resident) // 3)
    return max(resident[-third:]) - max(resident[:third])

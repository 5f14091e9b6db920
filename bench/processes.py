"""Processes of a run: found, killed, waited for; and threads whose errors are raised."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import paths  # noqa: F401  # finds what is imported next
from support.jobs.daemon import lives


def children_of(pid: int) -> set[int]:
    """All children of a process."""
    found: set[int] = set()
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                found |= {int(word) for word in (task / "children").read_text().split()}
    return found


def kill(pids: set[int] | list[int]) -> int:
    """kill -9; returns how many were still there."""
    number = 0
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            number += 1
    return number


def until_gone(pids: set[int], seconds: float = 30.0) -> list[int]:
    """Wait for processes to end; gives those that do not."""
    end = time.monotonic() + seconds
    while (left := sorted(pid for pid in pids if lives(pid))) and time.monotonic() < end:
        time.sleep(0.05)
    return left


class Beside:
    """Does something in a thread while the run goes on, and raises what went wrong there."""

    def __init__(self, name: str, target: Any, *arguments: Any) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, args=(target, *arguments), name=name, daemon=True
        )
        self._thread.start()

    def _run(self, target: Any, *arguments: Any) -> None:
        try:
            target(*arguments)
        except BaseException as error:  # raised in `join`
            self._error = error

    def join(self, seconds: float = 300.0) -> None:
        """Wait for its end.

        Raises:
            BaseException: what it ended with.
            TimeoutError: if it does not end.
        """
        self._thread.join(seconds)
        if self._error is not None:
            raise self._error
        if self._thread.is_alive():
            raise TimeoutError(f"{self._thread.name} does not end")

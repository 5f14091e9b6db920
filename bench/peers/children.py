"""A contestant in a process of its own: no runtime's threads, memory or crash reaches another."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from contests import Contestant, Entry, Setting
from quality import Picture

START_SECONDS = 1200
"""Longest until a contestant has read its weights, compiled itself and done some frames."""
ANSWER_SECONDS = 600
_STOP_SECONDS = 20


class Failed(Exception):
    """A contestant could not be built or run. The text is the last line of what it complained."""


class Child:
    """A running contestant; see `started`."""

    def __init__(self, process: Any, connection: Connection, complaint: Path) -> None:
        self._process = process
        self._connection = connection
        self._complaint = complaint

    def ready(self) -> None:
        """Wait until it is built and warm.

        Raises:
            Failed: if it is not available.
        """
        self._answer(START_SECONDS)

    def timed(self, calls: int) -> float:
        """Seconds for one frame: the mean over `calls` in a row, after one that is not timed.

        Raises:
            Failed: if it fails.
        """
        self._connection.send(("time", calls))
        return self._answer(ANSWER_SECONDS)

    def picture(self, index: int) -> Picture:
        """Its result for frame `index`, or between the frame before and that one; [0, 1].

        Raises:
            Failed: if it fails.
        """
        self._connection.send(("picture", index))
        return self._answer(ANSWER_SECONDS)

    def peak_mib(self) -> float:
        """The most memory it had: resident, or allocated on the CUDA device.

        Raises:
            Failed: if it fails.
        """
        self._connection.send(("peak",))
        return self._answer(ANSWER_SECONDS)

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._connection.close()
        self._process.join(_STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _answer(self, seconds: float) -> Any:
        if not self._connection.poll(seconds):
            self._process.kill()
            raise Failed(f"no answer within {seconds:.0f} s")
        try:
            return self._connection.recv()
        except EOFError as error:
            self._process.join()
            raise Failed(self._why()) from error

    def _why(self) -> str:
        lines = [line.strip() for line in self._complaint.read_text(errors="replace").splitlines()]
        last = next((line for line in reversed(lines) if line), "nothing was said")
        code = self._process.exitcode
        return last if code == 1 else f"the process ended with {code}: {last}"


@contextmanager
def started(entry: Entry, setting: Setting, folder: Path) -> Generator[Child]:
    """Start a contestant; it ends with the block.

    Args:
        entry: whom.
        setting: what it gets.
        folder: for what it says on its standard error.
    """
    context = multiprocessing.get_context("spawn")
    complaint = folder / f"{setting.contest.name}-{entry.name}.err".replace(" ", "-")
    ours, theirs = context.Pipe()
    given = (entry, setting, theirs, complaint)
    process = context.Process(target=serve, args=given, daemon=True)
    process.start()
    theirs.close()  # so that its end is seen here
    child = Child(process, ours, complaint)
    try:
        yield child
    finally:
        child.stop()


def serve(entry: Entry, setting: Setting, connection: Connection, complaint: Path) -> None:
    """Be the contestant: what it raises ends the process, and the last line says why."""
    with complaint.open("wb") as file:
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(setting.threads)
    turns = Turns(entry.build(setting), len(setting.arrays))
    turns.time(2)
    connection.send("ready")
    while True:
        try:
            question = connection.recv()
        except EOFError:
            return
        match question:
            case ("time", calls):
                connection.send(turns.time(calls))
            case ("picture", index):
                connection.send(turns.picture(index))
            case ("peak",):
                connection.send(_peak_mib(setting.device))


class Turns:
    """A contestant that is given frames in order, again and again from the first."""

    def __init__(self, contestant: Contestant, number: int) -> None:
        self._contestant = contestant
        self._number = number
        self._next = 0

    def time(self, calls: int) -> float:
        """Seconds for one frame; see `Child.timed`."""
        self._work()
        self._contestant.wait()
        began = time.perf_counter()
        for _ in range(calls):
            self._work()
        self._contestant.wait()
        return (time.perf_counter() - began) / calls

    def picture(self, index: int) -> Picture:
        """The result for frame `index`, after that for the frame before it; [0, 1]."""
        self._next += (index - 1 - self._next) % self._number
        self._work()
        return self._contestant.picture(self._work()).clip(0, 1)

    def _work(self) -> Any:
        self._next += 1
        return self._contestant.work(self._next - 1)


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    # not getrusage(2), which begins with what the process had that started this one
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM:"))

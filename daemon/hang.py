"""A watch over the calls into codecs and filters: one that never returns ends the process.

A thread in native code cannot be ended, and what it uses cannot be freed. So the process removes
its unfinished files, says which call it was, and ends with 70; whoever started it may try again.

A slow machine is no hang. A call on the CPU counts as hung only while every other thread sleeps: a
thread that waits for a core is runnable, and one that waits for swapped memory waits for a disk.
Time is counted in looks of the watch, which rests while the process or the machine is stopped.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..io.calls import Call, calls_at_work
from ..io.files import discard_unpublished
from .exits import Exit


@dataclass(frozen=True, slots=True)
class HangLimits:
    """After which time a call counts as hung, in seconds."""

    asleep: float = 240.0
    """While the process sleeps. No codec rests so long by itself; and it is less than the 300 s for
    which a job may stand still by default, so that the job's error names the call."""
    on_card: float = 900.0
    """For a call that waits for a GPU, asleep or spinning: far more than one frame takes, also if
    the driver compiles its kernels first."""
    tick: float = 1.0
    """From look to look."""


_BUSY_SHARE = 0.05
"""CPU time from which on the process has worked. Its timers alone take less than 0.02."""
_SETBACK = 10
"""Looks of sleep that one of work makes undone: of a hung process with its timers, one look in 50
meets work; of a process that works, nearly all do."""


class CallAges:
    """Counts for how long each call lasts, and for how long of that the process slept."""

    def __init__(self, limits: HangLimits) -> None:
        self._limits = limits
        self._ages: dict[Call, tuple[int, int]] = {}

    def look(self, calls: Iterable[Call], *, asleep: bool) -> str | None:
        """Note the calls that have not returned, one tick after the last look.

        Returns:
            Which of them never will, as a sentence; None if there is hope for all.
        """
        before, self._ages = self._ages, {}
        for call in calls:
            looks, slept = before.get(call, (0, 0))
            slept = slept + 1 if asleep else max(0, slept - _SETBACK)
            self._ages[call] = looks + 1, slept
        return next(filter(None, map(self._verdict, self._ages)), None)

    def _verdict(self, call: Call) -> str | None:
        tick = self._limits.tick
        looks, slept = self._ages[call]
        said = f"{call.text} has not returned for {looks * tick:.0f} s"
        if call.on_card:
            return said if looks * tick >= self._limits.on_card else None
        hangs = slept * tick >= self._limits.asleep
        return f"{said}, and the process used no CPU time meanwhile" if hangs else None


class HangWatch:
    """Ends the process if a call never returns in the context; `say` is told just before."""

    def __init__(self, say: Callable[[str], object], limits: HangLimits | None = None) -> None:
        self._say = say
        self._limits = limits or HangLimits()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="upframe-watch", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def _watch(self) -> None:
        ages, spent = CallAges(self._limits), time.process_time()
        while not self._left.wait(self._limits.tick):
            before, spent = spent, time.process_time()
            idle = spent - before < _BUSY_SHARE * self._limits.tick
            calls = calls_at_work()
            verdict = ages.look(calls, asleep=bool(calls) and idle and others_sleep())
            if verdict is not None:
                try:
                    discard_unpublished()
                    self._say(verdict)
                finally:
                    os._exit(Exit.INTERNAL)


def others_sleep() -> bool:
    """Return whether no other thread of this process runs, or waits for a core or a disk."""
    mine = str(threading.get_native_id())
    try:
        for task in Path("/proc/self/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                state = (task / "stat").read_text().rpartition(") ")[2][:1]
                if task.name != mine and state in ("R", "D"):
                    return False
    except OSError:  # no descriptor is free: it cannot be said
        return False
    return True


def say_on_stderr(text: str) -> None:
    """Write the reason for an end on a line of its own, past every lock and buffer."""
    bar_ends = "\n" if os.isatty(2) else ""
    os.write(2, f"{bar_ends}upframe: {text}\n".encode())

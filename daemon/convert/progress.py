"""Progress on stderr: a bar on a terminal, a line every few seconds elsewhere, or JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from ..specification import ProgressStyle, Stage
from .memory import Memory
from .pipeline import STEPS, Flow

_SETTLED_SECONDS = 2.0  # the first rates vary so much that an ETA made of them is meaningless


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a running conversion."""

    frames_in: int
    frames_out: int
    total: int | None
    """Frames of the whole output, if known."""
    elapsed_seconds: float
    fps: float
    """Frames out per second, since the first one."""
    eta_seconds: float | None
    limiting_stage: str
    estimate_seconds: float | None = None
    """For all of it, as estimated before the work."""
    waits: bool = False
    """For a machine of a cluster."""

    @property
    def text(self) -> str:
        """The state in one line."""
        if self.waits:
            return f"frame {self.frames_out}, waiting for the cluster"
        total = "" if self.total is None else f"/{self.total}"
        eta = "" if self.eta_seconds is None else f", {_clock(self.eta_seconds)} left"
        return (
            f"frame {self.frames_out}{total}, {self.fps:.2f} fps{eta}, "
            f"slowest step: {STEPS[self.limiting_stage]}"
        )

    def to_json(self, *, ended: bool) -> str:
        """Write one JSON object; the last has ``"progress": "end"``, as ffmpeg's does."""
        event = {
            "frame": self.frames_out,
            "frames_in": self.frames_in,
            "total": self.total,
            "fps": round(self.fps, 3),
            "elapsed_seconds": round(self.elapsed_seconds, 3),
            "eta_seconds": None if self.eta_seconds is None else round(self.eta_seconds, 1),
            "estimate_seconds": self.estimate_seconds,
            "limiting_stage": self.limiting_stage,
            "progress": "end" if ended else "continue",
        }
        return json.dumps(event)


def snapshot_of(flow: Flow, total: int | None, estimate: float | None = None) -> Snapshot:
    """Read the state of a running pipeline, whose work was estimated to take so many seconds."""
    elapsed = flow.elapsed_seconds
    since_first = elapsed - (flow.first_frame_seconds or 0.0)
    # the first frame came at the time from which we count
    done = flow.frames_out - flow.frames_before - 1
    fps = done / since_first if done > 0 and since_first > 0 else 0.0
    settled = fps > 0 and since_first >= _SETTLED_SECONDS
    eta = None if estimate is None else max(0.0, estimate - elapsed)
    if total is not None and settled:
        eta = max(0, total - flow.frames_out) / fps
    counts = flow.frames_in, flow.frames_out, total
    return Snapshot(*counts, elapsed, fps, eta, flow.limiting_stage, estimate, flow.waits)


class Display:
    """Shows nothing of a run; its subclasses show it somewhere."""

    interval_seconds: float = 3600.0

    def begin(self, stage: Stage) -> None:
        """Show that a stage begins; from any thread."""

    def keep_memory(self, memory: Memory) -> None:
        """Show the memory that the run needs, before the output is opened."""

    def show(self, snapshot: Snapshot, *, ended: bool) -> None:
        """Show a snapshot; the last call has `ended`."""


class LineDisplay(Display):
    """Writes a line every few seconds: text for logs, which a summary follows, or JSON."""

    def __init__(self, stream: TextIO, *, as_json: bool = False) -> None:
        self.interval_seconds = 1.0 if as_json else 5.0
        self._stream = stream
        self._as_json = as_json

    def show(self, snapshot: Snapshot, *, ended: bool) -> None:
        """Write one line; as text none at the end."""
        if ended and not self._as_json:
            return
        text = snapshot.to_json(ended=ended) if self._as_json else f"upframe: {snapshot.text}"
        self._stream.write(f"{text}\n")
        self._stream.flush()


class BarDisplay(Display):
    """Shows a bar on a terminal."""

    interval_seconds = 0.5

    def __init__(self, stream: TextIO) -> None:
        columns = (BarColumn(), TextColumn("{task.description}", markup=False))
        self._progress = Progress(*columns, console=Console(file=stream), transient=False)
        self._task: TaskID | None = None

    def show(self, snapshot: Snapshot, *, ended: bool) -> None:
        """Move the bar."""
        if self._task is None:
            self._progress.start()
            self._task = self._progress.add_task("", total=snapshot.total)
        self._progress.update(self._task, completed=snapshot.frames_out, description=snapshot.text)
        if ended:
            self._progress.stop()


def display_for(style: ProgressStyle, stream: TextIO | None = None) -> Display:
    """Choose how to show progress on a stream, by default stderr."""
    out: TextIO = sys.stderr if stream is None else stream
    if style == "auto":
        style = "bar" if out.isatty() else "line"
    if style == "bar":
        return BarDisplay(out)
    return Display() if style == "none" else LineDisplay(out, as_json=style == "json")


async def show_progress(
    flow: Flow, total: int | None, display: Display, estimate: float | None = None
) -> None:
    """Show the flow until cancelled, and a last time then."""
    try:
        while True:
            await asyncio.sleep(display.interval_seconds)
            display.show(snapshot_of(flow, total, estimate), ended=False)
    finally:
        display.show(snapshot_of(flow, total, estimate), ended=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

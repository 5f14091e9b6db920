"""Progress on stderr: a bar on a terminal, now and then a line elsewhere, JSON for machines."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import Literal, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from .pipeline import Flow

Style = Literal["auto", "bar", "line", "json", "none"]
STYLES: tuple[Style, ...] = ("auto", "bar", "line", "json", "none")
_SETTLED_SECONDS = 2.0  # before this the rate is nonsense, and so is every ETA made from it


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where the work stands."""

    frames_in: int
    frames_out: int
    total: int | None
    """Frames that will have gone out, where known."""
    elapsed_seconds: float
    fps: float
    """Frames out per second, since the first one."""
    eta_seconds: float | None
    limiting_stage: str

    @property
    def text(self) -> str:
        """For people, on one line."""
        total = "" if self.total is None else f"/{self.total}"
        eta = "" if self.eta_seconds is None else f", {_clock(self.eta_seconds)} left"
        return (
            f"frame {self.frames_out}{total}, {self.fps:.2f} fps{eta}, "
            f"limited by {self.limiting_stage}"
        )


def snapshot_of(flow: Flow, total: int | None) -> Snapshot:
    """Read the state of a running pipeline."""
    elapsed = flow.elapsed_seconds
    since_first = elapsed - (flow.first_frame_seconds or 0.0)
    done = flow.frames_out - 1  # the first frame came at the time from which we count
    fps = done / since_first if done > 0 and since_first > 0 else 0.0
    settled = fps > 0 and since_first >= _SETTLED_SECONDS
    eta = max(0, total - flow.frames_out) / fps if total is not None and settled else None
    return Snapshot(flow.frames_in, flow.frames_out, total, elapsed, fps, eta, flow.limiting_stage)


class Display(Protocol):
    """Shows snapshots somewhere."""

    interval_seconds: float

    def show(self, snapshot: Snapshot, *, ended: bool) -> None:
        """Show where the work stands; the last call has `ended`."""
        ...


class Lines:
    """A line of text now and then, for logs."""

    interval_seconds = 5.0

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, snapshot: Snapshot, *, ended: bool) -> None:
        """Write one line."""
        self._stream.write(f"upframe: {snapshot.text}\n")
        self._stream.flush()


class JsonLines:
    """One JSON object a line; the last has ``"progress": "end"``, as ffmpeg's does."""

    interval_seconds = 1.0

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, snapshot: Snapshot, *, ended: bool) -> None:
        """Write one object."""
        event = {
            "frame": snapshot.frames_out,
            "frames_in": snapshot.frames_in,
            "total": snapshot.total,
            "fps": round(snapshot.fps, 3),
            "elapsed_seconds": round(snapshot.elapsed_seconds, 3),
            "eta_seconds": None if snapshot.eta_seconds is None else round(snapshot.eta_seconds, 1),
            "limiting_stage": snapshot.limiting_stage,
            "progress": "end" if ended else "continue",
        }
        self._stream.write(json.dumps(event) + "\n")
        self._stream.flush()


class Bar:
    """A bar on a terminal."""

    interval_seconds = 0.5

    def __init__(self, console: Console) -> None:
        columns = (BarColumn(), TextColumn("{task.description}", markup=False))
        self._progress = Progress(*columns, console=console, transient=False)
        self._task: TaskID | None = None

    def show(self, snapshot: Snapshot, *, ended: bool) -> None:
        """Move the bar."""
        if self._task is None:
            self._progress.start()
            self._task = self._progress.add_task("", total=snapshot.total)
        self._progress.update(self._task, completed=snapshot.frames_out, description=snapshot.text)
        if ended:
            self._progress.stop()


class Silent:
    """Shows nothing."""

    interval_seconds = 3600.0

    def show(self, snapshot: Snapshot, *, ended: bool) -> None:
        """Do nothing."""


def display_for(style: Style, stream: TextIO | None = None) -> Display:
    """Choose how to show progress on a stream, stderr unless told."""
    out: TextIO = sys.stderr if stream is None else stream
    if style == "auto":
        style = "bar" if out.isatty() else "line"
    if style == "bar":
        return Bar(Console(file=out))
    if style == "line":
        return Lines(out)
    return JsonLines(out) if style == "json" else Silent()


async def show_progress(flow: Flow, total: int | None, display: Display) -> None:
    """Show the flow until cancelled, and once more then."""
    try:
        while True:
            await asyncio.sleep(display.interval_seconds)
            display.show(snapshot_of(flow, total), ended=False)
    finally:
        display.show(snapshot_of(flow, total), ended=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

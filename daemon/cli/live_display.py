"""How `upframe run` shows a live stream while it runs: a line now and then, or JSON, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Protocol, TextIO

from ...io.redaction import json_text, one_line
from ..convert.progress import Style
from ..live.status import LiveStatus

_LINE_SECONDS = 5.0
_CLEAR = "\r\x1b[K"


class Show(Protocol):
    """Shows statuses somewhere."""

    def __call__(self, status: LiveStatus) -> None:
        """Show where the stream stands; called on changes and every second."""
        ...

    def end(self) -> None:
        """Leave the terminal as it was."""
        ...


class Json:
    """Each status as one line of JSON."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, status: LiveStatus) -> None:
        """Write one line."""
        self._stream.write(json_text(status.to_json(), None) + "\n")
        self._stream.flush()

    def end(self) -> None:
        """Do nothing."""


class Lines:
    """A line of text on changes and every five seconds; on a terminal, one that is rewritten."""

    def __init__(
        self,
        stream: TextIO,
        *,
        rewrites: bool,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._rewrites = rewrites
        self._now = now
        self._shown_at = float("-inf")
        self._shown: tuple[str, ...] = ()
        self._before: tuple[float, int] | None = None
        self._fps = 0.0

    def __call__(self, status: LiveStatus) -> None:
        """Write a line, if it is time or something has changed."""
        now = self._now()
        gist = (status.state, status.level, status.showing, str(status.output_state.connected))
        pause = 1.0 if self._rewrites else _LINE_SECONDS
        if gist == self._shown and now - self._shown_at < pause:
            return
        self._measure(now, status)
        self._shown, self._shown_at = gist, now
        text = text_of(status, self._fps)
        self._stream.write(f"{_CLEAR}{text}" if self._rewrites else f"upframe: {text}\n")
        self._stream.flush()

    def end(self) -> None:
        """End the line that was rewritten."""
        if self._rewrites and self._shown:
            self._stream.write("\n")
            self._stream.flush()

    def _measure(self, now: float, status: LiveStatus) -> None:
        """Measure the rate over a second or more."""
        written = status.output_state.written
        if self._before is None:
            self._before = (now, written)
        elif now - self._before[0] >= 1.0:
            self._fps = (written - self._before[1]) / (now - self._before[0])
            self._before = (now, written)


class Nothing:
    """Shows nothing."""

    def __call__(self, status: LiveStatus) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""


def text_of(status: LiveStatus, fps: float) -> str:
    """Say in one line where a stream stands."""
    sink = status.output_state
    parts = [f"{status.state}, level {status.level}, {fps:.1f} fps written"]
    if "p99" in status.delay_seconds:
        parts.append(f"delay {status.delay_seconds['p50']:.2f}/{status.delay_seconds['p99']:.2f} s")
    if dropped := status.counts.get("frames_dropped", 0):
        parts.append(f"{dropped} dropped")
    if status.showing not in ("input", "nothing"):
        parts.append(f"showing {status.showing}")
    if status.state == "reconnecting" and status.message:
        parts.append(status.message)
    if not sink.connected and sink.reason is not None:
        parts.append(f"output {sink.reason}: {sink.message}")
    return one_line(", ".join(parts))


def show_for(style: Style, stream: TextIO | None = None) -> Show:
    """Choose how to show a live stream, on stderr unless told."""
    out: TextIO = sys.stderr if stream is None else stream
    if style == "auto":
        style = "bar" if out.isatty() else "line"
    if style == "json":
        return Json(out)
    if style == "none":
        return Nothing()
    return Lines(out, rewrites=style == "bar")

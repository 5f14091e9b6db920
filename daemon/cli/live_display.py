"""How `upframe run` shows the status of a live stream: lines of text or JSON, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from ...io.redaction import json_text, one_line
from ..convert.progress import Style
from ..live.status import LiveStatus

_LINE_SECONDS = 5.0
_CLEAR = "\r\x1b[K"


class LiveDisplay:
    """Writes statuses: JSON each, or text on changes and every five seconds.

    On a terminal, one line of text is rewritten every second.
    """

    def __init__(
        self,
        style: Style,
        stream: TextIO | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream: TextIO = sys.stderr if stream is None else stream
        self._style = style
        if style == "auto":
            self._style = "bar" if self._stream.isatty() else "line"
        self._now = now
        self._shown_at = float("-inf")
        self._shown: tuple[str, ...] = ()
        self._before: tuple[float, int] | None = None
        self._fps = 0.0

    def __call__(self, status: LiveStatus) -> None:
        """Show a status; called on changes and every second."""
        if self._style == "json":
            self._write(json_text(status.to_json(), None) + "\n")
        elif self._style != "none":
            self._show(status)

    def end(self) -> None:
        """End the line that was rewritten."""
        if self._style == "bar" and self._shown:
            self._write("\n")

    def _show(self, status: LiveStatus) -> None:
        now, rewrites = self._now(), self._style == "bar"
        gist = (status.state, status.level, status.showing, str(status.output_state.connected))
        pause = 1.0 if rewrites else _LINE_SECONDS
        if gist == self._shown and now - self._shown_at < pause:
            return
        self._measure(now, status.output_state.written)
        self._shown, self._shown_at = gist, now
        text = text_of(status, self._fps)
        self._write(f"{_CLEAR}{text}" if rewrites else f"upframe: {text}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def _measure(self, now: float, written: int) -> None:
        """Measure the rate over a second or more."""
        if self._before is None:
            self._before = (now, written)
        elif now - self._before[0] >= 1.0:
            self._fps = (written - self._before[1]) / (now - self._before[0])
            self._before = (now, written)


def text_of(status: LiveStatus, fps: float) -> str:
    """Describe the status of a stream in one line."""
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

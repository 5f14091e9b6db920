"""Cutting an axis into overlapping spans."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """A part of an axis: what it gives, and the wider part that it sees; pixels, half open."""

    start: int
    stop: int
    seen_from: int
    seen_to: int

    def own(self, scale: int) -> slice:
        """Find its own part in what is computed, `scale` times as large, from what it sees."""
        return slice((self.start - self.seen_from) * scale, (self.stop - self.seen_from) * scale)


def cut(length: int, edge: int, margin: int, multiple: int = 1) -> tuple[Span, ...]:
    """Cut an axis into the fewest spans of at most `edge` pixels, of about equal length.

    What a span sees begins at a multiple of `multiple`; so does a span itself if `edge` allows.
    """
    edge = max(edge // multiple, 1) * multiple
    num = -(-length // edge)
    step = -(-length // (num * multiple)) * multiple
    margin = -(-margin // multiple) * multiple
    return tuple(
        Span(i, min(i + step, length), max(i - margin, 0), min(i + step + margin, length))
        for i in range(0, length, step)
    )

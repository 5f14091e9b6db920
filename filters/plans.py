"""Frames that are still to be computed, so that several threads can compute them.

A filter that plans says at once, and in the order of the stream, what will come of a frame. The
work itself is done when it is asked for, by whoever asks: frames that do not need each other can be
computed at the same time.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

from .frame import Filter, Frame

T = TypeVar("T")


class Deferred(Generic[T]):
    """A value that is computed once, when it is first asked for, and lets go of its sources then.

    Whoever asks meanwhile waits. Where computing fails, it is tried again for the next who asks.

    Args:
        compute: gives the value.
    """

    def __init__(self, compute: Callable[[], T]) -> None:
        self._compute: Callable[[], T] | None = compute
        self._values: list[T] = []
        self._lock = threading.Lock()

    def __call__(self) -> T:
        """Give the value; raises what computing it raises."""
        with self._lock:
            if self._compute is not None:
                self._values.append(self._compute())
                self._compute = None
            return self._values[0]

    def peek(self) -> T | None:
        """Give the value if it is there, None if not yet."""
        return self._values[0] if self._values else None


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A frame that is still to be computed."""

    frame: Deferred[Frame]
    duplicate: bool
    """What the frame's flag will be."""

    @classmethod
    def of(cls, frame: Frame) -> Pending:
        """Take a frame that is there."""
        return cls(Deferred(lambda: frame), frame.duplicate)


@runtime_checkable
class Planning(Filter, Protocol):
    """A filter that plans. Plans are made in order; what they hold may be computed in any."""

    @property
    def frame_bytes(self) -> int:
        """Memory that the work for one frame takes at most, estimated; known once it is open."""
        ...

    def plan(self, pending: Pending) -> Iterable[Pending]:
        """Take the next frame, as `__call__` does, and say what comes of it."""
        ...


class Counts:
    """Counters that several threads may add to.

    Args:
        names: all of them.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._counts = Counter(dict.fromkeys(names, 0))
        self._lock = threading.Lock()

    def add(self, name: str, count: int = 1) -> None:
        """Count something."""
        with self._lock:
            self._counts[name] += count

    def __getitem__(self, name: str) -> int:
        return self._counts[name]

    def all(self) -> dict[str, int]:
        """Give every one of them as it is now."""
        with self._lock:
            return dict(self._counts)

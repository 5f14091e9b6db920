"""Frames that are computed later, so that several threads can compute them.

Most filters are plain calls. One that is slow derives from `PlannedFilter`: in the order of the
stream it says which frames come of one, and each of them is computed by the thread that asks for
it, so that frames which do not need each other are computed at the same time.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from .frame import Frame

T = TypeVar("T")


class Deferred(Generic[T]):
    """A value that is computed once, when it is first asked for, and then drops its sources.

    Threads that ask meanwhile wait. After an error the next caller computes again.

    Args:
        compute: returns the value.
    """

    def __init__(self, compute: Callable[[], T]) -> None:
        self._compute: Callable[[], T] | None = compute
        self._values: list[T] = []
        self._lock = threading.Lock()

    def __call__(self) -> T:
        """Return the value; raises what computing it raises."""
        with self._lock:
            if self._compute is not None:
                self._values.append(self._compute())
                self._compute = None
            return self._values[0]

    def peek(self) -> T | None:
        """Return the value, or None while it is not computed."""
        return self._values[0] if self._values else None


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A frame that may still have to be computed."""

    frame: Deferred[Frame]
    duplicate: bool
    """The frame's flag, known beforehand."""

    @classmethod
    def of(cls, frame: Frame) -> Pending:
        """Wrap a frame that exists."""
        return cls(Deferred(lambda: frame), frame.duplicate)


class PlannedFilter(ABC):
    """A filter whose frames are computed when they are asked for.

    `plan` is called in the order of the stream; the frames may be computed in any.
    """

    frame_bytes: int = 0
    """Memory for the work on one frame, an upper estimate; known once the filter is open."""

    @abstractmethod
    def plan(self, pending: Pending) -> Iterable[Pending]:
        """Accept the next frame and return the frames that come of it, without computing them."""

    def __call__(self, frame: Frame) -> Iterator[Frame]:
        """Accept the next frame; the frames that come of it are computed as they are iterated.

        Raises:
            ValueError: for a frame that `plan` refuses.
        """
        planned = self.plan(Pending.of(frame))
        return (pending.frame() for pending in planned)


class Counts:
    """Counters that several threads may add to.

    Args:
        names: all of them.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._counts = Counter(dict.fromkeys(names, 0))
        self._lock = threading.Lock()

    def add(self, name: str, count: int = 1) -> None:
        """Add to one counter."""
        with self._lock:
            self._counts[name] += count

    def __getitem__(self, name: str) -> int:
        return self._counts[name]

    def all(self) -> dict[str, int]:
        """Return the counters as they are now."""
        with self._lock:
            return dict(self._counts)

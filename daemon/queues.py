"""Bounded queues between two threads: one waits for room, the other drops its oldest item."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_WHY = ("full", "old", "closed")


class QueueCancelled(Exception):
    """The other side of the queue is gone; a thread that waits on it must stop."""


class _Queue(Generic[T]):
    def __init__(self, max_items: int) -> None:
        self._max_items = max_items
        self._items: deque[tuple[T, float]] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._items)

    def close(self) -> None:
        """Accept no further item; those that wait can still be removed."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class BlockingQueue(_Queue[T]):
    """A first-in first-out queue whose `put` waits for room.

    One item always fits, however large it is, or nothing could ever move.
    """

    def __init__(self, max_items: int, max_bytes: float = math.inf) -> None:
        super().__init__(max_items)
        self._max_bytes = max_bytes
        self._bytes = 0.0
        self._cancelled = False

    def put(self, item: T, num_bytes: int = 0) -> None:
        """Append an item, waiting for room.

        Raises:
            QueueCancelled: if the queue was cancelled, or closed by another thread.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ends() or self._has_room(num_bytes))
            if self._ends():
                raise QueueCancelled
            self._items.append((item, num_bytes))
            self._bytes += num_bytes
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Remove items one by one until the queue is closed and empty.

        Raises:
            QueueCancelled: if the queue is cancelled; its items are dropped.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._ends())
                if self._cancelled:
                    raise QueueCancelled
                if not self._items:
                    return
                item, num_bytes = self._items.popleft()
                self._bytes -= num_bytes
                self._changed.notify_all()
            yield item

    def take_all(self, timeout_seconds: float) -> list[T] | None:
        """Remove all items, waiting for the first one.

        Returns:
            The items, [] after the timeout; None if it is cancelled, or closed and empty.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ends(), timeout_seconds)
            if not self._items:
                return None if self._ends() else []
            items = [item for item, _ in self._items]
            self._items.clear()
            self._bytes = 0
            self._changed.notify_all()
            return items

    def cancel(self) -> None:
        """Drop all items and end the waiting of both sides."""
        with self._changed:
            self._cancelled = True
            self._items.clear()
            self._bytes = 0
            self._changed.notify_all()

    def _ends(self) -> bool:
        return self._closed or self._cancelled

    def _has_room(self, num_bytes: int) -> bool:
        if not self._items:
            return True
        fits = self._bytes + num_bytes <= self._max_bytes
        return fits and len(self._items) < self._max_items


class DropOldestQueue(_Queue[T]):
    """A first-in first-out queue whose `put` never waits.

    Items that are too many, or too old while a newer one waits, are dropped before work is spent on
    them. The newest item is never dropped, however old it is. Its age is since its arrival, by the
    clock `now`; timeouts go by real time.

    Raises:
        ValueError: for bounds that let nothing wait.
    """

    def __init__(
        self,
        max_items: int,
        max_age_seconds: float = math.inf,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_items < 1 or max_age_seconds < 0:
            raise ValueError(
                f"must hold one item or more, of any age from 0 s, got {max_items} items "
                f"of {max_age_seconds} s"
            )
        super().__init__(max_items)
        self._max_age_seconds = max_age_seconds
        self._now = now
        self._counts: Counter[str] = Counter()

    def put(self, item: T, arrived: float | None = None) -> None:
        """Append an item that arrived at a moment of the clock, by default now; never waits."""
        with self._changed:
            if self._closed:
                self._counts["closed"] += 1
                return
            self._items.append((item, self._now() if arrived is None else arrived))
            while len(self._items) > self._max_items:
                self._items.popleft()
                self._counts["full"] += 1
            self._drop_old()
            self._changed.notify()

    def take(self, timeout_seconds: float | None) -> T | None:
        """Remove the oldest item that is not too old, waiting for it; None: without a limit.

        Returns:
            The item; None after the timeout, or once the queue is closed and empty.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout_seconds)
            if not self._items:
                return None
            self._drop_old()
            return self._items.popleft()[0]

    @property
    def oldest_age(self) -> float:
        """Seconds since the arrival of the oldest item; 0 if nothing waits."""
        with self._changed:
            return self._now() - self._items[0][1] if self._items else 0.0

    @property
    def dropped(self) -> int:
        """Items that were dropped for newer ones."""
        with self._changed:
            return self._counts["full"] + self._counts["old"]

    @property
    def counts(self) -> dict[str, int]:
        """Dropped items by reason: `full`, `old`, or `closed` for those that came afterwards."""
        with self._changed:
            return {why: self._counts[why] for why in _WHY}

    def _drop_old(self) -> None:
        oldest = self._now() - self._max_age_seconds
        while len(self._items) > 1 and self._items[0][1] < oldest:
            self._items.popleft()
            self._counts["old"] += 1

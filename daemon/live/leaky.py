"""A queue that drops its oldest, so that what waits for work is never old."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from threading import Condition
from typing import Generic, TypeVar

T = TypeVar("T")

_WHY = ("full", "old", "closed")


class Leaky(Generic[T]):
    """Between one thread that may not wait and one that may be slow.

    Whoever puts never waits; what is too much, or too old while something newer waits, is dropped
    before work is spent on it. The newest item is never dropped, however old it is.
    """

    def __init__(
        self,
        max_items: int,
        max_age_seconds: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take its bounds.

        Args:
            max_items: That wait at a time.
            max_age_seconds: Since an item's arrival, where something newer waits.
            now: The clock of the arrivals; waiting goes by real time.

        Raises:
            ValueError: where nothing could wait.
        """
        if max_items < 1 or max_age_seconds < 0:
            raise ValueError(
                f"must hold one item or more, of any age from 0 s, got {max_items} items "
                f"of {max_age_seconds} s"
            )
        self._max_items = max_items
        self._max_age = max_age_seconds
        self._now = now
        self._items: deque[tuple[T, float]] = deque()
        self._counts: Counter[str] = Counter()
        self._changed = Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T, arrived: float) -> None:
        """Let an item wait that came at `arrived` (monotonic seconds); never blocks."""
        with self._changed:
            if self._closed:
                self._counts["closed"] += 1
                return
            self._items.append((item, arrived))
            while len(self._items) > self._max_items:
                self._items.popleft()
                self._counts["full"] += 1
            self._drop_old()
            self._changed.notify()

    def take(self, timeout: float | None) -> T | None:
        """Take the oldest item that is not too old.

        Args:
            timeout: Seconds to wait for one at most; None for as long as it takes.

        Returns:
            The item; None when the time is over, or when the queue is closed and empty.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout)
            if not self._items:
                return None
            self._drop_old()
            return self._items.popleft()[0]

    def close(self) -> None:
        """Take in nothing more, and wake whoever waits; what is in it can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether nothing more will come."""
        return self._closed

    @property
    def oldest_age(self) -> float:
        """Seconds since the arrival of what waits longest; 0 where nothing waits."""
        with self._changed:
            return self._now() - self._items[0][1] if self._items else 0.0

    @property
    def dropped(self) -> int:
        """Items that were dropped for newer ones."""
        with self._changed:
            return self._counts["full"] + self._counts["old"]

    @property
    def counts(self) -> dict[str, int]:
        """Items that were put and dropped, by why: `full`, `old` or, after the end, `closed`."""
        with self._changed:
            return {why: self._counts[why] for why in _WHY}

    def _drop_old(self) -> None:
        oldest = self._now() - self._max_age
        while len(self._items) > 1 and self._items[0][1] < oldest:
            self._items.popleft()
            self._counts["old"] += 1

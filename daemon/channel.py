"""A bounded channel between two threads: the only place where stages wait for each other."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


class ChannelCancelled(Exception):
    """The other side of the channel is gone; whoever waits on it must stop."""


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """How long each side has waited for the other, and what lies between them."""

    depth: int
    put_wait_seconds: float
    get_wait_seconds: float


class Channel(Generic[T]):
    """A first-in first-out queue with a limit in items and in bytes.

    One item always fits, however large it is, or nothing could ever move.
    """

    def __init__(self, capacity_items: int, capacity_bytes: int) -> None:
        self._capacity_items = capacity_items
        self._capacity_bytes = capacity_bytes
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._closed = False
        self._cancelled = False
        self._changed = threading.Condition()
        self._put_wait_seconds = 0.0
        self._get_wait_seconds = 0.0

    def put(self, item: T, num_bytes: int) -> None:
        """Append an item, waiting for room.

        Raises:
            ChannelCancelled: if the channel was cancelled, or closed by somebody else.
        """
        with self._changed:
            began = time.monotonic()
            self._changed.wait_for(lambda: self._ends() or self._has_room(num_bytes))
            self._put_wait_seconds += time.monotonic() - began
            if self._ends():
                raise ChannelCancelled
            self._items.append((item, num_bytes))
            self._bytes += num_bytes
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Take items until the channel is closed and empty.

        Raises:
            ChannelCancelled: if the channel is cancelled; what it held is dropped.
        """
        while True:
            with self._changed:
                began = time.monotonic()
                self._changed.wait_for(lambda: self._items or self._ends())
                self._get_wait_seconds += time.monotonic() - began
                if self._cancelled:
                    raise ChannelCancelled
                if not self._items:
                    return
                item, num_bytes = self._items.popleft()
                self._bytes -= num_bytes
                self._changed.notify_all()
            yield item

    def close(self) -> None:
        """Say that nothing more will come; what is in the channel is still taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """Drop everything and wake both sides with `ChannelCancelled`."""
        with self._changed:
            self._cancelled = True
            self._items.clear()
            self._bytes = 0
            self._changed.notify_all()

    def statistics(self) -> ChannelStatistics:
        """Look at the channel without disturbing it."""
        with self._changed:
            return ChannelStatistics(
                len(self._items), self._put_wait_seconds, self._get_wait_seconds
            )

    def _ends(self) -> bool:
        return self._closed or self._cancelled

    def _has_room(self, num_bytes: int) -> bool:
        if not self._items:
            return True
        fits = self._bytes + num_bytes <= self._capacity_bytes
        return fits and len(self._items) < self._capacity_items

"""Packets between the encoder and a connection: few, young, and a keyframe first after every gap.

Whoever puts packets in is never kept waiting: where the other end does not take them, they are
dropped and counted, up to the next keyframe, for without one nothing after a gap can be decoded.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Literal

from .values import Encoded

Loss = Literal["away", "full", "lost"]
"""Given while there was no connection; too many were waiting; on the way when it ended."""

MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class _Waiting:
    packet: Encoded
    since: float


class Outbox:
    """A queue from the thread that encodes to the thread that sends; closed at first."""

    def __init__(self, max_seconds: float, max_bytes: int = MAX_BYTES) -> None:
        """Take the bounds beyond which all that waits is dropped.

        Args:
            max_seconds: that the oldest packet may wait.
            max_bytes: that all together may have.
        """
        self._max_seconds = max_seconds
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._open = self._stopped = False
        self._gap: Loss | None = "away"
        self._dropped: dict[str, int] = {}

    @property
    def wants_keyframe(self) -> bool:
        """Whether it is open, and takes no picture but a keyframe."""
        with self._lock:
            return self._open and not self._stopped and self._gap is not None

    @property
    def dropped(self) -> dict[str, int]:
        """Pictures that were put in and never written, by why."""
        with self._lock:
            return dict(self._dropped)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        with self._lock:
            return not self._waiting

    def open(self) -> None:
        """Take packets from now on, a keyframe first."""
        with self._lock:
            self._open = True
            self._gap = "away"

    def close(self, loss: Loss = "lost") -> None:
        """Take no more, and drop what waits."""
        with self._lock:
            self._open = False
            self._gap = "away"
            self._drop_all(loss)

    def stop(self) -> None:
        """Take no more for good; what waits can be taken out."""
        with self._lock:
            self._stopped = True

    def put(self, packet: Encoded, now: float) -> bool:
        """Put a packet in; tell whether it was taken.

        Args:
            packet: of the encoder, or of sound.
            now: monotonic seconds.
        """
        with self._lock:
            if self._open and self._is_over(packet, now):
                self._drop_all("full")
                self._gap = "full"
            if not self._takes(packet):
                self._count(packet, self._gap or "away")
                return False
            if packet.kind == "video":
                self._gap = None
            self._waiting.append(_Waiting(packet, now))
            self._bytes += len(packet.data)
            return True

    def take(self) -> Encoded | None:
        """Take the oldest packet out; None if there is none."""
        with self._lock:
            if not self._waiting:
                return None
            packet = self._waiting.popleft().packet
            self._bytes -= len(packet.data)
            return packet

    def lost(self, packet: Encoded) -> None:
        """Count a packet that was taken out and not written."""
        with self._lock:
            self._count(packet, "lost")

    def _is_over(self, packet: Encoded, now: float) -> bool:
        if not self._waiting:
            return False
        late = now - self._waiting[0].since > self._max_seconds
        return late or self._bytes + len(packet.data) > self._max_bytes

    def _takes(self, packet: Encoded) -> bool:
        if not self._open or self._stopped:
            return False
        if packet.kind == "sound":  # goes on while pictures are dropped, but never before them
            return self._gap != "away"
        return self._gap is None or packet.is_keyframe

    def _drop_all(self, loss: Loss) -> None:
        for waiting in self._waiting:
            self._count(waiting.packet, loss)
        self._waiting.clear()
        self._bytes = 0

    def _count(self, packet: Encoded, loss: Loss) -> None:
        if packet.kind == "video":
            self._dropped[loss] = self._dropped.get(loss, 0) + 1

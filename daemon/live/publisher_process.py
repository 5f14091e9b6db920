"""One connection of an output: a child process that is fed, heard, and killed when it stalls.

It is a process because FFmpeg's network outputs have no timeout, and PyAV may hold the GIL while
they wait. Only a kill ends such a call.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ...io.child import Child, Waker, exit_text
from ...io.errors import MediaError, OutputLost, Reason
from ...io.live.publisher_protocol import (
    Connected,
    Event,
    Finished,
    Header,
    PublishFailed,
    Skipped,
    Written,
    header_bytes,
    packet_bytes,
    read_event,
)
from ...io.live.values import Encoded

Loss = Literal["away", "full", "lost"]
"""Why a picture was not written: no connection; too many waited; on the way when it was lost."""

MAX_BYTES = 64 << 20


class PacketBuffer:
    """Packets between the encoder and a connection: few, young, a keyframe first after every gap.

    `put` never waits. It is no :class:`DropOldestQueue`, since without a keyframe nothing after a
    gap can be decoded: on overflow all packets are dropped and counted, and further ones up to the
    next keyframe. The buffer is closed at first.
    """

    def __init__(self, max_seconds: float, max_bytes: int = MAX_BYTES) -> None:
        """Set the bounds beyond which all packets are dropped.

        Args:
            max_seconds: that the oldest packet may wait.
            max_bytes: of all packets together.
        """
        self._max_seconds = max_seconds
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._packets: deque[tuple[Encoded, float]] = deque()  # since when it waits
        self._bytes = 0
        self._open = self._stopped = False
        self._gap: Loss | None = "away"
        self._dropped: dict[str, int] = {}

    @property
    def wants_keyframe(self) -> bool:
        """Whether it is open, and accepts no picture but a keyframe."""
        with self._lock:
            return self._open and not self._stopped and self._gap is not None

    @property
    def dropped(self) -> dict[str, int]:
        """Pictures that were put in and not written, by reason."""
        with self._lock:
            return dict(self._dropped)

    @property
    def is_empty(self) -> bool:
        """Whether no packet waits."""
        with self._lock:
            return not self._packets

    def open(self) -> None:
        """Accept packets from now on, a keyframe first."""
        with self._lock:
            self._open = True
            self._gap = "away"

    def close(self, loss: Loss = "lost") -> None:
        """Accept no more packets, and drop those that wait."""
        with self._lock:
            self._open = False
            self._gap = "away"
            self._drop_all(loss)

    def stop(self) -> None:
        """Accept no more packets for good; those that wait can still be removed."""
        with self._lock:
            self._stopped = True

    def put(self, packet: Encoded, now: float) -> bool:
        """Append a packet; return whether it was accepted.

        Args:
            packet: of the encoder, or of sound.
            now: monotonic seconds.
        """
        with self._lock:
            if self._open and self._overflows(packet, now):
                self._drop_all("full")
                self._gap = "full"
            if not self._accepts(packet):
                self._count(packet, self._gap or "away")
                return False
            if packet.kind == "video":
                self._gap = None
            self._packets.append((packet, now))
            self._bytes += len(packet.data)
            return True

    def take(self) -> Encoded | None:
        """Remove the oldest packet; None if there is none."""
        with self._lock:
            if not self._packets:
                return None
            packet, _ = self._packets.popleft()
            self._bytes -= len(packet.data)
            return packet

    def lost(self, packet: Encoded) -> None:
        """Count a packet that was removed and not written."""
        with self._lock:
            self._count(packet, "lost")

    def _overflows(self, packet: Encoded, now: float) -> bool:
        if not self._packets:
            return False
        late = now - self._packets[0][1] > self._max_seconds
        return late or self._bytes + len(packet.data) > self._max_bytes

    def _accepts(self, packet: Encoded) -> bool:
        if not self._open or self._stopped:
            return False
        if packet.kind == "sound":  # goes on while pictures are dropped, but never before them
            return self._gap != "away"
        return self._gap is None or packet.is_keyframe

    def _drop_all(self, loss: Loss) -> None:
        for packet, _ in self._packets:
            self._count(packet, loss)
        self._packets.clear()
        self._bytes = 0

    def _count(self, packet: Encoded, loss: Loss) -> None:
        if packet.kind == "video":
            self._dropped[loss] = self._dropped.get(loss, 0) + 1


_LOOK_SECONDS = 0.25
_BATCH_BYTES = 1 << 16  # what a pipe holds
_SHOWN_LINES = 8


@dataclass(frozen=True, slots=True)
class ConnectionTimeouts:
    """How long a child may go without a sign of life."""

    connect_seconds: float
    """From its start to its being connected."""
    stall_seconds: float
    """With a packet to write, and none written."""


@dataclass(slots=True)
class StopOrder:
    """How a connection is to end, set by another thread."""

    finish_by: float | None = None
    """Complete the output until this moment (monotonic seconds); None: go on."""
    kill: bool = False


@dataclass(frozen=True, slots=True)
class ConnectionEnd:
    """How a connection ended."""

    error: MediaError | None
    """None if it was completed."""
    reason: Reason | None
    reported: bool
    """Whether the child reported it itself; else it died, or was killed."""
    held_seconds: float
    """From the first packet written to the end."""


def command() -> list[str]:
    """Return the command line of the process that writes an output."""
    # -P: nothing is imported from the working directory
    words = [sys.executable, "-P", "-m", "upframe.io.live.publisher_child"]
    return [*words, "--parent", str(os.getpid())]


class PublisherConnection:
    """Runs one child from its start to its end, in the caller's thread."""

    def __init__(
        self,
        header: Header,
        packets: PacketBuffer,
        waker: Waker,
        order: StopOrder,
        timeouts: ConnectionTimeouts,
        on_event: Callable[[Event, Encoded | None], None],
    ) -> None:
        """Set up the connection; `run` begins it.

        Args:
            header: of the output.
            packets: to write.
            waker: woken when there are packets, or the order has changed.
            order: checked at least four times a second.
            timeouts: after which the child is killed.
            on_event: called with each event of the child, and the packet that it is about.
        """
        self._header = header
        self._display = header.target.display
        self._packets = packets
        self._waker = waker
        self._order = order
        self._timeouts = timeouts
        self._on_event = on_event
        self._underway: deque[tuple[int, Encoded, float]] = deque()
        self._number = 0
        self._started = self._last_written = time.monotonic()
        self._first_written: float | None = None
        self._connected = False
        self._result: PublishFailed | Finished | None = None

    def run(self) -> ConnectionEnd:
        """Send packets until the connection is lost, or has ended as ordered."""
        try:
            child = Child(command(), self._waker)
        except OSError as error:
            return self._ending(
                OutputLost("failed", f"{self._display}: no process for it: {error}")
            )
        try:
            killed = self._exchange(child)
        finally:
            child.close()
        killed = self._listen(child) or killed
        for _, packet, _ in self._underway:
            self._packets.lost(packet)
        if isinstance(self._result, Finished):
            return self._ending(None)
        if self._result is not None:
            return self._ending(self._result.exception(), self._result.reason)
        return self._ending(killed or self._death(child))

    def _exchange(self, child: Child) -> OutputLost | None:
        """Feed and hear the child until it ends; if it must be killed, return why."""
        child.send(header_bytes(self._header))
        while child.returncode is None:
            child.turn(_LOOK_SECONDS)
            if (why := self._listen(child) or self._why_kill()) is not None:
                return why
            self._feed(child)
        return None

    def _feed(self, child: Child) -> None:
        if not self._connected:
            return
        while child.unsent_bytes < _BATCH_BYTES and (packet := self._packets.take()) is not None:
            self._number += 1
            child.send(packet_bytes(packet, self._number))
            if packet.kind == "video":
                self._underway.append((self._number, packet, time.monotonic()))
        if self._order.finish_by is not None and self._packets.is_empty:
            child.close_stdin()

    def _listen(self, child: Child) -> OutputLost | None:
        """Handle the events of the child; return an error if it sent anything else."""
        for line in child.lines():
            try:
                event = read_event(line)
                about = event.number if isinstance(event, Written | Skipped) else None
                packet = None if about is None else self._arrived(about)
            except ValueError as error:
                return self._lost("failed", f"its process sent no event: {error}")
            self._note(event)
            self._on_event(event, packet)
        return None

    def _note(self, event: Event) -> None:
        if isinstance(event, Written):
            self._last_written = time.monotonic()
            self._first_written = self._first_written or self._last_written
        elif isinstance(event, Connected):
            self._connected = True
        elif isinstance(event, PublishFailed | Finished):
            self._result = event

    def _arrived(self, number: int) -> Encoded:
        """Remove a packet, and those before it, from the packets that are under way."""
        while self._underway and self._underway[0][0] <= number:
            found, packet, _ = self._underway.popleft()
            if found == number:
                return packet
            self._packets.lost(packet)
        raise ValueError(f"packet {number} was never sent")

    def _why_kill(self) -> OutputLost | None:
        now, order, timeouts = time.monotonic(), self._order, self._timeouts
        waits = now - max(self._last_written, self._underway[0][2]) if self._underway else 0.0
        if order.kill:
            return self._lost("failed", "stopped at once")
        if order.finish_by is not None and now > order.finish_by:
            return self._lost("timed-out", "not completed in time")
        if order.finish_by is not None and not self._connected and not self._header.target.is_file:
            return self._lost("failed", "stopped before it was connected")
        if not self._connected and now - self._started > timeouts.connect_seconds:
            return self._lost("timed-out", f"not connected within {timeouts.connect_seconds:g} s")
        if waits > timeouts.stall_seconds:
            return self._lost("stalled", f"has taken nothing for {timeouts.stall_seconds:g} s")
        return None

    def _lost(self, reason: Reason, text: str) -> OutputLost:
        return OutputLost(reason, f"{self._display}: {text}")

    def _death(self, child: Child) -> OutputLost:
        text = f"its process {exit_text(child.returncode)}"
        lines = child.tail.lines(published=True)[-_SHOWN_LINES:]
        if child.returncode != -signal.SIGKILL and lines:
            text += ": " + " | ".join(lines)
        return self._lost("failed", text)

    def _ending(self, error: MediaError | None, reason: Reason | None = None) -> ConnectionEnd:
        reported = reason is not None or error is None
        if isinstance(error, OutputLost):
            reason = error.reason
        now = time.monotonic()
        return ConnectionEnd(error, reason, reported, now - (self._first_written or now))

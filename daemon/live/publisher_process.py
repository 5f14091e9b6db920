"""One connection of an output: one child process, fed, listened to, and killed when it stalls.

Why a process: FFmpeg's network outputs know no timeout, and PyAV may hold Python's lock while they
wait. Nothing but a kill ends such a call.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ...io.errors import MediaError, OutputLost, Reason
from ...io.live.publisher_protocol import (
    Connected,
    Event,
    Failed,
    Finished,
    Header,
    Skipped,
    Written,
    read_event,
    write_header,
    write_packet,
)
from ...io.live.values import Encoded
from .child import Child, Waker

# Packets between the encoder and a connection: few, young, and a keyframe first after every gap.
#
# Whoever puts packets in is never kept waiting: where the other end does not take them, they are
# dropped and counted, up to the next keyframe, for without one nothing after a gap can be decoded.

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


_LOOK_SECONDS = 0.25
_BATCH_BYTES = 1 << 16  # what a pipe holds
_SHOWN_LINES = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a child may go without a sign of life."""

    connect_seconds: float
    """From its start to its being connected."""
    stall_seconds: float
    """With a packet to write, and none written."""


@dataclass(slots=True)
class Orders:
    """What is wanted of a connection, said by another thread."""

    finish_by: float | None = None
    """Complete what there is, until this moment (monotonic seconds); None: go on."""
    kill: bool = False


@dataclass(frozen=True, slots=True)
class Ending:
    """How a connection ended."""

    error: MediaError | None
    """None where it was completed."""
    reason: Reason | None
    told: bool
    """Whether the child said so itself; else it died, or was killed."""
    held_seconds: float
    """From the first packet written to the end."""


def command() -> list[str]:
    """Write the command line of the process that writes an output."""
    # -P: nothing is imported from the folder in which somebody started us
    words = [sys.executable, "-P", "-m", "upframe.io.live.publisher_child"]
    return [*words, "--parent", str(os.getpid())]


class Sending:
    """Runs one child from its start to its end, in the caller's thread."""

    def __init__(
        self,
        header: Header,
        outbox: Outbox,
        waker: Waker,
        orders: Orders,
        limits: Limits,
        on_event: Callable[[Event, Encoded | None], None],
    ) -> None:
        """Take what it works with.

        Args:
            header: of the output.
            outbox: where its packets come from.
            waker: woken when there are some, or other orders.
            orders: what to do; looked at again and again.
            limits: when to give the child up.
            on_event: told what the child says, with the packet that it is about.
        """
        self._header = header
        self._shown = header.target.shown
        self._outbox = outbox
        self._waker = waker
        self._orders = orders
        self._limits = limits
        self._on_event = on_event
        self._underway: deque[tuple[int, Encoded, float]] = deque()
        self._number = 0
        self._started = self._last_written = time.monotonic()
        self._first_written: float | None = None
        self._connected = False
        self._said: Failed | Finished | None = None

    def run(self) -> Ending:
        """Send until the connection is lost, or has ended as it was ordered to."""
        try:
            child = Child(command(), self._waker)
        except OSError as error:
            return self._ending(OutputLost("failed", f"{self._shown}: no process for it: {error}"))
        try:
            killed = self._converse(child)
        finally:
            child.close()
        killed = self._listen(child) or killed
        for _, packet, _ in self._underway:
            self._outbox.lost(packet)
        if isinstance(self._said, Finished):
            return self._ending(None)
        if self._said is not None:
            return self._ending(self._said.exception(), self._said.reason)
        return self._ending(killed or self._death(child))

    def _converse(self, child: Child) -> OutputLost | None:
        """Feed and listen until the child has ended; if it must be killed, say why."""
        child.send(_bytes_of(lambda file: write_header(file, self._header)))
        while child.returncode is None:
            child.turn(_LOOK_SECONDS)
            if (why := self._listen(child) or self._why_kill()) is not None:
                return why
            self._feed(child)
        return None

    def _feed(self, child: Child) -> None:
        if not self._connected:
            return
        while child.unsent_bytes < _BATCH_BYTES and (packet := self._outbox.take()) is not None:
            self._number += 1
            child.send(_packed(packet, self._number))
            if packet.kind == "video":
                self._underway.append((self._number, packet, time.monotonic()))
        if self._orders.finish_by is not None and self._outbox.is_empty:
            child.close_input()

    def _listen(self, child: Child) -> OutputLost | None:
        """Take what the child has said; if that is nothing it may say, tell so."""
        for line in child.lines():
            try:
                event = read_event(line)
                about = event.number if isinstance(event, Written | Skipped) else None
                packet = None if about is None else self._arrived(about)
            except ValueError as error:
                return self._lost("failed", f"its process speaks wrongly: {error}")
            self._note(event)
            self._on_event(event, packet)
        return None

    def _note(self, event: Event) -> None:
        if isinstance(event, Written):
            self._last_written = time.monotonic()
            self._first_written = self._first_written or self._last_written
        elif isinstance(event, Connected):
            self._connected = True
        elif isinstance(event, Failed | Finished):
            self._said = event

    def _arrived(self, number: int) -> Encoded:
        """Take a packet off those under way, and those before it, which nobody will hear of."""
        while self._underway and self._underway[0][0] <= number:
            found, packet, _ = self._underway.popleft()
            if found == number:
                return packet
            self._outbox.lost(packet)
        raise ValueError(f"packet {number} was written, which it was never given")

    def _why_kill(self) -> OutputLost | None:
        now, orders, limits = time.monotonic(), self._orders, self._limits
        waits = now - max(self._last_written, self._underway[0][2]) if self._underway else 0.0
        if orders.kill:
            return self._lost("failed", "stopped at once")
        if orders.finish_by is not None and now > orders.finish_by:
            return self._lost("timed-out", "not completed in time")
        if orders.finish_by is not None and not self._connected and not self._header.target.is_file:
            return self._lost("failed", "stopped before it was connected")
        if not self._connected and now - self._started > limits.connect_seconds:
            return self._lost("timed-out", f"not connected within {limits.connect_seconds:g} s")
        if waits > limits.stall_seconds:
            return self._lost("stalled", f"has taken nothing for {limits.stall_seconds:g} s")
        return None

    def _lost(self, reason: Reason, text: str) -> OutputLost:
        return OutputLost(reason, f"{self._shown}: {text}")

    def _death(self, child: Child) -> OutputLost:
        code = child.returncode
        text = f"its process {_end_of(code)}"
        if code != -signal.SIGKILL and child.tail:
            text += ": " + " | ".join(list(child.tail)[-_SHOWN_LINES:])
        return self._lost("failed", text)

    def _ending(self, error: MediaError | None, reason: Reason | None = None) -> Ending:
        told = reason is not None or error is None
        if isinstance(error, OutputLost):
            reason = error.reason
        now = time.monotonic()
        return Ending(error, reason, told, now - (self._first_written or now))


def _end_of(returncode: int | None) -> str:
    if returncode is None:
        return "does not end by SIGKILL"
    if returncode >= 0:
        return f"ended with status {returncode}"
    try:
        return f"was ended by {signal.Signals(-returncode).name}"
    except ValueError:  # a real-time signal has no name
        return f"was ended by signal {-returncode}"


def _packed(packet: Encoded, number: int) -> bytes:
    return _bytes_of(lambda file: write_packet(file, packet, number))


def _bytes_of(write: Callable[[io.BytesIO], None]) -> bytes:
    with io.BytesIO() as file:
        write(file)
        return file.getvalue()

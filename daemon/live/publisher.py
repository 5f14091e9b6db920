"""An output that is kept up: connected again and again, independently of the input.

The publisher's thread runs one child process after another, feeds it, reads its events, and kills
it when it stalls. It is a process because FFmpeg's network outputs have no timeout, and PyAV may
hold the GIL while they wait; only a kill ends such a call. The encoder only puts packets into a
buffer, which drops and counts them when the receiver does not accept them.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Literal

from ...io.child import Child, Waker, exit_text
from ...io.errors import MediaError, OutputLost, Reason, SinkRefused
from ...io.live import publisher_protocol as wire
from ...io.live.target import LiveTarget
from ...io.live.values import Encoded, OutputState
from ..backoff import Backoff

log = logging.getLogger("upframe.io.live.publisher")

CONNECT_SECONDS = 10.0
"""For connecting, the start of the process included."""
OPEN_SECONDS = 30.0
"""For opening a file, and for packets to wait for it: there is nothing else to try."""

_WAIT_SHARE = 0.4  # of the stall time, for a packet to wait: below the usual budget of two seconds
_JOIN_SECONDS = 1.0
_GRACE_SECONDS = 15.0  # for killing and reaping, beyond what `finish` was given

Loss = Literal["away", "full", "lost"]
"""Why a picture was not written: no connection; too many waited; on the way when it was lost."""

MAX_BYTES = 64 << 20
_KEPT_FILES = 10


class PacketBuffer:
    """Packets between the encoder and a connection: few, young, a keyframe first after every gap.

    `put` never waits. It is no :class:`DropOldestQueue`, since without a keyframe nothing after a
    gap can be decoded: on overflow all packets are dropped and counted, and further ones up to the
    next keyframe. The buffer is closed at first. The oldest packet may wait for `max_seconds`, and
    all together have `max_bytes`.
    """

    def __init__(self, max_seconds: float, max_bytes: int = MAX_BYTES) -> None:
        self._max_seconds, self._max_bytes = max_seconds, max_bytes
        self._lock = threading.Lock()
        self._packets: deque[tuple[Encoded, float]] = deque()  # since when it waits
        self._bytes = 0
        self._open = self._stopped = False
        self._gap: Loss | None = "away"
        self._dropped: Counter[str] = Counter()

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
        """Append a packet of pictures or sound; return whether it is accepted. `now`: monotonic."""
        with self._lock:
            if self._open and self._packets:
                is_late = now - self._packets[0][1] > self._max_seconds
                if is_late or self._bytes + len(packet.data) > self._max_bytes:
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
            self._dropped[loss] += 1


_LOOK_SECONDS = 0.25
_BATCH_BYTES = 1 << 16  # what a pipe holds
_SHOWN_LINES = 8


@dataclass(slots=True)
class StopOrder:
    """How a connection is to end, set by another thread."""

    finish_by: float | None = None
    """Complete the output until this moment (monotonic seconds); None: go on."""
    kill: bool = False


def command() -> list[str]:
    """Return the command line of the process that writes an output."""
    # -P: nothing is imported from the working directory
    words = [sys.executable, "-P", "-m", "upframe.io.live.publisher_child"]
    return [*words, "--parent", str(os.getpid())]


@dataclass(eq=False)
class PublisherConnection:
    """Runs one child from its start to its end, in the caller's thread."""

    header: wire.Header
    packets: PacketBuffer
    """To write."""
    waker: Waker
    """Woken when there are packets, or the order has changed."""
    order: StopOrder
    """Checked at least four times a second."""
    connect_seconds: float
    """After which a child that is not connected is killed."""
    stall_seconds: float
    """The same with a packet to write, and none written."""
    on_event: Callable[[wire.Event, Encoded | None], None]
    """Called with each event of the child, and the packet that it is about."""

    def __post_init__(self) -> None:
        self._underway: deque[tuple[int, Encoded, float]] = deque()
        self._number = 0
        self._started = self._last_written = time.monotonic()
        self._first_written: float | None = None
        self._connected = False
        self.result: wire.PublishFailed | wire.Finished | None = None
        """How the child itself says that it ended; None: it died, or was killed."""

    def held_seconds(self) -> float:
        """Return the time since the first packet was written."""
        now = time.monotonic()
        return now - (self._first_written or now)

    def run(self) -> MediaError | None:
        """Send packets until the connection is lost, or has ended as ordered.

        Returns:
            Why it ended; None if the output was completed.
        """
        try:
            child = Child(command(), self.waker)
        except OSError as error:
            return self._lost("failed", f"no process for it: {error}")
        try:
            killed = self._exchange(child)
        finally:
            child.close()
        killed = self._listen(child) or killed
        for _, packet, _ in self._underway:
            self.packets.lost(packet)
        match self.result:
            case wire.Finished():
                return None
            case wire.PublishFailed():
                return self.result.exception()
            case None:
                return killed or self._death(child)

    def _exchange(self, child: Child) -> OutputLost | None:
        """Feed and hear the child until it ends; if it must be killed, return why."""
        child.send(wire.header_bytes(self.header))
        while child.returncode is None:
            child.turn(_LOOK_SECONDS)
            if (why := self._listen(child) or self._why_kill()) is not None:
                return why
            self._feed(child)
        return None

    def _feed(self, child: Child) -> None:
        if not self._connected:
            return
        while child.unsent_bytes < _BATCH_BYTES and (packet := self.packets.take()) is not None:
            self._number += 1
            child.send(wire.packet_bytes(packet, self._number))
            if packet.kind == "video":
                self._underway.append((self._number, packet, time.monotonic()))
        if self.order.finish_by is not None and self.packets.is_empty:
            child.close_stdin()

    def _listen(self, child: Child) -> OutputLost | None:
        """Handle the events of the child; return an error if it sent anything else."""
        for line in child.lines():
            packet = None
            try:
                event = wire.read_event(line)
                if isinstance(event, wire.Written | wire.Skipped):
                    packet = self._arrived(event.number)
            except ValueError as error:
                return self._lost("failed", f"its process sent no event: {error}")
            self._note(event)
            self.on_event(event, packet)
        return None

    def _note(self, event: wire.Event) -> None:
        if isinstance(event, wire.Written):
            self._last_written = time.monotonic()
            self._first_written = self._first_written or self._last_written
        elif isinstance(event, wire.Connected):
            self._connected = True
        elif isinstance(event, wire.PublishFailed | wire.Finished):
            self.result = event

    def _arrived(self, number: int) -> Encoded:
        """Remove a packet, and those before it, from the packets that are under way."""
        while self._underway and self._underway[0][0] <= number:
            found, packet, _ = self._underway.popleft()
            if found == number:
                return packet
            self.packets.lost(packet)
        raise ValueError(f"packet {number} was never sent")

    def _why_kill(self) -> OutputLost | None:
        now, order = time.monotonic(), self.order
        connecting, stall = self.connect_seconds, self.stall_seconds
        waits = now - max(self._last_written, self._underway[0][2]) if self._underway else 0.0
        if order.kill:
            return self._lost("failed", "stopped at once")
        if order.finish_by is not None and now > order.finish_by:
            return self._lost("timed-out", "not completed in time")
        if order.finish_by is not None and not self._connected and not self.header.target.is_file:
            return self._lost("failed", "stopped before it was connected")
        if not self._connected and now - self._started > connecting:
            return self._lost("timed-out", f"not connected within {connecting:g} s")
        if waits > stall:
            return self._lost("stalled", f"has taken nothing for {stall:g} s")
        return None

    def _lost(self, reason: Reason, text: str) -> OutputLost:
        return OutputLost(reason, f"{self.header.target.display}: {text}")

    def _death(self, child: Child) -> OutputLost:
        text = f"its process {exit_text(child.returncode)}"
        lines = child.tail.lines(published=True)[-_SHOWN_LINES:]
        if child.returncode != -signal.SIGKILL and lines:
            text += ": " + " | ".join(lines)
        return self._lost("failed", text)


def _ignore(*_: object) -> None:
    pass


@dataclass(eq=False)
class Publisher:
    """Writes packets to a target: `start`, `give` …, `finish`. `kill` ends it at any time."""

    target: LiveTarget
    primer: bytes
    """Of the encoder."""
    _: KW_ONLY
    now: Callable[[], float] = time.monotonic
    """The clock of the moments that `on_written` gets. The child, a real process, is timed by the
    monotonic clock."""
    stall_seconds: float = 5.0
    """After which a connection that takes nothing is closed."""
    connect_seconds: float | None = None
    """For connecting; None: 10 s, for a file 30 s."""
    backoff: Backoff = field(default_factory=Backoff)
    """Between connections."""
    on_change: Callable[[OutputState], None] = _ignore
    """Called by the publisher's thread with each new state, but for mere counts."""
    on_written: Callable[[Encoded, float], None] = _ignore
    """Called by it with each video packet, and when it was written."""

    def __post_init__(self) -> None:
        is_file = self.target.is_file
        connect = self.connect_seconds or (OPEN_SECONDS if is_file else CONNECT_SECONDS)
        self._seconds = (connect, self.stall_seconds)
        waits = OPEN_SECONDS if is_file else _WAIT_SHARE * self.stall_seconds
        self._packets = PacketBuffer(max_seconds=waits)
        self._waker = Waker()
        self._order = StopOrder()
        self._lock = threading.Lock()
        self._state = OutputState()
        self.failure: MediaError | None = None
        """Why it has given up for good; None while it goes on, and after it ended well.

        It gives up a file that cannot be written, but a server only if that refused the format
        before anything was ever written.
        """
        self._thread = threading.Thread(target=self._run, name="upframe-publisher", daemon=True)

    def start(self) -> None:
        """Begin to connect. `finish` or `kill` must be called afterwards."""
        self._thread.start()

    def give(self, packet: Encoded) -> bool:
        """Have a packet written, without waiting for it.

        Returns:
            Whether it was accepted; a picture that was not is counted as dropped.
        """
        accepted = self._packets.put(packet, time.monotonic())
        if accepted:
            self._waker.wake()
        return accepted

    @property
    def wants_keyframe(self) -> bool:
        """Whether the next picture is of use only as a keyframe.

        So it is after connecting, and after packets had to be dropped.
        """
        return self._packets.wants_keyframe

    @property
    def state(self) -> OutputState:
        """Its present state."""
        with self._lock:
            return replace(self._state, dropped=self._packets.dropped)

    def finish(
        self, timeout_seconds: float, meanwhile: Callable[[], None] = _ignore
    ) -> OutputState:
        """Write the packets that wait, complete the output, and end.

        After `timeout_seconds` it is killed; a file is then left without its name. `meanwhile` is
        called every second until then, since a long recording takes minutes.

        Raises:
            MediaError: if it has given up, or a file cannot be completed: SinkFull, SinkRefused,
                VerificationFailed or OutputLost.
        """
        self._order.finish_by = time.monotonic() + timeout_seconds
        self._packets.stop()
        self._join(timeout_seconds + _GRACE_SECONDS, meanwhile)
        if self.failure is not None:
            raise self.failure
        return self.state

    def kill(self) -> None:
        """End at once; packets that wait are lost. Safe to call twice, and after `finish`."""
        self._order.kill = True
        self._packets.stop()
        self._join(_GRACE_SECONDS)

    def _join(self, timeout_seconds: float, meanwhile: Callable[[], None] = _ignore) -> None:
        self._waker.wake()
        ends = time.monotonic() + timeout_seconds
        while self._thread.is_alive() and (left := ends - time.monotonic()) > 0:
            self._thread.join(min(left, _JOIN_SECONDS))
            meanwhile()
        if self._thread.is_alive():  # its child does not end by SIGKILL
            log.error("%s: its process does not end", self.target.display)
        else:
            self._waker.close()

    def _run(self) -> None:
        header = wire.Header(self.target, self.primer)
        try:
            while True:
                if self.target.is_file:  # packets wait until it is open
                    self._packets.open()
                began, connections = time.monotonic(), self._state.connections
                connection = PublisherConnection(
                    header, self._packets, self._waker, self._order, *self._seconds, self._handle
                )
                error, held_seconds = connection.run(), connection.held_seconds()
                self._packets.close()
                in_vain = self._state.connections == connections
                spent = time.monotonic() - began if in_vain else 0.0
                is_last = self._has_ended(error, reported=connection.result is not None)
                if is_last or not self._rested(held_seconds, spent):
                    break
        finally:
            self._packets.close()
            self._packets.stop()

    def _handle(self, event: wire.Event, packet: Encoded | None) -> None:
        state = self._state
        if isinstance(event, wire.Written) and packet is not None:
            self._set_state(replace(state, written=state.written + 1))
            age_seconds = time.monotonic() - event.at
            self.on_written(packet, self.now() - age_seconds)
        elif isinstance(event, wire.Connected):
            if not self.target.is_file:
                self._packets.open()
            log.info("%s: connected", self.target.display)
            connections = state.connections + 1
            self._changed(replace(state, connected=True, message="", connections=connections))
        elif isinstance(event, wire.Recorded):
            log.info("%s: %d frames, complete", event.path, event.frames)
            files = (*state.files, event.path)[-_KEPT_FILES:]
            self._changed(replace(state, files=files))
        elif isinstance(event, wire.Removed):
            log.info("%s: removed, %.1f days old", event.path, event.days)
        elif isinstance(event, wire.Note):
            log.warning("%s: %s", self.target.display, event.message)

    def _has_ended(self, error: MediaError | None, *, reported: bool) -> bool:
        """Record how a connection ended; return whether it was the last one."""
        ordered = self._order.kill or self._order.finish_by is not None
        if error is None:
            self._changed(replace(self._state, connected=False))
            return True
        if self._is_fatal(error, reported=reported) or (ordered and self.target.is_file):
            self.failure = error
        if not ordered or self.failure is not None:
            self._report_loss(error)
        else:
            self._changed(replace(self._state, connected=False))
        return ordered or self.failure is not None

    def _report_loss(self, error: MediaError) -> None:
        message, reason = str(error), error.reason if isinstance(error, OutputLost) else "failed"
        # a server that is away for days would give the same line thousands of times
        level = logging.DEBUG if message == self._state.message else logging.WARNING
        log.log(level, "%s", message)
        self._changed(replace(self._state, connected=False, reason=reason, message=message))

    def _is_fatal(self, error: MediaError, *, reported: bool) -> bool:
        if self.target.kind == "file":
            return True
        if self.target.kind == "rolling":  # the next process completes what this one has left
            return reported
        return isinstance(error, SinkRefused) and self._state.connections == 0

    def _rested(self, held_seconds: float, spent_seconds: float) -> bool:
        """Wait until it is time for the next connection; False if it is to end."""
        self.backoff.held(held_seconds)
        ends = time.monotonic() + self.backoff.next_seconds(spent_seconds)
        while (left := ends - time.monotonic()) > 0:
            if self._order.kill or self._order.finish_by is not None:
                return False
            self._waker.wait(left)
        return True

    def _changed(self, state: OutputState) -> None:
        self._set_state(state)
        self.on_change(self.state)

    def _set_state(self, state: OutputState) -> None:
        with self._lock:
            self._state = state

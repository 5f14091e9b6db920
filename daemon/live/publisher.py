"""An output that is kept up: connected again and again, independently of the input.

Its own thread runs one child process after another. The encoder only puts packets into a buffer,
which drops and counts them when the far end does not take them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from ...io.child import Waker
from ...io.errors import MediaError, SinkRefused
from ...io.live.publisher_protocol import Connected, Event, Header, Note, Recorded, Written
from ...io.live.target import LiveTarget
from ...io.live.values import Encoded, OutputState
from ..backoff import Backoff
from .publisher_process import (
    ConnectionEnd,
    ConnectionTimeouts,
    PacketBuffer,
    PublisherConnection,
    StopOrder,
)

log = logging.getLogger("upframe.io.live.publisher")

CONNECT_SECONDS = 10.0
"""For connecting, the start of the process included."""
OPEN_SECONDS = 30.0
"""For opening a file, and for packets to wait for it: there is nothing else to try."""

_WAIT_SHARE = 0.4  # of the stall time, for a packet to wait: below the usual budget of two seconds
_KEPT_FILES = 10
_JOIN_SECONDS = 1.0
_GRACE_SECONDS = 15.0  # for killing and reaping, beyond what `finish` was given


def _ignore(*_: object) -> None:
    pass


class Publisher:
    """Writes packets to a target: `start`, `give` …, `finish`. `kill` ends it at any time."""

    def __init__(
        self,
        target: LiveTarget,
        primer: bytes,
        *,
        now: Callable[[], float] = time.monotonic,
        stall_seconds: float = 5.0,
        connect_seconds: float | None = None,
        backoff: Backoff | None = None,
        on_change: Callable[[OutputState], None] = _ignore,
        on_written: Callable[[Encoded, float], None] = _ignore,
    ) -> None:
        """Set up the output; nothing is started yet.

        Args:
            target: where to.
            primer: of the encoder.
            now: the clock of the moments that `on_written` gets. The child, a real process, is
                timed by the monotonic clock.
            stall_seconds: after which a connection that takes nothing is closed.
            connect_seconds: for connecting; None: 10 s, for a file 30 s.
            backoff: between connections.
            on_change: called by the publisher's thread with each new state, but for mere counts.
            on_written: called by it with each video packet, and when it was written.
        """
        self._target = target
        self._header = Header(target, primer)
        self._now = now
        connect = OPEN_SECONDS if target.is_file else CONNECT_SECONDS
        self._timeouts = ConnectionTimeouts(connect_seconds or connect, stall_seconds)
        self._backoff = backoff or Backoff()
        self._on_change = on_change
        self._on_written = on_written
        waits = OPEN_SECONDS if target.is_file else _WAIT_SHARE * stall_seconds
        self._packets = PacketBuffer(max_seconds=waits)
        self._waker = Waker()
        self._order = StopOrder()
        self._lock = threading.Lock()
        self._state = OutputState()
        self._failure: MediaError | None = None
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

    @property
    def failure(self) -> MediaError | None:
        """Why it has given up for good; None while it goes on, and after it ended well.

        It gives up a file that cannot be written, but a server only if that refused the format
        before anything was ever written.
        """
        return self._failure

    def finish(
        self, timeout_seconds: float, meanwhile: Callable[[], None] = _ignore
    ) -> OutputState:
        """Write the packets that wait, complete the output, and end.

        Args:
            timeout_seconds: after which it is killed; a file is then left without its name.
            meanwhile: called every second until then, since a long recording takes minutes.

        Raises:
            MediaError: if it has given up, or a file cannot be completed: SinkFull, SinkRefused,
                VerificationFailed or OutputLost.
        """
        self._order.finish_by = time.monotonic() + timeout_seconds
        self._packets.stop()
        self._join(timeout_seconds + _GRACE_SECONDS, meanwhile)
        if self._failure is not None:
            raise self._failure
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
            log.error("%s: its process does not end", self._target.display)
        else:
            self._waker.close()

    def _run(self) -> None:
        try:
            while True:
                if self._target.is_file:  # packets wait until it is open
                    self._packets.open()
                began, connections = time.monotonic(), self._state.connections
                end = self._connection().run()
                self._packets.close()
                in_vain = self._state.connections == connections
                spent = time.monotonic() - began if in_vain else 0.0
                if self._has_ended(end) or not self._rested(end.held_seconds, spent):
                    break
        finally:
            self._packets.close()
            self._packets.stop()

    def _connection(self) -> PublisherConnection:
        return PublisherConnection(
            self._header, self._packets, self._waker, self._order, self._timeouts, self._handle
        )

    def _handle(self, event: Event, packet: Encoded | None) -> None:
        state = self._state
        if isinstance(event, Written) and packet is not None:
            self._set_state(replace(state, written=state.written + 1))
            age_seconds = time.monotonic() - event.at
            self._on_written(packet, self._now() - age_seconds)
        elif isinstance(event, Connected):
            if not self._target.is_file:
                self._packets.open()
            log.info("%s: connected", self._target.display)
            connections = state.connections + 1
            self._changed(replace(state, connected=True, message="", connections=connections))
        elif isinstance(event, Recorded):
            log.info("%s: %d frames, complete", event.path, event.frames)
            files = (*state.files, event.path)[-_KEPT_FILES:]
            self._changed(replace(state, files=files))
        elif isinstance(event, Note):
            log.warning("%s: %s", self._target.display, event.message)

    def _has_ended(self, end: ConnectionEnd) -> bool:
        """Record how a connection ended; return whether it was the last one."""
        error = end.error
        ordered = self._order.kill or self._order.finish_by is not None
        if error is None:
            self._changed(replace(self._state, connected=False))
            return True
        if self._is_fatal(end) or (ordered and self._target.is_file):
            self._failure = error
        if not ordered or self._failure is not None:
            self._report_loss(end, str(error))
        else:
            self._changed(replace(self._state, connected=False))
        return ordered or self._failure is not None

    def _report_loss(self, end: ConnectionEnd, message: str) -> None:
        # a server that is away for days would give the same line thousands of times
        level = logging.DEBUG if message == self._state.message else logging.WARNING
        log.log(level, "%s", message)
        self._changed(replace(self._state, connected=False, reason=end.reason, message=message))

    def _is_fatal(self, end: ConnectionEnd) -> bool:
        if self._target.kind == "file":
            return True
        if self._target.kind == "rolling":  # the next process completes what this one has left
            return end.reported
        return isinstance(end.error, SinkRefused) and self._state.connections == 0

    def _rested(self, held_seconds: float, spent_seconds: float) -> bool:
        """Wait until it is time for the next connection; False if it is to end."""
        self._backoff.held(held_seconds)
        ends = time.monotonic() + self._backoff.next_seconds(spent_seconds)
        while (left := ends - time.monotonic()) > 0:
            if self._order.kill or self._order.finish_by is not None:
                return False
            self._waker.wait(left)
        return True

    def _changed(self, state: OutputState) -> None:
        self._set_state(state)
        self._on_change(self.state)

    def _set_state(self, state: OutputState) -> None:
        with self._lock:
            self._state = state

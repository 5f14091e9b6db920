"""An output that is kept up: connected again and again, apart from the input, and never waited for.

Its own thread runs one child process after another; who encodes only puts packets into a queue,
from which they are dropped, and counted, where the far end does not take them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from ...io.errors import MediaError, SinkRefused
from ...io.live.publisher_protocol import Connected, Event, Header, Note, Recorded, Written
from ...io.live.target import LiveTarget
from ...io.live.values import Encoded, OutputState
from ..backoff import SteppedBackoff
from .child import Waker
from .publisher_process import Ending, Limits, Orders, Outbox, Sending

log = logging.getLogger("upframe.io.live.publisher")

CONNECT_SECONDS = 10.0
"""That connecting may take, the start of the process included."""
OPEN_SECONDS = 30.0
"""The same of a file, and that packets wait for it: there is nothing else to try."""

_WAIT_SHARE = 0.4  # of the stall, that a packet may wait: below the usual budget of two seconds
_KEPT_FILES = 10
_TELL_SECONDS = 1.0
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
        backoff: SteppedBackoff | None = None,
        on_change: Callable[[OutputState], None] = _ignore,
        on_written: Callable[[Encoded, float], None] = _ignore,
    ) -> None:
        """Take what to write, and where; nothing is started yet.

        Args:
            target: where to.
            primer: of the encoder.
            now: the clock of the moments that `on_written` is told. The child is watched by real
                time, whatever this says: it is a real process.
            stall_seconds: after which a connection that takes nothing is given up.
            connect_seconds: after which one that is not made is; None: 10 s, of a file 30 s.
            backoff: between connections.
            on_change: told of a new state, but for its counts, by the publisher's thread.
            on_written: told of each video packet, and when it was written, by the same.
        """
        self._target = target
        self._header = Header(target, primer)
        self._now = now
        connect = OPEN_SECONDS if target.is_file else CONNECT_SECONDS
        self._limits = Limits(connect_seconds or connect, stall_seconds)
        self._backoff = backoff or SteppedBackoff()
        self._on_change = on_change
        self._on_written = on_written
        waits = OPEN_SECONDS if target.is_file else _WAIT_SHARE * stall_seconds
        self._outbox = Outbox(max_seconds=waits)
        self._waker = Waker()
        self._orders = Orders()
        self._lock = threading.Lock()
        self._state = OutputState()
        self._failure: MediaError | None = None
        self._thread = threading.Thread(target=self._run, name="upframe-publisher", daemon=True)

    def start(self) -> None:
        """Begin to connect. From now on `finish` or `kill` must be called."""
        self._thread.start()

    def give(self, packet: Encoded) -> bool:
        """Have a packet written, without waiting for it.

        Returns:
            Whether it was taken; a picture that was not is counted as dropped.
        """
        taken = self._outbox.put(packet, time.monotonic())
        if taken:
            self._waker.wake()
        return taken

    @property
    def wants_keyframe(self) -> bool:
        """Whether the next picture is of use only as a keyframe: it is the first one to be taken.

        After connecting, and after packets had to be dropped.
        """
        return self._outbox.wants_keyframe

    @property
    def state(self) -> OutputState:
        """Where it stands."""
        with self._lock:
            return replace(self._state, dropped=self._outbox.dropped)

    @property
    def failure(self) -> MediaError | None:
        """Why it has given up for good; None while it goes on, and where it ended well.

        A file that cannot be written is given up, a place to publish to is not: only where it
        refused the format before anything was ever written.
        """
        return self._failure

    def finish(
        self, timeout_seconds: float, meanwhile: Callable[[], None] = _ignore
    ) -> OutputState:
        """Write what was given, complete it, and end; nothing more is taken.

        Args:
            timeout_seconds: after which it is killed; a file is left without its name then.
            meanwhile: called every second until then, for a long recording takes minutes.

        Raises:
            MediaError: if it has given up, or a file cannot be completed: SinkFull, SinkRefused,
                VerificationFailed or OutputLost.
        """
        self._orders.finish_by = time.monotonic() + timeout_seconds
        self._outbox.stop()
        self._join(timeout_seconds + _GRACE_SECONDS, meanwhile)
        if self._failure is not None:
            raise self._failure
        return self.state

    def kill(self) -> None:
        """End at once; what was not written is lost. Safe to call twice, and after `finish`."""
        self._orders.kill = True
        self._outbox.stop()
        self._join(_GRACE_SECONDS)

    def _join(self, timeout_seconds: float, meanwhile: Callable[[], None] = _ignore) -> None:
        self._waker.wake()
        ends = time.monotonic() + timeout_seconds
        while self._thread.is_alive() and (left := ends - time.monotonic()) > 0:
            self._thread.join(min(left, _TELL_SECONDS))
            meanwhile()
        if self._thread.is_alive():  # its child does not end by SIGKILL: the thread will see it
            log.error("%s: its process does not end", self._target.shown)
        else:
            self._waker.close()

    def _run(self) -> None:
        try:
            while True:
                if self._target.is_file:  # which will be there: nothing is lost until it is
                    self._outbox.open()
                began, connections = time.monotonic(), self._state.connections
                ending = self._sending().run()
                self._outbox.close()
                in_vain = self._state.connections == connections
                spent = time.monotonic() - began if in_vain else 0.0
                if self._has_ended(ending) or not self._rested(ending.held_seconds, spent):
                    break
        finally:
            self._outbox.close()
            self._outbox.stop()

    def _sending(self) -> Sending:
        return Sending(
            self._header, self._outbox, self._waker, self._orders, self._limits, self._heard
        )

    def _heard(self, event: Event, packet: Encoded | None) -> None:
        """Take note of what the child says."""
        state = self._state
        if isinstance(event, Written) and packet is not None:
            self._now_is(replace(state, written=state.written + 1))
            age_seconds = time.monotonic() - event.at
            self._on_written(packet, self._now() - age_seconds)
        elif isinstance(event, Connected):
            if not self._target.is_file:
                self._outbox.open()
            log.info("%s: connected", self._target.shown)
            connections = state.connections + 1
            self._changed(replace(state, connected=True, message="", connections=connections))
        elif isinstance(event, Recorded):
            log.info("%s: %d frames, complete", event.path, event.frames)
            files = (*state.files, event.path)[-_KEPT_FILES:]
            self._changed(replace(state, files=files))
        elif isinstance(event, Note):
            log.warning("%s: %s", self._target.shown, event.message)

    def _has_ended(self, ending: Ending) -> bool:
        """Take note of how a connection ended; tell whether it was the last one."""
        error = ending.error
        ordered = self._orders.kill or self._orders.finish_by is not None
        if error is None:
            self._changed(replace(self._state, connected=False))
            return True
        if self._is_fatal(ending) or (ordered and self._target.is_file):
            self._failure = error
        if not ordered or self._failure is not None:
            self._tell_lost(ending, str(error))
        else:
            self._changed(replace(self._state, connected=False))
        return ordered or self._failure is not None

    def _tell_lost(self, ending: Ending, message: str) -> None:
        # away for days, it would say the same thousands of times
        level = logging.DEBUG if message == self._state.message else logging.WARNING
        log.log(level, "%s", message)
        self._changed(replace(self._state, connected=False, reason=ending.reason, message=message))

    def _is_fatal(self, ending: Ending) -> bool:
        if self._target.kind == "file":
            return True
        if self._target.kind == "rolling":  # the next process completes what this one has left
            return ending.told
        return isinstance(ending.error, SinkRefused) and self._state.connections == 0

    def _rested(self, held_seconds: float, spent_seconds: float) -> bool:
        """Wait until it is time for the next connection; False if there are other orders."""
        self._backoff.held(held_seconds)
        ends = time.monotonic() + self._backoff.next_seconds(spent_seconds)
        while (left := ends - time.monotonic()) > 0:
            if self._orders.kill or self._orders.finish_by is not None:
                return False
            self._waker.wait(left)
        return True

    def _changed(self, state: OutputState) -> None:
        self._now_is(state)
        self._on_change(self.state)

    def _now_is(self, state: OutputState) -> None:
        with self._lock:
            self._state = state

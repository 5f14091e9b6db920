"""The input of a session over months: connect, judge, lose, wait, connect again.

The session's own thread calls `tick`, which never waits; every connection is read on a thread of
its own. What is over is told apart: refused, not found, not authorised, timed out, stalled, ended.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable

from ...io.errors import InputLost, Reason
from ...io.live.backoff import Backoff
from ...io.live.stall import StallRule
from ...io.live.values import InputState, LiveForm
from .reader import PROBE_SECONDS, LiveSource, Reader, Receiver

log = logging.getLogger("upframe.live")

CONNECT_SECONDS = 10.0
_OPEN_SECONDS = CONNECT_SECONDS + PROBE_SECONDS + 5.0
"""To connect and to see a frame, at most; then the reader is given up."""
_RETURN_SECONDS = 1.0
"""For a reader that was asked to end, before it is left behind."""
_TICK_SECONDS = 0.25

Make = Callable[[float | None], LiveSource]
"""Makes the source, for reads of so many seconds at most; None: as long as its protocol needs."""


class Incoming:
    """Keeps an input connected. For one thread, but for `stop` of its readers."""

    def __init__(
        self,
        make: Make,
        receiver: Receiver,
        *,
        now: Callable[[], float],
        changed: Callable[[], None],
        stall_seconds: float | None = None,
        is_last: Callable[[InputLost], bool] = lambda _: False,
        backoff: Backoff | None = None,
    ) -> None:
        """Take how to connect and who takes the frames.

        Args:
            make: called on the reader's thread.
            receiver: called on the reader's thread.
            now: monotonic seconds.
            changed: called, from any thread, when there is something for `tick` to see.
            stall_seconds: without a frame, when a connection is lost; None: by its rate.
            is_last: tells whether no connection is to follow one that was lost so.
            backoff: between connections.
        """
        self.state: InputState = "connecting"
        self.reason: Reason | None = None
        self.message = ""
        self.form: LiveForm | None = None
        """Of the latest connection that was probed."""
        self.last_frame_at: float | None = None
        self.reconnects: Counter[Reason] = Counter()
        self.over: InputLost | None = None
        """Why the latest connection is over, while there is none; None before the first."""
        self._make = make
        self._receiver = receiver
        self._now = now
        self._changed = changed
        self._stall_seconds = stall_seconds
        self._is_last = is_last
        self._backoff = backoff or Backoff()
        self._counts: Counter[str] = Counter()
        self._reader: Reader | None = None
        self._left: list[Reader] = []
        self._num_readers = 0
        self._retry_at = now()
        self._rule: StallRule | None = None
        self._read_seconds: float | None = None
        self._stopped_at: float | None = None

    def tick(self) -> float:
        """Look at the connection, and make the next one when its time has come.

        Returns:
            Seconds until it wants to be called again, at most.

        Raises:
            MediaError: what ended a reader and is not the connection's fault.
        """
        now = self._now()
        self._left = [reader for reader in self._left if not reader.join(0.0)]
        reader = self._reader
        if reader is None:
            if now >= self._retry_at:
                self._connect()
                return _TICK_SECONDS
            return min(_TICK_SECONDS, self._retry_at - now)
        self._see(reader)
        if reader.state == "over":
            self._ended(reader, now)
        elif self._stopped_at is not None:
            if now - self._stopped_at > _RETURN_SECONDS:
                self._leave(reader, now)
        else:
            self._judge(reader, now)
        return _TICK_SECONDS

    def stop(self, timeout_seconds: float = _RETURN_SECONDS) -> None:
        """End the reading for good; a reader that does not come back in time is left behind."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.stop()
            self._counts.update(reader.counts())
            if not reader.join(timeout_seconds):
                self._left.append(reader)

    def counts(self) -> dict[str, int]:
        """Give what all connections have counted, `stalls` and `readers_left_behind`."""
        total = Counter(self._counts)
        if self._reader is not None:
            total.update(self._reader.counts())
        return dict(total)

    def silent_seconds(self) -> float | None:
        """Time since the last decoded frame; None before the first."""
        return None if self.last_frame_at is None else max(0.0, self._now() - self.last_frame_at)

    def _connect(self) -> None:
        self._num_readers += 1
        seconds = self._read_seconds
        self._rule, self._stopped_at, self.over = None, None, None
        self._reader = Reader(
            self._num_readers,
            lambda: self._make(seconds),
            self._receiver,
            now=self._now,
            changed=self._changed,
        )
        self._reader.start()

    def _see(self, reader: Reader) -> None:
        """Take over what a reader has found out."""
        if reader.form is not None and self._rule is None and reader.form.info.rate:
            self.form = reader.form
            self._rule = StallRule(
                reader.form.info.rate, reader.form.gop_seconds, self._stall_seconds
            )
            self._read_seconds = self._rule.lost_seconds + _RETURN_SECONDS
        if reader.last_frame_at is not None:
            self.last_frame_at = reader.last_frame_at
        if reader.state == "probing" and self.state in ("connecting", "reconnecting"):
            self._enter("probing")

    def _judge(self, reader: Reader, now: float) -> None:
        if reader.state != "running" or self._rule is None:
            if now - reader.began > _OPEN_SECONDS:
                self.over = InputLost("timed-out", f"no frame within {_OPEN_SECONDS:.0f} s")
                self._ask_to_end(reader, now)
            return
        silent = now - (reader.last_frame_at or reader.ready_at)
        verdict = self._rule.judge(silent)
        if verdict == "running":
            if reader.last_frame_at is not None:
                self._enter("running")
            return
        if self.state != "stalled":
            self._counts["stalls"] += 1
            self._enter("stalled", "stalled", f"no frame for {silent:.1f} s")
        if verdict == "lost":
            self.over = InputLost("stalled", f"no frame for {silent:.1f} s")
            self._ask_to_end(reader, now)

    def _ask_to_end(self, reader: Reader, now: float) -> None:
        self._stopped_at = now
        reader.stop()

    def _leave(self, reader: Reader, now: float) -> None:
        self._counts["readers_left_behind"] += 1
        self._left.append(reader)
        self._ended(reader, now)

    def _ended(self, reader: Reader, now: float) -> None:
        """Note why a connection is over, and when the next is to be made."""
        if reader.failure is not None:
            raise reader.failure
        reader.join(0.0)
        self._counts.update(reader.counts())
        if self._stopped_at is None:  # otherwise we know better than what the end of it says
            self.over = reader.lost or InputLost("ended", "the input has ended")
        assert self.over is not None
        self._reader = None
        self.reconnects[self.over.reason] += 1
        self._backoff.held(reader.good_seconds())
        last = self._is_last(self.over)
        spent = 0.0 if reader.first_frame_at is not None else now - reader.began
        wait = math.inf if last else self._backoff.next_seconds(spent)
        self._retry_at = now + wait
        self._enter("reconnecting", self.over.reason, str(self.over))
        if not last:
            log.warning("input lost (%s): %s; again in %.1f s", self.reason, self.message, wait)

    def _enter(
        self, state: InputState, reason: Reason | None = None, message: str | None = None
    ) -> None:
        if reason is not None:
            self.reason, self.message = reason, message or ""
        if state == self.state and reason is None:
            return
        if state == "running" and self.state != "running":
            log.info("input runs")
        elif state == "stalled":
            log.warning("input stalled: %s", self.message)
        self.state = state
        self._changed()

"""One connection of an input: made, probed and read on a thread of its own.

PyAV has no way to end a read from outside, so a reader that does not come back is left behind:
nothing it still gives is taken, and its thread ends whenever the read does.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Literal, Protocol

from ...io.errors import InputLost
from ...io.live.values import Arrival, LiveForm, SoundPacket

log = logging.getLogger("upframe.live")

PROBE_SECONDS = 10.0


class LiveSource(Protocol):
    """What gives the frames: a `LiveInput`, or a file that is paced as one."""

    @property
    def counts(self) -> dict[str, int]:
        """Frames decoded and damaged, packets corrupt."""
        ...

    def connect(self) -> None:
        """Connect, or raise `InputLost`."""
        ...

    def probe(self, deadline_seconds: float = PROBE_SECONDS) -> LiveForm:
        """Decode the first frame, or raise `InputLost`."""
        ...

    def __iter__(self) -> Iterator[Arrival | SoundPacket]:
        """Give what comes, until `InputLost` is raised."""
        ...

    def stop(self) -> None:
        """End the reading soon; for any thread."""
        ...

    def close(self) -> None:
        """Let go of the connection; for the thread that reads."""
        ...

    def lines(self) -> list[str]:
        """Tell what was said about the connection, lately."""
        ...


class Receiver(Protocol):
    """Who takes what a reader gives, on the reader's thread."""

    def formed(self, form: LiveForm) -> bool:
        """Take what a connection is like. Whether its frames may come now, or are to wait."""
        ...

    def frame(self, arrival: Arrival) -> None:
        """Take a frame."""
        ...

    def sound(self, packet: SoundPacket) -> None:
        """Take a packet of sound."""
        ...


class Reader:
    """Connects once and reads until that connection is lost."""

    def __init__(
        self,
        number: int,
        make: Callable[[], LiveSource],
        receiver: Receiver,
        *,
        now: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self.began = now()
        """Monotonic seconds, as all moments here."""
        self.state: Literal["connecting", "probing", "running", "over"] = "connecting"
        self.form: LiveForm | None = None
        self.ready_at = self.began
        """From when on frames are to come."""
        self.first_frame_at: float | None = None
        self.last_frame_at: float | None = None
        self.lost: InputLost | None = None
        """Why the connection is over."""
        self.failure: BaseException | None = None
        """What ended the thread instead of that: not to be tried again."""
        self._make = make
        self._receiver = receiver
        self._now = now
        self._changed = changed
        self._source: LiveSource | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"upframe-input-{number}", daemon=True
        )

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the reading to end. Frames that still come are not taken."""
        self._ended.set()
        source = self._source
        if source is not None:
            source.stop()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the thread. Whether it has ended."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def counts(self) -> dict[str, int]:
        """Give what the connection has counted so far."""
        source = self._source
        return {} if source is None else dict(source.counts)

    def good_seconds(self) -> float:
        """For how long frames came."""
        if self.first_frame_at is None or self.last_frame_at is None:
            return 0.0
        return self.last_frame_at - self.first_frame_at

    def _run(self) -> None:
        try:
            self._read()
        except InputLost as error:
            self.lost = error
        except BaseException as error:  # raised again by the session, which ends with it
            self.failure = error
        finally:
            self._close()
            self.state = "over"
            self._changed()

    def _read(self) -> None:
        source = self._source = self._make()
        if self._ended.is_set():  # asked to end before there was anything to stop
            return
        source.connect()
        self._enter("probing")
        self.form = source.probe(PROBE_SECONDS)
        if self._ended.is_set() or not self._receiver.formed(self.form):
            return
        self.ready_at = self._now()
        self._enter("running")
        for item in source:
            if self._ended.is_set():
                return
            if isinstance(item, Arrival):
                self._frame(item)
            else:
                self._receiver.sound(item)

    def _frame(self, arrival: Arrival) -> None:
        now = self._now()
        if self.first_frame_at is None:
            self.first_frame_at = now
        self.last_frame_at = now
        self._receiver.frame(arrival)

    def _enter(self, state: Literal["probing", "running"]) -> None:
        self.state = state
        self._changed()

    def _close(self) -> None:
        source = self._source
        if source is None:
            return
        if self.lost is not None or self.failure is not None:
            for line in source.lines():
                log.debug("%s", line)
        source.close()

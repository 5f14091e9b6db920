"""The input of a session over months: connect, judge, lose, wait, connect again.

The session's own thread calls `tick`, which never waits; every connection is read on a thread of
its own. Each loss has its reason: refused, not found, not authorised, timed out, stalled, ended.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from fractions import Fraction
from functools import partial
from typing import Literal

from ...io.errors import InputLost, Reason
from ...io.live.clock import LiveClock
from ...io.live.live_encoder import SoundTemplate
from ...io.live.live_input import ConnectedInput, StallRule
from ...io.live.values import DecodedFrame, InputState, LiveForm, SoundPacket
from ...io.redaction import redacted
from ..backoff import Backoff
from ..queues import DropOldestQueue
from .compute_stage import QueuedFrame

log = logging.getLogger("upframe.live")

PROBE_SECONDS = 10.0
_MAX_GOPS = 16


@dataclass(eq=False)
class InputReader:
    """Connects once, on a thread of its own, and reads until that connection is lost.

    PyAV cannot interrupt a read, so a reader that does not return is abandoned: its frames are
    ignored, and its thread ends whenever the read does.
    """

    number: int
    make: Callable[[], ConnectedInput]
    receiver: FrameIngest
    now: Callable[[], float]
    changed: Callable[[], None]

    def __post_init__(self) -> None:
        self.began = self.now()
        """Monotonic seconds, as all moments here."""
        self.state: Literal["connecting", "probing", "running", "over"] = "connecting"
        self.form: LiveForm | None = None
        self.is_held = False
        """Whether the receiver lets it wait."""
        self.ready_at = self.began
        """From when on frames are expected."""
        self.first_frame_at: float | None = None
        self.last_frame_at: float | None = None
        self.gops: deque[Fraction] = deque(maxlen=_MAX_GOPS)
        """Intervals of keyframes that were not looked at."""
        self.lost: InputLost | None = None
        """Why the connection ended."""
        self.failure: BaseException | None = None
        """What ended the thread instead: no reason to try again."""
        self._source: ConnectedInput | None = None
        self._ended = threading.Event()
        name = f"upframe-input-{self.number}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; frames that still come are ignored."""
        self._ended.set()
        if self._source is not None:
            self._source.stop()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the thread; return whether it has ended."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def counts(self) -> dict[str, int]:
        """Return the counters of the connection."""
        return {} if self._source is None else self._source.counts

    def good_seconds(self) -> float:
        """Return for how long frames came."""
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
            if self._source is not None:
                if self.lost is not None or self.failure is not None:
                    for line in self._source.lines():
                        log.debug("%s", line)
                self._source.close()
            self.state = "over"
            self.changed()

    def _read(self) -> None:
        source = self._source = self.make()
        if self._ended.is_set():  # before there was a source to stop
            return
        source.connect()
        self._enter("probing")
        form = source.probe(PROBE_SECONDS)
        self.is_held, self.form = True, form
        if self._ended.is_set() or not self.receiver.formed(form):
            return
        self.ready_at, self.is_held = self.now(), False
        self._enter("running")
        for item in source:
            if self._ended.is_set():
                return
            if isinstance(item, DecodedFrame):
                self.last_frame_at = self.now()
                if self.first_frame_at is None:
                    self.first_frame_at = self.last_frame_at
                if item.is_keyframe and source.gop_seconds is not None:
                    self.gops.append(source.gop_seconds)
                self.receiver.frame(item)
            else:
                self.receiver.sound(item)

    def _enter(self, state: Literal["probing", "running"]) -> None:
        self.state = state
        self.changed()


CONNECT_SECONDS = 10.0
_OPEN_SECONDS = CONNECT_SECONDS + PROBE_SECONDS + 5.0
"""Longest time to connect and to see a frame; then the reader is given up."""
_RETURN_SECONDS = 1.0
"""For a reader that was asked to end, before it is abandoned."""
_TICK_SECONDS = 0.25

MakeSource = Callable[[float | None], ConnectedInput]
"""Makes a source, whose reads last so many seconds at most; None: as its protocol needs."""


@dataclass(eq=False)
class InputSupervisor:
    """Keeps an input connected. For one thread."""

    make: MakeSource
    """Called on the reader's thread."""
    receiver: FrameIngest
    """Called on the reader's thread."""
    _: KW_ONLY
    now: Callable[[], float]
    """Monotonic seconds."""
    changed: Callable[[], None]
    """Called, from any thread, when `tick` has something to do."""
    stall_seconds: float | None = None
    """Without a frame, after which a connection is lost; None: by its rate."""
    is_last: Callable[[InputLost], bool] = lambda _: False
    """Whether no connection is to follow one that was lost for this reason."""
    backoff: Backoff = field(default_factory=Backoff)
    """Between connections."""

    def __post_init__(self) -> None:
        self.state: InputState = "connecting"
        self.reason: Reason | None = None
        """Why it was lost the last time."""
        self.message = ""
        """The same for people, without secrets."""
        self.form: LiveForm | None = None
        """Of the latest connection that was probed."""
        self.last_frame_at: float | None = None
        self.reconnects: Counter[Reason] = Counter()
        self.over: InputLost | None = None
        """Why the latest connection ended; None while there is one, or before the first."""
        self._counts: Counter[str] = Counter()
        self._reader: InputReader | None = None
        self._abandoned: list[InputReader] = []
        self._num_readers = 0
        self._retry_at = self.now()
        self._rule: StallRule | None = None
        self._read_seconds: float | None = None
        self._stopped_at: float | None = None

    def tick(self) -> float:
        """Check the connection, and make the next one when it is due.

        Returns:
            Seconds until the next call, at most.

        Raises:
            MediaError: if a reader failed for a reason that is not its connection's.
        """
        now = self.now()
        self._abandoned = [reader for reader in self._abandoned if not reader.join(0.0)]
        reader = self._reader
        if reader is None:
            if now >= self._retry_at:
                self._connect()
                return _TICK_SECONDS
            return min(_TICK_SECONDS, self._retry_at - now)
        self._update(reader)
        if reader.state == "over":
            self._ended(reader, now)
        elif self._stopped_at is not None:
            if now - self._stopped_at > _RETURN_SECONDS:
                self._counts["readers_left_behind"] += 1
                self._abandoned.append(reader)
                self._ended(reader, now)
        else:
            self._judge(reader, now)
        return _TICK_SECONDS

    def stop(self, timeout_seconds: float = _RETURN_SECONDS) -> None:
        """End the reading for good; a reader that does not end in time is abandoned."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.stop()
            self._counts.update(reader.counts())
            if not reader.join(timeout_seconds):
                self._abandoned.append(reader)

    def counts(self) -> dict[str, int]:
        """Return the counters of all connections, `stalls` and `readers_left_behind`."""
        total = Counter(self._counts)
        if self._reader is not None:
            total.update(self._reader.counts())
        return dict(total)

    def silent_seconds(self) -> float | None:
        """Return the time since the last decoded frame; None before the first."""
        return None if self.last_frame_at is None else max(0.0, self.now() - self.last_frame_at)

    def _connect(self) -> None:
        self._num_readers += 1
        self._rule, self._stopped_at, self.over = None, None, None
        make = partial(self.make, self._read_seconds)
        self._reader = InputReader(self._num_readers, make, self.receiver, self.now, self.changed)
        self._reader.start()

    def _update(self, reader: InputReader) -> None:
        """Copy what a reader has found out."""
        if reader.form is not None and self._rule is None and reader.form.info.rate:
            self.form = reader.form
            self._rule = StallRule(
                reader.form.info.rate, reader.form.gop_seconds, self.stall_seconds
            )
        if self._rule is not None:
            while reader.gops:
                self._rule.observed(reader.gops.popleft())
            self._read_seconds = self._rule.lost_seconds + _RETURN_SECONDS
        if reader.last_frame_at is not None:
            self.last_frame_at = reader.last_frame_at
        if reader.state == "probing" and self.state in ("connecting", "reconnecting"):
            self._enter("probing")

    def _judge(self, reader: InputReader, now: float) -> None:
        if reader.state != "running" or self._rule is None:
            if now - reader.began > _OPEN_SECONDS and not reader.is_held:
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

    def _ask_to_end(self, reader: InputReader, now: float) -> None:
        self._stopped_at = now
        reader.stop()

    def _ended(self, reader: InputReader, now: float) -> None:
        """Note why a connection ended, and when the next one is to be made."""
        if reader.failure is not None:
            raise reader.failure
        reader.join(0.0)
        self._counts.update(reader.counts())
        if self._stopped_at is None:  # otherwise the reason is known already
            self.over = reader.lost or InputLost("ended", "the input has ended")
        assert self.over is not None
        self._reader = None
        self.reconnects[self.over.reason] += 1
        self.backoff.held(reader.good_seconds())
        last = self.is_last(self.over)
        spent = 0.0 if reader.first_frame_at is not None else now - reader.began
        wait = math.inf if last else self.backoff.next_seconds(spent)
        self._retry_at = now + wait
        self._enter("reconnecting", self.over.reason, str(self.over))
        if not last:
            what = "no input" if reader.form is None else "input lost"
            log.warning("%s (%s): %s; again in %.1f s", what, self.reason, self.message, wait)

    def _enter(
        self, state: InputState, reason: Reason | None = None, message: str | None = None
    ) -> None:
        if reason is not None:
            self.reason, self.message = reason, redacted(message or "")
        if state == self.state and reason is None:
            return
        if state == "running":
            log.info("input runs")
        elif state == "stalled":
            log.warning("input stalled: %s", self.message)
        self.state = state
        self.changed()


_USUAL_RATE = Fraction(25)
_FORGETTING = 0.1
"""Weight of the latest interval in their mean."""
_LONGEST_INTERVALS = 4.0
"""Of the nominal interval; a longer one is a gap, and says nothing about the pace."""


@dataclass(frozen=True, slots=True)
class IngestOutlet:
    """Where frames and sound go, once there is an output."""

    clock: LiveClock
    queue: DropOldestQueue[QueuedFrame]
    expect: Callable[[Fraction, float], None]
    """Called with the time and the arrival of each frame before it is queued."""
    sound: Callable[[bytes, Fraction, Fraction], None] | None
    """Called with the time and the duration, in seconds, of each packet; None: no sound."""


@dataclass(eq=False, kw_only=True)
class FrameIngest:
    """Places the frames of one connection after the other in time, and queues them for work.

    Readers call it on their threads. Frames that come before there is an output are
    ignored, since live ones would be too old by then; a file waits.
    """

    wants_sound: bool
    """Whether the output copies the sound."""
    now: Callable[[], float]
    """Monotonic seconds."""
    changed: Callable[[], None]
    """Called when the first connection was probed."""

    def __post_init__(self) -> None:
        self.first: LiveForm | None = None
        """What the first connection is like; the output is made for it."""
        self.sound_template: SoundTemplate | None = None
        """What the first connection's sound is like."""
        self.placed_pts = -1
        """Of the latest frame."""
        self.waits = False
        """Whether the input can wait for the output, as a file can; set before it is read."""
        self._not_before = float("-inf")  # earliest arrival of a frame that had to wait
        self._outlet: IngestOutlet | None = None
        self._decided = threading.Event()
        self._form: LiveForm | None = None
        self._is_connected = False
        self._takes_sound = False
        self._breaks = 0
        self.interval_seconds = 0.0
        """Between frames, as they came lately."""
        self._counts: Counter[str] = Counter()

    def open(self, outlet: IngestOutlet) -> None:
        """Accept frames from now on."""
        self._outlet = outlet
        self._decided.set()

    def close(self) -> None:
        """Accept nothing more; a reader that waits is released."""
        self._outlet = None
        self._decided.set()

    def formed(self, form: LiveForm) -> bool:
        """Accept what a connection is like; return whether to read on.

        It waits for the output if the input can.
        """
        self._form, self._is_connected = form, False
        template = self.sound_template
        self._takes_sound = form.sound is not None and (
            template is None or template.is_like(form.sound)
        )
        if form.sound is not None and not self._takes_sound:
            log.warning("the sound has another format now, and is left out")
        if self.first is None:
            if form.sound is not None and self.wants_sound:
                self.sound_template = SoundTemplate(form.sound)
            self.first = form
            self.changed()
        if self.waits:
            self._decided.wait()
            self._not_before = self.now()
            return self._outlet is not None
        return True

    def frame(self, frame: DecodedFrame) -> None:
        """Place a frame in time, and queue it."""
        outlet, form = self._outlet, self._form
        if outlet is None or form is None:
            return
        if not self._is_connected:
            self._connect(outlet, form, frame.arrived)
        arrived = max(frame.arrived, self._not_before)
        placed = outlet.clock.place(frame.seconds, arrived, after_loss=frame.after_loss)
        self._breaks += placed.breaks
        if placed.late:
            self._counts["frames_late"] += 1
            return
        if not placed.breaks:
            self._measure((placed.pts - self.placed_pts) * outlet.clock.time_base)
        self.placed_pts = placed.pts
        outlet.expect(placed.pts * outlet.clock.time_base, arrived)
        aspect = frame.sample_aspect_ratio
        outlet.queue.put(
            QueuedFrame(frame.frame, placed.pts, arrived, self._breaks, aspect), arrived
        )

    def sound(self, packet: SoundPacket) -> None:
        """Place a packet of sound in time by the pictures' offset, and pass it on."""
        outlet = self._outlet
        if outlet is None or outlet.sound is None or not (self._is_connected and self._takes_sound):
            return
        seconds = outlet.clock.sound(packet.seconds, packet.arrived)
        if seconds is None:
            self._counts["sound_dropped"] += 1
        else:
            outlet.sound(packet.data, seconds, packet.duration_seconds)

    def counts(self) -> dict[str, int]:
        """Return frames_late and sound_dropped: what had no place in time."""
        return dict(self._counts)

    def _connect(self, outlet: IngestOutlet, form: LiveForm, now: float) -> None:
        rate = form.info.rate or _USUAL_RATE
        outlet.clock.connected(rate, now=now)
        self.interval_seconds = float(1 / rate)
        self._is_connected = True

    def _measure(self, step: Fraction) -> None:
        assert self._form is not None
        nominal = float(1 / (self._form.info.rate or _USUAL_RATE))
        if 0 < step <= _LONGEST_INTERVALS * nominal:
            self.interval_seconds += _FORGETTING * (float(step) - self.interval_seconds)

"""A row of recordings: at a keyframe, when one is long enough, the next begins.

A finished one is completed and checked by a thread of its own, so that the packets of the next do
not wait. What an earlier process has left behind unfinished is saved first.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

from ..errors import MediaError, SinkFull, VerificationFailed
from .publisher_protocol import Event, Note
from .recording import Lock, Recording, rescue
from .target import LiveTarget, Naming, free_path
from .values import Encoded

_LATE_SOUND_SECONDS = Fraction(1)
"""How long the file before stays open for sound that belongs to it."""
_FRESH_SECONDS = 60.0
"""Younger empty files may be somebody's who is about to take his lock."""
_HEADER_BYTES = 1024
"""A file with less was cut off before its first fragment."""


class Rolling:
    """Writes one recording after the other.

    Args:
        target: of the output; `url` is the pattern of names, `segment_seconds` the length.
        primer: of the encoder.
        tell: takes what becomes of the files, from any thread.
        wall: the time of day, in seconds since 1970.
    """

    has_sound = False
    """A recording is as good as written once the muxer has it."""

    def __init__(
        self,
        target: LiveTarget,
        primer: bytes,
        tell: Callable[[Event], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._target, self._primer, self._tell, self._wall = target, primer, tell, wall
        self._naming = Naming(Path(target.url))
        self._naming.check()
        self._current: Recording | None = None
        self._before: Recording | None = None
        self._told: set[str] = set()
        self._completion = Completion(tell)
        self._completion.add(self._rescue)

    def write(self, packet: Encoded) -> bool:
        """Write a packet into the recording where it belongs; False if there is none.

        Raises:
            SinkFull, SinkRefused, VerificationFailed: if one cannot be written, created or
                completed.
        """
        self._completion.check()
        if packet.kind == "sound":
            return self._write_sound(packet)
        if packet.is_keyframe and self._is_time(packet.seconds):
            self._cut()
        if self._current is None:
            return False
        written = self._current.write(packet)
        self._end_before(packet)
        return written

    def _is_time(self, seconds: Fraction) -> bool:
        begins = self._current.begins if self._current else None
        return begins is None or seconds - begins >= self._target.segment_seconds

    def _cut(self) -> None:
        if self._before is not None:
            self._complete(self._before)
        self._before, self._current = self._current, None
        path = self._naming.at(self._wall())
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SinkFull(f"cannot create the folder {path.parent}: {error.strerror}") from error
        self._current = Recording(self._target, free_path(path), self._primer)
        for note in set(self._current.notes) - self._told:
            self._told.add(note)
            self._tell(Note(note))
        if self._before is not None and not self._before.has_sound:
            self._complete(self._before)
            self._before = None

    def _write_sound(self, packet: Encoded) -> bool:
        begins = self._current.begins if self._current else None
        if self._current is None or begins is None:
            return False
        if packet.seconds < begins:
            return self._before is not None and self._before.write(packet)
        self._end_before(packet)
        return self._current.write(packet)

    def _end_before(self, packet: Encoded) -> None:
        """Complete the file before, when nothing can come that belongs to it."""
        begins = self._current.begins if self._current else None
        if self._before is None or begins is None:
            return
        if packet.kind == "sound" or packet.seconds - begins > _LATE_SOUND_SECONDS:
            self._complete(self._before)
            self._before = None

    def _complete(self, recording: Recording) -> None:
        recording.close()
        self._completion.add(lambda: _published(recording))

    def close(self) -> None:
        """Complete what is open and wait until all is checked and renamed.

        Raises:
            SinkFull, SinkRefused, VerificationFailed: if that fails.
        """
        for recording in (self._before, self._current):
            if recording is not None:
                self._complete(recording)
        self._before = self._current = None
        self._completion.close()
        self._completion.check()

    def abandon(self) -> None:
        """Save what is whole of what cannot be completed."""
        for recording in (self._before, self._current):
            if recording is not None and (saved := recording.rescue()) is not None:
                self._tell(saved)
        self._before = self._current = None
        self._completion.close()

    def _rescue(self) -> list[Event]:
        """Complete what other processes have left behind, as far as it is whole."""
        told: list[Event] = []
        for partial, target in self._naming.leftovers():
            with suppress(FileNotFoundError):  # somebody else was faster
                if (lock := Lock.of(partial)) is not None:
                    try:
                        told.extend(self._rescue_one(partial, target))
                    finally:
                        lock.release()
        return told

    def _rescue_one(self, partial: Path, target: Path) -> list[Event]:
        try:
            return [rescue(partial, target, self._target.format)]
        except (VerificationFailed, SinkFull, OSError) as error:
            found = partial.stat()
            if found.st_size >= _HEADER_BYTES:
                return [Note(f"{partial}: left unfinished, and cannot be saved: {error}")]
            if self._wall() - found.st_mtime > _FRESH_SECONDS:
                partial.unlink()
            return []


def _published(recording: Recording) -> list[Event]:
    made = recording.publish()
    return [] if made is None else [made]


class Completion:
    """Does what takes its time, one after the other, in a thread of its own."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell
        self._waiting: queue.SimpleQueue[Callable[[], list[Event]] | None] = queue.SimpleQueue()
        self._error: MediaError | None = None
        self._thread = threading.Thread(target=self._run, name="upframe-completion", daemon=True)
        self._thread.start()

    def add(self, work: Callable[[], list[Event]]) -> None:
        """Have something done; what it gives is told."""
        self._waiting.put(work)

    def check(self) -> None:
        """Raise what has gone wrong.

        Raises:
            SinkFull, SinkRefused, VerificationFailed: as the first work that failed said.
        """
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Wait until all is done. Safe to call twice."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._waiting.get()) is not None:
            try:
                for event in work():
                    self._tell(event)
            except MediaError as error:
                self._error = self._error or error
            except OSError as error:  # of a folder that is gone
                text = f"cannot complete recordings: {error.strerror}"
                self._error = self._error or SinkFull(text)

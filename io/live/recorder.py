"""Recordings: hidden files that grow, then are completed, checked and renamed; one, or a sequence.

Every keyframe begins a new fragment, and what came before it is synced to the disk: a power cut
costs one fragment. A file that cannot be completed is truncated to what is whole.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from av.error import FFmpegError

from ..errors import SinkFull, SinkRefused, VerificationFailed
from ..files import OutputFile, Owner, rename, sync_file, sync_folder, write_error
from . import archive
from .muxer import Muxer
from .publisher_protocol import Event, Note, Recorded, Removed
from .target import LiveTarget
from .values import Encoded


class RecordingFile:
    """Writes one file under a hidden name, then `path`; raises SinkFull wherever the disk fails.

    Raises:
        SinkRefused: if it cannot be created, or its container cannot hold the video.
        SinkFull: if its header cannot be written.
    """

    def __init__(self, target: LiveTarget, path: Path, primer: bytes) -> None:
        self._target = target
        # the file's name, which `archive` recognises, is the only record
        owner = Owner(f"live-{secrets.token_hex(4)}", lambda _: None)
        self._file = OutputFile(path, overwrite=target.overwrite, owner=owner)
        self._lock = None if self._file.direct else archive.lock_of(self._file.path)
        self._disk = None if self._file.direct else archive.DiskSync(self._file.stream.fileno())
        try:
            with _mapped_errors(path, opening=True):
                options = target.options if not self._file.direct else {}
                # its header later: FFmpeg crashes when it closes such an MP4 without a packet
                self.muxer = Muxer(self._file.stream, target.format, options, primer, at_once=False)
        except BaseException:
            self.discard()
            raise

    def write(self, packet: Encoded) -> bool:
        """Write a packet; return False if it has no place in this recording."""
        with _mapped_errors(self._file.target, opening=self.muxer.origin is None):
            written = self.muxer.write(packet)
            self._file.stream.flush()
        if self._disk is not None and packet.kind == "video" and packet.is_keyframe:
            self._disk.sync()
        return written

    def close(self) -> None:
        """End the file; :meth:`publish`, which may take long, must follow."""
        with _mapped_errors(self._file.target):
            self.muxer.close()
            self._file.stream.flush()

    def publish(self) -> Recorded | None:
        """Sync a closed file, verify it, and rename it to its final name.

        Returns:
            None if nothing was written to it, and it is deleted.

        Raises:
            VerificationFailed: if it differs from what was written; it keeps its hidden name.
        """
        if self._disk is not None:
            self._disk.close()
        self._file.close()
        if self.muxer.first_seconds is None:
            self.discard()
            return None
        wanted = archive.VideoExtent(
            self.muxer.frames, self.muxer.last_seconds - self.muxer.first_seconds
        )
        name = self._file.target
        if not self._file.direct:
            archive.check_recording(self._file.path, self._target.format, wanted)
            name = self._named()
        self._release()
        return Recorded(str(name), wanted.frames, float(wanted.seconds))

    def _named(self) -> Path:
        partial, target = self._file.path, self._file.target
        if self._target.overwrite and self._target.kind == "file":
            rename(partial, target, overwrite=True)
        else:  # a name that is taken meanwhile must not cost the recording
            target = archive.rename_beside(partial, target)
        sync_folder(target.parent)
        return target

    def rescue(self) -> Recorded | None:
        """Save the complete part of a file that takes no more; None if there is none."""
        if self._disk is not None:
            self._disk.close()
        with suppress(OSError):  # what the disk refuses is lost
            self._file.stream.close()
        self.muxer.abandon()  # after its file: it must not overwrite complete data
        try:
            if self._file.direct or self.muxer.first_seconds is None:
                return None
            return rescue(self._file.path, self._file.target, self._target.format)
        except (OSError, SinkFull, VerificationFailed):  # the reason was reported already
            return None
        finally:
            self._release()

    def discard(self) -> None:
        """Delete the file. May be called twice."""
        if self._disk is not None:
            self._disk.close()
        self._file.discard()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()


def rescue(partial: Path, target: Path, form: str) -> Recorded:
    """Truncate an unfinished file to its complete part, and rename it to its final name.

    Raises:
        OSError: if it cannot be truncated.
        VerificationFailed: if nothing of it can be read.
        SinkFull: if it cannot be renamed.
    """
    archive.truncate_to_whole(partial, form)
    proof = archive.video_extent(partial, form)
    sync_file(partial)
    name = archive.rename_beside(partial, target)
    sync_folder(name.parent)
    return Recorded(str(name), proof.frames, float(proof.seconds), rescued=True)


class SingleRecorder:
    """Writes an output that is one recording at `target.url`; `on_event` hears what becomes of it.

    Raises:
        SinkRefused: if it cannot be created, or its container cannot hold the video.
    """

    def __init__(
        self, target: LiveTarget, primer: bytes, on_event: Callable[[Event], None]
    ) -> None:
        self._on_event, self._path = on_event, target.url
        self._is_fixed = not target.numbered
        self._recording = RecordingFile(target, Path(target.url), primer)
        for note in self._recording.muxer.notes:
            on_event(Note(note))

    def write(self, packet: Encoded) -> bool:
        """Write a packet; see :meth:`RecordingFile.write`."""
        return self._recording.write(packet)

    def close(self) -> None:
        """Complete the file; see :meth:`RecordingFile.publish`.

        Raises:
            SinkRefused: if its name was taken meanwhile; it is complete under another.
        """
        self._recording.close()
        made = self._recording.publish()
        self._on_event(made or Note("nothing came to be recorded"))
        if made is not None and made.path != self._path and self._is_fixed:
            raise SinkRefused(f"output appeared meanwhile: {self._path}; kept as {made.path}")

    def abandon(self) -> None:
        """Save the complete part."""
        if (saved := self._recording.rescue()) is not None:
            self._on_event(saved)


@contextmanager
def _mapped_errors(path: Path, *, opening: bool = False) -> Generator[None]:
    """Convert errors of the muxer and of the file."""
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error
    except FFmpegError as error:
        text = f"cannot write {path}: {error.strerror or error}"
        raise SinkRefused(text) if opening else SinkFull(text) from error


_LATE_SOUND_SECONDS = Fraction(1)
"""How long the previous file stays open for sound that belongs to it."""
_FRESH_SECONDS = 60.0
"""A process may be about to lock a younger empty file."""
_DAY_SECONDS, _GIBI = 86400.0, 1 << 30
_HEADER_BYTES = 1024
"""A shorter file ends before its first fragment."""


@dataclass(eq=False)
class RollingRecorder:
    """Writes a sequence of recordings: when one is long enough, a keyframe begins the next.

    `write` and `close` raise SinkFull, SinkRefused or VerificationFailed if a recording cannot be
    created, written or completed.

    A finished one is verified on a thread of its own, so that the packets of the next do not
    wait. What an earlier process has left unfinished is saved first.
    """

    target: LiveTarget
    """The output; `url` is the pattern of names, `segment_seconds` the length."""
    primer: bytes
    """Of the encoder."""
    on_event: Callable[[Event], None]
    """Called, on any thread, with what becomes of the files."""
    wall: Callable[[], float] = time.time
    """The time of day, in seconds since 1970."""

    def __post_init__(self) -> None:
        self._naming = archive.NamePattern(Path(self.target.url))
        self._naming.check()
        self._current: RecordingFile | None = None
        self._before: RecordingFile | None = None
        self._noted: set[str] = set()
        self._completion = CompletionThread(self.on_event)
        self._completion.add(self._rescue)
        self._completion.add(self._expire)

    def write(self, packet: Encoded) -> bool:
        """Write a packet into the recording where it belongs; return False if there is none."""
        self._completion.check()
        begins = self._current.muxer.origin if self._current else None
        if packet.kind == "sound":
            if self._current is None or begins is None:
                return False
            if packet.seconds < begins:
                return self._before is not None and self._before.write(packet)
            self._end_before(packet)
            return self._current.write(packet)
        is_long = begins is None or packet.seconds - begins >= self.target.segment_seconds
        if packet.is_keyframe and is_long:
            self._cut()
        if self._current is None:
            return False
        written = self._current.write(packet)
        self._end_before(packet)
        return written

    def _cut(self) -> None:
        if self._before is not None:
            self._complete(self._before)
        self._before, self._current = self._current, None
        path = self._naming.at(self.wall())
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SinkFull(f"cannot create the folder {path.parent}: {error.strerror}") from error
        self._current = RecordingFile(self.target, archive.free_path(path), self.primer)
        for note in set(self._current.muxer.notes) - self._noted:
            self._noted.add(note)
            self.on_event(Note(note))
        if self._before is not None and not self._before.muxer.has_sound:
            self._complete(self._before)
            self._before = None

    def _end_before(self, packet: Encoded) -> None:
        """Complete the previous file, once nothing can come that belongs to it."""
        begins = self._current.muxer.origin if self._current else None
        if self._before is None or begins is None:
            return
        if packet.kind == "sound" or packet.seconds - begins > _LATE_SOUND_SECONDS:
            self._complete(self._before)
            self._before = None

    def _complete(self, recording: RecordingFile) -> None:
        recording.close()
        self._completion.add(lambda: list(filter(None, [recording.publish()])))
        self._completion.add(self._expire)

    def close(self) -> None:
        """Complete what is open and wait until all is verified and renamed."""
        for recording in (self._before, self._current):
            if recording is not None:
                self._complete(recording)
        self._before = self._current = None
        self._completion.close()
        self._completion.check()

    def abandon(self) -> None:
        """Save the complete part of what cannot be completed."""
        for recording in (self._before, self._current):
            if recording is not None and (saved := recording.rescue()) is not None:
                self.on_event(saved)
        self._before = self._current = None
        self._completion.close()

    def _expire(self) -> list[Event]:
        """Remove the recordings that are too old, or too many; the latest one is kept."""
        days, gibibytes, events = self.target.keep_days, self.target.keep_gibibytes, list[Event]()
        if days is None and gibibytes is None:
            return events
        recordings = self._naming.recordings()
        size = sum(status.st_size for _, status in recordings)
        for path, status in recordings[:-1]:
            age = (self.wall() - status.st_mtime) / _DAY_SECONDS
            if (days is None or age <= days) and (gibibytes is None or size <= gibibytes * _GIBI):
                break
            try:
                self._naming.remove(path)
            except OSError as error:
                events.append(Note(f"{path}: cannot be removed: {error.strerror or error}"))
                continue
            size -= status.st_size
            events.append(Removed(str(path), age))
        return events

    def _rescue(self) -> list[Event]:
        """Save the complete part of what other processes have left behind."""
        events: list[Event] = []
        for partial, target in self._naming.leftovers():
            with suppress(FileNotFoundError):  # another process was faster
                if (lock := archive.lock_of(partial)) is not None:
                    with lock:
                        events.extend(self._rescue_one(partial, target))
        return events

    def _rescue_one(self, partial: Path, target: Path) -> list[Event]:
        try:
            return [rescue(partial, target, self.target.format)]
        except (VerificationFailed, SinkFull, OSError) as error:
            found = partial.stat()
            if found.st_size >= _HEADER_BYTES:
                return [Note(f"{partial}: left unfinished, and cannot be saved: {error}")]
            if self.wall() - found.st_mtime > _FRESH_SECONDS:
                partial.unlink()
            return []


class CompletionThread:
    """Does slow work, one task after the other, on a thread of its own."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event
        self._pool = ThreadPoolExecutor(1, "upframe-completion")
        self._works: deque[Future[None]] = deque()

    def add(self, work: Callable[[], list[Event]]) -> None:
        """Queue work; the events that it returns are reported."""
        self._works.append(self._pool.submit(self._do, work))

    def check(self) -> None:
        """Raise the error of the first work that failed: see :class:`RollingRecorder`."""
        while self._works and self._works[0].done():
            self._works[0].result()
            self._works.popleft()

    def close(self) -> None:
        """Wait until all is done. May be called twice."""
        self._pool.shutdown()

    def _do(self, work: Callable[[], list[Event]]) -> None:
        try:
            for event in work():
                self._on_event(event)
        except OSError as error:  # a folder is gone
            raise SinkFull(f"cannot complete recordings: {error.strerror}") from error

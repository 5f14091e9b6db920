"""One recording: a hidden file that grows, then is completed, checked, and gets its name.

Every keyframe begins a new fragment, and what came before it is brought to the disk: a power cut
costs one fragment. What cannot be completed is shortened to what is whole.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.error import FFmpegError

from ..errors import SinkFull, SinkRefused, VerificationFailed
from ..files import OutputFile, Owner, rename, sync_file, sync_folder, write_error
from .muxing import Muxer
from .publisher_protocol import Event, Note, Recorded
from .target import LiveTarget, new_token, rename_beside
from .values import Encoded

# What a recording holds: counted, timed, and where it was cut off, shortened to what is whole.
#
# Light on purpose: the process that records loads nothing that computes.

_TS_PACKET_BYTES = 188
_TOLERANCE = Fraction(2, 1000)
"""Seconds: both ends may be rounded to milliseconds."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What the packets of a recording's video say."""

    frames: int
    seconds: Fraction
    """From the start of the first frame to that of the last."""


def prove(path: Path, form: str) -> Proof:
    """Read a recording to its end.

    Args:
        path: the file, under whatever name.
        form: FFmpeg's name of its container.

    Raises:
        VerificationFailed: if it cannot be read, or holds no video.
    """
    frames, first, last = 0, None, None
    try:
        with av.open(f"file:{path}", format=form) as opened:
            if not opened.streams.video:
                raise VerificationFailed(f"{path.name} holds no video")
            video = opened.streams.video[0]
            for packet in opened.demux(video):
                if packet.size == 0 or packet.is_corrupt:
                    continue
                frames += 1
                if packet.pts is not None:
                    first = packet.pts if first is None else min(first, packet.pts)
                    last = packet.pts if last is None else max(last, packet.pts)
            tick = video.time_base or Fraction(0)
    except (FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VerificationFailed(f"{path.name} cannot be read back: {reason}") from error
    if first is None or last is None:
        raise VerificationFailed(f"{path.name} holds no frame with a time, got {frames} frames")
    return Proof(frames, (last - first) * tick)


def check(path: Path, form: str, wanted: Proof) -> None:
    """Compare a finished recording with what was written to it.

    Raises:
        VerificationFailed: if it is not that; the text says what was got and wanted.
    """
    got = prove(path, form)
    if got.frames != wanted.frames:
        raise VerificationFailed(f"{path.name}: frames: wanted {wanted.frames}, got {got.frames}")
    if abs(got.seconds - wanted.seconds) > _TOLERANCE:
        raise VerificationFailed(
            f"{path.name}: last frame at: wanted {float(wanted.seconds):.3f} s, "
            f"got {float(got.seconds):.3f} s"
        )


def shorten(path: Path, form: str) -> None:
    """Cut off the part at the end of an unfinished file that was not written whole.

    Raises:
        OSError: if it cannot be.
    """
    if form in ("mp4", "mov"):
        size = whole_fragments(path)
    elif form == "mpegts":
        size = path.stat().st_size // _TS_PACKET_BYTES * _TS_PACKET_BYTES
    elif form == "flv":
        size = whole_tags(path)
    else:  # the demuxer of Matroska stops at the last whole block by itself
        return
    if 0 < size < path.stat().st_size:
        os.truncate(path, size)


def whole_fragments(path: Path) -> int:
    """Tell up to which byte an MP4 consists of whole fragments: an index and its data.

    Source: ISO/IEC 14496-12, 4.2 and 8.8.4.
    """
    total = path.stat().st_size
    offset = whole = 0
    has_index = False
    with path.open("rb") as file:
        while offset + 8 <= total:
            file.seek(offset)
            head = file.read(16)
            size, name = int.from_bytes(head[:4]), head[4:8]
            if size == 1:
                size = int.from_bytes(head[8:16])
            if size < 8 or offset + size > total:
                break
            if name == b"moov" and has_index:  # of the file that it was about to become
                break
            has_index = has_index or name == b"moov"
            offset += size
            if name != b"moof":  # which is of no use without the data behind it
                whole = offset
    return whole


def whole_tags(path: Path) -> int:
    """Tell up to which byte a Flash video consists of whole tags.

    Source: Adobe Flash Video File Format Specification 10.1, E.3 and E.4.
    """
    total = path.stat().st_size
    with path.open("rb") as file:
        offset = int.from_bytes(file.read(9)[5:9]) + 4
        while offset + 11 <= total:
            file.seek(offset + 1)
            size = 11 + int.from_bytes(file.read(3)) + 4
            if offset + size > total:
                break
            offset += size
    return min(offset, total)


# What a recording asks of the disk: to keep what was written, and to show that it is in use.


class Lock:
    """Shows other processes that somebody is still at work on a file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def of(cls, path: Path) -> Lock | None:
        """Take the lock of a file; None if another process has it.

        Raises:
            OSError: if the file cannot be opened.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:  # a share that knows no locks: nobody else's are seen there either
            pass
        return cls(descriptor)

    def release(self) -> None:
        """Let go of it. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Disk:
    """Brings a file to the disk from a thread of its own, for a slow disk takes seconds for it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = os.dup(descriptor)
        self._wanted = threading.Event()
        self._ended = False
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="upframe-disk", daemon=True)
        self._thread.start()

    def sync(self) -> None:
        """Have all that was written so far brought to the disk, without waiting for it.

        Raises:
            SinkFull: if an earlier time has failed.
        """
        if self._error is not None:
            raise SinkFull(f"the disk has not taken it: {self._error.strerror}") from self._error
        self._wanted.set()

    def _run(self) -> None:
        while self._wanted.wait() and not self._ended:
            self._wanted.clear()
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                self._error = error

    def close(self) -> None:
        """End the thread. Safe to call twice."""
        if self._descriptor < 0:
            return
        self._ended = True
        self._wanted.set()
        self._thread.join()
        os.close(self._descriptor)
        self._descriptor = -1


class Recording:
    """Writes one file.

    Args:
        target: of the output; its container and options.
        path: what the file shall be called.
        primer: of the encoder.

    Raises:
        SinkRefused: if it cannot be created, or does not hold the video.
        SinkFull: if its header cannot be written.
    """

    def __init__(self, target: LiveTarget, path: Path, primer: bytes) -> None:
        self._target = target
        self._owner = Owner(new_token(), _tell_nobody)
        self._file = OutputFile(path, overwrite=target.overwrite, owner=self._owner)
        self._lock = None if self._file.direct else Lock.of(self._file.path)
        self._disk = None if self._file.direct else Disk(self._file.stream.fileno())
        try:
            with _saying(path, opening=True):
                options = target.options if not self._file.direct else {}
                # its header later: FFmpeg crashes at the end of such an MP4 without a packet
                self._muxer = Muxer(
                    self._file.stream, target.format, options, primer, at_once=False
                )
        except BaseException:
            self.discard()
            raise

    @property
    def notes(self) -> list[str]:
        """What is left out, for people."""
        return self._muxer.notes

    @property
    def has_sound(self) -> bool:
        """Whether sound is recorded too."""
        return self._muxer.has_sound

    @property
    def begins(self) -> Fraction | None:
        """When its first packet is, on the time line of the packets; None: there is none yet."""
        return self._muxer.origin

    def write(self, packet: Encoded) -> bool:
        """Write a packet; False if it has no place in this recording.

        Raises:
            SinkFull: if the disk does not take it.
        """
        with _saying(self._file.target, opening=self._muxer.origin is None):
            written = self._muxer.write(packet)
            self._file.stream.flush()
        if self._disk is not None and packet.kind == "video" and packet.is_keyframe:
            self._disk.sync()
        return written

    def close(self) -> None:
        """End the file; what is left is :meth:`publish`, which may take its time.

        Raises:
            SinkFull: if the disk does not take it.
        """
        with _saying(self._file.target):
            self._muxer.close()
            self._file.stream.flush()

    def publish(self) -> Recorded | None:
        """Bring a closed file to the disk, check it, and give it its name.

        Returns:
            What has become of it; None if nothing was written to it, and it is gone.

        Raises:
            SinkFull: if the disk does not take it, or the rename fails.
            VerificationFailed: if it is not what was written; it keeps its hidden name.
        """
        if self._disk is not None:
            self._disk.close()
        self._file.close()
        if self._muxer.first_seconds is None:
            self.discard()
            return None
        wanted = Proof(self._muxer.frames, self._muxer.last_seconds - self._muxer.first_seconds)
        name = self._file.target
        if not self._file.direct:
            check(self._file.path, self._target.format, wanted)
            name = self._named()
        self._release()
        return Recorded(str(name), wanted.frames, float(wanted.seconds))

    def _named(self) -> Path:
        partial, target = self._file.path, self._file.target
        if self._target.overwrite and self._target.kind == "file":
            rename(partial, target, overwrite=True)
        else:  # taken meanwhile: nothing that was recorded may be lost for that
            target = rename_beside(partial, target)
        sync_folder(target.parent)
        return target

    def rescue(self) -> Recorded | None:
        """Save what is whole of a file that takes no more; None: there is nothing."""
        if self._disk is not None:
            self._disk.close()
        with suppress(OSError):  # what the disk does not take is what is lost
            self._file.stream.close()
        self._muxer.abandon()  # after its file: it must not write an end over what is whole
        try:
            if self._file.direct or self._muxer.first_seconds is None:
                return None
            return rescue(self._file.path, self._file.target, self._target.format)
        except (OSError, SinkFull, VerificationFailed):  # why it came to this is told already
            return None
        finally:
            self._release()

    def discard(self) -> None:
        """Remove the file. Safe to call twice."""
        if self._disk is not None:
            self._disk.close()
        self._file.discard()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()


def rescue(partial: Path, target: Path, form: str) -> Recorded:
    """Give an unfinished file its name, shortened to what is whole.

    Raises:
        OSError: if it cannot be shortened.
        VerificationFailed: if nothing of it can be read.
        SinkFull: if it cannot be renamed.
    """
    shorten(partial, form)
    proof = prove(partial, form)
    sync_file(partial)
    name = rename_beside(partial, target)
    sync_folder(name.parent)
    return Recorded(str(name), proof.frames, float(proof.seconds), rescued=True)


class OneFile:
    """An output that is one recording.

    Args:
        target: of the output; `url` is the path.
        primer: of the encoder.
        tell: takes what becomes of the file.

    Raises:
        SinkRefused: if it cannot be created, or does not hold the video.
    """

    has_sound = False
    """A recording is as good as written once the muxer has it."""

    def __init__(self, target: LiveTarget, primer: bytes, tell: Callable[[Event], None]) -> None:
        self._tell, self._path = tell, target.url
        self._is_fixed = not target.numbered
        self._recording = Recording(target, Path(target.url), primer)
        for note in self._recording.notes:
            tell(Note(note))

    def write(self, packet: Encoded) -> bool:
        """Write a packet; see :meth:`Recording.write`."""
        return self._recording.write(packet)

    def close(self) -> None:
        """Complete the file; see :meth:`Recording.publish`.

        Raises:
            SinkRefused: if somebody has taken its name meanwhile; it is complete under another.
        """
        self._recording.close()
        made = self._recording.publish()
        self._tell(made or Note("nothing came to be recorded"))
        if made is not None and made.path != self._path and self._is_fixed:
            raise SinkRefused(f"output appeared meanwhile: {self._path}; kept as {made.path}")

    def abandon(self) -> None:
        """Save what is whole."""
        if (saved := self._recording.rescue()) is not None:
            self._tell(saved)


@contextmanager
def _saying(path: Path, *, opening: bool = False) -> Generator[None]:
    """Make errors of the muxer and of the file into what they mean for a recording."""
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error
    except FFmpegError as error:
        text = f"cannot write {path}: {error.strerror or error}"
        raise SinkRefused(text) if opening else SinkFull(text) from error


def _tell_nobody(_: object) -> None:
    """Nobody keeps books about recordings: the name of the file is all there is."""

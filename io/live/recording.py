"""One recording: a hidden file that grows, then is completed, checked, and gets its name.

Every keyframe begins a new fragment, and what came before it is brought to the disk: a power cut
costs one fragment. What cannot be completed is shortened to what is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

from av.error import FFmpegError

from ..errors import SinkFull, SinkRefused, VerificationFailed
from ..files import OutputFile, Owner, rename, sync_file, sync_folder, write_error
from .disk import Disk, Lock
from .feeding import Muxer
from .naming import new_token, rename_beside
from .proof import Proof, check, prove, shorten
from .targets import LiveTarget
from .values import Encoded
from .wire import Event, Note, Recorded


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

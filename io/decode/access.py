"""What FFmpeg may open for an input beyond the file the user named: nothing outside its folder.

A playlist is a file that names others. An untrusted file that looks like a video must not make us
fetch from the network or read other files of this machine. FFmpeg parses the playlist; every file
it wants to open is requested from `LocalFiles`, and what it would open by itself (concat, vobsub,
sdp) is refused by an empty white list of protocols.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from io import BytesIO, FileIO
from pathlib import Path

from ..errors import SourceMissing, UnsupportedMedia, reason_of
from ..redaction import excerpt
from ..root import Root, open_file

NOTHING = {
    "protocol_whitelist": "none",
    "pattern_type": "none",
    "http_persistent": "0",  # it expects a connection of its own there, and aborts
    "http_multiple": "0",
}
"""Options with which FFmpeg opens nothing by itself, and treats no file name as a pattern."""

BUFFER_BYTES, PIPE_BYTES = 1 << 18, 1 << 15
"""Size of one read of a local file, each a call into Python; of a pipe, which may block."""

_READ = os.O_RDONLY | os.O_CLOEXEC


def allowed_for(url: str) -> dict[str, str]:
    """Return options that restrict FFmpeg to what we open for it; none where it opens by itself."""
    scheme, found, _ = url.partition(":")
    return NOTHING if not found or scheme.lower() in ("file", "http", "https") else {}


class _File(FileIO):
    """A file for PyAV, which leaves the first one of a container open."""

    _failed = False

    def read(self, size: int | None = -1, /) -> bytes:
        """Read; after a first error return no more data, since PyAV keeps only one error."""
        if self._failed:
            return b""
        try:
            return super().read(size) or b""
        except OSError:
            self._failed = True
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        """Seek; return a negative error number for an impossible offset of a damaged file.

        An exception would end the opening, which FFmpeg may still complete.
        """
        try:
            return super().seek(offset, whence)
        except (OSError, OverflowError):
            return -errno.EINVAL

    def __del__(self) -> None:
        self.close()


class LocalFiles:
    """Opens the local files of one container: `io_open` of `av.open`.

    Entries of a playlist are relative to `path`, which was named or is the first of a sequence, and
    must lie beneath the root; None: the file's folder. `opened` is another name of the file, such
    as that of its descriptor. Of the `images` of a sequence each opening returns the next.
    """

    def __init__(
        self,
        path: Path,
        *,
        root: Root | None = None,
        opened: Path | None = None,
        images: Sequence[Path] = (),
    ) -> None:
        self._path = path.absolute()
        self.url = f"file:{self._path}"
        """The name under which FFmpeg is to open it."""
        self._opened = opened or path
        self._root = root
        self._images = iter(images) if images else None
        self._refused = False

    def __call__(self, url: str, flags: int = 0, options: object = None) -> FileIO | BytesIO:
        """Open a file for FFmpeg.

        Raises:
            OSError: if the file that was named cannot be opened.
            SourceMissing: if a picture of a sequence cannot be opened.
            UnsupportedMedia: if the file names something that may not be opened.
        """
        if self._images is not None:
            return self._next_image(self._images)
        if url == self.url:
            return _reader(os.open(self._opened, _READ))
        if self._refused:  # raised when FFmpeg returns; PyAV keeps only one error
            return BytesIO()
        try:
            if not url.startswith("file:"):
                raise OSError(errno.EPROTONOSUPPORT, "is no plain file")
            path = Path(url.removeprefix("file:"))
            return _reader(open_file(self._root or Root(self._path.parent), path))
        except FileNotFoundError:
            return BytesIO()  # a segment that has expired: FFmpeg continues with the next
        except (OSError, ValueError) as error:
            self._refused = True
            where = self._root.path if self._root else "its folder"
            raise UnsupportedMedia(
                f"{self._path}: the playlist names {excerpt(url)!r}, wanted only files in {where}: "
                f"{reason_of(error)}"
            ) from error

    def _next_image(self, images: Iterator[Path]) -> FileIO | BytesIO:
        if (image := next(images, None)) is None:
            return BytesIO()  # marks the end for FFmpeg
        try:
            beneath = None if self._root is None else open_file(self._root, image)
            return _reader(os.open(image, _READ) if beneath is None else beneath)
        except OSError as error:
            raise SourceMissing(f"{image}: cannot be read: {reason_of(error)}") from error


def _reader(descriptor: int) -> FileIO | BytesIO:
    """Wrap a descriptor for PyAV; an empty file has no last byte to seek to."""
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and not status.st_size:
        os.close(descriptor)
        return BytesIO()
    return _File(descriptor)

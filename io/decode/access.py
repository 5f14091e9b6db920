"""What FFmpeg may open for an input beyond what the user named: nothing outside of its folder.

A playlist is a file that names others. Whoever may hand us a file shall not make us fetch from
the network, or read the machine's other files, by one that looks like a video. What stands in it
is read by FFmpeg alone; each file that FFmpeg wants to open comes to us (`LocalFiles`), and what
it would open by itself (concat, vobsub, sdp) is refused by an empty white list of protocols.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from io import BytesIO, FileIO
from pathlib import Path

from ..errors import SourceMissing, UnsupportedMedia
from ..redaction import excerpt
from ..root import Root, open_file

NOTHING = {
    "protocol_whitelist": "none",
    "pattern_type": "none",
    "http_persistent": "0",  # it would look for a connection of its own, and abort
    "http_multiple": "0",
}
"""Options by which FFmpeg opens nothing by itself, and takes no file's name for a pattern."""

BUFFER_BYTES, PIPE_BYTES = 1 << 18, 1 << 15
"""Of one read of a local file, which is a call of Python; of a pipe, which may be waited for."""

_READ = os.O_RDONLY | os.O_CLOEXEC


def allowed_for(url: str) -> dict[str, str]:
    """Give the options that keep FFmpeg to what we open for it; none where it opens by itself."""
    scheme, found, _ = url.partition(":")
    return NOTHING if not found or scheme.lower() in ("file", "http", "https") else {}


class _File(FileIO):
    """A file that is read by PyAV, which leaves the first one of a container open."""

    _failed = False

    def read(self, size: int | None = -1, /) -> bytes:
        """Read; after a first error there is nothing more: PyAV keeps one error only."""
        if self._failed:
            return b""
        try:
            return super().read(size) or b""
        except OSError:
            self._failed = True
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place; where a damaged file names one that is none, tell FFmpeg as a system does.

        Raised, an error would end the opening, of which FFmpeg would have made the best.
        """
        try:
            return super().seek(offset, whence)
        except (OSError, OverflowError):
            return -errno.EINVAL

    def __del__(self) -> None:
        self.close()


class LocalFiles:
    """Opens the local files of one container: `io_open` of `av.open`.

    Args:
        path: what was named: a file, or the first of a sequence. What a playlist names is looked
            up from there.
        root: beneath which all must lie that a file names; None: its folder.
        opened: the file by another name, such as that of its descriptor.
        images: of a sequence, in order; each opening takes the next.
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
        """By which FFmpeg is to open it."""
        self._opened = opened or path
        self._root = root
        self._images = iter(images) if images else None
        self._refused = False

    def __call__(self, url: str, flags: int = 0, options: object = None) -> FileIO | BytesIO:
        """Open what FFmpeg asks for.

        Raises:
            OSError: if the file that was named cannot be opened.
            SourceMissing: if a picture of a sequence cannot be opened.
            UnsupportedMedia: if the file names something that it may not.
        """
        if self._images is not None:
            return self._next_image(self._images)
        if url == self.url:
            return _reader(os.open(self._opened, _READ))
        if self._refused:  # which is raised when FFmpeg comes back; PyAV keeps one error only
            return BytesIO()
        try:
            if not url.startswith("file:"):
                raise OSError(errno.EPROTONOSUPPORT, "is no plain file")
            path = Path(url.removeprefix("file:"))
            return _reader(open_file(self._root or Root(self._path.parent), path))
        except FileNotFoundError:
            return BytesIO()  # FFmpeg goes on with the next segment: this one may be over by now
        except (OSError, ValueError) as error:
            self._refused = True
            where = self._root.path if self._root else "its folder"
            raise UnsupportedMedia(
                f"{self._path}: the playlist names {excerpt(url)!r}, wanted only files in {where}: "
                f"{getattr(error, 'strerror', None) or error}"
            ) from error

    def _next_image(self, images: Iterator[Path]) -> FileIO | BytesIO:
        image = next(images, None)
        if image is None:
            return BytesIO()  # by which FFmpeg knows the end
        try:
            beneath = None if self._root is None else open_file(self._root, image)
            return _reader(os.open(image, _READ) if beneath is None else beneath)
        except OSError as error:
            raise SourceMissing(f"{image}: cannot be read: {error.strerror or error}") from error


def _reader(descriptor: int) -> FileIO | BytesIO:
    """Give PyAV what it reads from; an empty file has no last byte to seek to."""
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and not status.st_size:
        os.close(descriptor)
        return BytesIO()
    return _File(descriptor)

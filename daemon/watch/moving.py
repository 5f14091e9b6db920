"""Move an input out of the way, never nowhere, never half there, and replacing nothing.

On one file system a link and an unlink; across two a hidden copy that is written down to the disk,
held against the original in length and content, named, and only then the original removed.
"""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from itertools import chain, count
from pathlib import Path

from ...io.files import partial_path, sync_file, sync_folder

_CANNOT_LINK = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def move(source: Path, target: Path, before_removal: Callable[[Path], None]) -> Path:
    """Move a file to a free name at or beside `target`.

    Args:
        source: The file.
        target: Where it shall be; ``film.mkv`` becomes ``film-1.mkv`` where that is taken.
        before_removal: Called with the new name when the file is there, and still at `source`
            too. If it raises, the file stays at `source` only.

    Returns:
        Where it is now.

    Raises:
        OSError: if that fails; the source is where it was then.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for name in _names(target):
        if not _is_finished(source, name):
            try:
                _put(source, name)
            except FileExistsError:
                continue
        sync_folder(name.parent)
        _remove(source, name, before_removal)
        return name
    raise AssertionError("there are always more numbers")


def _remove(source: Path, name: Path, before_removal: Callable[[Path], None]) -> None:
    try:
        before_removal(name)
        source.unlink()
    except BaseException:
        name.unlink()
        raise
    sync_folder(source.parent)


def _names(target: Path) -> Iterator[Path]:
    numbered = (target.with_name(f"{target.stem}-{number}{target.suffix}") for number in count(1))
    return chain([target], numbered)


def _is_finished(source: Path, name: Path) -> bool:
    """Tell whether the file has that name already: a move was cut off between its two steps."""
    try:
        one, other = source.lstat(), name.lstat()
    except OSError:
        return False
    if (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino):
        return source != name
    same = (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)
    return same and stat.S_ISREG(other.st_mode) and filecmp.cmp(source, name, shallow=False)


def _put(source: Path, name: Path) -> None:
    """Give a file a second name, or make a copy under that name.

    Raises:
        FileExistsError: if the name is taken.
    """
    try:
        os.link(source, name, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.EXDEV or error.errno in _CANNOT_LINK:
            _copy(source, name)
        else:
            raise


def _copy(source: Path, name: Path) -> None:
    partial = partial_path(name)
    try:
        shutil.copy2(source, partial, follow_symlinks=False)
        sync_file(partial)
        if not filecmp.cmp(source, partial, shallow=False):
            raise OSError(errno.EIO, f"the copy differs from the original: {source}")
        _name(partial, name)
    finally:
        partial.unlink(missing_ok=True)


def _name(partial: Path, name: Path) -> None:
    try:
        os.link(partial, name)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        # FAT and some shares know no links: the best that is left has a small gap
        if os.path.lexists(name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(name)) from None
        partial.rename(name)

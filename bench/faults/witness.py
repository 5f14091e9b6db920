"""Sees every name that appears in folders, as the kernel reports it: none is published unseen."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import threading
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

_IN_MOVED_TO, _IN_CREATE, _IN_Q_OVERFLOW, _IN_ISDIR = 0x80, 0x100, 0x4000, 0x40000000
_HEAD = struct.Struct("iIII")


class Witness:
    """Counts how often each name has appeared, hidden ones left out.

    A result that is done twice, or replaced, or published in pieces, is seen here whatever the
    daemon says of itself.
    """

    def __init__(self, *folders: Path) -> None:
        self.appeared: Counter[str] = Counter()
        """By path."""
        self.first_bytes: dict[str, int] = {}
        """How large a file was when its name was first seen."""
        self._folders: dict[int, Path] = {}
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._queue = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._queue < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        for folder in folders:
            self._add(folder)
        self._ended = threading.Event()
        self._overflowed = False
        self._thread = threading.Thread(target=self._listen, name="witness")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        os.close(self._queue)
        if error is None and self._overflowed:
            raise RuntimeError("the kernel dropped events: the witness has not seen everything")

    def twice(self) -> list[str]:
        """Names that have appeared more than once."""
        return sorted(path for path, number in self.appeared.items() if number > 1)

    def grown(self) -> list[str]:
        """Files that were not whole when they got their names."""
        return sorted(
            path
            for path, size in self.first_bytes.items()
            if os.path.exists(path) and os.path.getsize(path) != size
        )

    def _add(self, folder: Path) -> None:
        mask = _IN_CREATE | _IN_MOVED_TO
        number = self._libc.inotify_add_watch(self._queue, os.fsencode(folder), mask)
        if number < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch", str(folder))
        self._folders[number] = folder

    def _listen(self) -> None:
        while not self._ended.is_set() or self._readable(0):
            if self._readable(0.1):
                self._read(os.read(self._queue, 1 << 16))

    def _readable(self, seconds: float) -> bool:
        return bool(select.select([self._queue], [], [], seconds)[0])

    def _read(self, events: bytes) -> None:
        place = 0
        while place < len(events):
            number, mask, _, length = _HEAD.unpack_from(events, place)
            place += _HEAD.size
            name = os.fsdecode(events[place : place + length].rstrip(b"\0"))
            place += length
            if mask & _IN_Q_OVERFLOW:
                self._overflowed = True
            elif not name.startswith(".") and not mask & _IN_ISDIR:
                self._saw(self._folders[number] / name)

    def _saw(self, path: Path) -> None:
        self.appeared[str(path)] += 1
        try:
            self.first_bytes.setdefault(str(path), path.stat().st_size)
        except FileNotFoundError:
            self.first_bytes.setdefault(str(path), -1)

"""The state directory belongs to one daemon at a time: a lock that ends with the process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import AlreadyRunning

LOCK_NAME = "upframe.lock"


class StateLock:
    """Holds a state directory; makes it where it is not there.

    Raises:
        AlreadyRunning: on entering, if another daemon has it.
        OSError: if it cannot be made or written.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._file = -1

    def __enter__(self) -> Self:
        self._state_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        path = self._state_dir / LOCK_NAME
        # the file stays for ever: removing it would let two daemons lock two files of one name
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._file, 20, 0).decode(errors="replace").strip()
            os.close(self._file)
            raise AlreadyRunning(
                f"another daemon (process {holder or 'unknown'}) has the state directory "
                f"{self._state_dir}: stop it, or give this one a state_dir of its own"
            ) from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._file)

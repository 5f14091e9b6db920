"""What a recording asks of the disk: to keep what was written, and to show that it is in use."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from ..errors import SinkFull


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

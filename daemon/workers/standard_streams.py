"""stdin and stdout of a worker, taken for its talk with the daemon.

Whatever a library prints goes to stderr from then on, and nobody else can read what the daemon
says.
"""

from __future__ import annotations

import os
import threading

READ_BYTES = 1 << 16
_STDIN, _STDOUT, _STDERR = 0, 1, 2


class StandardStreams:
    """There is one in a process.

    Args:
        unheard_status: with which the process ends once nobody listens any more.
    """

    def __init__(self, unheard_status: int) -> None:
        self._in = os.dup(_STDIN)
        self._out = os.dup(_STDOUT)
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, _STDIN)
        os.close(nowhere)
        os.dup2(_STDERR, _STDOUT)
        self._unheard_status = unheard_status
        self._writing = threading.Lock()

    def read(self) -> bytes:
        """Wait for what the daemon says; nothing once it has closed its end."""
        return os.read(self._in, READ_BYTES)

    def write(self, data: bytes) -> None:
        """Say something whole, from any thread. If nobody listens any more, the process ends."""
        left = memoryview(data)
        with self._writing:
            try:
                while left:
                    left = left[os.write(self._out, left) :]
            except OSError:  # the daemon is gone; whatever we do is for nobody
                os._exit(self._unheard_status)

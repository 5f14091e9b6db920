"""What the kernel and stderr tell of a worker."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from ...io.redaction import redacted

_KEPT_BYTES = 8192
_KEPT_LINES = 40
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Tail:
    """The last lines of a stream, however much comes."""

    def __init__(self) -> None:
        self._bytes = b""

    def feed(self, data: bytes) -> None:
        """Take what came."""
        self._bytes = (self._bytes + data)[-_KEPT_BYTES:]

    @property
    def text(self) -> str | None:
        """The last lines, without the passwords of URLs; None if nothing came."""
        lines = self._bytes.decode(errors="replace").strip().splitlines()
        return redacted("\n".join(lines[-_KEPT_LINES:])) or None


def rss_bytes_of(pid: int) -> int:
    """Read the resident memory of a process; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def end_of(returncode: int) -> str:
    """Say how a process ended."""
    if returncode >= 0:
        return f"ended with status {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:  # a real-time signal has no name
        name = f"signal {-returncode}"
    hint = " (out of memory?)" if -returncode == signal.SIGKILL else ""
    return f"was ended by {name}{hint}"

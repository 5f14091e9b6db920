"""SRT where our libraries have none: an ffmpeg program that passes bytes on, and nothing else.

It gets MPEG-TS as plain data, so it parses nothing and delays nothing. It opens its input at the
first bytes, so those are packets of padding, and the connection is made before the first picture.
Its command line shows the URL, with an SRT passphrase, to every user who may see our processes:
ffmpeg accepts it in no other way.
"""

from __future__ import annotations

import fcntl
import io
import shutil
from typing import TYPE_CHECKING

from ..child import Child
from ..errors import OutputLost
from ..parent_death import with_parent_death
from .failure import reason_of_words
from .target import IO_TIMEOUT_SECONDS, UDP_PACKET_BYTES, LiveTarget

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_PADDING = (b"\x47\x1f\xff\x10" + b"\xff" * 184) * 7
"""Packets of MPEG-TS that carry nothing (ISO/IEC 13818-1, 2.4.3.3)."""
_PIPE_BYTES = 1 << 14
"""Little, so that a connection that takes nothing shows early."""
_SHOWN_LINES = 3
_END_SECONDS, _LOST_SECONDS = 10.0, 1.0
"""For the program to end after its last byte, and after an error of its own."""
_TURN_SECONDS = 60.0


class Relay(io.RawIOBase):
    """An ffmpeg program, connected; the file that MPEG-TS is written to.

    Raises:
        OutputLost: if there is no such program, or it cannot connect.
    """

    def __init__(self, target: LiveTarget) -> None:
        self._display = target.display
        self._connected = False
        self._child = Child(self._command(target.url), new_session=False)
        fcntl.fcntl(self._child.stdin, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._connect()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: ReadableBuffer) -> int:
        """Pass data to the program, waiting until it has taken all.

        Raises:
            BrokenPipeError: if it takes no more.
        """
        data = bytes(data)
        self._child.send(data)
        while self._child.unsent_bytes:
            self._child.turn(_TURN_SECONDS)
        if self._child.stdin.closed:
            raise BrokenPipeError(f"{self._display}: the program has closed its input")
        return len(data)

    def lost(self) -> OutputLost:
        """End the program and return why it could not go on."""
        waits = not self._connected or self._child.returncode is not None
        code = self._end(_END_SECONDS if waits else _LOST_SECONDS)
        notices = ("Input", "Duration", "Stream")
        lines = [line for line in self._lines() if not line.startswith(notices)]
        said = " | ".join(lines[-_SHOWN_LINES:])
        reason = reason_of_words(said)
        if reason == "failed" and self._connected:
            reason = "ended"
        what = "connection lost" if self._connected else "not connected"
        return OutputLost(reason, f"{self._display}: {what}: {said or f'ffmpeg ended with {code}'}")

    def complete(self) -> None:
        """Have everything sent and end the program.

        Raises:
            OutputLost: if that fails.
        """
        if self._end(_END_SECONDS) != 0:
            raise self.lost()

    def _command(self, url: str) -> list[str]:
        program = shutil.which("ffmpeg")
        if program is None:
            raise OutputLost("unsupported", f"{self._display}: there is no ffmpeg program")
        command = [program, "-nostdin", "-hide_banner", "-nostats", "-loglevel", "info"]
        command += ["-f", "data", "-raw_packet_size", str(UDP_PACKET_BYTES), "-i", "pipe:0"]
        command += ["-map", "0", "-c", "copy", "-timeout", str(IO_TIMEOUT_SECONDS * 1_000_000)]
        command += ["-flush_packets", "1", "-f", "data", url]
        return with_parent_death(command)

    def _connect(self) -> None:
        try:
            self.write(_PADDING)
        except BrokenPipeError as error:
            raise self.lost() from error
        while not self._connected:  # our parent knows how long that may take
            if self._child.returncode is not None:
                raise self.lost()
            self._child.turn(_TURN_SECONDS)
            self._connected = any(line.startswith("Output #0") for line in self._lines())

    def _lines(self) -> list[str]:
        return self._child.tail.lines(published=True)

    def _end(self, seconds: float) -> int | None:
        """Reap the program, by force after a time; return its exit status."""
        self._child.close_stdin()
        self._child.close(seconds)
        return self._child.returncode

"""SRT where our libraries have none: an ffmpeg program that passes bytes on, and nothing else.

It is given MPEG-TS as plain data, so that it looks at nothing and delays nothing; it opens its
input at the first bytes, so those are packets of padding, and the connection stands before the
first picture is there. Its command line shows the URL, with an SRT passphrase, to whoever may see
our processes: ffmpeg takes it in no other way.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import threading
from collections import deque
from contextlib import suppress
from typing import BinaryIO, cast

from ..errors import OutputLost
from ..parent_death import tied
from ..redaction import excerpt
from .failure import reason_of_words
from .target import IO_TIMEOUT_SECONDS, UDP_PACKET_BYTES, LiveTarget

_PADDING = (b"\x47\x1f\xff\x10" + b"\xff" * 184) * 7
"""Packets of MPEG-TS that carry nothing (ISO/IEC 13818-1, 2.4.3.3)."""
_PIPE_BYTES = 1 << 14
"""Little, so that we notice early when nothing goes on."""
_KEPT_LINES = 100
_SHOWN_LINES = 3
_END_SECONDS = 10.0


class Relay:
    """An ffmpeg program, connected.

    Raises:
        OutputLost: if it is not there, or cannot connect.
    """

    def __init__(self, target: LiveTarget) -> None:
        self._shown = target.shown
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._settled = threading.Event()
        self._connected = False
        self._process = self._start(target.url)
        self._log = threading.Thread(target=self._read_log, name="upframe-relay-log", daemon=True)
        self._log.start()
        self._connect()

    @property
    def stream(self) -> BinaryIO:
        """Where to write MPEG-TS to."""
        return cast("BinaryIO", self._process.stdin)

    def _start(self, url: str) -> subprocess.Popen[bytes]:
        program = shutil.which("ffmpeg")
        if program is None:
            raise OutputLost("unsupported", f"{self._shown}: there is no ffmpeg program")
        command = [program, "-nostdin", "-hide_banner", "-nostats", "-loglevel", "info"]
        command += ["-f", "data", "-raw_packet_size", str(UDP_PACKET_BYTES), "-i", "pipe:0"]
        command += ["-map", "0", "-c", "copy", "-timeout", str(IO_TIMEOUT_SECONDS * 1_000_000)]
        command += ["-flush_packets", "1", "-f", "data", url]
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        process = subprocess.Popen(tied(command), stdin=pipe, stdout=nowhere, stderr=pipe)
        assert process.stdin is not None
        fcntl.fcntl(process.stdin, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return process

    def _connect(self) -> None:
        try:
            self.stream.write(_PADDING)
            self.stream.flush()
        except BrokenPipeError as error:
            raise self.lost() from error
        self._settled.wait()  # who waits for us knows how long that may take
        if not self._connected:
            raise self.lost()

    def _read_log(self) -> None:
        log = self._process.stderr
        assert log is not None
        for line in log:
            text = line.decode(errors="replace").strip()
            self._lines.append(excerpt(text, 500, published=True))
            if line.startswith(b"Output #0"):
                self._connected = True
                self._settled.set()
        self._settled.set()

    def lost(self) -> OutputLost:
        """End the program and say why it could not go on."""
        code = self._end(wait=not self._connected or self._process.poll() is not None)
        words = [
            line for line in self._lines if not line.startswith(("Input", "Duration", "Stream"))
        ]
        said = " | ".join(words[-_SHOWN_LINES:])
        reason = reason_of_words(said)
        if reason == "failed" and self._connected:
            reason = "ended"
        what = "connection lost" if self._connected else "not connected"
        return OutputLost(reason, f"{self._shown}: {what}: {said or f'ffmpeg ended with {code}'}")

    def close(self) -> None:
        """Have everything sent and end it.

        Raises:
            OutputLost: if that does not work.
        """
        with suppress(BrokenPipeError):  # its exit status tells
            self.stream.close()
        if self._end(wait=True) != 0:
            raise self.lost()

    def _end(self, *, wait: bool) -> int:
        """Reap it; by force where it does not end."""
        with suppress(BrokenPipeError):
            self.stream.close()
        try:
            self._process.wait(_END_SECONDS if wait else 1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
        code = self._process.wait()
        self._log.join()
        if self._process.stderr is not None:
            self._process.stderr.close()
        return code

"""What this process's FFmpeg cannot open, read by the ffmpeg program: SRT, above all.

The child copies packets into NUT, which keeps timestamps and needs no seeking. Its command line
has the URL with the passphrase, which whoever may list this user's processes can read; FFmpeg
has no other way to be told.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO, cast

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Stream

from ..errors import InputLost, Reason
from ..parent_death import tied
from ..redaction import excerpt
from .address import LiveAddress
from .failure import reason_of_words

PROGRAM = "ffmpeg"

_END_SECONDS = 2.0
_NO_KEYFRAME = "dimensions not set"
"""What the program says where it has not seen a keyframe and so does not know the size."""

_LONGEST_LOOK = 0.8
"""Of the time that connecting may take."""

_OPTIONS = {"fpsprobesize": "0", "probesize": "32"}
"""Of our own demuxer: NUT's header tells all."""


class ChildConnection:
    """A connection that the ffmpeg program makes; Python reads its packets from a pipe."""

    is_lossy = False  # SRT sends again what was lost; what came too late its demuxer marks

    def __init__(
        self, address: LiveAddress, *, now: Callable[[], float], lines: deque[str]
    ) -> None:
        """Start the program and wait for its first packets.

        Args:
            address: What it is to read.
            now: Monotonic seconds, for the arrival of packets.
            lines: Gets what it says on stderr.

        Raises:
            InputLost: if it is not there, or cannot connect.
        """
        self._address, self._now = address, now
        self._stopped = False
        self._lines = lines
        self._process = self._started()
        self._drain = threading.Thread(
            target=self._read_stderr, name="upframe-srt-log", daemon=True
        )
        self._drain.start()
        assert self._process.stdout is not None
        self._pipe = _Pipe(self._process.stdout.fileno())
        try:
            self.container = self._opened()
        except BaseException:
            self._end()
            raise

    def packets(self, streams: Sequence[Stream]) -> Iterator[tuple[Packet[Stream], float]]:
        """Give packets of some streams and the monotonic second each came.

        Raises:
            InputLost: at its end, in whatever way.
        """
        demuxed = self.container.demux(*streams)
        while not self._stopped:
            self._pipe.ends_at = time.monotonic() + self._address.read_seconds
            try:
                packet = next(demuxed, None)
            except (FFmpegError, OSError) as error:
                raise self._lost("connection lost", "failed") from error
            if packet is None or packet.size == 0:
                if self._stopped:
                    break
                raise self._lost("connection lost", "ended")
            yield packet, self._now()
        raise InputLost("ended", f"{self._address.shown}: stopped")

    def stop(self) -> None:
        """End the child, and with it the reading, at once."""
        self._stopped = True
        with suppress(ProcessLookupError):
            self._process.terminate()

    def close(self) -> None:
        """Close the container, end the child and wait for it."""
        self.container.close()
        self._end()

    def _started(self) -> subprocess.Popen[bytes]:
        program = shutil.which(PROGRAM)
        if program is None:
            raise InputLost(
                "unsupported",
                f"{self._address.shown}: {self._address.protocol} needs the program {PROGRAM}, "
                "which is not there",
            )
        command = [program, "-nostdin", "-hide_banner", "-loglevel", "warning"]
        look = round(self._address.remembered.look_seconds * 1e6)
        command += ["-analyzeduration", str(look), "-fpsprobesize", "0"]
        command += ["-rw_timeout", self._address.options["rw_timeout"]]
        command += ["-i", self._address.url, "-map", "0:v:0", "-map", "0:a:0?", "-c", "copy"]
        command += ["-flush_packets", "1", "-f", "nut", "-"]
        return subprocess.Popen(
            tied(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )

    def _opened(self) -> InputContainer:
        self._pipe.ends_at = time.monotonic() + self._address.connect_seconds
        try:
            return av.open(cast("BinaryIO", self._pipe), "r", format="nut", options=_OPTIONS)
        except (FFmpegError, OSError) as error:
            raise self._lost("not connected", "failed") from error

    def _lost(self, what: str, otherwise: Reason) -> InputLost:
        """Let the program end, and take its word for why, where it has one."""
        self._end()
        if any(_NO_KEYFRAME in line for line in self._lines):
            self._look_longer()
        said = "; ".join(list(self._lines)[-3:])
        reason = reason_of_words(said)
        if self._pipe.timed_out:
            reason, said = "timed-out", "nothing came in time"
        elif reason == "failed":
            reason = otherwise
        why = said or "the other end has closed it"
        return InputLost(reason, f"{self._address.shown}: {what}: {why}")

    def _look_longer(self) -> None:
        longest = _LONGEST_LOOK * self._address.connect_seconds
        remembered = self._address.remembered
        remembered.look_seconds = min(2 * remembered.look_seconds, longest)

    def _end(self) -> None:
        """End the child gently, then not, and reap it."""
        process = self._process
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._drain.join(_END_SECONDS)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()

    def _read_stderr(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None
        buffered = b""
        while data := os.read(stderr.fileno(), 4096):
            *whole, buffered = (buffered + data).replace(b"\r", b"\n").split(b"\n")
            for line in whole:
                self._keep(line)
            buffered = buffered if len(buffered) <= 4096 else b"***"  # no part of a secret
        self._keep(buffered)

    def _keep(self, line: bytes) -> None:
        if text := line.decode(errors="replace").strip():
            self._lines.append(excerpt(text, 500))


class _Pipe:
    """The read end of a pipe as PyAV takes it, with a moment at which waiting ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self.ends_at = 0.0
        self.timed_out = False
        """Whether it was the waiting that has ended, and not the pipe."""

    def read(self, size: int) -> bytes:
        """Read what is there, up to `size` bytes; waits for the first. None of them: the end."""
        seconds = max(0.0, self.ends_at - time.monotonic())
        if self._poll.poll(seconds * 1000):
            return os.read(self._descriptor, size)
        self.timed_out = True  # an error raised here would be printed for each try of the demuxer
        return b""

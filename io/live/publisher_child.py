"""The process that muxes a live output: `python -m upframe.io.live.publisher_child --parent PID`.

Header and packets come on stdin, events go to stdout (see
:mod:`upframe.io.live.publisher_protocol`). A muxer can block without a timeout while it holds the
GIL; in a process of its own that harms nothing else, and the parent can kill it. The end of stdin,
or SIGTERM, means: complete, check, rename. When the parent is killed, a network output ends with it
at once, while a recording is completed first.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from av.error import FFmpegError

from ..child import Child, ParentPipes, kill_on_parent_death, with_parent_death
from ..errors import MediaError, OutputLost, Reason
from ..redaction import redacted
from ..web import NetworkRules, network_rules, tls_options
from . import publisher_protocol as wire
from .failure import looked_into, reason_of, reason_of_words
from .muxer import HlsUploader, Muxer
from .recorder import RollingRecorder, SingleRecorder
from .target import IO_TIMEOUT_SECONDS, UDP_PACKET_BYTES, LiveTarget
from .values import Encoded

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
    """SRT where our libraries have none: an ffmpeg program that passes MPEG-TS on, as a file.

    It gets plain data, so it parses nothing and delays nothing. It opens its input at the first
    bytes, so those are packets of padding, and the connection is made before the first picture.
    Its command line shows the URL, with an SRT passphrase, to every user who may see our processes:
    ffmpeg accepts it in no other way.

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
        """Pass data to the program; wait until it has taken all, or raise BrokenPipeError."""
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
        """Have everything sent and end the program; raise OutputLost if that fails."""
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


class NetworkOutput:
    """A live output that others receive: a connection, or a playlist that they fetch.

    `write` and `close` raise OutputLost if the far end does not take what is sent. `report` is
    called with what people should know.

    Raises:
        OutputLost: if it cannot be made.
        SinkRefused: if the format does not hold the video.
    """

    def __init__(
        self, target: LiveTarget, primer: bytes, report: Callable[[wire.Event], None]
    ) -> None:
        self._target = target
        self._relay: Relay | None = None
        self._uploads: HlsUploader | None = None
        with self._as_output_lost("not connected"):
            if target.needs_ffmpeg:
                self._relay = Relay(target)
            if target.kind == "hls" and "://" in target.url:
                self._uploads = HlsUploader(target.url, IO_TIMEOUT_SECONDS)
            self._muxer = self._muxing(primer)
        self.has_sound = self._muxer.has_sound
        """Whether the muxer holds the latest packet back, to order it with the sound."""
        for note in self._muxer.notes:
            report(wire.Note(note))

    def _muxing(self, primer: bytes) -> Muxer:
        target = self._target
        options = target.options
        uploads, path = self._uploads, Path(target.url)
        goes_on = path.exists() if uploads is None else uploads.continues
        if target.kind == "hls" and not goes_on:
            # FFmpeg would begin even the first playlist with a discontinuity
            options = options | {"hls_flags": options["hls_flags"].replace("append_list+", "")}
        output = target.url if self._relay is None else cast("BinaryIO", self._relay)
        opener = None if uploads is None else uploads.open
        tls = {} if opener else tls_options(target.url)
        return Muxer(output, target.format, options | tls, primer, opener=opener)

    def write(self, packet: Encoded) -> bool:
        """Send a packet; return False if it has no place in this connection."""
        with self._as_output_lost("connection lost"):
            written = self._muxer.write(packet)
            if self._uploads is not None:
                self._uploads.check()
        return written

    def close(self) -> None:
        """Send what is held back, and close the connection."""
        with self._as_output_lost("connection lost at its end"):
            self._muxer.close()
            if self._uploads is not None:
                self._uploads.check()
        if self._relay is not None:
            self._relay.complete()

    def abandon(self) -> None:
        """Stop uploading; the process ends anyway."""
        if self._uploads is not None:
            self._uploads.close()  # half a segment is none

    @contextmanager
    def _as_output_lost(self, what: str) -> Generator[None]:
        begun = time.monotonic()
        try:
            yield
        except (OSError, FFmpegError) as error:
            if self._relay is not None:
                raise self._relay.lost() from error
            raise self._lost(what, error, time.monotonic() - begun) from error

    def _lost(self, what: str, error: Exception, elapsed_seconds: float) -> OutputLost:
        limit = float(IO_TIMEOUT_SECONDS)
        reason: Reason = reason_of(error, elapsed_seconds=elapsed_seconds, limit_seconds=limit)
        if reason == "failed" and isinstance(error, (ConnectionError, EOFError)):
            reason = "ended"
        text = str(getattr(error, "strerror", None) or error)
        reason, text = looked_into(reason, text, self._target.url)
        text = redacted(f"{self._target.display}: {what}: {text}", published=True)
        return OutputLost(reason, text)


_FAILED_STATUS, _ORPHAN_STATUS = 1, 2
Output = NetworkOutput | SingleRecorder | RollingRecorder


def main() -> int:
    """Write the packets that come, to their end; return the exit status."""
    parser = argparse.ArgumentParser(prog="upframe-publish")
    parser.add_argument("--parent", type=int, required=True)
    parent = cast("int", parser.parse_args().parent)
    if os.getppid() != parent:
        return _ORPHAN_STATUS
    pipes = ParentPipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # our parent decides

    def end(_number: int, _frame: object) -> None:  # of our stdin, even if a read waits
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, pipes.stdin.fileno())  # Python tries the interrupted read again
        os.close(nowhere)

    signal.signal(signal.SIGTERM, end)

    def report(event: wire.Event) -> None:
        with suppress(BrokenPipeError):  # without a reader, recordings are completed all the same
            pipes.write(wire.event_line(event))

    try:
        header = wire.read_header(pipes.stdin)
        if not header.target.is_file and not kill_on_parent_death(parent):
            return _ORPHAN_STATUS
        with network_rules(NetworkRules(tls_insecure=header.target.tls_insecure)):
            publish(header, pipes.stdin, report)
    except EOFError:  # the parent needs no output
        return _ORPHAN_STATUS
    except MediaError as error:
        report(failure_of(error))
        return _FAILED_STATUS
    report(wire.Finished())
    return 0


def publish(header: wire.Header, packets: BinaryIO, report: Callable[[wire.Event], None]) -> None:
    """Write the packets of an output, complete it at their end, and report every event.

    Raises:
        MediaError: if it cannot be written or completed; what could be saved of a file has been.
    """
    kinds: dict[str, type[Output]] = {"file": SingleRecorder, "rolling": RollingRecorder}
    output = kinds.get(header.target.kind, NetworkOutput)(header.target, header.primer, report)
    report(wire.Connected())
    # a packet of a recording counts as written once the muxer has it
    most_held = int(isinstance(output, NetworkOutput) and output.has_sound)
    held: deque[int] = deque()  # numbers of packets that the muxer may hold back

    def report_written(most_held: int) -> None:
        while len(held) > most_held:
            report(wire.Written(held.popleft(), time.monotonic()))

    try:
        while (item := wire.read_packet(packets)) is not None:
            number, packet = item
            written = output.write(packet)
            if packet.kind == "video" and written:
                held.append(number)
                report_written(most_held)
            elif packet.kind == "video":
                report(wire.Skipped(number))
        output.close()
    except MediaError:
        output.abandon()
        raise
    report_written(0)


def failure_of(error: MediaError) -> wire.PublishFailed:
    """Return the event that reports an error."""
    reason = error.reason if isinstance(error, OutputLost) else "failed"
    return wire.PublishFailed(reason, type(error).__name__, redacted(str(error), published=True))


if __name__ == "__main__":
    sys.exit(main())

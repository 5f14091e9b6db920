"""Receivers of live outputs: real ffmpeg processes that listen, and keep what they get."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Literal, Self

import av
import av.error
import pytest
from support.servers.camera import free_port

DEADLINE_SECONDS = 30.0

_OPEN = ("0A", "01")
"""LISTEN and ESTABLISHED, as /proc/net/tcp names them."""

Protocol = Literal["rtsp", "rtmp", "tcp", "udp", "srt"]


@dataclass(frozen=True)
class Got:
    """One packet as it was received."""

    kind: Literal["video", "audio"]
    pts: Fraction
    """Seconds."""
    dts: Fraction
    is_keyframe: bool
    size: int


class Receiver:
    """An ffmpeg that waits for one sender after the other, and writes each connection to a file.

    An ffmpeg that listens takes one connection and ends with it, so `start` begins each anew.
    """

    def __init__(self, folder: Path, protocol: Protocol = "rtsp", *, port: int | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.protocol: Protocol = protocol
        self.port = port or free_port()
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """Where to publish to."""
        place = f"{self.protocol}://127.0.0.1:{self.port}"
        if self.protocol in ("rtsp", "rtmp"):
            return f"{place}/live/stream"
        return f"{place}?pkt_size=1316" if self.protocol == "udp" else place

    @property
    def file(self) -> Path:
        """What the latest ffmpeg writes, MPEG-TS; readable while it grows."""
        return self.folder / f"received-{self.starts}.ts"

    @property
    def log(self) -> str:
        """What the latest ffmpeg has complained of: empty where all was well."""
        path = self.folder / f"received-{self.starts}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def files(self) -> list[Path]:
        """Of every start so far that has got something."""
        paths = (self.folder / f"received-{n}.ts" for n in range(1, self.starts + 1))
        return [path for path in paths if path.exists() and path.stat().st_size]

    @property
    def pid(self) -> int:
        assert self._process is not None, "the receiver was not started"
        return self._process.pid

    def start(self) -> None:
        """Start an ffmpeg; returns once it listens."""
        assert self._process is None, "the receiver runs already"
        program = shutil.which("ffmpeg")
        if program is None:
            pytest.skip("ffmpeg is not installed")
        self.starts += 1
        command = [program, "-nostdin", "-hide_banner", "-loglevel", "error", "-y"]
        command += [*self._input(), "-map", "0", "-c", "copy", "-flush_packets", "1"]
        command += ["-muxdelay", "0", "-muxpreload", "0", "-f", "mpegts", str(self.file)]
        with (self.folder / f"received-{self.starts}.log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._await_port()

    def running(self) -> bool:
        """Whether it still waits or receives; False once the sender has said goodbye."""
        return self._process is not None and self._process.poll() is None

    def wait(self, seconds: float = DEADLINE_SECONDS) -> int:
        """Wait for its end, after the sender's; gives its exit code, 0 where all was well."""
        assert self._process is not None, "the receiver was not started"
        code = self._process.wait(seconds)
        self._process = None
        return code

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def stop(self) -> int:
        """End it as Ctrl-C does, so that its file is closed; gives its exit code."""
        assert self._process is not None, "the receiver was not started"
        self._process.send_signal(signal.SIGINT)
        return self.wait()

    def freeze(self) -> None:
        """Let its connection stay, and take nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        self.kill()
        self.start()

    def got(self) -> list[Got]:
        """All packets of the latest connection so far, in the order of their arrival."""
        return packets_of(self.file)

    def pictures(self) -> int:
        """Video packets of the latest connection so far."""
        return sum(packet.kind == "video" for packet in self.got())

    def until_pictures(self, number: int, seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until the latest connection has given so many video packets."""
        deadline = time.monotonic() + seconds
        while (found := self.pictures()) < number:
            assert time.monotonic() < deadline, f"{found} frames, wanted {number}:\n{self.log}"
            assert self.running() or self.pictures() >= number, f"it has ended:\n{self.log}"
            time.sleep(0.05)

    def _input(self) -> list[str]:
        place = f"127.0.0.1:{self.port}"
        match self.protocol:
            case "rtsp":
                return ["-rtsp_flags", "listen", "-i", self.url]
            case "rtmp":
                return ["-listen", "1", "-f", "flv", "-i", self.url]
            case "tcp":
                return ["-f", "mpegts", "-i", f"tcp://{place}?listen=1"]
            case "udp":
                return ["-f", "mpegts", "-i", f"udp://{place}?timeout=10000000"]
            case "srt":
                return ["-f", "mpegts", "-i", f"srt://{place}?mode=listener"]

    def _await_port(self) -> None:
        """Wait until the kernel shows its socket; a connection would be taken for the sender.

        A sender that has waited for it may be faster, and then it listens no more.
        """
        assert self._process is not None
        datagrams = self.protocol in ("udp", "srt")
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not _listens(self.port, datagrams=datagrams):
            assert self._process.poll() is None, f"the receiver has ended:\n{self.log}"
            assert time.monotonic() < deadline, f"the receiver does not listen:\n{self.log}"
            time.sleep(0.01)


def _listens(port: int, *, datagrams: bool) -> bool:
    """Whether a socket of this machine waits at a port, or was connected to there."""
    table = Path("/proc/net/udp" if datagrams else "/proc/net/tcp").read_text().splitlines()[1:]
    rows = (line.split() for line in table)
    return any(
        int(row[1].rpartition(":")[2], 16) == port and (datagrams or row[3] in _OPEN)
        for row in rows
    )


def packets_of(path: Path) -> list[Got]:
    """All whole packets of a file that may still grow, or was cut off; none where it is empty."""
    found: list[Got] = []
    if not path.exists() or not path.stat().st_size:
        return found
    try:
        with av.open(str(path)) as container:
            for packet in container.demux():
                if packet.size and packet.pts is not None and packet.dts is not None:
                    base = packet.time_base
                    kind: Literal["video", "audio"] = (
                        "video" if packet.stream.type == "video" else "audio"
                    )
                    times = packet.pts * base, packet.dts * base
                    found.append(Got(kind, *times, packet.is_keyframe, packet.size))
    except av.error.FFmpegError:  # cut off in the middle of a packet, or of the very first
        pass
    return found


def rises(packets: list[Got], kind: Literal["video", "audio"] = "video") -> bool:
    """Whether the timestamps of one kind strictly rise."""
    times = [packet.dts for packet in packets if packet.kind == kind]
    return all(a < b for a, b in pairwise(times))


def gaps(packets: list[Got]) -> list[Fraction]:
    """Seconds from each picture to the next, in presentation order.

    From the second picture on: ffmpeg gives the first one that comes by RTSP no time of its own.
    """
    times = sorted(packet.pts for packet in packets if packet.kind == "video")[1:]
    return [b - a for a, b in pairwise(times)]

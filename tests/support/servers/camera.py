"""A camera: a real RTSP server in a process of its own, which can be killed, frozen and changed.

Where the server's packages are not there, tests that want a camera are skipped; they fail instead
where UPFRAME_REQUIRE_RTSP=1 promises one.
"""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO, Self

import pytest

PACKAGES = (
    "python3-gi",
    "gir1.2-gst-rtsp-server-1.0",
    "gstreamer1.0-plugins-base",
    "gstreamer1.0-plugins-good",
    "gstreamer1.0-plugins-bad",
    "gstreamer1.0-plugins-ugly",
)
"""As Debian calls them; the Makefile names them where they are missing."""

SYSTEM_PYTHON = "/usr/bin/python3"
"""Debian's bindings are for Debian's Python alone."""

DEADLINE_SECONDS = 30.0
_PROGRAM = Path(__file__).with_name("rtsp.py")
_MISSING = 3
_TAKEN = 1


def free_port() -> int:
    """A port that stays free while its server is away.

    It is none of those that the system gives to others by itself (32768 and above on Linux): the
    connections of whoever tries again and again to reach a server that is down.
    """
    chance = random.Random()
    while True:
        port = chance.randrange(20_000, 32_000)
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            try:
                stream.bind(("127.0.0.1", port))
                datagrams.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Camera:
    """An RTSP server that plays `url` and takes what is published to `record_url`."""

    def __init__(
        self,
        *,
        size: str = "160x90",
        rate: Fraction | int = 15,
        sound: bool = False,
        login: str | None = None,
        record: Path | None = None,
        tcp_only: bool = False,
    ) -> None:
        """Describe it; `start` starts it.

        Args:
            size: Pixels, such as 160x90; both even.
            rate: Frames a second.
            sound: Whether there is AAC too, played and taken.
            login: USER:PASSWORD that it asks for.
            record: MPEG-TS file for what is published.
            tcp_only: Whether it refuses UDP.
        """
        self.size = size
        self.rate = Fraction(rate)
        self.sound = sound
        self.login = login
        self.record = record
        self.tcp_only = tcp_only
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """Where it plays, without the password."""
        return self.url_of("camera")

    @property
    def record_url(self) -> str:
        """Where it takes what is published, without the password."""
        return self.url_of("in")

    @property
    def secret_url(self) -> str:
        """Where it plays, with the password."""
        return self.url.replace("://", f"://{self.login}@") if self.login else self.url

    def url_of(self, path: str) -> str:
        """`camera`, `deaf` (sound alone) and `in` are there, everything else is not found."""
        return f"rtsp://127.0.0.1:{self.port}/{path}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the camera was not started"
        return self._process.pid

    def start(self, *, size: str | None = None, rate: Fraction | int | None = None) -> None:
        """Start it at the same address, perhaps changed; returns once it listens."""
        assert self._process is None, "the camera runs already"
        self.size = size or self.size
        self.rate = Fraction(rate) if rate else self.rate
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self._launch(deadline):
            assert time.monotonic() < deadline, f"port {self.port} is taken"
            time.sleep(0.05)

    def kill(self) -> None:
        """End it as a power cut does; also where it is frozen, or not there."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()
        log, self._log = self._log, None
        if log is not None:
            log.close()

    def freeze(self) -> None:
        """Let its connections stay and nothing come."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self, *, size: str | None = None, rate: Fraction | int | None = None) -> None:
        self.kill()
        self.start(size=size, rate=rate)

    def _launch(self, deadline: float) -> bool:
        """Start the program; False where its port is still taken."""
        if not Path(SYSTEM_PYTHON).exists():
            without_server(f"there is no {SYSTEM_PYTHON}")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the process
        self._process = subprocess.Popen(
            [SYSTEM_PYTHON, str(_PROGRAM), *self._arguments()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={name: value for name, value in os.environ.items() if name[:6] != "PYTHON"},
            start_new_session=True,
        )
        if self._says_ready(deadline):
            return True
        code = self._process.poll()
        self._log.seek(0)
        text = self._log.read().decode(errors="replace").strip()
        self.kill()
        if code == _MISSING:
            without_server(text)
        assert code == _TAKEN, f"the RTSP server has failed, with {code}:\n{text}"
        return False

    def _says_ready(self, deadline: float) -> bool:
        """Wait for its first line; False where it ends instead, or time does."""
        assert self._process is not None
        assert self._process.stdout is not None
        seconds = max(0.0, deadline - time.monotonic())
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            return False
        if self._process.stdout.readline().startswith(b"ready"):
            return True
        self._process.wait(DEADLINE_SECONDS)
        return False

    def _arguments(self) -> Iterator[str]:
        yield from ("--port", str(self.port), "--size", self.size, "--rate", str(self.rate))
        yield from ("--sound",) * self.sound
        yield from ("--tcp-only",) * self.tcp_only
        if self.login:
            yield from ("--login", self.login)
        if self.record:
            yield from ("--record", str(self.record))


def without_server(why: str) -> None:
    """Skip the test that asked for a camera, or fail where one is promised."""
    text = f"no RTSP server ({why}): apt-get install {' '.join(PACKAGES)}"
    if os.environ.get("UPFRAME_REQUIRE_RTSP") == "1":
        pytest.fail(text)
    pytest.skip(text)


@contextmanager
def camera_of(**options: object) -> Generator[Camera]:
    """A camera that runs, and is gone at the end."""
    with Camera(**options) as camera:  # type: ignore[arg-type]
        yield camera

"""A live input: connected to, probed, and read until it is lost; then a new one takes its place.

The stages, each in its own file: the address (`address`), the connection (`connection`; `srt` for
what a child process reads; `paced` for a file), frames with their times (`frames`, `damage`), the
nominal rate (`rate`), and what holds them together (`reading`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from .address import LiveAddress
from .connection import Connection, UrlConnection
from .paced import FileConnection
from .reading import ConnectedInput
from .srt import ChildConnection


class LiveInput(ConnectedInput):
    """One connection to a live address."""

    def __init__(
        self,
        address: LiveAddress,
        *,
        now: Callable[[], float] = time.monotonic,
        sound: bool = True,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            address: From :func:`~upframe.io.live.address.find_address`.
            now: Monotonic seconds, for the arrival of packets.
            sound: Whether the sound is passed along.
        """

        def connect(lines: deque[str]) -> Connection:
            if address.needs_ffmpeg:
                return ChildConnection(address, now=now, lines=lines)
            return UrlConnection(address, now=now, lines=lines)

        super().__init__(address.shown, connect, sound=sound)


class PacedFile(ConnectedInput):
    """A file as a camera would send it: each packet at its time."""

    def __init__(
        self,
        path: Path,
        *,
        loop: bool = False,
        speed: float = 1.0,
        now: Callable[[], float] = time.monotonic,
        sound: bool = True,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            path: The file.
            loop: Whether it begins anew at its end, its time line going on.
            speed: Seconds of the file in a real second.
            now: For the arrival of packets. To run a whole stream faster, let it run as much
                faster as `speed` says.
            sound: Whether the sound is passed along.
        """

        def connect(_: deque[str]) -> Connection:
            return FileConnection(path, loop=loop, speed=speed, now=now)

        super().__init__(str(path), connect, sound=sound)

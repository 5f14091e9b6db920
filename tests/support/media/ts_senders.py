"""Senders of MPEG-TS in real time, whose timestamps, losses and pauses a test chooses."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from fractions import Fraction
from typing import Literal, Self

from support.media.ts_clips import FRAME_SAMPLES, SAMPLE_RATE, clip_of, tone
from support.media.ts_packets import PACKET_BYTES, TsWriter
from support.servers.camera import DEADLINE_SECONDS, free_port

TICKS = 90_000
"""A second, in timestamps of MPEG-TS."""

_DATAGRAM_BYTES = 7 * PACKET_BYTES
_JOIN_SECONDS = 10.0

Stamp = Callable[[int], "int | None"]
"""From the number of a picture to its timestamp in 90 kHz, taken modulo 2**33; None for none."""


def steady(rate: Fraction | int, start: int = TICKS) -> Stamp:
    """A clock that does what it should."""
    return lambda number: start + round(number * TICKS / Fraction(rate))


def jumping(stamp: Stamp, jumps: Mapping[int, float]) -> Stamp:
    """A clock that is so many seconds later (or earlier) from a picture on."""

    def jumped(number: int) -> int | None:
        value = stamp(number)
        by = sum(seconds for first, seconds in jumps.items() if number >= first)
        return None if value is None else value + round(by * TICKS)

    return jumped


def reset(stamp: Stamp, at: Collection[int]) -> Stamp:
    """A clock that starts from 0 again at some pictures."""

    def restarted(number: int) -> int | None:
        first = max((each for each in at if each <= number), default=None)
        value, origin = stamp(number), None if first is None else stamp(first)
        return value if value is None or origin is None else value - origin

    return restarted


def missing(stamp: Stamp, numbers: Collection[int]) -> Stamp:
    """A clock that says nothing at some pictures."""
    return lambda number: None if number in numbers else stamp(number)


class TsSender:
    """Sends pictures as fast as they are shown, to whoever connects, or by UDP to a port.

    Each connection begins with a keyframe; the pictures' numbers go on from one to the next.
    """

    def __init__(
        self,
        stamp: Stamp | None = None,
        *,
        rate: Fraction | int = 15,
        size: str = "64x48",
        sound: bool = False,
        protocol: Literal["tcp", "udp"] = "tcp",
        damaged: Collection[int] = (),
        sizes: Mapping[int, str] | None = None,
        jitter_seconds: float = 0.0,
    ) -> None:
        """Describe it; `start` starts it.

        Args:
            stamp: What the pictures' timestamps are; the sound's follow them.
            rate: Pictures a second.
            size: Pixels, such as 64x48.
            sound: Whether there is AAC too.
            protocol: TCP, where it listens, or UDP, where somebody else does.
            damaged: Numbers of pictures that lose a packet on the way.
            sizes: Other sizes, from the first keyframe after a picture on.
            jitter_seconds: By how much pictures are sent late, at most, by chance.
        """
        self.rate = Fraction(rate)
        self.stamp = stamp or steady(rate)
        self.sound = sound
        self.protocol: Literal["tcp", "udp"] = protocol
        self.port = free_port()
        self.sent = 0
        """Pictures so far, of all connections."""
        self.connections = 0
        self._damaged = frozenset(damaged)
        self._sizes = {0: size} | dict(sizes or {})
        self._jitter_seconds = jitter_seconds
        self._flows = threading.Event()
        self._flows.set()
        self._ended = threading.Event()
        self._hang_up = threading.Event()
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where to read it."""
        return f"{self.protocol}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, or begin to send."""
        self._ended.clear()
        if self.protocol == "tcp":
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._listener.settimeout(0.1)
        self._thread = threading.Thread(target=self._serve, name="ts-sender", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the connection and listen no more; `start` begins anew at the same port."""
        self._ended.set()
        self._flows.set()
        if self._thread is not None:
            self._thread.join(_JOIN_SECONDS)
            assert not self._thread.is_alive(), "the sender does not end"
        if self._listener is not None:
            self._listener.close()
        self._listener = self._thread = None

    def hold(self) -> None:
        """Keep the connection, and send nothing."""
        self._flows.clear()

    def go_on(self) -> None:
        self._flows.set()

    def hang_up(self) -> None:
        """Close the connection, and wait for the next one."""
        self._hang_up.set()

    def until_sent(self, number: int, seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until so many pictures were sent in all."""
        deadline = time.monotonic() + seconds
        while self.sent < number:
            assert time.monotonic() < deadline, f"{self.sent} pictures were sent, wanted {number}"
            time.sleep(0.01)

    def _serve(self) -> None:
        while not self._ended.is_set():
            if self._listener is None:
                with socket.socket(type=socket.SOCK_DGRAM) as out:
                    out.connect(("127.0.0.1", self.port))
                    self._send_all(out)
                continue
            with suppress(TimeoutError):
                out, _ = self._listener.accept()
                with out:
                    out.settimeout(_JOIN_SECONDS)
                    self._send_all(out)

    def _send_all(self, out: socket.socket) -> None:
        """Send until the other side, or the test, has had enough."""
        self.connections += 1
        self._hang_up.clear()
        flow = _Flow(self.rate, self.stamp, self._sizes, self._damaged, sound=self.sound)
        chance = random.Random(self.sent)
        began, first = time.monotonic(), self.sent
        while not self._ended.is_set() and not self._hang_up.is_set():
            if not self._flows.is_set():
                self._flows.wait()
                began, first = time.monotonic(), self.sent
            due = began + float((self.sent - first) / self.rate)
            late = chance.uniform(0.0, self._jitter_seconds)
            if self._ended.wait(max(0.0, due + late - time.monotonic())):
                return
            try:
                _give(out, flow.picture(self.sent), datagrams=self._listener is None)
            except ConnectionRefusedError:  # nobody listens at that port for datagrams, as yet
                pass
            except OSError:
                return
            self.sent += 1


class _Flow:
    """The bytes of one connection, picture by picture."""

    def __init__(
        self,
        rate: Fraction,
        stamp: Stamp,
        sizes: Mapping[int, str],
        damaged: frozenset[int],
        *,
        sound: bool,
    ) -> None:
        self._rate, self._stamp, self._sizes, self._damaged = rate, stamp, sizes, damaged
        self._writer = TsWriter(sound=sound)
        self._sound = sound
        self._sounded: int | None = None
        """Number of the next frame of sound."""
        self._clip = clip_of(sizes[0], rate)
        self._place = 0

    def picture(self, number: int) -> bytes:
        """All that is sent with one picture."""
        parts: list[bytes] = []
        if self._place == 0:
            size = self._sizes[max(first for first in self._sizes if first <= number)]
            self._clip = clip_of(size, self._rate)
            parts.append(self._writer.tables())
        packets = self._writer.video(self._clip[self._place], self._stamp(number))
        if number in self._damaged:
            del packets[len(packets) // 2]
        self._place = (self._place + 1) % len(self._clip)
        return b"".join((*parts, *packets, *(self._sound_until(number) if self._sound else ())))

    def _sound_until(self, number: int) -> list[bytes]:
        """The sound of one picture's time."""
        end = (number + 1) * SAMPLE_RATE / self._rate / FRAME_SAMPLES
        if self._sounded is None:
            self._sounded = -int(-number * SAMPLE_RATE / self._rate // FRAME_SAMPLES)
        packets: list[bytes] = []
        while self._sounded < end:
            frame = tone()[self._sounded % len(tone())]
            seconds = Fraction(self._sounded * FRAME_SAMPLES, SAMPLE_RATE)
            stamp = self._stamp(number)
            later = round((seconds - number / self._rate) * TICKS)
            packets += self._writer.sound(frame, None if stamp is None else stamp + later)
            self._sounded += 1
        return packets


def _give(out: socket.socket, data: bytes, *, datagrams: bool) -> None:
    if not datagrams:
        out.sendall(data)
        return
    for start in range(0, len(data), _DATAGRAM_BYTES):
        out.send(data[start : start + _DATAGRAM_BYTES])

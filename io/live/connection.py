"""One connection of a live input: packets with the moment they came, until it is over."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Stream

from ..errors import InputLost
from .address import LiveAddress
from .failure import cut_off, not_connected
from .release import Pacer, decoding_time

_UDP_SECONDS = 5.0
"""For a first answer by UDP, where TCP can be tried too."""


class Connection(Protocol):
    """What a live input reads from."""

    @property
    def container(self) -> InputContainer:
        """The open container."""
        ...

    @property
    def is_lossy(self) -> bool:
        """Whether packets get lost on the way without a word."""
        ...

    def packets(self, streams: Sequence[Stream]) -> Iterator[tuple[Packet[Stream], float]]:
        """Give packets of some streams and the monotonic second each came; ends by InputLost."""
        ...

    def stop(self) -> None:
        """End the reading, from any thread; at the latest after the address's read_seconds."""
        ...

    def close(self) -> None:
        """Let go of all, by the thread that reads. Safe to call twice."""
        ...


class UrlConnection:
    """A connection that this process's FFmpeg makes by itself."""

    def __init__(
        self, address: LiveAddress, *, now: Callable[[], float], lines: deque[str]
    ) -> None:
        """Connect.

        Args:
            address: Where to.
            now: Monotonic seconds, for the arrival of packets.
            lines: Gets what was tried.

        Raises:
            InputLost: if that does not work.
        """
        self._address = address
        self._now = now
        self._stopped = threading.Event()
        self._lines = lines
        self.is_lossy = address.protocol in ("rtp", "udp")
        self._pacer = Pacer() if address.format == "hls" else None
        self.container = self._connect()

    def packets(self, streams: Sequence[Stream]) -> Iterator[tuple[Packet[Stream], float]]:
        """Give packets of some streams and the monotonic second each came.

        Raises:
            InputLost: at its end, in whatever way.
        """
        demuxed = self.container.demux(*streams)
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                packet = next(demuxed, None)
            except (FFmpegError, OSError) as error:
                raise self._cut_off(error, began) from error
            if packet is None or packet.size == 0:  # PyAV ends with an empty one
                raise self._ended(time.monotonic() - began)
            if self._pacer is not None:
                wait = self._pacer.wait_seconds(decoding_time(packet), time.monotonic())
                self._stopped.wait(wait)
            yield packet, self._now()
        raise InputLost("ended", f"{self._address.shown}: stopped")

    def stop(self) -> None:
        """End the reading after the next packet, or the time-out."""
        self._stopped.set()

    def close(self) -> None:
        """Close the container."""
        self.container.close()

    def _connect(self) -> InputContainer:
        address = self._address
        if address.transport is None:
            return self._opened({}, address.connect_seconds)
        chosen = address.remembered.transport or address.transport
        if chosen == "auto":
            return self._udp_then_tcp()
        return self._over(chosen, address.connect_seconds)

    def _udp_then_tcp(self) -> InputContainer:
        """UDP has the shorter delay, where the network lets it through."""
        try:
            return self._over("udp", min(_UDP_SECONDS, self._address.connect_seconds))
        except InputLost as error:
            if error.reason not in ("timed-out", "failed", "unsupported"):
                raise  # TCP would not find it either
            self._lines.append(f"by UDP: {error}; trying TCP")
            if error.reason == "unsupported":  # the server's word: it need not be asked again
                self._address.remembered.transport = "tcp"
        return self._over("tcp", self._address.connect_seconds)

    def _over(self, transport: str, seconds: float) -> InputContainer:
        container = self._opened({"rtsp_transport": transport}, seconds)
        self._address.remembered.transport = "udp" if transport == "udp" else "tcp"
        self._lines.append(f"connected by {transport.upper()}")
        self.is_lossy = transport == "udp"
        return container

    def _opened(self, options: dict[str, str], seconds: float) -> InputContainer:
        address = self._address
        began = time.monotonic()
        try:
            return av.open(
                address.url,
                "r",
                format=address.format,
                options={**address.options, **options},
                metadata_errors="replace",
                timeout=(seconds, address.read_seconds),
            )
        except (FFmpegError, OSError, ValueError) as error:
            raise not_connected(
                error,
                shown=address.shown,
                url=address.url,
                elapsed_seconds=time.monotonic() - began,
                limit_seconds=min(seconds, address.read_seconds),
            ) from None  # its text has the URL with the password

    def _cut_off(self, error: Exception, began: float) -> InputLost:
        return cut_off(
            error,
            shown=self._address.shown,
            elapsed_seconds=time.monotonic() - began,
            limit=self._address.read_seconds,
        )

    def _ended(self, elapsed_seconds: float) -> InputLost:
        shown, limit = self._address.shown, self._address.read_seconds
        if elapsed_seconds >= 0.9 * limit:  # RTSP ends plainly by a time-out of its own
            return InputLost("timed-out", f"{shown}: nothing came for {elapsed_seconds:.1f} s")
        return InputLost("ended", f"{shown}: the other end has closed the connection")

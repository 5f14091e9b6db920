"""A line between two ends on this machine, which can be cut: a relay of TCP."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self

from support.servers.camera import free_port

_JOIN_SECONDS = 10.0
_STEP_SECONDS = 0.1
_CHUNK_BYTES = 1 << 16


class Line:
    """Leads from a port of its own to another one, for any number of connections.

    While it is cut, nothing of what is sent arrives, and nobody is told: as with a cable that is
    pulled out somewhere on the way. What was sent meanwhile is still there when it is mended.
    """

    def __init__(self, far_port: int) -> None:
        self.far_port = far_port
        self.port = free_port()
        self.connections = 0
        """Accepted so far."""
        self._whole = threading.Event()
        self._whole.set()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listener.settimeout(_STEP_SECONDS)

    def __enter__(self) -> Self:
        self._begin("line-accept", self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._whole.set()
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)
            assert not thread.is_alive(), f"{thread.name} does not end"
        self._listener.close()

    def through(self, url: str) -> str:
        """The same URL by way of this line."""
        return url.replace(f":{self.far_port}", f":{self.port}")

    def cut(self) -> None:
        """Let nothing through; those who connect now get no answer."""
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    def _begin(self, name: str, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)  # type: ignore[arg-type]
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        thread.start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            if not self._whole.wait(_STEP_SECONDS):
                continue
            with suppress(TimeoutError):
                near, _ = self._listener.accept()
                self.connections += 1
                self._begin(f"line-{self.connections}", self._connect, near)

    def _connect(self, near: socket.socket) -> None:
        """Relay one connection until one of its ends has closed."""
        with near, suppress(OSError), socket.create_connection(("127.0.0.1", self.far_port)) as far:
            over = threading.Event()
            back = threading.Thread(
                target=self._pump, args=(far, near, over), name="line-back", daemon=True
            )
            back.start()
            self._pump(near, far, over)
            back.join()

    def _pump(self, source: socket.socket, sink: socket.socket, over: threading.Event) -> None:
        try:
            while not (self._ended.is_set() or over.is_set()):
                source.settimeout(_STEP_SECONDS)
                with suppress(TimeoutError):
                    data = source.recv(_CHUNK_BYTES)
                    if not data:
                        return
                    self._send(sink, data, over)
        except OSError:  # reset by one end: the other one is closed too
            return
        finally:
            over.set()

    def _send(self, sink: socket.socket, data: bytes, over: threading.Event) -> None:
        """Send all of it, as soon as the line is whole and the far end takes it."""
        rest = memoryview(data)
        while rest and not (self._ended.is_set() or over.is_set()):
            if self._whole.wait(_STEP_SECONDS):
                with suppress(TimeoutError):
                    rest = rest[sink.send(rest) :]

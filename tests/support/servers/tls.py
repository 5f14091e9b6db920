"""Servers with certificates of a test's own authority; run as a program, one of them.

In a process of its own, since FFmpeg may hold Python's lock while it waits for an answer.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

HOST = "localhost"


@dataclass(frozen=True)
class Authority:
    """A folder with `ca.pem` and, by name, certificates that it has signed, with their keys."""

    folder: Path

    @property
    def path(self) -> str:
        return str(self.folder / "ca.pem")


def make_authority(folder: Path) -> Authority:
    """Sign certificates: `good`, `wrong` (another name), `expired`; `unknown` signs itself."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    names = f"subjectAltName=DNS:{HOST},IP:127.0.0.1"
    for name, more in (("ca", ()), ("unknown", ("-addext", names))):
        openssl("req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem",
                "-subj", f"/CN={name}", "-days", "2", *more)  # fmt: skip
    for name, extension, days in (
        ("good", names, "2"),
        ("wrong", "subjectAltName=DNS:other.example", "2"),
        ("expired", names, "-1"),
    ):
        (folder / f"{name}.ext").write_text(extension)
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr",
                "-subj", f"/CN={name}")  # fmt: skip
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                "-CAcreateserial", "-out", f"{name}.pem", "-extfile", f"{name}.ext",
                "-days", days)  # fmt: skip
    return Authority(folder)


class TlsServer:
    """A running server: what it was sent behind the handshakes, line by line."""

    def __init__(self, authority: Authority, certificate: str, pages: Path | None) -> None:
        folder = authority.folder
        words = [str(folder / f"{certificate}.pem"), str(folder / f"{certificate}.key")]
        self._process = subprocess.Popen(
            [sys.executable, __file__, *words, *([str(pages)] if pages else [])],
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self._sent = b""

    def stop(self) -> bytes:
        """End it, and give all that it was sent. Safe to call twice."""
        if self._process.returncode is None:
            self._process.terminate()
            self._sent = self._process.communicate()[0]
        return self._sent


@contextmanager
def tls_server(
    authority: Authority, certificate: str, pages: Path | None = None
) -> Generator[TlsServer]:
    """Serve files of a folder by HTTP, or nothing at all; whatever is sent is kept."""
    server = TlsServer(authority, certificate, pages)
    try:
        yield server
    finally:
        server.stop()


def _serve(certificate: str, key: str, pages: str | None = None) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listening = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    while True:
        plain, _ = listening.accept()
        threading.Thread(target=_answer, args=(context, plain, pages), daemon=True).start()


def _answer(context: ssl.SSLContext, plain: socket.socket, pages: str | None) -> None:
    plain.settimeout(2)
    with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as connection:
        sent = connection.recv(4096)
        sys.stdout.buffer.write(sent)
        sys.stdout.buffer.flush()
        if pages is None or not sent.startswith(b"GET "):
            return
        path = Path(pages) / sent.split()[1].decode().strip("/")
        page = path.read_bytes() if path.is_file() else b""
        status = b"200 OK" if page else b"404 Not Found"
        head = b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        connection.sendall(head % (status, len(page)) + page)


if __name__ == "__main__":
    _serve(*sys.argv[1:])

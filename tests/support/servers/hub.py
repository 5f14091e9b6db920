"""A model hub on this machine: the endpoints from which the real client fetches files.

``HEAD`` and ``GET /owner/name/resolve/main/file`` answer as the hub does: with the commit, the
ETag and, for large files, a redirect to another host name that serves the bytes, with ranges.
"""

from __future__ import annotations

import hashlib
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Fault = Literal["cut", "corrupt", "gated", "broken", "silent", "drip", "portal", "slow"]


@dataclass
class HubFile:
    """A file as the hub holds it, and what is wrong with serving it."""

    content: bytes
    large: bool = True
    """Kept under its SHA-256 and served by another host, as all weights are."""
    fault: Fault | None = None
    served: int = 0
    """How often its first byte was sent."""

    @property
    def etag(self) -> str:
        if self.large:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0%b" % (len(self.content), self.content)).hexdigest()


@dataclass
class Hub:
    """What the hub holds: repositories of files, by name."""

    repositories: dict[str, dict[str, HubFile]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, repo_id: str, filename: str, content: bytes, **kind: object) -> HubFile:
        file = HubFile(content, **kind)  # type: ignore[arg-type]
        self.repositories.setdefault(repo_id, {})[filename] = file
        return file

    def commit(self, repo_id: str) -> str:
        etags = "".join(file.etag for file in self.repositories[repo_id].values())
        return hashlib.sha1(etags.encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        owner, name, *rest = self.path.strip("/").split("/")
        repo_id, filename = f"{owner}/{name}", "/".join(rest[2:])
        repository = self.hub.repositories.get(repo_id)
        if repository is None:
            self._refuse(401, "RepoNotFound")
        elif filename not in repository:
            self._refuse(404, "EntryNotFound", self.hub.commit(repo_id))
        else:
            self._give(repo_id, filename, repository[filename], from_cdn=rest[0] == "cdn")

    def _give(self, repo_id: str, filename: str, file: HubFile, *, from_cdn: bool) -> None:
        match file.fault:
            case "gated":
                self._refuse(403, "GatedRepo")
            case "broken":
                self._refuse(503, "")
            case "silent":
                self.hub.stopped.wait(30)
            case "drip":
                self._drip()
            case "portal":
                self._send(b"<!DOCTYPE html>please log in", {}, 200)
            case _ if file.large and not from_cdn:
                self._redirect(repo_id, filename, file)
            case _:
                self._send_file(repo_id, file)

    def _redirect(self, repo_id: str, filename: str, file: HubFile) -> None:
        headers = {
            "X-Repo-Commit": self.hub.commit(repo_id),
            "X-Linked-ETag": f'"{file.etag}"',
            "X-Linked-Size": str(len(file.content)),
            "Location": f"http://localhost:{self.hub.port}/{repo_id}/cdn/main/{filename}",
        }
        self._send(b"", headers, 302)

    def _send_file(self, repo_id: str, file: HubFile) -> None:
        headers = {"ETag": f'"{file.etag}"', "X-Repo-Commit": self.hub.commit(repo_id)}
        start = int(self.headers.get("Range", "bytes=0-")[len("bytes=") :].split("-")[0])
        file.served += self.command == "GET" and start == 0
        content = file.content[start:]
        if start:
            size = len(file.content)
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        if file.fault == "slow":
            self.hub.stopped.wait(0.5)
        if file.fault == "corrupt":
            content = bytes(byte ^ 1 for byte in content)
        sent = content[: len(content) // 2] if file.fault == "cut" and not start else content
        if file.fault == "cut" and start:
            sent = b""  # having cut the line once, it has nothing more to give
        headers["Connection"] = "close"  # ends a body that is shorter than promised, too
        self._send(sent, headers, 206 if start else 200, promised=len(content))

    def _drip(self) -> None:
        """Send a header line now and then: no single wait is long, all together have no end."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(100):
            if self.hub.stopped.wait(0.2):
                break
            self.wfile.write(b"X-Drip-%d: 0\r\n" % number)
        self.close_connection = True

    def _refuse(self, status: int, code: str, commit: str | None = None) -> None:
        headers = {"X-Error-Code": code} | ({"X-Repo-Commit": commit} if commit else {})
        self._send(b"", headers, status)

    def _send(
        self, body: bytes, headers: dict[str, str], status: int, promised: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body) if promised is None else promised))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gave up waiting is what some tests are about."""


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Serve an empty hub on a free port."""
    hub = Hub()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()

"""A web server of a test's own files and playlists, which counts who asked for what."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HlsServer:
    """Serves `pages` by their paths on 127.0.0.1."""

    def __init__(self, pages: Mapping[str, bytes], login: str | None = None) -> None:
        """Describe it; `login` is what an Authorization header must end with."""
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                outer.asked.append(path)
                page = pages.get(path)
                if login is not None and not (self.headers["Authorization"] or "").endswith(login):
                    self._answer(401, b"")
                else:
                    self._answer(404 if page is None else 200, page or b"")

            def _answer(self, code: int, content: bytes) -> None:
                self.send_response(code)
                if code == 401:
                    self.send_header("WWW-Authenticate", 'Basic realm="test"')
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Nothing on stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def url(self, path: str, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.port}{path}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def hls_server(pages: Mapping[str, bytes], login: str | None = None) -> Generator[HlsServer]:
    server = HlsServer(pages, login)
    server.start()
    try:
        yield server
    finally:
        server.stop()

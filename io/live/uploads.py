"""HLS on a web server: each file is put there by us, and its answer looked at.

FFmpeg could put them too, but does not notice when the server refuses, so that a stream which
nobody can see would look well for ever.
"""

from __future__ import annotations

import base64
import http.client
import io
from contextlib import suppress
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from ..errors import OutputLost, Reason
from ..redaction import redacted

_WRITE = 2
"""In FFmpeg's flags of opening: AVIO_FLAG_WRITE."""
_MAX_ANSWER_BYTES = 1 << 20
_REASONS: dict[int, Reason] = {401: "unauthorised", 403: "unauthorised", 404: "not-found"}


class Uploads:
    """Opens files for FFmpeg's HLS muxer, and sends them when they are closed.

    Args:
        url: of the playlist, with credentials.
        timeout_seconds: longest wait for each answer.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        parts = urlsplit(url)
        self._shown = redacted(url)
        self._timeout = timeout_seconds
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, parts.port
        self._headers = _login(parts.netloc)
        self._query = f"?{parts.query}" if parts.query else ""
        self._connection: http.client.HTTPConnection | None = None
        self._playlist = self._ask("GET", parts.path, missing=True)
        self._error: OutputLost | None = None
        self._ended = False

    @property
    def goes_on(self) -> bool:
        """Whether a playlist is there already, to be gone on with."""
        return self._playlist.startswith(b"#EXTM3U")

    def open(self, url: str, flags: int, options: dict[str, str]) -> BinaryIO:
        """Open one of the muxer's files, or delete it, as `options` ask: what `av.open` wants."""
        path = urlsplit(url).path
        if options.get("method") == "DELETE":
            with suppress(OutputLost):  # an old segment that stays harms nobody
                self._ask("DELETE", path)
            return io.BytesIO()
        if not flags & _WRITE:
            return io.BytesIO(self._playlist)
        return _Upload(self, path)

    def put(self, path: str, data: bytes) -> None:
        """Send a file; what goes wrong is kept for :meth:`check`, since FFmpeg would lose it."""
        if self._error is None and not self._ended:
            try:
                self._ask("PUT", path, data)
            except OutputLost as error:
                self._error = error

    def check(self) -> None:
        """Raise what has gone wrong.

        Raises:
            OutputLost: if the server did not take a file.
        """
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Send nothing more, and let go of the connection. Safe to call twice."""
        self._ended = True
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(
        self, method: str, path: str, data: bytes | None = None, *, missing: bool = False
    ) -> bytes:
        """Send a request, over a new connection where the server has closed the old one."""
        is_new = self._connection is None
        try:
            status, answer = self._request(method, path, data)
        except (http.client.HTTPException, ConnectionError) as error:
            self._disconnect()
            if not is_new:
                return self._ask(method, path, data, missing=missing)
            raise self._lost(error) from error
        except OSError as error:
            self._disconnect()
            raise self._lost(error) from error
        if 200 <= status < 300:
            return answer
        # servers that only take files answer a GET with "not allowed" or "not implemented"
        if missing and status in (404, 405, 410, 501):
            return b""
        reason = _REASONS.get(status, "failed")
        raise OutputLost(reason, f"{self._shown}: {method} was answered with {status}")

    def _request(self, method: str, path: str, data: bytes | None) -> tuple[int, bytes]:
        if self._connection is None:
            kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
            self._connection = kind(self._host or "", self._port, timeout=self._timeout)
        self._connection.request(method, f"{path}{self._query}", data, self._headers)
        with self._connection.getresponse() as response:
            answer = response.read(_MAX_ANSWER_BYTES)
            if response.read(1):  # the rest would be taken for the next answer
                self._disconnect()
        return response.status, answer

    def _lost(self, error: Exception) -> OutputLost:
        reason: Reason = "failed"
        if isinstance(error, ConnectionRefusedError):
            reason = "refused"
        elif isinstance(error, TimeoutError):
            reason = "timed-out"
        elif isinstance(error, OSError) and not isinstance(error, ConnectionError):
            reason = "unreachable"
        text = getattr(error, "strerror", None) or error
        return OutputLost(reason, redacted(f"{self._shown}: not connected: {text}"))


class _Upload(io.BytesIO):
    """A file of the muxer's, sent when it is closed."""

    def __init__(self, uploads: Uploads, path: str) -> None:
        super().__init__()
        self._uploads, self._path = uploads, path

    def close(self) -> None:
        """Send it. Safe to call twice."""
        if not self.closed:
            self._uploads.put(self._path, self.getvalue())
        super().close()


def _login(authority: str) -> dict[str, str]:
    login, at, _ = authority.rpartition("@")
    if not at:
        return {}
    token = base64.b64encode(unquote(login).encode()).decode()
    return {"Authorization": f"Basic {token}"}

"""The muxer of a live output: writes packets as they come, with timestamps that rise from 0.

Used only in the process of :mod:`upframe.io.live.publisher_child`, since opening, writing and
closing can block.
"""

from __future__ import annotations

import base64
import http.client
import io
import re
import ssl
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from functools import partial
from io import BytesIO
from typing import BinaryIO, cast
from urllib.parse import unquote, urlsplit

import av
from av.container import OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Stream

from ..encode.packets import add_copied, mux
from ..errors import OutputLost, Reason, SinkRefused
from ..redaction import redacted, redacted_target
from ..web import Untrusted, tls_context
from .failure import BY_STATUS
from .target import CARRIED
from .values import Encoded

_TICK = Fraction(1, 90_000)
"""Seconds; requested for video, but a muxer may have its own."""
_SOUND: dict[str, tuple[str, ...]] = {
    "mpegts": ("aac", "mp2", "mp3", "ac3", "eac3", "opus", "aac_latm", "dts"),
    "flv": ("aac", "mp3", "pcm_alaw", "pcm_mulaw", "speex"),
    "whip": ("opus",),
    "webm": ("opus", "vorbis"),
}
"""Sound that players of a format know; some muxers accept any, and mark it as private data."""
_MAX_ANSWER_BYTES = 1 << 20


class Muxer:
    """Writes the packets of one connection, or of one file.

    `write` and `close` raise FFmpegError or OSError if that fails.

    Args:
        output: a URL or path that FFmpeg opens itself, or an open file.
        form: FFmpeg's name of the muxer.
        options: of the muxer and its protocol.
        primer: a NUT file whose streams are the templates.
        at_once: whether the header is written now, or before the first packet.
        opener: opens each of the muxer's files instead of FFmpeg: `io_open` of `av.open`.

    Raises:
        SinkRefused: if the muxer cannot hold the video.
        FFmpegError, OSError: if the header cannot be written.
    """

    def __init__(
        self,
        output: str | BinaryIO,
        form: str,
        options: dict[str, str],
        primer: bytes,
        *,
        at_once: bool = True,
        opener: Callable[[str, int, dict[str, str]], BinaryIO] | None = None,
    ) -> None:
        self.frames = 0
        """Video packets written."""
        self.first_seconds: Fraction | None = None
        """Presentation time of the first frame on the packets' time line."""
        self.last_seconds = Fraction(0)
        """The same of the last frame."""
        self.notes: list[str] = []
        """Messages about streams that are left out."""
        self.origin: Fraction | None = None
        """Time of the output's 0 on the packets' time line; None before the first packet."""
        self._last: dict[str, int] = {}
        # microseconds; 0 means for ever
        options = options | {"flush_packets": "1", "max_interleave_delta": "1"}
        where, muxer = output, form
        if "tls_verify" in options and form == "flv":
            where, muxer, options = _tee(str(output), form, options), "tee", {}
        self._output: OutputContainer = av.open(
            where, "w", format=muxer, options=options, io_open=opener
        )
        try:
            with av.open(BytesIO(primer), format="nut") as template:
                self._streams = {"video": self._add_video(template.streams.best("video"), form)}
                self._add_sound(template.streams.best("audio"), form)
            if at_once:
                self._output.start_encoding()
        except BaseException:
            self.abandon()
            raise

    @property
    def has_sound(self) -> bool:
        """Whether sound is written too; the muxer then holds back the latest packet."""
        return "sound" in self._streams

    def _add_video(self, template: Stream | None, form: str) -> Stream:
        if template is None:
            raise SinkRefused("the primer holds no video")
        try:
            stream = add_copied(self._output, template)
        except (ValueError, FFmpegError) as error:
            raise SinkRefused(f"{form} cannot hold {template.name} video: {error}") from error
        if form in ("mp4", "mov") and template.name == "hevc":
            stream.codec_context.codec_tag = "hvc1"  # Apple's players require it
        stream.time_base = _TICK
        return stream

    def _add_sound(self, template: Stream | None, form: str) -> None:
        if template is None:
            return
        known = _SOUND.get(CARRIED.get(form, form))
        try:
            if known is not None and template.name not in known:
                raise ValueError(f"wanted {', '.join(known)}")
            self._streams["sound"] = add_copied(self._output, template)
        except (ValueError, FFmpegError) as error:
            self.notes.append(f"{form} cannot hold {template.name}, sound is left out: {error}")

    def write(self, packet: Encoded) -> bool:
        """Write a packet.

        Returns:
            False if it has no place: it is earlier than the first keyframe, or sound where none
            is written.
        """
        stream = self._streams.get(packet.kind)
        if stream is None:
            return False
        if self.origin is None:
            if packet.kind != "video" or not packet.is_keyframe:
                return False
            self._output.start_encoding()
            self.origin = packet.dts * packet.time_base
        if packet.dts * packet.time_base < self.origin:
            return False
        mux(self._output, self._timed(packet, stream, self.origin))
        if packet.kind == "video":
            first, seconds = self.first_seconds, packet.seconds
            self.first_seconds = seconds if first is None else min(seconds, first)
            self.last_seconds = max(seconds, self.last_seconds) if self.frames else seconds
            self.frames += 1
        return True

    def _timed(self, packet: Encoded, stream: Stream, origin: Fraction) -> Packet[Stream]:
        """Make the muxer's packet, whose dts must rise however coarse its ticks are."""
        tick = cast("Fraction", stream.time_base)
        dts = round((packet.dts * packet.time_base - origin) / tick)
        dts = max(dts, self._last.get(packet.kind, -1) + 1)
        self._last[packet.kind] = dts
        made: Packet[Stream] = Packet(packet.data)
        made.dts = dts
        made.pts = max(dts, round((packet.seconds - origin) / tick))
        made.duration = round(packet.duration * packet.time_base / tick)
        made.time_base = tick
        made.is_keyframe = packet.is_keyframe
        made.stream = stream
        return made

    def close(self) -> None:
        """Write what the muxer holds back, and the trailer."""
        self._output.close()

    def abandon(self) -> None:
        """Close a muxer whose other end is gone."""
        with suppress(FFmpegError, OSError, ValueError):  # a known error, raised again
            self._output.close()


def _tee(url: str, form: str, options: dict[str, str]) -> str:
    """Write an output for FFmpeg's tee, which passes options to the protocol; PyAV does not."""
    given = ":".join(f"{name}={_escaped(value)}" for name, value in {"f": form, **options}.items())
    return f"[{_escaped(given)}]{_escaped(url)}"


def _escaped(text: str) -> str:
    return re.sub(r"([\\'|\[\]:\s])", r"\\\1", text)


_WRITE = 2
"""In FFmpeg's flags of opening: AVIO_FLAG_WRITE."""
_REASONS: dict[type[Exception], Reason] = {
    ssl.SSLCertVerificationError: "untrusted",
    ConnectionRefusedError: "refused",
    TimeoutError: "timed-out",
    ConnectionError: "failed",
    OSError: "unreachable",
}
"""The first kind that fits counts."""


class HlsUploader:
    """Opens files for FFmpeg's HLS muxer, and uploads them when they are closed.

    FFmpeg could upload them itself, but ignores a server's refusal, so that a stream which is not
    there would look healthy. `url` is that of the playlist, with credentials; each answer may take
    `timeout_seconds`.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        parts = urlsplit(url)
        self._display = redacted_target(url)
        self._timeout = timeout_seconds
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, parts.port
        self._headers = _login(parts.netloc)
        self._query = f"?{parts.query}" if parts.query else ""
        self._connection: http.client.HTTPConnection | None = None
        self._playlist = self._ask("GET", parts.path, missing=True)
        self.continues = self._playlist.startswith(b"#EXTM3U")
        """Whether the server has a playlist already, which is to be continued."""
        self._error: OutputLost | None = None
        self._ended = False

    def open(self, url: str, flags: int, options: dict[str, str]) -> BinaryIO:
        """Open one of the muxer's files, or delete it, as `options` say: `io_open` of `av.open`."""
        path = urlsplit(url).path
        if options.get("method") == "DELETE":
            with suppress(OutputLost):  # an old segment that stays is harmless
                self._ask("DELETE", path)
            return io.BytesIO()
        if not flags & _WRITE:
            return io.BytesIO(self._playlist)
        return _Upload(self, path)

    def put(self, path: str, data: bytes) -> None:
        """Upload a file; an error is kept for :meth:`check`, since FFmpeg would lose it."""
        if self._error is None and not self._ended:
            try:
                self._ask("PUT", path, data)
            except OutputLost as error:
                self._error = error

    def check(self) -> None:
        """Raise the first error, OutputLost, if the server refused a file."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Upload nothing more, and close the connection. May be called twice."""
        self._ended = True
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(
        self, method: str, path: str, data: bytes | None = None, *, missing: bool = False
    ) -> bytes:
        """Send a request, over a new connection if the server has closed the old one."""
        is_new = self._connection is None
        try:
            status, answer = self._request(method, path, data)
        except (http.client.HTTPException, OSError) as error:
            self._disconnect()
            was_closed = isinstance(error, http.client.HTTPException | ConnectionError)
            if was_closed and not is_new:
                return self._ask(method, path, data, missing=missing)
            raise self._lost(error) from error
        if 200 <= status < 300:
            return answer
        # servers that only accept files answer a GET with "not allowed" or "not implemented"
        if missing and status in (404, 405, 410, 501):
            return b""
        reason = BY_STATUS.get(status, "failed")
        raise OutputLost(reason, f"{self._display}: {method} was answered with {status}")

    def _request(self, method: str, path: str, data: bytes | None) -> tuple[int, bytes]:
        if self._connection is None:
            kind, where = http.client.HTTPConnection, (self._host or "", self._port)
            if self._secure:
                kind = partial(http.client.HTTPSConnection, context=tls_context())
            self._connection = kind(*where, timeout=self._timeout)
        self._connection.request(method, f"{path}{self._query}", data, self._headers)
        with self._connection.getresponse() as response:
            answer = response.read(_MAX_ANSWER_BYTES)
            if response.read(1):  # the rest would be read as the next answer
                self._disconnect()
        return response.status, answer

    def _lost(self, error: Exception) -> OutputLost:
        kind = next((each for each in _REASONS if isinstance(error, each)), None)
        reason = _REASONS[kind] if kind else "failed"
        if isinstance(error, ssl.SSLCertVerificationError):
            error = Untrusted(error)
        text = getattr(error, "strerror", None) or error
        text = redacted(f"{self._display}: not connected: {text}", published=True)
        return OutputLost(reason, text)


class _Upload(io.BytesIO):
    """A file of the muxer, uploaded when it is closed."""

    def __init__(self, uploads: HlsUploader, path: str) -> None:
        super().__init__()
        self._uploads, self._path = uploads, path

    def close(self) -> None:
        """Upload the file. May be called twice."""
        if not self.closed:
            self._uploads.put(self._path, self.getvalue())
        super().close()


def _login(authority: str) -> dict[str, str]:
    login, at, _ = authority.rpartition("@")
    if not at:
        return {}
    token = base64.b64encode(unquote(login).encode()).decode()
    return {"Authorization": f"Basic {token}"}

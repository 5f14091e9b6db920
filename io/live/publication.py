"""A live output that others receive: a connection, or a playlist that they fetch."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from av.error import FFmpegError

from ..errors import OutputLost, Reason
from ..redaction import redacted
from .failure import reason_of, resolves
from .feeding import Muxer
from .relay import Relay
from .targets import IO_TIMEOUT_SECONDS, LiveTarget
from .uploads import Uploads
from .values import Encoded
from .wire import Event, Note


class Publication:
    """One connection.

    Args:
        target: where to.
        primer: of the encoder.
        tell: takes what people should know.

    Raises:
        OutputLost: if it cannot be made.
        SinkRefused: if the format does not hold the video.
    """

    def __init__(self, target: LiveTarget, primer: bytes, tell: Callable[[Event], None]) -> None:
        self._target = target
        self._relay: Relay | None = None
        self._uploads: Uploads | None = None
        with self._saying("not connected"):
            if target.needs_ffmpeg:
                self._relay = Relay(target)
            if target.kind == "hls" and "://" in target.url:
                self._uploads = Uploads(target.url, IO_TIMEOUT_SECONDS)
            self._muxer = self._muxing(primer)
        for note in self._muxer.notes:
            tell(Note(note))

    def _muxing(self, primer: bytes) -> Muxer:
        target, options = self._target, self._target.options
        if target.kind == "hls" and not self._goes_on():
            # FFmpeg would begin even the first playlist with a discontinuity
            options = options | {"hls_flags": options["hls_flags"].replace("append_list+", "")}
        output = target.url if self._relay is None else self._relay.stream
        opener = None if self._uploads is None else self._uploads.open
        return Muxer(output, target.format, options, primer, opener=opener)

    def _goes_on(self) -> bool:
        if self._uploads is not None:
            return self._uploads.goes_on
        return Path(self._target.url).exists()

    @property
    def has_sound(self) -> bool:
        """Whether the muxer holds the latest packet back, to order it with the sound."""
        return self._muxer.has_sound

    def write(self, packet: Encoded) -> bool:
        """Send a packet; False if it has no place in this connection.

        Raises:
            OutputLost: if the far end does not take it.
        """
        with self._saying("connection lost"):
            written = self._muxer.write(packet)
            if self._relay is not None:
                self._relay.stream.flush()
            if self._uploads is not None:
                self._uploads.check()
        return written

    def close(self) -> None:
        """Send what is held back, and say goodbye.

        Raises:
            OutputLost: if the far end does not take it.
        """
        with self._saying("connection lost at its end"):
            self._muxer.close()
            if self._uploads is not None:
                self._uploads.check()
        if self._relay is not None:
            self._relay.close()

    def abandon(self) -> None:
        """Let go of it; the process ends anyway."""
        if self._uploads is not None:
            self._uploads.close()  # half a segment is none

    @contextmanager
    def _saying(self, what: str) -> Generator[None]:
        begun = time.monotonic()
        try:
            yield
        except (OSError, FFmpegError) as error:
            if self._relay is not None:
                raise self._relay.lost() from error
            raise self._lost(what, error, time.monotonic() - begun) from error

    def _lost(self, what: str, error: Exception, elapsed_seconds: float) -> OutputLost:
        limit = float(IO_TIMEOUT_SECONDS)
        reason: Reason = reason_of(error, elapsed_seconds=elapsed_seconds, limit_seconds=limit)
        if reason == "failed" and isinstance(error, (ConnectionError, EOFError)):
            reason = "ended"
        text = str(getattr(error, "strerror", None) or error)
        if reason == "failed" and not resolves(self._target.url):
            reason, text = "unreachable", "no such host"
        return OutputLost(reason, redacted(f"{self._target.shown}: {what}: {text}"))

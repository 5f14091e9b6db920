"""The contracts of the two ends: a Source yields pictures, a Sink accepts them. Both block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ..filters.frame import Picture, StreamInfo


class Source(Protocol):
    """Decoded pictures in presentation order, with strictly rising pts."""

    @property
    def info(self) -> StreamInfo:
        """What holds for all its pictures; known once the source is open."""
        ...

    def __iter__(self) -> Iterator[Picture]:
        """Yield every picture once; decoder and demuxer are drained at the end.

        Raises:
            TruncatedMedia: after the last whole picture of an input that ends too early.
            UnsupportedMedia: if it cannot be decoded.
        """
        ...

    def warnings(self) -> list[str]:
        """Return the problems noticed and corrected so far: missing timestamps, damaged frames."""
        ...

    def close(self) -> None:
        """Release files and decoders. May be called twice, by the thread that iterates."""
        ...


class Sink(Protocol):
    """Encodes and writes pictures in order."""

    def write(self, picture: Picture) -> None:
        """Encode the next picture; blocks while the far end is slow.

        Raises:
            SinkFull: if it cannot be written.
            ReaderGone: if the reader has closed its end.
        """
        ...

    def finish(self) -> None:
        """Drain the encoder and complete the output."""
        ...

    def abort(self) -> None:
        """Stop at once and leave nothing behind. May be called twice, and after `finish`."""
        ...

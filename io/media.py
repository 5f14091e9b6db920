"""The contracts of the two ends: a Source gives pictures, a Sink takes them. Both block."""

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
        """Give every picture once; decoder and demuxer are drained at the end.

        Raises:
            TruncatedMedia: after the last whole picture of an input that ends too early.
            UnsupportedMedia: if it cannot be decoded.
        """
        ...

    def warnings(self) -> list[str]:
        """What was noticed and mended so far, for people: missing timestamps, damaged frames."""
        ...

    def close(self) -> None:
        """Let go of files and decoders. Safe to call twice, by the thread that iterates."""
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
        """Stop at once and leave nothing behind. Safe to call twice, and after `finish`."""
        ...

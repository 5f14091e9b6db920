"""What a file holds besides pictures and packets, as traits by which two files are compared.

This module imports nothing of ours, so that whatever module knows a concept can describe it: with a
function ``name_traits(…) -> Iterator[Trait]``, called by :func:`upframe.io.losses.contents_of`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


@dataclass(frozen=True, slots=True, order=True)
class Trait:
    """One thing that a file holds, and that its conversion can lose."""

    subject: str
    """What of the file has it, for people: ``file``, ``video``, ``frames``, ``audio #1``."""
    kind: str
    """Lower case, without values: ``icc``, ``hdr10+``, ``timecode``, ``tag title``. A trait is kept
    if the output has one of the same kind and value."""
    text: str
    """For people: ``ICC profile 'Display P3'``, ``time code 01:00:00:00``."""
    value: str = ""
    """What must be the same in the output; empty if it is enough that it has the kind."""

    def __str__(self) -> str:
        return (
            f"{self.subject} {self.text}" if "#" in self.subject else f"{self.subject}: {self.text}"
        )


@dataclass(frozen=True, slots=True)
class Loss:
    """A trait that an output does not have, or has otherwise."""

    trait: Trait
    reason: str
    """For people: ``not kept``, or what it has become."""

    def __str__(self) -> str:
        return f"{self.trait}: {self.reason}"


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A file in which traits are looked for: open, its first frames decoded."""

    path: Path | None
    """The regular file, if it is one, for what FFmpeg does not show."""
    container: InputContainer
    video: VideoStream
    frames: tuple[VideoFrame, ...]
    """The first few of `video`; none if it cannot be decoded."""
    packet: Packet[VideoStream] | None = None
    """The first of `video`, if it is read."""

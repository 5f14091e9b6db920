"""Limits on what one input may contain; anything larger is refused before work is spent on it.

No real film is refused. 16384x12288, also rotated, exceeds the largest pictures of HEVC's levels
(16384x8704) and of the largest camera sensors; a disc has up to 64 audio and subtitle streams, and
font collections some hundred attachments. The limits belong to a process, like the kernel's: the
daemon passes those of its configuration to its children in the environment.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field, ValidationError

from .errors import TooLargeMedia, UnsupportedMedia, WrongLimits

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

VARIABLE = "UPFRAME_LIMITS"
"""Environment variable: a JSON object of the limits that differ from the defaults."""


class InputLimits(BaseModel, frozen=True, extra="forbid"):
    """The limits of one process."""

    streams: int = Field(
        default=256, ge=1, description="Streams of an input, not counting attachments."
    )
    chapters: int = Field(default=10_000, ge=0, description="Chapters of an input.")
    attachments: int = Field(default=1000, ge=0, description="Attachments of an input.")
    width: int = Field(default=16_384, ge=16, description="Longer side of an input's pictures.")
    height: int = Field(default=12_288, ge=16, description="Shorter side of an input's pictures.")
    memory_mebibytes: int | None = Field(
        default=None, ge=2048, description="Memory of a worker on the CPU (all of it)."
    )

    @property
    def options(self) -> dict[str, str]:
        """FFmpeg's options for opening a container; for some formats it decodes pictures then."""
        return {
            "max_streams": str(self.streams + self.attachments + 1),  # so that an excess is seen
            "max_pixels": str(self.width * self.height),
        }

    def check_size(self, width: int, height: int, name: str) -> None:
        """Refuse pictures that are too large, in either orientation.

        Raises:
            TooLargeMedia: if they are.
        """
        longest, shortest = max(self.width, self.height), min(self.width, self.height)
        if max(width, height) > longest or min(width, height) > shortest:
            raise self._too_large(f"{width}x{height}", name)

    def _too_large(self, got: str, name: str) -> TooLargeMedia:
        most = f"the limit is {self.width}x{self.height} ([limits] width, height)"
        return TooLargeMedia(f"{name}: too large for memory: got {got}, {most}")

    def check(self, container: InputContainer, name: str) -> None:
        """Refuse a container with too much in it; its decoders will refuse later frames.

        Raises:
            TooLargeMedia: if its pictures are too large.
            UnsupportedMedia: if it has too many of something.
        """
        kinds = Counter(stream.type == "attachment" for stream in container.streams)
        found = {"streams": kinds[False], "attachments": kinds[True]}
        for kind, count in {**found, "chapters": len(container.chapters())}.items():
            if count > (limit := getattr(self, kind)):
                raise UnsupportedMedia(
                    f"{name}: got {count} {kind}, the limit is {limit} ([limits] {kind})"
                )
        for stream in container.streams.video:
            # a stream without a decoder has none, whatever the type hints say
            if (context := getattr(stream, "codec_context", None)) is not None:
                context.options = {**context.options, "max_pixels": self.options["max_pixels"]}
                if not context.width and _is_refused(container, stream):
                    raise self._too_large("more", name)
                self.check_size(context.width, context.height, name)


_IMAGES = re.compile(r"_pipe$|gif|image2|apng|webp")
"""Formats in which only the pictures themselves give the size."""


def _is_refused(container: InputContainer, stream: VideoStream) -> bool:
    """Return whether the decoder refuses a picture without a size as too large."""
    from av.error import ArgumentError, FFmpegError  # reading the configuration needs no PyAV

    try:
        return bool(_IMAGES.search(container.format.name)) and not next(container.decode(stream))
    except (FFmpegError, StopIteration) as error:  # other data are invalid data
        return isinstance(error, ArgumentError)


def limits() -> InputLimits:
    """Return the limits of this process.

    Raises:
        WrongLimits: if the environment's are invalid.
    """
    try:
        return InputLimits.model_validate_json(os.environ.get(VARIABLE) or "{}")
    except ValidationError as error:
        got = os.environ[VARIABLE]
        faults = [": ".join(map(str, (*one["loc"], one["msg"]))) for one in error.errors()]
        raise WrongLimits(
            f"{VARIABLE}: got {got[:80]!r}, wanted an object of limits: {'; '.join(faults)}"
        ) from error

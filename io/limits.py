"""How much one input may bring along: what is above is refused before work is spent on it.

No real film is refused. 16384x12288, also turned, is above the largest pictures of HEVC's levels
(16384x8704) and of the largest camera sensors; a disc has up to 64 sound and subtitle streams, and
collections of fonts some hundred attachments. The limits are those of a process, as the kernel's
are: the daemon hands those of its configuration to its children by the environment.
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
"""Of the environment: a JSON object of those that are not the defaults."""


class InputLimits(BaseModel, frozen=True, extra="forbid"):
    """The limits of one process."""

    streams: int = Field(default=256, ge=1, description="of an input, without its attachments")
    chapters: int = Field(default=10_000, ge=0)
    attachments: int = Field(default=1000, ge=0)
    width: int = Field(default=16_384, ge=16, description="of an input's pictures, or their height")
    height: int = Field(default=12_288, ge=16, description="the shorter of the two sides")
    memory_mebibytes: int | None = Field(
        default=None, ge=2048, description="of a worker on the CPU (as much as the machine has)"
    )

    @property
    def options(self) -> dict[str, str]:
        """FFmpeg's, for opening a container, while which it decodes pictures of some formats."""
        return {
            "max_streams": str(self.streams + self.attachments + 1),  # so that one too many shows
            "max_pixels": str(self.width * self.height),
        }

    def check_size(self, width: int, height: int, name: str) -> None:
        """Refuse pictures that are too large, whichever side is the longer.

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
        """Refuse a container with too much in it, by its header; later frames by its decoders.

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
            # a stream of a codec without a decoder has none, whatever the type hints say
            if (context := getattr(stream, "codec_context", None)) is not None:
                context.options = {**context.options, "max_pixels": self.options["max_pixels"]}
                if not context.width and _is_refused(container, stream):
                    raise self._too_large("more", name)
                self.check_size(context.width, context.height, name)


_IMAGES = re.compile(r"_pipe$|gif|image2|apng|webp")
"""Formats of which nothing says the size but the pictures themselves."""


def _is_refused(container: InputContainer, stream: VideoStream) -> bool:
    """Tell whether a picture without a size is one that its decoder refuses as too large."""
    from av.error import ArgumentError, FFmpegError  # the configuration is read without PyAV

    try:
        return bool(_IMAGES.search(container.format.name)) and not next(container.decode(stream))
    except (FFmpegError, StopIteration) as error:  # one that is no picture is invalid data
        return isinstance(error, ArgumentError)


def limits() -> InputLimits:
    """Give those of this process.

    Raises:
        WrongLimits: if the environment's make no sense.
    """
    try:
        return InputLimits.model_validate_json(os.environ.get(VARIABLE) or "{}")
    except ValidationError as error:
        got = os.environ[VARIABLE]
        faults = [": ".join(map(str, (*one["loc"], one["msg"]))) for one in error.errors()]
        raise WrongLimits(
            f"{VARIABLE}: got {got[:80]!r}, wanted an object of limits: {'; '.join(faults)}"
        ) from error

"""What the tests of pipes share: streams in memory that behave like pipes, clips, comparisons."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from typing import Any

import torch
from support.media.fakes import moving_pictures, stream_info

from upframe.filters.frame import Picture, StreamInfo
from upframe.io.pipes import PipeFormat, open_pipe_sink, open_pipe_source

RATE = Fraction(24000, 1001)


class Slot(BytesIO):
    """A stream of our own that is not a file: PyAV must not find a way to seek in it."""

    def seekable(self) -> bool:
        return False


class Tap:
    """A reader that remembers every write, and leaves after `limit` bytes."""

    def __init__(self, limit: int | None = None) -> None:
        self.data = bytearray()
        self.limit = limit

    def write(self, data: memoryview, /) -> int:
        if self.limit is not None and len(self.data) >= self.limit:
            raise BrokenPipeError(32, "Broken pipe")
        self.data += data
        return len(data)

    def readinto(self, buffer: memoryview, /) -> int:
        raise NotImplementedError

    def fileno(self) -> int:
        raise AttributeError


def write(
    info: StreamInfo, pictures: Sequence[Picture], format_name: PipeFormat, tap: Tap | None = None
) -> bytes:
    tap = tap or Tap()
    sink = open_pipe_sink(tap, format_name, info)
    for picture in pictures:
        sink.write(picture)
    sink.finish()
    return bytes(tap.data)


def clip(
    pix_fmt: str = "yuv420p", num: int = 6, **changes: Any
) -> tuple[StreamInfo, list[Picture]]:
    info = replace(stream_info(pix_fmt=pix_fmt, rate=RATE), **changes)
    pictures = moving_pictures(num, pix_fmt=pix_fmt, rate=RATE, color=info.color)
    return info, pictures


def read(data: bytes, **options: Any) -> list[Picture]:
    return list(open_pipe_source(Slot(data), **options))


def ffprobe(data: bytes, *entries: str) -> dict[str, Any]:
    shown = ["-show_entries", ":".join(entries), "-of", "json"]
    command = ["ffprobe", "-v", "error", "-count_frames", *shown, "-"]
    done = subprocess.run(command, input=data, capture_output=True, check=True)
    return json.loads(done.stdout)


def assert_same_planes(pictures: Sequence[Picture], others: Sequence[Picture]) -> None:
    for picture, other in zip(pictures, others, strict=True):
        assert picture.pix_fmt == other.pix_fmt
        assert all(map(torch.equal, picture.planes, other.planes))
        if picture.alpha is not None:
            assert other.alpha is not None
            assert torch.equal(picture.alpha, other.alpha)

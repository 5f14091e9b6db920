"""Real frames, at any size: those of a clip, or of the demo's moving scene where none is given."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import av
import torch
from av.error import FFmpegError

from upframe.daemon.errors import UsageError
from upframe.filters.color.convert import ToFrame
from upframe.filters.frame import Frame, Picture, StreamInfo
from upframe.io.demo import write_demo_clip
from upframe.io.errors import SourceMissing, UnsupportedMedia
from upframe.io.files import write_error
from upframe.io.source import open_source

_RATE = Fraction(25)
_LEAST_FRAMES = 2


class Size(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int

    @property
    def pixels(self) -> int:
        """How many there are."""
        return self.width * self.height

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


_DRAWN = Size(640, 360)
"""At most, of the scene as it is drawn: that takes seconds, at 1920x1080 it would be minutes."""


class Clips:
    """The first frames of one video, as a file for every size, made when it is asked for.

    Args:
        folder: where to put them.
        video: whose frames; None draws the demo's scene, and enlarges it where it must.
        sizes: that will be asked for.
        num_frames: of each.
    """

    def __init__(
        self, folder: Path, video: Path | None, sizes: tuple[Size, ...], num_frames: int
    ) -> None:
        self._folder = folder
        self._video = video
        largest = max(sizes, key=lambda size: size.pixels)
        self._drawn = min(largest, _DRAWN, key=lambda size: size.pixels)
        self._num_frames = num_frames
        self._made: dict[Size, Path] = {}

    @property
    def name(self) -> str:
        """Of the video, for the results."""
        return "demo scene" if self._video is None else self._video.name

    def at(self, size: Size) -> Path:
        """The clip at a size: H.264 in 4:2:0, 8 bits, without sound.

        Raises:
            MediaError: if the video cannot be read or the clip not be written.
            UsageError: if it has only one frame.
        """
        if size not in self._made:
            target = self._folder / f"clip-{size}.mp4"
            made = write_excerpt(
                self._source(),
                target,
                width=size.width,
                height=size.height,
                num_frames=self._num_frames,
            )
            if made < _LEAST_FRAMES:
                raise UsageError(f"{self.name} has {made} frame, wanted {_LEAST_FRAMES} or more")
            self._made[size] = target
        return self._made[size]

    def _source(self) -> Path:
        if self._video is not None:
            return self._video
        scene = self._folder / "scene.mp4"
        if not scene.exists():
            width, height = self._drawn
            write_demo_clip(
                scene, width=width, height=height, rate=_RATE, num_frames=self._num_frames
            )
        return scene


def read_pictures(clip: Path, count: int | None = None) -> tuple[StreamInfo, list[Picture]]:
    """Decode a clip's first pictures, or all of them.

    Raises:
        MediaError: if it cannot be read.
    """
    with closing(open_source(str(clip))) as source:
        return source.info, list(islice(source, count))


def distinct(pictures: Iterable[Picture], count: int) -> list[Picture]:
    """Pass over pictures that repeat the one before, between which nothing would be computed."""
    kept: list[Picture] = []
    for picture in pictures:
        if len(kept) == count:
            break
        if not kept or not _is_same(kept[-1], picture):
            kept.append(picture)
    return kept


def _is_same(left: Picture, right: Picture) -> bool:
    return all(map(torch.equal, left.planes, right.planes))


def frames_of(pictures: list[Picture], device: torch.device) -> list[Frame]:
    """Convert pictures as the compute thread does; the frames lie on the device."""
    convert = ToFrame(device)
    with torch.inference_mode():
        return [convert(picture) for picture in pictures]


class Feed:
    """Frames without an end, to and fro through a clip, so that motion never jumps.

    Args:
        frames: at least 2, evenly spaced in time.
    """

    def __init__(self, frames: list[Frame]) -> None:
        if len(frames) < _LEAST_FRAMES:
            raise ValueError(f"a feed needs {_LEAST_FRAMES} frames or more, got {len(frames)}")
        self._frames = frames
        self._step = max(1, frames[1].pts - frames[0].pts)
        self._place = self._num_given = 0
        self._direction = 1
        self._last = frames[0]

    def next(self) -> Frame:
        """The next frame; timestamps rise evenly."""
        self._last = self._frames[self._place]
        if not 0 <= self._place + self._direction < len(self._frames):
            self._direction = -self._direction
        self._place += self._direction
        return self._timed(self._last)

    def again(self) -> Frame:
        """The frame before once more, marked as the duplicate that it is."""
        return replace(self._timed(self._last), duplicate=True)

    def _timed(self, frame: Frame) -> Frame:
        self._num_given += 1
        return replace(frame, pts=self._num_given * self._step, duration=self._step)


_CRF = "12"  # what the filters see shall be the picture, not an encoder's blocks


def write_excerpt(source: Path, target: Path, *, width: int, height: int, num_frames: int) -> int:
    """Write the first frames of a video, resized, as H.264 in 4:2:0 without sound.

    Args:
        source: Any video.
        target: An MP4 file; replaced.
        width: Even, in pixels.
        height: Likewise.
        num_frames: At least 1; a video with fewer gives fewer.

    Returns:
        How many frames it has become.

    Raises:
        SourceMissing, UnsupportedMedia: if the video cannot be read.
        SinkRefused, SinkFull: if the file cannot be written.
    """
    try:
        with av.open(str(source)) as container:
            rate = container.streams.video[0].average_rate or Fraction(25)
            frames = islice(container.decode(video=0), num_frames)
            small = [frame.reformat(width, height, "yuv420p") for frame in frames]
    except FileNotFoundError as error:
        raise SourceMissing(f"{source} is not there") from error
    except (FFmpegError, IndexError) as error:
        raise UnsupportedMedia(f"{source}: no video that can be decoded: {error}") from error
    if not small:
        raise UnsupportedMedia(f"{source}: no frame could be decoded")
    try:
        _encode(target, small, rate)
    except OSError as error:
        raise write_error(target, error) from error
    return len(small)


def _encode(target: Path, frames: list[av.VideoFrame], rate: Fraction) -> None:
    with av.open(str(target), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": _CRF})
        stream.width, stream.height = frames[0].width, frames[0].height
        stream.pix_fmt = "yuv420p"
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base = index, 1 / rate
            frame.pict_type = 0  # as the encoder likes: not as the source had it
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

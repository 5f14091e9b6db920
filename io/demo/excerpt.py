"""The first frames of a video at another size, as a file: the same real pictures at every size."""

# PyAV's Packet is generic without a default, so every mux and encode is "partially unknown".
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
from av.error import FFmpegError

from ..errors import SourceMissing, UnsupportedMedia
from ..files import write_error

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
        _write(target, small, rate)
    except OSError as error:
        raise write_error(target, error) from error
    return len(small)


def _write(target: Path, frames: list[av.VideoFrame], rate: Fraction) -> None:
    with av.open(str(target), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": _CRF})
        stream.width, stream.height = frames[0].width, frames[0].height
        stream.pix_fmt = "yuv420p"
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base = index, 1 / rate
            frame.pict_type = 0  # as the encoder likes: not as the source had it
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

"""Real frames out of a clip: moving, no two neighbours alike."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]
"""(N, H, W, 3), R'G'B'."""
SKIPPED = 50
"""Frames at the beginning, where a clip often stands still or is black."""


def decode(clip: Path, width: int, height: int, number: int, skipped: int = SKIPPED) -> Frames:
    """Decode some frames in a row, resized.

    Raises:
        ValueError: if the clip is too short, or two frames in a row are the same.
    """
    frames: list[npt.NDArray[np.uint8]] = []
    with av.open(str(clip)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if len(frames) == number:
                break
            if index >= skipped:
                frames.append(frame.reformat(width, height, "rgb24").to_ndarray())
    if len(frames) < number:
        raise ValueError(f"{clip} must have {skipped + number} frames, got {skipped + len(frames)}")
    for left, right in zip(frames, frames[1:] + frames[:1], strict=True):
        if number > 1 and np.array_equal(left, right):
            raise ValueError(f"{clip} stands still after frame {skipped}: take another part of it")
    return np.stack(frames)


def planar(frames: Frames) -> npt.NDArray[np.float32]:
    """Turn (N, H, W, 3) into (N, 3, H, W) in [0, 1], as all networks here take it."""
    moved = frames.transpose(0, 3, 1, 2).astype(np.float32)
    return np.ascontiguousarray(moved) / np.float32(255)


def write_clip(frames: Frames, target: Path, rate: int = 24) -> None:
    """Write frames as a nearly lossless H.264 clip, for peers that take files."""
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "8"})
        _, stream.height, stream.width, _ = frames.shape
        stream.pix_fmt = "yuv420p"
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def luma(clip: Path) -> list[npt.NDArray[np.float32]]:
    """Decode all frames' luma, (1, H, W), code values / 255."""
    with av.open(str(clip)) as container:
        return [
            frame.reformat(format="yuv420p").to_ndarray()[None, : frame.height].astype(np.float32)
            / np.float32(255)
            for frame in container.decode(video=0)
        ]

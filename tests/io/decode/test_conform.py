"""Frames that change their form in the middle of a stream, made like the first one."""

from __future__ import annotations

import av
import numpy as np

from upframe.io.source import conform


def test_the_same_frame_becomes_the_same_every_time() -> None:
    """With several threads, swscale spoils the rows where packed YUYV is cut between them."""
    random = np.random.default_rng(0)
    frame = av.VideoFrame(322, 180, "yuv422p")
    for plane in frame.planes:
        plane.update(random.integers(0, 256, plane.buffer_size, dtype=np.uint8).tobytes())
    frame.pts = 7
    first = av.VideoFrame(322, 180, "yuyv422")
    made = [conform(frame, first) for _ in range(400)]
    assert {one.format.name for one in made} == {"yuyv422"}
    assert {one.pts for one in made} == {7}
    assert len({rows_of(one) for one in made}) == 1


def rows_of(frame: av.VideoFrame) -> bytes:
    """The bytes of packed YUYV, without padding."""
    plane = frame.planes[0]
    rows = np.frombuffer(bytes(plane), np.uint8).reshape(plane.height, -1)
    return rows[:, : 2 * frame.width].tobytes()

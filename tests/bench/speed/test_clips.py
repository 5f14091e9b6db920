from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from support.media.fakes import moving_pictures
from support.scripts import script

from upframe.daemon.errors import UsageError
from upframe.io.demo import write_demo_clip
from upframe.io.errors import SourceMissing, UnsupportedMedia

clips = script("speed/clips")

CPU = torch.device("cpu")


def feed(num: int) -> clips.Feed:
    return clips.Feed(clips.frames_of(moving_pictures(num), CPU))


def test_a_feed_goes_to_and_fro_and_time_goes_on() -> None:
    frames = clips.frames_of(moving_pictures(3), CPU)
    endless = clips.Feed(frames)
    given = [endless.next() for _ in range(6)]
    order = [frames[0], frames[1], frames[2], frames[1], frames[0], frames[1]]
    assert all(a.pixels is b.pixels for a, b in zip(given, order, strict=True))
    steps = {b.pts - a.pts for a, b in pairwise(given)}
    assert len(steps) == 1
    assert min(steps) > 0


def test_a_duplicate_is_the_last_frame_a_step_later() -> None:
    endless = feed(3)
    endless.next()
    last = endless.next()
    again = endless.again()
    assert again.pixels is last.pixels
    assert again.duplicate
    assert again.pts > last.pts
    assert not endless.next().duplicate


def test_pictures_that_repeat_the_one_before_are_passed_over() -> None:
    """Nothing would be computed between two that are equal."""
    one, two, three = moving_pictures(3)
    assert clips.distinct([one, one, two, two, two, one, three], 3) == [one, two, one]


def test_a_single_frame_is_no_motion() -> None:
    with pytest.raises(ValueError, match="2 frames or more, got 1"):
        feed(1)


def test_a_clip_has_the_same_frames_at_every_size(tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    write_demo_clip(video, width=64, height=36, rate=Fraction(10), num_frames=5)
    sizes = (clips.Size(32, 18), clips.Size(128, 72))
    cut = clips.Clips(tmp_path, video, sizes, num_frames=3)
    assert cut.name == "video.mp4"
    for size in sizes:
        info, pictures = clips.read_pictures(cut.at(size))
        assert (info.width, info.height, info.rate) == (*size, 10)
        assert len(pictures) == 3
        assert not torch.equal(pictures[0].planes[0], pictures[1].planes[0])


def test_without_a_video_the_scene_is_drawn(tmp_path: Path) -> None:
    size = clips.Size(48, 32)
    cut = clips.Clips(tmp_path, None, (size,), num_frames=2)
    assert cut.name == "demo scene"
    _, pictures = clips.read_pictures(cut.at(size))
    assert pictures[0].planes[0].float().std() > 10


def test_refuses_what_has_no_motion_to_take(tmp_path: Path) -> None:
    size = clips.Size(32, 18)
    still = tmp_path / "still.mp4"
    write_demo_clip(still, width=64, height=36, rate=Fraction(10), num_frames=1)
    with pytest.raises(UsageError, match=r"still\.mp4 has 1 frame"):
        clips.Clips(tmp_path, still, (size,), 3).at(size)
    with pytest.raises(SourceMissing):
        clips.Clips(tmp_path, tmp_path / "none.mp4", (size,), 3).at(size)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UnsupportedMedia):
        clips.Clips(tmp_path, tmp_path / "text.mp4", (size,), 3).at(size)

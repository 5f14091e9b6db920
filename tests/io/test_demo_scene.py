"""The demo's scene, its sound and its clip."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch

from upframe.io.demo import DemoScene, play_tune, write_demo_clip
from upframe.io.errors import MediaError


def test_draws_the_same_picture_every_time() -> None:
    first, second = (DemoScene(96, 54, 2.0)(1.0) for _ in range(2))
    assert first.shape == (3, 54, 96)
    assert first.dtype == torch.float32
    assert 0 <= first.min() < 0.2 < 0.9 < first.max() <= 1
    assert torch.equal(first, second)


def test_everything_but_the_sky_moves() -> None:
    scene = DemoScene(96, 54, 2.0)
    moved = (scene(1.2) - scene(1.0)).abs().amax((0, 2))  # by row
    assert moved[:4].max() == 0
    assert moved[30:].min() > 0.01


@pytest.mark.parametrize("size", [(16, 16), (50, 20), (20, 50)])
def test_draws_any_shape(size: tuple[int, int]) -> None:
    scene = DemoScene(*size, 4.0)
    for seconds in (0.0, 4.0):
        assert scene(seconds).shape == (3, size[1], size[0])


def test_plays_within_range_and_ends_in_silence() -> None:
    tune = play_tune(48000)
    assert tune.shape == (2, 48000)
    assert 0.1 < tune.abs().max() <= 1
    assert tune[:, -10:].abs().max() < 0.01


def test_the_clip_is_what_was_asked_for_and_its_sound_as_long(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_demo_clip(path, width=64, height=48, rate=Fraction(25, 2), num_frames=25)
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        pictures = [frame.time for frame in container.decode(video)]
        assert (video.width, video.height, video.average_rate) == (64, 48, Fraction(25, 2))
        assert video.codec_context.colorspace == 1  # tagged: BT.709, though it is small
        assert pictures == [pytest.approx(index / 12.5) for index in range(25)]
        assert audio.duration is not None
        assert float(audio.duration * audio.time_base) == pytest.approx(2.0, abs=0.03)


def test_says_where_it_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"cannot write .*none.clip\.mp4: No such file"):
        write_demo_clip(
            tmp_path / "none" / "clip.mp4", width=64, height=48, rate=Fraction(10), num_frames=2
        )

"""Damaged data: the count of frames and their times stay."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import pytest
from support.media.clips import index_of, make_clip

from upframe.filters.frame import Picture
from upframe.io.errors import MediaError, UnsupportedMedia
from upframe.io.source import open_source


def refusal(target: object, error: type[MediaError]) -> str:
    with pytest.raises(error) as caught:
        open_source(target)  # type: ignore[arg-type]
    assert not isinstance(caught.value, av.FFmpegError)
    return str(caught.value)


def until_error(target: object) -> tuple[list[Picture], MediaError]:
    source = open_source(str(target) if isinstance(target, Path) else target)  # type: ignore[arg-type]
    pictures: list[Picture] = []
    try:
        with pytest.raises(MediaError) as caught:
            pictures.extend(iter(source))
        return pictures, caught.value
    finally:
        source.close()


@pytest.fixture
def damage(tmp_path: Path) -> Callable[[str, str, list[int]], Path]:
    """Make a clip of 120 frames and spoil the insides of some packets."""

    def make(codec: str, name: str, spoiled: list[int]) -> Path:
        pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        options = {} if codec == "mjpeg" else {"g": "12"}
        path = make_clip(tmp_path / name, frames=120, codec=codec, pix_fmt=pix_fmt, options=options)
        with av.open(str(path)) as container:
            packets = [(p.pos or 0, p.size) for p in container.demux(video=0) if p.size]
        data, noise = bytearray(path.read_bytes()), random.Random(1)
        for number in spoiled:
            pos, size = packets[number]
            data[pos + size // 3 : pos + size] = noise.randbytes(size - size // 3)
        path.write_bytes(data)
        return path

    return make


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        ("libx264", "clip.mp4"),
        ("libx265", "clip.mp4"),
        ("mpeg2video", "clip.mkv"),
        ("mjpeg", "clip.mov"),
        ("ffv1", "clip.mkv"),
        ("libvpx-vp9", "clip.webm"),
    ],
)
def test_damage_in_the_middle_keeps_count_and_times(
    damage: Callable[[str, str, list[int]], Path], codec: str, name: str
) -> None:
    """Skipping a frame on an error lets the sound slide away (Real-ESRGAN)."""
    source = open_source(str(damage(codec, name, [40, 41, 80])))
    pictures = list(source)
    assert len(pictures) == 120
    seconds = [picture.pts * picture.time_base for picture in pictures]
    assert [t - seconds[0] for t in seconds] == [Fraction(index, 25) for index in range(120)]
    assert any("damaged frames" in line for line in source.warnings())
    assert index_of(pictures[-1]) == 119 % 16
    source.close()


def test_too_much_damage_is_given_up(damage: Callable[[str, str, list[int]], Path]) -> None:
    path = damage("ffv1", "clip.mkv", list(range(30, 90)))
    _, error = until_error(path)
    assert isinstance(error, UnsupportedMedia)
    assert re.match(rf"{re.escape(str(path))}: too much is damaged: \d+ of \d+ frames", str(error))


def test_nothing_decodable_is_refused(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4")
    with av.open(str(path)) as container:
        packets = [(p.pos or 0, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for pos, size in packets:
        data[pos : pos + size] = bytes(size)
    path.write_bytes(data)
    wanted = f"{path}: no frame could be decoded from 12 packets of h264"
    assert refusal(str(path), UnsupportedMedia) == wanted

"""Rates and times of real files: nothing is moved that is not said."""

from __future__ import annotations

import subprocess
from contextlib import closing
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from support.media.clips import make_clip
from support.media.fields import soft_telecine

from upframe.filters.frame import Picture
from upframe.io.probe import probe_source
from upframe.io.source import ContainerSource, open_source

FILM = Fraction(24_000, 1001)
NTSC = Fraction(30_000, 1001)


def read(path: Path) -> tuple[ContainerSource, list[Picture]]:
    with closing(open_source(str(path))) as source:
        return source, list(source)


def seconds(pictures: list[Picture]) -> list[Fraction]:
    return [picture.pts * picture.time_base for picture in pictures]


def steps(pictures: list[Picture]) -> list[Fraction]:
    return [after - before for before, after in pairwise(seconds(pictures))]


@pytest.mark.parametrize("suffix", ["vob", "ts", "mkv"])
def test_soft_telecine_becomes_its_film_rate(tmp_path: Path, suffix: str) -> None:
    clip = soft_telecine(tmp_path / f"clip.{suffix}", frames=48)
    source, pictures = read(clip)
    assert (source.info.rate, len(pictures)) == (FILM, 48)
    tick = source.info.time_base
    assert max(abs(step - 1 / FILM) for step in steps(pictures)) <= tick
    assert abs(seconds(pictures)[-1] - seconds(pictures)[0] - 47 / FILM) <= tick
    assert source.losses() == ["soft telecine: timestamps made even, by at most 16.7 ms"]
    assert source.losses()[0] in source.warnings()
    assert "24000/1001" in probe_source(open_source(str(clip))).verdicts.rate


@pytest.mark.parametrize("suffix", ["vob", "ts", "mkv"])
def test_film_before_video_is_even_and_the_video_is_not_moved(tmp_path: Path, suffix: str) -> None:
    clip = soft_telecine(tmp_path / f"clip.{suffix}", frames=72, video_from=36)
    source, pictures = read(clip)
    assert (source.info.rate, len(pictures)) == (None, 72)
    tick = source.info.time_base
    assert max(abs(step - 1 / FILM) for step in steps(pictures)[2:34]) <= 2 * tick
    assert max(abs(step - 1 / NTSC) for step in steps(pictures)[38:]) <= tick
    assert source.losses() == ["soft telecine: timestamps made even, by at most 4.17 ms"]


def test_hole_in_an_avi_stays_where_it_is(tmp_path: Path) -> None:
    """A capture card writes an empty chunk for a frame that it dropped."""
    clip = tmp_path / "clip.avi"
    subprocess.run(
        [
            *("ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25"),
            *("-t", "4", "-vf", "select='not(eq(n,50))'", "-fps_mode", "passthrough"),
            *("-enc_time_base", "1/25", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p", str(clip)),
        ],
        check=True,
    )
    source, pictures = read(clip)
    assert source.info.rate is None
    assert seconds(pictures) == [Fraction(index, 25) for index in range(100) if index != 50]
    assert any("1 holes, where frames may be missing" in line for line in source.warnings())
    assert source.losses() == []


@pytest.mark.parametrize("pts", [[0, 2, 3], [0, 1, 3]])
@pytest.mark.parametrize("suffix", ["mp4", "mov", "nut"])
def test_three_uneven_frames_keep_their_times(tmp_path: Path, suffix: str, pts: list[int]) -> None:
    clip = make_clip(
        tmp_path / f"clip.{suffix}", frames=3, rate=NTSC, pts=pts, options={"bf": "0"},
        container_options={"video_track_timescale": "30000"} if suffix != "nut" else None,
    )  # fmt: skip
    source, pictures = read(clip)
    assert source.info.rate is None
    assert seconds(pictures) == [place / NTSC for place in pts]

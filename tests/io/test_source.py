"""What comes out of real files: every frame once, at its time, described as it is."""

from __future__ import annotations

import gc
import subprocess
import weakref
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from support.media.clips import (
    index_of,
    make_clip,
    make_still,
    make_vfr_clip,
)

from upframe.filters.frame import Picture, StreamInfo
from upframe.io.source import open_source

NTSC_FILM = Fraction(24_000, 1001)


def read(target: object, **options: object) -> tuple[StreamInfo, list[Picture], list[str]]:
    source = open_source(str(target) if isinstance(target, Path) else target, **options)  # type: ignore[arg-type]
    try:
        return source.info, list(source), source.warnings()
    finally:
        source.close()


def indices(pictures: list[Picture]) -> list[int]:
    return [index_of(picture) for picture in pictures]


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("clip.mp4", "libx264", "yuv420p"),
        ("clip.ts", "libx264", "yuv420p"),
        ("clip.mkv", "libx264", "yuv420p"),
        ("clip.mp4", "libx265", "yuv420p10le"),
        ("clip.ts", "libx265", "yuv420p"),
        ("clip.ts", "mpeg2video", "yuv420p"),
        ("clip.webm", "libvpx-vp9", "yuv420p"),
        ("clip.mkv", "ffv1", "yuv444p"),
        ("clip.mov", "prores_ks", "yuv422p10le"),
        ("clip.nut", "rawvideo", "yuv420p"),
        ("clip.avi", "mjpeg", "yuvj420p"),
        ("clip.y4m", "wrapped_avframe", "yuv422p"),
    ],
)
def test_gives_every_frame_once_and_in_order(
    tmp_path: Path, name: str, codec: str, pix_fmt: str
) -> None:
    """The decoder is drained at the end: others lost the last B-frames (video2x #1318)."""
    options = {"bf": "3"} if codec in ("libx264", "mpeg2video") else {}
    clip = make_clip(tmp_path / name, frames=16, codec=codec, pix_fmt=pix_fmt, options=options)
    info, pictures, warnings = read(clip)
    assert indices(pictures) == list(range(16))
    assert info.num_frames == 16
    assert warnings == []


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_avi_with_b_frames_keeps_a_constant_rate(tmp_path: Path, codec: str) -> None:
    """AVI stores no pts: what FFmpeg makes up for H.264 is the order of decoding."""
    clip = make_clip(tmp_path / "clip.mp4", frames=30, codec=codec, options={"bf": "3"})
    subprocess.run(
        ["ffmpeg", "-v", "error", "-i", str(clip), "-c", "copy", str(tmp_path / "clip.avi")],
        check=True,
    )
    info, pictures, warnings = read(tmp_path / "clip.avi")
    assert info.rate == 25
    assert indices(pictures) == [index % 16 for index in range(30)]
    assert info.duration_seconds == Fraction(30, 25)
    start = pictures[0].pts
    assert [(p.pts - start) * p.time_base for p in pictures] == [Fraction(i, 25) for i in range(30)]
    assert warnings == []


def test_clip_really_has_b_frames(tmp_path: Path) -> None:
    """Without reordering in the samples the test above would show nothing."""
    with av.open(str(make_clip(tmp_path / "clip.mp4"))) as container:
        pts = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
    assert pts != sorted(pts)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
def test_film_rate_is_an_exact_fraction_in_every_container(tmp_path: Path, name: str) -> None:
    """Matroska rounds to 1 ms, MPEG-TS to 1/90000 s; both are constant all the same."""
    clip = make_clip(tmp_path / name, rate=NTSC_FILM, frames=48)
    info, pictures, _ = read(clip)
    assert (info.rate, info.average_rate) == (NTSC_FILM, NTSC_FILM)
    seconds = [(picture.pts - pictures[0].pts) * picture.time_base for picture in pictures]
    assert max(abs(t - i / NTSC_FILM) for i, t in enumerate(seconds)) <= Fraction(1, 1000)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_variable_rate_keeps_every_pts(tmp_path: Path, name: str) -> None:
    pts = [0, 40, 80, 180, 220, 300, 333, 400]
    info, pictures, _ = read(make_vfr_clip(tmp_path / name, pts=pts))
    assert info.rate is None
    assert [picture.pts * picture.time_base * 1000 for picture in pictures] == pts
    durations = [picture.duration * picture.time_base * 1000 for picture in pictures]
    assert durations[:-1] == [40, 40, 100, 40, 80, 33, 67]


def test_last_frame_ends_where_the_track_ends(tmp_path: Path) -> None:
    clip = make_vfr_clip(tmp_path / "clip.mp4")
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        assert stream.duration is not None
        end = stream.duration
    info, pictures, _ = read(clip)
    assert pictures[-1].pts + pictures[-1].duration == end
    assert info.duration_seconds == end * info.time_base


def test_start_offset_is_kept(tmp_path: Path) -> None:
    _, pictures, _ = read(make_clip(tmp_path / "clip.mp4", pts=range(25, 37)))
    assert pictures[0].pts * pictures[0].time_base == 1


def test_frames_cut_away_by_an_edit_list_are_neither_shown_nor_missed(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "whole.mp4", frames=50, options={"g": "10"})
    cut = tmp_path / "cut.mp4"
    trim = ["ffmpeg", "-v", "error", "-ss", "0.6", "-i", str(whole), "-c", "copy", str(cut)]
    subprocess.run(trim, check=True)
    info, pictures, warnings = read(cut)
    assert indices(pictures) == [index % 16 for index in range(15, 50)]
    assert info.num_frames == 35
    assert warnings == []


def test_audio_subtitles_and_a_cover_are_not_taken_for_the_video(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", audio="aac", subtitles=[(0, 0.2, "hello")])
    cover = make_still(tmp_path / "cover.png", index=9, width=200, height=200)
    both = tmp_path / "both.mp4"
    subprocess.run(
        [
            *("ffmpeg", "-v", "error", "-i", str(clip), "-i", str(cover), "-map", "1", "-map", "0"),
            *("-c", "copy", "-disposition:v:0", "attached_pic", str(both)),
        ],
        check=True,
    )
    info, pictures, _ = read(both)
    assert (info.width, info.height) == (64, 48)
    assert indices(pictures) == list(range(12))


def test_raw_stream_without_timestamps_is_counted(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.h264", format="h264")
    info, pictures, warnings = read(clip, framerate=Fraction(30))
    assert [picture.pts * picture.time_base for picture in pictures] == [
        Fraction(index, 30) for index in range(12)
    ]
    assert info.rate == 30
    assert warnings == ["no timestamps in the input: frames were counted instead"]


def test_everything_is_known_before_the_first_picture_is_asked_for(tmp_path: Path) -> None:
    source = open_source(str(make_clip(tmp_path / "clip.mp4")))
    assert (source.info.width, source.info.num_frames) == (64, 12)
    source.close()


def test_close_twice_and_halfway_is_safe(tmp_path: Path) -> None:
    source = open_source(str(make_clip(tmp_path / "clip.mp4", frames=60)))
    pictures = iter(source)
    next(pictures)
    next(pictures)
    source.close()
    source.close()


def test_closed_source_leaves_nothing_to_the_garbage_collector(tmp_path: Path) -> None:
    """A service opens many: decoders must not pile up until the collector comes by."""
    clip = str(make_clip(tmp_path / "clip.mp4"))
    gc.collect()
    gc.disable()
    try:
        source = open_source(clip)
        next(iter(source))
        source.close()
        left = weakref.ref(source)
        del source
        assert left() is None
    finally:
        gc.enable()


def test_pictures_do_not_share_memory_with_the_decoder(tmp_path: Path) -> None:
    source = open_source(str(make_clip(tmp_path / "clip.nut", codec="rawvideo", frames=4)))
    pictures = list(source)
    kept = [picture.planes[0].clone() for picture in pictures]
    source.close()
    assert all(
        torch.equal(picture.planes[0], plane) for picture, plane in zip(pictures, kept, strict=True)
    )


def join(tmp_path: Path, *clips: Path) -> Path:
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(clip.read_bytes() for clip in clips))
    return joined


def test_frames_of_another_size_are_brought_to_the_first(tmp_path: Path) -> None:
    first = make_clip(tmp_path / "a.ts", frames=12)
    second = make_clip(tmp_path / "b.ts", frames=12, width=96, height=80, pts=range(12, 24))
    info, pictures, warnings = read(join(tmp_path, first, second))
    assert {(picture.width, picture.height) for picture in pictures} == {(64, 48)}
    assert indices(pictures) == [*range(12), *range(12)]
    assert "12 frames of another size or pixel format: converted" in warnings
    assert info.width == 64


def test_frames_of_another_pixel_format_are_brought_to_the_first(tmp_path: Path) -> None:
    first = make_clip(tmp_path / "a.ts", frames=12)
    second = make_clip(tmp_path / "b.ts", frames=12, pix_fmt="yuv422p10le", pts=range(12, 24))
    _, pictures, warnings = read(join(tmp_path, first, second))
    assert {picture.pix_fmt for picture in pictures} == {"yuv420p"}
    assert indices(pictures) == [*range(12), *range(12)]
    assert "12 frames of another size or pixel format: converted" in warnings


def test_time_line_that_starts_over_goes_on(tmp_path: Path) -> None:
    first = make_clip(tmp_path / "a.ts", frames=12, pts=range(200, 212))
    second = make_clip(tmp_path / "b.ts", frames=12)
    _, pictures, warnings = read(join(tmp_path, first, second))
    assert len(pictures) == 24
    pts = [picture.pts for picture in pictures]
    assert pts == sorted(set(pts))
    assert any("jumps back in time" in line for line in warnings)


@pytest.fixture
def opened(data: Path) -> Callable[[str], Path]:
    return lambda name: data / "media" / name


def test_real_clip_is_read_whole(opened: Callable[[str], Path]) -> None:
    info, pictures, warnings = read(opened("bigbuckbunny.mp4"))
    assert (info.width, info.height, info.rate) == (1280, 720, 25)
    assert len(pictures) == info.num_frames == 132
    assert warnings == []


def test_says_when_chroma_had_to_be_interpolated(tmp_path: Path) -> None:
    info, _, warnings = read(make_clip(tmp_path / "dv.mkv", codec="ffv1", pix_fmt="yuv411p"))
    assert info.pix_fmt == "yuv422p"
    assert warnings == ["chroma of yuv411p is interpolated once to yuv422p's"]

"""A film in segments: where it is cut, and that its segments are the film, frame by frame."""

from __future__ import annotations

import subprocess
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some
from support.media.clips import make_clip
from support.media.fields import soft_telecine

from upframe.filters.frame import Picture
from upframe.io.cuts import cut_indices, least_frames
from upframe.io.errors import UnsupportedMedia
from upframe.io.source import open_source

SOURCE = "testsrc2=size=96x64:rate=24:duration=7"
CLIPS = {
    "b-frames.mp4": "-c:v libx264 -g 24",
    "ten-bit.mkv": "-c:v libx264 -g 30 -pix_fmt yuv444p10le",
    "variable.mkv": "-vf setpts=PTS+mod(N*7\\,5)*0.3/24/TB -fps_mode vfr -c:v libx264 -g 20",
    "offset.ts": "-c:v libx264 -g 24 -output_ts_offset 7.3",
    "open.mkv": "-c:v libx265 -x265-params log-level=none:open-gop=1:keyint=24",
    "open.mp4": "-c:v libx265 -x265-params log-level=none:open-gop=1:keyint=24 -tag:v hvc1",
    "mpeg2.ts": "-c:v mpeg2video -g 15 -bf 2 -b:v 1M",
    "interlaced.mpg": "-vf interlace -c:v mpeg2video -flags +ildct+ilme -top 1 -g 15 -bf 2 -b:v 1M",
    "mpeg4.mp4": "-c:v mpeg4 -g 12 -bf 2",
    "intra.mkv": "-c:v ffv1",
    "refresh.mkv": "-c:v libx264 -x264-params intra-refresh=1:keyint=24",
    "rare-keys.mp4": "-c:v libx264 -g 1000 -preset ultrafast",
    "hidden.webm": "-c:v libvpx-vp9 -g 24 -b:v 200k -deadline realtime -cpu-used 8",
}


def film(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    settings = CLIPS[name].split()
    pixels = [] if "-pix_fmt" in settings else ["-pix_fmt", "yuv420p"]
    subprocess.run(
        ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", SOURCE, *settings, *pixels, str(path)],
        check=True,
    )
    return path


def facts(picture: Picture) -> tuple[object, ...]:
    planes = tuple(bytes(plane.contiguous().numpy().data) for plane in picture.planes)
    return planes, picture.pts, picture.duration, picture.t35


def check_segments(path: Path, segment_frames: int) -> int:
    """Compare the segments with the whole film; returns how many there are."""
    with closing(open_source(str(path))) as source:
        whole = [facts(picture) for picture in source]
        info, seen, cuts = source.info, source.seen, None
    with closing(open_source(str(path))) as source:
        cuts = source.cuts(segment_frames)
    assert cuts.why_whole is None
    found: list[tuple[object, ...]] = []
    for segment in cuts.segments:
        with closing(open_source(str(path), segment=segment, seen=seen)) as source:
            assert source.info == info
            read = [facts(picture) for picture in source]
        kept = read if segment.is_last else read[:-1]
        assert len(kept) == segment.num_frames
        found += kept
        if not segment.is_last:
            assert read[-1] == whole[len(found)]
    assert found == whole
    return len(cuts.segments)


@pytest.mark.parametrize("name", CLIPS)
def test_segments_are_the_film_frame_by_frame(tmp_path: Path, name: str) -> None:
    assert check_segments(film(tmp_path, name), 16) >= 2


@pytest.mark.parametrize("suffix", ["ts", "mkv"])
@pytest.mark.parametrize("video_from", [None, 60])
def test_segments_of_film_shown_in_fields_have_its_even_times(
    tmp_path: Path, suffix: str, video_from: int | None
) -> None:
    mixed = {} if video_from is None else {"video_from": video_from}
    assert check_segments(soft_telecine(tmp_path / f"a.{suffix}", frames=120, **mixed), 20) >= 3


def test_segments_begin_behind_what_an_edit_list_hides(tmp_path: Path) -> None:
    whole = film(tmp_path, "b-frames.mp4")
    cut = tmp_path / "cut.mp4"
    subprocess.run(
        ["ffmpeg", "-v", "error", "-ss", "1.7", "-i", str(whole), "-c", "copy", str(cut)],
        check=True,
    )
    assert check_segments(cut, 20) >= 3


@given(
    num_frames=some.integers(1, 2000),
    steps=some.lists(some.integers(1, 300), max_size=40),
    least=some.integers(1, 120),
)
def test_a_segment_has_its_least_length_and_at_most_five_times_it(
    num_frames: int, steps: list[int], least: int
) -> None:
    keys = [0]
    for step in steps:
        keys.append(keys[-1] + step)
    keys = [key for key in keys if key < num_frames]
    ends = [0, *cut_indices(num_frames, keys, least), num_frames]
    lengths = [after - before for before, after in pairwise(ends)]
    assert all(least <= length <= 4 * least for length in lengths[:-1])
    assert lengths[-1] <= 4 * least + least / 2
    assert len(lengths) == 1 or 2 * lengths[-1] >= least
    for before, cut in pairwise(ends[:-1]):
        usable = [key for key in keys if before + least <= key <= before + 4 * least]
        assert cut == (usable[0] if usable else before + 4 * least)


def test_a_segment_has_fewer_large_frames_than_small_ones() -> None:
    assert least_frames(64, 48) == 1024
    assert least_frames(640, 360) == 582
    assert least_frames(7680, 4320) == 32


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("a.avi", {}, "avi stores no times"),
        (
            "a.gif",
            {"codec": "gif", "pix_fmt": "gray"},
            "gif has packets that are not one frame each",
        ),
        ("a.webm", {"codec": "libvpx"}, "vp8 has packets that are not one frame each"),
    ],
)
def test_what_cannot_be_cut_says_why(
    tmp_path: Path, name: str, options: dict[str, str], why: str
) -> None:
    clip = make_clip(tmp_path / name, frames=40, **options)  # type: ignore[arg-type]
    with closing(open_source(str(clip))) as source:
        cuts = source.cuts(8)
    assert cuts.segments == ()
    assert why in (cuts.why_whole or "")


def test_a_short_film_is_not_cut_and_needs_no_reason(tmp_path: Path) -> None:
    with closing(open_source(str(make_clip(tmp_path / "a.mp4", frames=40)))) as source:
        cuts = source.cuts()
    assert (cuts.segments, cuts.why_whole) == ((), None)


def test_a_segment_has_a_frame_at_least() -> None:
    with pytest.raises(ValueError, match="1 frame at least, got 0"):
        cut_indices(10, [0], 0)


def test_times_that_jump_back_are_not_cut(tmp_path: Path) -> None:
    """A recording whose clock began anew: the frames behind lie before the first one."""
    clips = [film(tmp_path / folder, "interlaced.mpg") for folder in ("a", "b")]
    joined = tmp_path / "joined.mpg"
    joined.write_bytes(b"".join(clip.read_bytes() for clip in clips))
    with closing(open_source(str(joined))) as source:
        cuts = source.cuts(16)
    assert (cuts.segments, cuts.why_whole) == ((), "its times jump back")


@pytest.mark.parametrize("number", [0, 1, -1])
def test_a_segment_with_more_or_fewer_frames_than_planned_is_refused(
    tmp_path: Path, number: int
) -> None:
    path = film(tmp_path, "b-frames.mp4")
    with closing(open_source(str(path))) as source:
        segment = source.cuts(16).segments[number]
    for other in (segment.last - 1, segment.last + 1):
        wrong = replace(segment, last=other)
        with (
            closing(open_source(str(path), segment=wrong)) as source,
            pytest.raises(UnsupportedMedia, match=f"wanted {wrong.num_frames}"),
        ):
            list(source)


def test_a_segment_says_no_more_than_the_film(tmp_path: Path) -> None:
    path = film(tmp_path, "interlaced.mpg")
    with closing(open_source(str(path))) as source:
        segments, said = source.cuts(16).segments, source.warnings()
    assert said
    with closing(open_source(str(path), segment=segments[1])) as source:
        list(source)
        assert source.warnings() == said


def test_a_segment_of_another_film_is_refused(tmp_path: Path) -> None:
    path = film(tmp_path, "b-frames.mp4")
    with closing(open_source(str(path))) as source:
        segment = source.cuts(16).segments[1]
    other = replace(segment, seek_pts=segment.seek_pts + 1)
    with pytest.raises(UnsupportedMedia, match="no key frame at"):
        open_source(str(path), segment=other)

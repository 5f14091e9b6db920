"""A film in segments: where it is cut, and that its segments are the film, frame by frame."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as some
from support.media.clips import make_clip
from support.media.fields import soft_telecine, unflagged_combs
from support.media.messages import captions, make_clip_with_messages

from upframe.filters.frame import Picture
from upframe.io.cuts import Segment, cut_indices, film_lines, least_frames
from upframe.io.decode.decoder import check_damage
from upframe.io.decode.survey import WHOLE_FILE_BYTES
from upframe.io.errors import MediaError, NotAsPlanned, TruncatedMedia, UnsupportedMedia
from upframe.io.part import Part
from upframe.io.source import Deinterlace, open_source

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
    "alt-ref.webm": "-c:v libvpx-vp9 -g 24 -b:v 200k -cpu-used 5 -auto-alt-ref 1",
    "fragments.mp4": "-c:v libx264 -g 24 -movflags frag_keyframe+empty_moov",
    "no-index.mkv": "-c:v libx264 -g 24 -live 1 -cluster_size_limit 2000",
    "wrapped-clock.ts": "-c:v libx264 -g 24 -output_ts_offset 95441",
    "open.ts": "-c:v libx264 -x264-params open-gop=1:keyint=24:min-keyint=24:scenecut=0:bframes=3",
    "refresh.ts": "-c:v libx264 -x264-params intra-refresh=1:keyint=60",
    "hdr10.mkv": "-c:v libx265 -g 24 -x265-params log-level=none:hdr10=1 -pix_fmt yuv420p10le "
    "-color_primaries bt2020 -color_trc smpte2084 -colorspace bt2020nc",
    "contexts.mkv": "-c:v ffv1 -g 12 -context 1 -coder 1",
    "theora.ogv": "-c:v libtheora -g 16",
    "lines.mov": "-c:v qtrle -g 12 -pix_fmt argb",
    "raw.y4m": "-t 3",
}


def film(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    return encoded(folder / name, CLIPS[name])


def encoded(path: Path, options: str) -> Path:
    settings = options.split()
    pixels = [] if "-pix_fmt" in settings else ["-pix_fmt", "yuv420p"]
    subprocess.run(
        ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", SOURCE, *settings, *pixels, str(path)],
        check=True,
    )
    return path


def facts(picture: Picture) -> tuple[object, ...]:
    planes = tuple(bytes(plane.contiguous().numpy().data) for plane in picture.planes)
    return planes, picture.pts, picture.duration, picture.t35


def segments_of(path: Path, segment_frames: int, part: Part | None = None) -> tuple[Segment, ...]:
    with closing(open_source(str(path), part=part)) as source:
        cuts = source.cuts(segment_frames)
    assert cuts.why_whole is None
    return cuts.segments


def through_json(segment: Segment) -> Segment:
    return Segment(**json.loads(json.dumps(asdict(segment))))


def check_segments(
    path: Path,
    segment_frames: int = 16,
    deinterlace: Deinterlace = "auto",
    part: Part | None = None,
) -> int:
    """Compare the segments with the whole film, or its part; returns how many there are."""
    with closing(open_source(str(path), deinterlace=deinterlace, part=part)) as source:
        whole = [facts(picture) for picture in source]
        info, seen, said, damaged = source.info, source.seen, source.warnings(), source.num_damaged
    segments = segments_of(path, segment_frames, part)
    assert segments[-1].last == len(whole) - 1
    found: list[tuple[object, ...]] = []
    warnings: list[str] = []
    for planned in segments:
        segment = through_json(planned)  # as it goes to another process
        assert segment == planned
        with closing(
            open_source(str(path), segment=segment, deinterlace=deinterlace, part=part, seen=seen)
        ) as source:
            assert source.info == info
            read = [facts(picture) for picture in source]
            warnings += source.warnings()
            damaged -= source.num_damaged
        kept = read if segment.is_last else read[:-1]
        assert len(kept) == segment.num_frames
        found += kept
        if not segment.is_last:
            assert read[-1] == whole[len(found)]
    assert found == whole
    assert film_lines(warnings) == said
    assert damaged == 0
    return len(segments)


@pytest.mark.parametrize("name", CLIPS)
def test_segments_are_the_film_frame_by_frame(tmp_path: Path, name: str) -> None:
    assert check_segments(film(tmp_path, name), 16) >= 2


@pytest.mark.parametrize(
    "name",
    ["b-frames.mp4", "variable.mkv", "offset.ts", "open.mkv", "interlaced.mpg", "hidden.webm"],
)
@pytest.mark.parametrize(("start", "end"), [("2.3", None), ("1.1", "5.02"), (None, "4")])
def test_segments_of_a_part_are_the_part(
    tmp_path: Path, name: str, start: str | None, end: str | None
) -> None:
    part = Part(Fraction(start or 0), None if end is None else Fraction(end))
    assert check_segments(film(tmp_path, name), 8, part=part) >= 3


@pytest.mark.parametrize("part", [None, Part(Fraction(2), Fraction(4)), Part(Fraction(5))])
def test_a_large_film_is_divided_and_read_as_a_small_one(tmp_path: Path, part: Part | None) -> None:
    small, large = film(tmp_path, "b-frames.mp4"), tmp_path / "large.mp4"
    large.write_bytes(small.read_bytes() + struct.pack(">I4s", 0, b"free"))  # up to the end
    with large.open("r+b") as file:
        file.truncate(WHOLE_FILE_BYTES + 1)
    segments = segments_of(large, 8, part)
    assert segments == segments_of(small, 8, part)
    pictures: list[list[tuple[object, ...]]] = []
    for path in (small, large):
        with closing(open_source(str(path), part=part)) as source:
            pictures.append([facts(picture) for picture in source])
    assert pictures[0] == pictures[1]
    with closing(open_source(str(large), part=part, segment=segments[1])) as source:
        read = [facts(picture) for picture in source]
    assert read == pictures[0][segments[1].first : segments[1].last + 2]


def test_a_key_frame_far_away_is_another_one_at_the_same_time(tmp_path: Path) -> None:
    path = film(tmp_path, "mpeg2.ts")
    segment = segments_of(path, 16)[-1]
    leads = [lead._replace(pos=lead.pos + (2 << 20)) for lead in segment.leads]
    with pytest.raises(UnsupportedMedia, match="no key frame at"):
        open_source(str(path), segment=replace(segment, leads=leads))


@pytest.mark.parametrize("suffix", ["ts", "mkv"])
@pytest.mark.parametrize("video_from", [None, 60])
def test_segments_of_film_shown_in_fields_have_its_even_times(
    tmp_path: Path, suffix: str, video_from: int | None
) -> None:
    mixed = {} if video_from is None else {"video_from": video_from}
    path = soft_telecine(tmp_path / f"a.{suffix}", frames=120, **mixed)
    assert check_segments(path, 20) >= 3
    assert check_segments(path, 10, part=Part(Fraction(1), Fraction("3.4"))) >= 3


def test_segments_begin_behind_what_an_edit_list_hides(tmp_path: Path) -> None:
    whole = film(tmp_path, "b-frames.mp4")
    cut = tmp_path / "cut.mp4"
    subprocess.run(
        ["ffmpeg", "-v", "error", "-ss", "1.7", "-i", str(whole), "-c", "copy", str(cut)],
        check=True,
    )
    assert check_segments(cut, 20) >= 3


@pytest.mark.parametrize("codec", ["b-frames.mp4", "mpeg2.ts", "open.mkv"])
def test_a_recording_may_begin_inside_a_group_of_pictures(tmp_path: Path, codec: str) -> None:
    whole = tmp_path / "whole.ts"
    film(tmp_path, codec).rename(tmp_path / codec)
    copied = ["ffmpeg", "-v", "error", "-i", str(tmp_path / codec), "-c", "copy", str(whole)]
    subprocess.run(copied, check=True)
    late, data = tmp_path / "late.ts", whole.read_bytes()
    late.write_bytes(data[len(data) // 188 // 13 * 188 :])
    assert check_segments(late) >= 3


@pytest.mark.parametrize(
    "entries",
    [
        [(1500, -1), (4000, 1024)],  # nothing, then the film
        [(3000, 1024 + 30 * 512)],  # from inside a group of pictures, to inside one
    ],
)
def test_segments_of_what_an_edit_list_shows(
    tmp_path: Path, entries: list[tuple[int, int]]
) -> None:
    path = film(tmp_path, "b-frames.mp4")
    path.write_bytes(with_edits(path.read_bytes(), entries))
    assert check_segments(path, 12) >= 3


def with_edits(data: bytes, entries: list[tuple[int, int]]) -> bytes:
    """Replace the edit list of an MP4 whose index is at its end.

    Args:
        data: of a file with one track.
        entries: duration in ms, and place in ticks of the track; -1 for nothing.
    """
    place = data.index(b"elst") - 4
    (size,) = struct.unpack_from(">I", data, place)
    listed = b"".join(struct.pack(">IiI", *entry, 1 << 16) for entry in entries)
    made = struct.pack(">I4sII", 16 + len(listed), b"elst", 0, len(entries)) + listed
    changed = bytearray(data[:place] + made + data[place + size :])
    for box in (b"moov", b"trak", b"edts"):
        at = changed.index(box) - 4
        (before,) = struct.unpack_from(">I", changed, at)
        struct.pack_into(">I", changed, at, before + len(made) - size)
    return bytes(changed)


def test_segments_of_a_film_with_fonts_chapters_and_sound(tmp_path: Path) -> None:
    path = make_clip(
        tmp_path / "a.mkv", frames=90, options={"g": "12"}, audio="aac", attachment=True,
        chapters=[(0, 1, "one"), (1, 3.6, "two")], subtitles=[(0.5, 1.5, "said")],
    )  # fmt: skip
    assert check_segments(path) >= 3


@pytest.mark.parametrize(("codec", "suffix"), [("mpeg2video", "ts"), ("libx264", "mp4")])
def test_combs_that_no_flag_shows_are_removed_in_every_segment(
    tmp_path: Path, codec: str, suffix: str
) -> None:
    assert (
        check_segments(unflagged_combs(tmp_path / f"a.{suffix}", "tt", codec=codec, frames=72)) >= 3
    )


@pytest.mark.parametrize("deinterlace", ["on", "off"])
@pytest.mark.parametrize("name", ["interlaced.mpg", "variable.mkv"])
def test_segments_are_deinterlaced_as_asked(
    tmp_path: Path, name: str, deinterlace: Deinterlace
) -> None:
    assert check_segments(film(tmp_path, name), deinterlace=deinterlace) >= 2


def test_segments_have_the_form_of_the_films_first_frame(tmp_path: Path) -> None:
    """Of a recording in which the size changes; each converted frame is counted once."""
    parts = [
        make_clip(
            tmp_path / f"{width}.ts", frames=60, width=width, options={"g": "12"},
            pts=[begins + index for index in range(60)],
        )
        for begins, width in ((0, 64), (65, 96))
    ]  # fmt: skip
    joined = tmp_path / "joined.ts"
    joined.write_bytes(counted(b"".join(part.read_bytes() for part in parts)))
    assert check_segments(joined) >= 3


def counted(stream: bytes) -> bytes:
    """Number the packets of a transport stream anew, as if it were one recording."""
    data, counts = bytearray(stream), dict[int, int]()
    for place in range(0, len(data), 188):
        pid = (data[place + 1] & 31) << 8 | data[place + 2]
        if data[place + 3] & 0x10:  # it has a payload
            counts[pid] = (counts.get(pid, -1) + 1) % 16
            data[place + 3] = data[place + 3] & 0xF0 | counts[pid]
    return bytes(data)


# Damage.


def damaged(path: Path, packets: Iterable[int], begins: float = 0.5) -> Path:
    """Change bytes of packets, by their number, from some share of each on."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        found = [packet for packet in container.demux(video=0) if packet.size]
    for packet in (found[number] for number in packets):
        assert packet.pos is not None
        place = max(packet.pos, data.find(bytes(packet)))  # in a program stream, it has gaps
        for at in range(place + int(packet.size * begins), place + packet.size):
            data[at] = data[at] ^ 0x55 if begins else 0
    path.write_bytes(data)
    return path


LONG = "-c:v mpeg2video -g 60 -bf 2 -b:v 1M -sc_threshold 1000000000"
"""MPEG-2, since FFmpeg's decoders with threads for frames conceal damage differently each time."""


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "mpg"])
@pytest.mark.parametrize("segment_frames", [8, 20])
def test_damaged_key_frames_are_concealed_in_a_segment_as_in_the_film(
    tmp_path: Path, suffix: str, segment_frames: int
) -> None:
    """Also where a segment's decoding would begin with one."""
    path = encoded(tmp_path / f"a.{suffix}", LONG)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
    assert check_segments(damaged(path, keys[1:2]), segment_frames) >= 3


def test_the_damage_of_a_film_is_that_of_its_segments_together(tmp_path: Path) -> None:
    """Most of one segment is damaged, and little of the film."""
    path = damaged(encoded(tmp_path / "a.mov", "-c:v png"), range(120, 132), begins=0)
    assert check_segments(path, 8) == 21
    check_damage("a.mov", 12, 168)
    with pytest.raises(UnsupportedMedia, match="too much is damaged: 17 of 168 frames"):
        check_damage("a.mov", 17, 168)


def test_a_damaged_first_frame_of_a_segment_has_no_captions_of_the_one_before(
    tmp_path: Path,
) -> None:
    path = make_clip_with_messages(
        tmp_path / "in.mkv", "libx264", lambda i: [captions(i)], frames=40,
        options={"bf": "0", "g": "1"},
    )  # fmt: skip
    assert check_segments(damaged(path, [16], begins=0), 8) == 5


def test_only_the_last_segment_finds_that_a_film_ends_too_early(tmp_path: Path) -> None:
    path = encoded(tmp_path / "a.mp4", "-c:v libx264 -g 24 -movflags faststart")
    segments = segments_of(path, 16)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 9 // 10])
    for segment in segments[:3]:
        with closing(open_source(str(path), segment=segment)) as source:
            assert len(list(source)) == segment.num_frames + 1
    with (
        pytest.raises(TruncatedMedia, match=r"truncated: got 1\d\d whole frames"),
        closing(open_source(str(path), segment=segments[-1])) as source,
    ):
        list(source)


def test_a_segment_without_all_of_its_frames_is_not_as_planned(tmp_path: Path) -> None:
    path = film(tmp_path, "mpeg2.ts")
    segment = segments_of(path, 16)[-2]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 188 // 2 * 188])
    with (
        pytest.raises(MediaError, match="wanted"),
        closing(open_source(str(path), segment=segment)) as source,
    ):
        list(source)


def test_lines_of_segments_are_said_once_with_their_numbers_added_up() -> None:
    said = ["2 damaged frames: …", "deinterlaced", "3 damaged frames: …", "deinterlaced", "12:30"]
    assert film_lines(said) == ["5 damaged frames: …", "deinterlaced", "12:30"]


# Where films are cut.


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


def test_what_a_decoder_keeps_of_all_frames_before_is_not_cut(tmp_path: Path) -> None:
    """Alone, most frames of this VC-2 are decoded to other pixels than behind the others."""
    path = encoded(tmp_path / "a.mov", "-c:v vc2 -strict -1 -t 2")
    with closing(open_source(str(path))) as source:
        cuts = source.cuts(8)
    assert cuts.segments == ()
    assert cuts.why_whole == "dirac has a decoder that keeps something of all frames before"


def test_a_short_film_is_not_cut_and_needs_no_reason(tmp_path: Path) -> None:
    with closing(open_source(str(make_clip(tmp_path / "a.mp4", frames=40)))) as source:
        cuts = source.cuts()
    assert [(one.first, one.last, one.is_last) for one in cuts.segments] == [(0, 39, True)]
    assert cuts.why_whole is None


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
            pytest.raises(NotAsPlanned, match=f"wanted {wrong.num_frames}"),
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
        segment = source.cuts(16).segments[-1]
    leads = [lead._replace(pts=lead.pts + 1) for lead in segment.leads]
    other = replace(segment, leads=leads)
    with pytest.raises(UnsupportedMedia, match="no key frame at"):
        open_source(str(path), segment=other)

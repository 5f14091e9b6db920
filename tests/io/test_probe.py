from __future__ import annotations

from contextlib import closing
from fractions import Fraction
from pathlib import Path

import pytest
from support.media.clips import (
    BT709,
    make_clip,
    make_hdr10_clip,
    make_sequence,
    make_still,
    make_vfr_clip,
)

from upframe.io.errors import SourceMissing, UnsupportedMedia
from upframe.io.probe import Probe, probe_source
from upframe.io.source import open_source


def of(path: Path | str, framerate: Fraction | None = None) -> Probe:
    with closing(open_source(str(path), framerate=framerate)) as source:
        return probe_source(source)


def test_lists_every_stream(tmp_path: Path) -> None:
    found = of(
        make_clip(
            tmp_path / "clip.mkv",
            audio="aac",
            subtitles=[(0, 0.2, "hello")],
            chapters=[(0, 0.2, "one"), (0.2, 0.48, "two")],
            attachment=True,
        )
    )
    listed = [(stream.type, stream.codec, stream.details) for stream in found.streams]
    assert listed == [
        ("video", "h264", "64x48 yuv420p"),
        ("audio", "aac", "48000 Hz mono"),
        ("subtitle", "subrip", ""),
        ("attachment", None, "font.ttf"),
    ]
    assert found.num_chapters == 2
    assert found.container == "matroska,webm"
    assert found.num_bytes == (tmp_path / "clip.mkv").stat().st_size


def test_constant_rate_has_its_evidence(tmp_path: Path) -> None:
    found = of(make_clip(tmp_path / "clip.mkv", rate=Fraction(24_000, 1001)))
    assert found.verdicts.is_constant_rate
    wanted = "constant: 12 timestamps lie on a grid of 24000/1001 frames a second"
    assert found.verdicts.rate == wanted


def test_variable_rate_has_its_evidence(tmp_path: Path) -> None:
    found = of(make_vfr_clip(tmp_path / "clip.mkv"))
    assert not found.verdicts.is_constant_rate
    assert found.verdicts.rate == "variable: 8 frames last 33 to 100 ms"


def test_interlaced_and_what_is_done_about_it(tmp_path: Path) -> None:
    found = of(make_clip(tmp_path / "clip.mp4", interlaced=True))
    assert found.verdicts.is_interlaced
    wanted = (
        "interlaced, top field first by the pixels of 12 frames (idet: tff 10, progressive 2): "
        "deinterlaced to one frame per frame"
    )
    assert found.verdicts.interlaced == wanted
    assert found.info.field_order == "progressive"


def test_progressive(tmp_path: Path) -> None:
    found = of(make_clip(tmp_path / "clip.mp4"))
    wanted = "progressive by the pixels of 12 frames (idet: progressive 12)"
    assert (found.verdicts.is_interlaced, found.verdicts.interlaced) == (False, wanted)
    assert found.warnings == ()


def test_hdr10(tmp_path: Path) -> None:
    found = of(make_hdr10_clip(tmp_path / "clip.mp4"))
    wanted = "PQ, mastered for 0.005 to 1000 cd/m², MaxCLL 1000, MaxFALL 400 cd/m²"
    assert found.verdicts.hdr == wanted


def test_colour_says_what_is_unspecified(tmp_path: Path) -> None:
    tagged = of(make_clip(tmp_path / "a.mp4", tags=BT709)).verdicts
    bare = of(make_clip(tmp_path / "b.mp4")).verdicts
    assert tagged.color.endswith("range tv, primaries bt709, transfer bt709, matrix bt709")
    assert bare.color.count("unspecified") == 4
    assert (tagged.hdr, bare.hdr) == ("no", "no")
    assert bare.chroma == "left"


def test_rotation_and_pixel_shape(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", rotation=90, sample_aspect_ratio=Fraction(4, 3))
    verdicts = of(clip).verdicts
    turned = "turned by 90 degrees counter-clockwise for display: kept as tag, done in images"
    assert verdicts.rotation == turned
    assert verdicts.pixels == "4:3"


def test_still_and_sequence(tmp_path: Path) -> None:
    assert of(make_still(tmp_path / "still.png")).info.num_frames == 1
    found = of(make_sequence(tmp_path, frames=4), Fraction(12))
    assert (found.info.num_frames, found.info.rate) == (4, 12)


def test_lines_name_every_verdict(tmp_path: Path) -> None:
    lines = of(make_clip(tmp_path / "clip.mp4")).verdicts.lines()
    titles = ["rate", "fields", "rotation", "colour", "HDR", "chroma", "pixels"]
    assert [title for title, _ in lines] == titles
    assert all(text for _, text in lines)


def test_bad_inputs_raise_as_the_source_does(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="no such file"):
        of(tmp_path / "nowhere.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(UnsupportedMedia, match="empty: 0 bytes"):
        of(tmp_path / "empty.mp4")

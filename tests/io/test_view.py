"""Spherical and stereoscopic video: kept where a container has a place for it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from support.media.clips import make_clip
from support.media.matroska import add_to_track
from support.media.sinks import constant, decodes_without_errors, encode, ffprobe, streams, through

from upframe.io.decode.demuxer import Target
from upframe.io.encode.encoder import EncoderOptions
from upframe.io.extent import append_to_video_entry
from upframe.io.losses import contents_of, losses
from upframe.io.rawvideo.matroska import element
from upframe.io.source import open_source

KINDS = ("spherical", "stereo3d")


def box(name: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + name + content


def sphere(pose: tuple[int, int, int], projection: bytes) -> bytes:
    """What Spherical Video V2 puts into a sample entry; angles in degrees."""
    turned = box(b"prhd", struct.pack(">I3i", 0, *(angle << 16 for angle in pose)))
    return box(b"sv3d", box(b"svhd", bytes(4) + b"upframe\0") + box(b"proj", turned + projection))


WHOLE = sphere((90, -45, 10), box(b"equi", bytes(20)))
HALF = sphere((0, 0, 0), box(b"equi", struct.pack(">5I", 0, 0, 0, 1 << 30, 1 << 30)))
CUBE = sphere((0, 0, 0), box(b"cbmp", bytes(12)))
SIDE_BY_SIDE, ABOVE = (box(b"st3d", bytes([0, 0, 0, 0, mode])) for mode in (2, 1))
LAYOUTS = {SIDE_BY_SIDE: "left_right", ABOVE: "top_bottom", b"": None}


def view_of(path: Path) -> tuple[bytes, str | None]:
    source = open_source(str(path))
    source.close()
    return source.info.view_boxes, source.info.stereo


def spherical_matroska(path: Path) -> Path:
    """A whole sphere, turned; its views side by side."""
    turned = b"".join(
        element(ident, struct.pack(">f", angle))
        for ident, angle in [(0x7673, 90.0), (0x7674, -45.0), (0x7675, 10.0)]
    )
    projection = element(0x7671, b"\1") + turned
    both = element(0x53B8, b"\1") + element(0x7670, projection)
    return add_to_track(make_clip(path, frames=3), both, to_video=True)


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4"])
@pytest.mark.parametrize("spherical", [WHOLE, HALF, CUBE, b""])
@pytest.mark.parametrize("stereo", LAYOUTS)
def test_mp4_gets_boxes_of_both_and_stays_a_whole_file(
    tmp_path: Path, suffix: str, codec: str, spherical: bytes, stereo: bytes
) -> None:
    info = constant(view_boxes=stereo + spherical)
    out = encode(tmp_path / f"a.{suffix}", info, 5, options=EncoderOptions(codec=codec))
    assert view_of(out) == (stereo + spherical, LAYOUTS[stereo])
    assert decodes_without_errors(out)
    assert streams(out, "video")[0]["nb_read_packets"] == "5"


@pytest.mark.parametrize("stereo", ["left_right", "right_left", "top_bottom", "bottom_top"])
@pytest.mark.parametrize("suffix", ["mkv", "webm"])
def test_matroska_says_where_the_views_lie(tmp_path: Path, suffix: str, stereo: str) -> None:
    out = encode(tmp_path / f"a.{suffix}", constant(stereo=stereo), 3)
    assert view_of(out)[1] == stereo
    assert stereo == streams(out, "video")[0]["tags"]["stereo_mode"]


def test_what_a_source_says_comes_out_also_beside_sound(tmp_path: Path) -> None:
    clip = spherical_matroska(tmp_path / "in.mkv")
    assert view_of(clip) == (SIDE_BY_SIDE + WHOLE, "left_right")
    through(clip, tmp_path / "a.mp4")
    assert view_of(tmp_path / "a.mp4") == (SIDE_BY_SIDE + WHOLE, "left_right")
    through(tmp_path / "a.mp4", tmp_path / "b.mov")
    assert view_of(tmp_path / "b.mov") == (SIDE_BY_SIDE + WHOLE, "left_right")
    through(tmp_path / "b.mov", tmp_path / "c.mkv")
    assert view_of(tmp_path / "c.mkv")[1] == "left_right"


def test_ffprobe_sees_the_boxes(tmp_path: Path) -> None:
    out = encode(tmp_path / "a.mp4", constant(view_boxes=ABOVE + WHOLE), 3)
    told = {one["side_data_type"]: one for one in ffprobe(out)["streams"][0]["side_data_list"]}
    assert told["Spherical Mapping"]["projection"] == "equirectangular"
    assert (told["Spherical Mapping"]["yaw"], told["Spherical Mapping"]["pitch"]) == (90, -45)
    assert told["Stereo 3D"]["type"] == "top and bottom"


@pytest.mark.parametrize("layout", ["right_left", "bottom_top"])
def test_what_mp4_has_no_box_for_changes_nothing(tmp_path: Path, layout: str) -> None:
    clip = encode(tmp_path / "a.mkv", constant(stereo=layout), 3)
    assert view_of(clip) == (b"", layout)
    through(clip, tmp_path / "a.mp4")
    assert view_of(tmp_path / "a.mp4") == (b"", None)


def test_the_ledger_lists_what_a_container_has_no_place_for(tmp_path: Path) -> None:
    clip = spherical_matroska(tmp_path / "in.mkv")
    lost: dict[str, list[str]] = {}
    for name in ("a.mp4", "a.mkv", "a.avi"):
        out = tmp_path / name
        through(clip, out)
        source, output = (contents_of(Target(path.name, path, path)) for path in (clip, out))
        lost[name] = [str(loss) for loss in losses(source, output) if loss.trait.kind in KINDS]
    ball = "video: spherical (equirectangular): not kept"
    views = "video: stereoscopic (left_right): not kept"
    assert lost == {"a.mp4": [], "a.mkv": [ball], "a.avi": [ball, views]}


@pytest.mark.parametrize("index", [b"", box(b"trak", b""), box(b"free", bytes(9))])
def test_an_index_without_a_track_is_an_error_and_not_changed(tmp_path: Path, index: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(data := box(b"ftyp", b"isom") + box(b"moov", index))
    with pytest.raises(ValueError, match="must have a box"):
        append_to_video_entry(path, ABOVE)
    assert path.read_bytes() == data


def test_an_mp4_whose_frames_follow_its_index_is_left_as_it_is(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", frames=3, container_options={"movflags": "faststart"})
    data = clip.read_bytes()
    append_to_video_entry(clip, ABOVE)
    assert clip.read_bytes() == data

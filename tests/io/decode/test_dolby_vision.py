"""Dolby Vision is found in each container, and refused where only Dolby's player knows the colours.

The records are put into real files byte by byte, since no library here writes them.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.media.clips import make_clip
from support.media.matroska import add_to_track

from upframe.io.decode.demuxer import Target
from upframe.io.decode.dolby_vision import DolbyVision, dolby_vision_of, inferred
from upframe.io.errors import UnsupportedMedia
from upframe.io.losses import contents_of
from upframe.io.probe import probe_source
from upframe.io.rawvideo.matroska import element
from upframe.io.source import open_source
from upframe.io.traits import Trait


def record(profile: int, compatibility: int) -> bytes:
    """Version 1.0, level 1, RPU and base layer present."""
    flags = profile << 9 | 1 << 3 | 1 << 2 | 1
    return bytes([1, 0]) + struct.pack(">H", flags) + bytes([compatibility << 4]) + bytes(19)


def in_mp4(path: Path, profile: int, compatibility: int) -> Path:
    """Append the box to the sample entry of an MP4 whose index is last."""
    data = bytearray(make_clip(path, frames=3).read_bytes())
    name = b"dvcC" if profile < 8 else b"dvvC" if profile < 11 else b"dvwC"
    body = record(profile, compatibility)
    box = struct.pack(">I4s", 8 + len(body), name) + body
    at, around = 0, list[int]()
    for wanted in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        while data[at + 4 : at + 8] != wanted:
            at += int.from_bytes(data[at : at + 4])
        around.append(at)
        at += {b"stsd": 16, b"avc1": 0}.get(wanted, 8)
    for start in around:
        data[start : start + 4] = (int.from_bytes(data[start : start + 4]) + len(box)).to_bytes(4)
    end = at + int.from_bytes(data[at : at + 4]) - len(box)
    data[end:end] = box
    path.write_bytes(data)
    return path


def in_matroska(path: Path, profile: int, compatibility: int) -> Path:
    """Add the mapping to the track of a Matroska file."""
    name = b"dvcC" if profile < 8 else b"dvvC"
    mapping = element(0x41E7, name) + element(0x41ED, record(profile, compatibility))
    return add_to_track(make_clip(path, frames=3), element(0x41E4, mapping))


MAKERS = {"mp4": in_mp4, "mov": in_mp4, "mkv": in_matroska}
Maker = Callable[[Path, int, int], Path]


@pytest.mark.parametrize("suffix", MAKERS)
@pytest.mark.parametrize(
    ("profile", "compatibility", "text"),
    [
        (8, 4, "Dolby Vision profile 8.4"),
        (8, 1, "Dolby Vision profile 8.1"),
        (7, 6, "Dolby Vision profile 7"),
        (7, 0, "Dolby Vision profile 7"),
    ],
)
def test_a_profile_with_a_base_layer_is_converted(
    tmp_path: Path, suffix: str, profile: int, compatibility: int, text: str
) -> None:
    clip = MAKERS[suffix](tmp_path / f"a.{suffix}", profile, compatibility)
    found = dolby_vision_of(clip)
    assert found == DolbyVision(profile, compatibility)
    assert str(found) == text
    source = open_source(str(clip))
    assert len(list(source)) == 3
    assert probe_source(source).verdicts.hdr == f"{text}: its base layer"
    source.close()
    told = [one for one in contents_of(Target("a", clip, clip)) if one.kind == "dolby vision"]
    assert told == [Trait("video", "dolby vision", text)]


@pytest.mark.parametrize("suffix", MAKERS)
@pytest.mark.parametrize(("profile", "compatibility"), [(5, 0), (8, 0), (10, 0)])
def test_a_profile_without_a_base_layer_is_refused_before_the_work(
    tmp_path: Path, suffix: str, profile: int, compatibility: int
) -> None:
    clip = MAKERS[suffix](tmp_path / f"a.{suffix}", profile, compatibility)
    with pytest.raises(
        UnsupportedMedia, match=rf"a.{suffix}: Dolby Vision profile {profile} has no"
    ):
        open_source(str(clip))
    source = open_source(str(clip), to_inspect=True)
    assert "cannot be converted" in probe_source(source).verdicts.hdr
    source.close()


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.ts", "a.avi"])
def test_other_files_have_none(tmp_path: Path, name: str) -> None:
    assert dolby_vision_of(make_clip(tmp_path / name, frames=2)) is None


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ({"vdr": 0, "full": 1, "el": 0, "no_residual": 1}, DolbyVision(5)),
        ({"vdr": 0, "full": 0, "el": 0, "no_residual": 1}, None),
        ({"vdr": 1, "full": 0, "el": 1, "no_residual": 0}, DolbyVision(7)),
        ({"vdr": 1, "full": 0, "el": 0, "no_residual": 1}, DolbyVision(8)),
    ],
)
def test_where_no_container_says_it_the_frames_do(
    header: dict[str, int], found: DolbyVision | None
) -> None:
    """AVDOVIMetadata: six offsets and counts, then the header: 18 bytes, of which 2 are padding."""
    raw = bytearray(72)
    raw[:8] = (48).to_bytes(8, "little")
    raw[48 + 4], raw[48 + 10] = header["vdr"], header["full"]
    raw[48 + 15], raw[48 + 16] = header["el"], header["no_residual"]
    assert inferred(bytes(raw)) == found
    assert found is None or found.is_plain == (found.profile != 5)


def test_the_record_is_what_ffmpeg_reads(tmp_path: Path) -> None:
    """The test's own files are right: ffprobe finds in them what was put there."""
    for suffix, make in MAKERS.items():
        clip = make(tmp_path / f"a.{suffix}", 8, 4)
        command = ["ffprobe", "-v", "error", "-show_streams", str(clip)]
        done = subprocess.run(command, capture_output=True, check=True, text=True)
        assert "dv_profile=8" in done.stdout
        assert "dv_bl_signal_compatibility_id=4" in done.stdout

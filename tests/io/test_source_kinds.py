"""Inputs that are no ordinary file: stills, sequences, pipes, bytes in memory."""

from __future__ import annotations

import subprocess
import threading
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import pytest
from support.media.clips import (
    index_of,
    make_clip,
    make_sequence,
    make_still,
)

from upframe.filters.frame import Picture, StreamInfo
from upframe.io.errors import WrongOption
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


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp"])
def test_numbered_images_are_a_stream(tmp_path: Path, suffix: str) -> None:
    pattern = make_sequence(tmp_path, frames=6, start=7, suffix=suffix)
    info, pictures, _ = read(pattern, framerate=NTSC_FILM)
    assert indices(pictures) == list(range(6))
    assert (info.rate, info.num_frames) == (NTSC_FILM, 6)
    assert [picture.duration * picture.time_base for picture in pictures] == [1 / NTSC_FILM] * 6


def test_glob_is_a_stream_at_25_frames_a_second(tmp_path: Path) -> None:
    make_sequence(tmp_path, frames=4)
    info, pictures, _ = read(str(tmp_path / "*.png"))
    assert indices(pictures) == [0, 1, 2, 3]
    assert info.rate == 25


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tiff", "a.webp"])
def test_still_is_one_picture(tmp_path: Path, name: str) -> None:
    pix_fmt = {".jpg": "yuvj420p", ".webp": "yuv420p"}.get(Path(name).suffix, "rgb24")
    info, pictures, warnings = read(make_still(tmp_path / name, index=3, pix_fmt=pix_fmt))
    assert indices(pictures) == [3]
    assert info.num_frames == 1
    assert warnings == []


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi", "a.gif", "a.y4m"])
def test_a_rate_for_what_has_its_own_is_refused(tmp_path: Path, name: str) -> None:
    clip = tmp_path / name
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.2"]
    subprocess.run([*command, "-pix_fmt", "yuv420p", str(clip)], check=True)
    with pytest.raises(WrongOption, match=f"{name} has its own rate"):
        read(clip, framerate=NTSC_FILM)
    assert read(clip)[0].rate == 25


@pytest.mark.parametrize("name", ["a.h264", "a.png", "a.mjpeg"])
def test_a_rate_for_what_has_none_is_taken(tmp_path: Path, name: str) -> None:
    clip = tmp_path / name
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.2"]
    frames = ["-frames:v", "1"] if name == "a.png" else []
    subprocess.run([*command, *frames, str(clip)], check=True)
    assert read(clip, framerate=NTSC_FILM)[0].rate in (NTSC_FILM, None)


def test_still_keeps_its_alpha(tmp_path: Path) -> None:
    _, pictures, _ = read(make_still(tmp_path / "a.png", pix_fmt="rgba"))
    assert pictures[0].pix_fmt == "gbrap"
    assert pictures[0].alpha is not None


def test_name_that_looks_like_a_pattern_but_is_there_is_a_file(tmp_path: Path) -> None:
    odd = make_still(tmp_path / "100%d[1]:*.png", index=2)
    assert indices(read(odd)[1]) == [2]


def pipe(data: bytes) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def feed() -> None:
        assert process.stdin is not None
        process.stdin.write(data)
        process.stdin.close()

    threading.Thread(target=feed, daemon=True).start()
    return process


@pytest.mark.parametrize(
    ("name", "codec"), [("clip.mkv", "libx264"), ("clip.nut", "rawvideo"), ("clip.ts", "libx264")]
)
def test_stream_that_cannot_be_sought_works(tmp_path: Path, name: str, codec: str) -> None:
    clip = make_clip(tmp_path / name, frames=30, rate=NTSC_FILM, codec=codec)
    with pipe(clip.read_bytes()) as process:
        info, pictures, _ = read(process.stdout)
    assert indices(pictures) == [index % 16 for index in range(30)]
    assert info.rate == NTSC_FILM


@pytest.mark.parametrize(("name", "codec"), [("clip.mkv", "libx264"), ("clip.nut", "rawvideo")])
def test_variable_rate_is_seen_in_a_pipe(tmp_path: Path, name: str, codec: str) -> None:
    pts = [0, 40, 80, 180, 220, 300, 333, 400]
    clip = make_clip(tmp_path / name, frames=8, codec=codec, pts=pts, time_base=Fraction(1, 1000))
    with pipe(clip.read_bytes()) as process:
        info, pictures, _ = read(process.stdout)
    assert info.rate is None
    assert [picture.pts * picture.time_base * 1000 for picture in pictures] == pts


def test_bytes_in_memory_work(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    assert indices(read(BytesIO(clip.read_bytes()))[1]) == list(range(12))


def test_streams_that_appear_on_the_way_disturb_no_frame(tmp_path: Path) -> None:
    """Sound of FLV in a codec without a name: a stream for every packet, found while reading."""
    path = tmp_path / "a.flv"
    words = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=10:d=1", "-f", "lavfi", "-i", "sine=d=1"]
    subprocess.run(["ffmpeg", "-v", "error", *words, "-c:v", "flv1", "-y", path], check=True)
    data, at = bytearray(path.read_bytes()), 13
    while at < len(data):  # tags: kind, size, 7 bytes, content, 4 bytes
        if data[at] == 8:
            data[at + 11] = 0x9F
        at += 15 + int.from_bytes(data[at + 1 : at + 4], "big")
    path.write_bytes(data)
    assert len(read(path)[1]) == 10

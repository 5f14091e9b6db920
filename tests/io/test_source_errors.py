"""Bad inputs: each its own message, and whatever is whole is given first."""

from __future__ import annotations

import os
import random
import re
import subprocess
from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import pytest
from support.media.clips import index_of, make_clip, make_sequence, make_still

from upframe.filters.frame import Picture
from upframe.io.errors import MediaError, SourceMissing, TruncatedMedia, UnsupportedMedia
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


def test_missing_file(tmp_path: Path) -> None:
    path = str(tmp_path / "nowhere.mp4")
    assert refusal(path, SourceMissing) == f"{path}: no such file"


def test_missing_folder(tmp_path: Path) -> None:
    path = str(tmp_path / "nowhere" / "a.mp4")
    assert refusal(path, SourceMissing) == f"{path}: no such file"


def test_directory(tmp_path: Path) -> None:
    assert refusal(str(tmp_path), SourceMissing) == f"{tmp_path}: is a directory, wanted a file"


def test_file_as_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    path = str(tmp_path / "file" / "a.mp4")
    assert refusal(path, SourceMissing) == f"{path}: cannot be read: Not a directory"


@pytest.fixture
def nobody() -> Iterator[None]:
    """Be a user without rights: root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    yield
    os.seteuid(0)


def test_unreadable_file(tmp_path: Path, nobody: None) -> None:
    path = tmp_path / "clip.mp4"
    if os.getuid() != 0:
        path.touch(mode=0)
    assert refusal(str(path), SourceMissing) == f"{path}: may not be read: permission denied"


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    assert refusal(str(path), UnsupportedMedia) == f"{path}: empty: 0 bytes"


def test_empty_stream() -> None:
    assert refusal(BytesIO(b""), UnsupportedMedia) == "the stream: empty: 0 bytes"


@pytest.mark.parametrize("name", ["notes.txt", "notes.mp4", "notes.mkv"])
def test_text_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("This is no video.\n" * 100)
    reason = {
        "notes.txt": "text, wanted video",
        "notes.mp4": "not media that can be decoded: Invalid data found when processing input",
    }
    wanted = reason.get(name, reason["notes.mp4"])
    assert refusal(str(path), UnsupportedMedia) == f"{path}: {wanted}"


def test_noise(tmp_path: Path) -> None:
    path = tmp_path / "noise.mkv"
    path.write_bytes(random.Random(1).randbytes(20_000))
    assert "not media that can be decoded" in refusal(str(path), UnsupportedMedia)


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, arguments)], check=True)


def test_audio_only(tmp_path: Path) -> None:
    path = tmp_path / "sound.m4a"
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.2", path)
    assert refusal(str(path), UnsupportedMedia) == f"{path}: no video stream, got: 1 audio"


def test_audio_with_a_cover(tmp_path: Path) -> None:
    sound, cover, path = tmp_path / "a.mp3", make_still(tmp_path / "c.png"), tmp_path / "b.mp3"
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.2", sound)
    cover_as = ("-map", "0", "-map", "1", "-c", "copy", "-disposition:v", "attached_pic")
    ffmpeg("-i", sound, "-i", cover, *cover_as, path)
    wanted = f"{path}: no video stream, got: 1 audio, 1 cover picture"
    assert refusal(str(path), UnsupportedMedia) == wanted


def test_subtitles_only(tmp_path: Path) -> None:
    path = tmp_path / "lines.srt"
    path.write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    assert refusal(str(path), UnsupportedMedia) == f"{path}: no video stream, got: 1 subtitle"


def test_unknown_codec(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mkv", codec="ffv1")
    path.write_bytes(path.read_bytes().replace(b"V_FFV1", b"V_WHAT"))
    wanted = f"{path}: no decoder for the codec of video stream 0"
    assert refusal(str(path), UnsupportedMedia) == wanted


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"W0 H48 F25:1", "y4m width (W) must be 1 to 65535, got '0'"),
        (b"W64 H0 F25:1", "y4m height (H) must be 1 to 65535, got '0'"),
        (b"W64 H48 F0:1", "y4m frame rate (F) must be like F30000:1001, got '0:1'"),
        (b"W64 H48 F0:0", "y4m frame rate (F) must be like F30000:1001, got '0:0'"),
    ],
)
def test_size_and_rate_of_nothing(tmp_path: Path, header: bytes, reason: str) -> None:
    path = tmp_path / "nothing.y4m"
    path.write_bytes(b"YUV4MPEG2 " + header + b"\nFRAME\n" + bytes(64 * 48 * 3 // 2))
    assert refusal(str(path), UnsupportedMedia) == f"{path}: {reason}"


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "size"),
    [
        ("clip.mov", "prores_ks", "yuv422p10le", "0x48"),
        ("clip.avi", "ffv1", "yuv420p", "0x0"),
        ("clip.avi", "rawvideo", "yuv420p", "0x0"),
    ],
)
def test_video_without_a_size(
    tmp_path: Path, name: str, codec: str, pix_fmt: str, size: str
) -> None:
    path = make_clip(tmp_path / name, frames=3, codec=codec, pix_fmt=pix_fmt)
    order, width = ("little", 4) if name == "clip.avi" else ("big", 2)
    wide, high, nothing = (side.to_bytes(width, order) for side in (64, 48, 0))
    data = path.read_bytes().replace(wide + high, nothing + high)
    path.write_bytes(data.replace(b"\0\x40\0\0\0\x30\0\0", b"\0\0\0\0\0\x30\0\0"))
    assert refusal(str(path), UnsupportedMedia) == f"{path}: the video has no size, got {size}"


def test_header_without_a_frame_rate_is_judged_by_its_timestamps(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mkv", frames=24, pts=range(0, 960, 40), time_base=MS)
    data = path.read_bytes()
    assert b"\x23\xe3\x83" in data  # DefaultDuration, renamed to something to be skipped: Void
    path.write_bytes(data.replace(b"\x23\xe3\x83\x84", b"\xec\x86\0\0", 1))
    source = open_source(str(path))
    assert source.info.rate == 25
    source.close()


MS = Fraction(1, 1000)


@pytest.mark.parametrize("pattern", ["frame_%05d.png", "*.png"])
def test_sequence_without_files(tmp_path: Path, pattern: str) -> None:
    path = str(tmp_path / pattern)
    assert re.match(f"{re.escape(path)}: no file", refusal(path, SourceMissing))


def test_sequence_with_holes_says_which_number_is_missing(tmp_path: Path) -> None:
    """FFmpeg would end the stream at the hole and say nothing."""
    pattern = make_sequence(tmp_path, frames=6, start=1)
    (tmp_path / "frame_00003.png").unlink()
    assert refusal(pattern, UnsupportedMedia) == (
        f"{pattern}: 1 of the numbers 1 to 6 are missing, the first is 3 "
        "(a glob such as frame_*.png takes what is there)"
    )


def test_glob_in_an_unclear_order_is_refused(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        make_still(tmp_path / f"f{number}.png")
    reason = refusal(str(tmp_path / "*.png"), UnsupportedMedia)
    assert "the numbers in the names are not padded with zeros" in reason


def test_url_that_does_not_answer() -> None:
    reason = refusal("tcp://127.0.0.1:9", SourceMissing)
    assert reason == "tcp://127.0.0.1:9: cannot be read: Connection refused"


@pytest.mark.parametrize("num_bytes", [300, 2000])
def test_mp4_without_its_index(tmp_path: Path, num_bytes: int) -> None:
    path = make_clip(tmp_path / "clip.mp4", frames=40)
    path.write_bytes(path.read_bytes()[:num_bytes])
    wanted = (
        f"{path}: truncated: the MP4's index (moov) is missing, "
        f"got ftyp, free, mdat in {num_bytes} bytes"
    )
    assert refusal(str(path), TruncatedMedia) == wanted


FASTSTART = {"movflags": "faststart"}


@pytest.mark.parametrize(
    ("name", "promise"),
    [
        ("clip.mp4", "the header promised 48 frames"),
        ("clip.mkv", "the header promised a segment up to byte "),
        ("clip.avi", "the header promised 1.920 seconds"),
        ("clip.y4m", "the input ends inside the next one"),
    ],
)
def test_truncated_file_gives_its_whole_frames_and_says_so(
    tmp_path: Path, name: str, promise: str
) -> None:
    codec = {"clip.avi": "mpeg4", "clip.y4m": "wrapped_avframe"}.get(name, "libx264")
    options = FASTSTART if name == "clip.mp4" else {}
    path = make_clip(
        tmp_path / name, frames=48, codec=codec, options={"bf": "0"}, container_options=options
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    pictures, error = until_error(path)
    assert isinstance(error, TruncatedMedia)
    assert 12 < len(pictures) < 48
    assert [index_of(picture) for picture in pictures] == [i % 16 for i in range(len(pictures))]
    assert str(error).startswith(f"{path}: truncated: got {len(pictures)} whole frames, {promise}")


def test_truncated_matroska_in_a_pipe_is_noticed(tmp_path: Path) -> None:
    data = make_clip(tmp_path / "clip.mkv", frames=48).read_bytes()
    pictures, error = until_error(BytesIO(data[: len(data) // 2]))
    assert str(error).startswith(f"the stream: truncated: got {len(pictures)} whole frames")
    assert isinstance(error, TruncatedMedia)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.avi", "clip.y4m"])
@pytest.mark.parametrize("frames", [1, 2, 12])
def test_intact_file_is_not_accused(tmp_path: Path, name: str, frames: int) -> None:
    codec = {"clip.avi": "mpeg4", "clip.y4m": "wrapped_avframe"}.get(name, "libx264")
    source = open_source(str(make_clip(tmp_path / name, frames=frames, codec=codec)))
    assert len(list(source)) == frames
    assert source.warnings() == []
    source.close()


def test_video_shorter_than_its_sound_is_not_accused(tmp_path: Path) -> None:
    clip, path = make_clip(tmp_path / "clip.mkv"), tmp_path / "long.mkv"
    ffmpeg("-i", clip, "-f", "lavfi", "-i", "sine=d=3", "-c:v", "copy", "-c:a", "flac", path)
    source = open_source(str(path))
    assert len(list(source)) == 12
    source.close()

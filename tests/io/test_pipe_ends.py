"""Streams in pipes: told apart, whole, and honest about their end."""

from __future__ import annotations

import subprocess
from contextlib import suppress

import pytest
import torch
from support.media.pipes import RATE, Slot, Tap, assert_same_planes, clip, read, write

from upframe.filters.frame import Color, Picture
from upframe.io.errors import MediaError, ReaderGone, TruncatedMedia, UnsupportedMedia
from upframe.io.pipes import (
    FORMATS,
    PipeFormat,
    open_pipe_sink,
    open_pipe_source,
    sniff,
)
from upframe.io.rawvideo.bytestream import ByteReader
from upframe.io.rawvideo.matroska import chroma_siting


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("share", [0.4, 0.75, 0.97])
def test_a_torn_stream_gives_its_whole_frames_and_says_where_it_ends(
    format_name: PipeFormat, share: float
) -> None:
    info, pictures = clip("yuv420p10le", num=12)
    data = write(info, pictures, format_name)
    got: list[Picture] = []
    with pytest.raises(TruncatedMedia, match=r"truncated: got \d+ of \d+ bytes"):
        got.extend(open_pipe_source(Slot(data[: int(len(data) * share)])))
    assert_same_planes(pictures[: len(got)], got)
    assert share * 12 - 3 < len(got) < share * 12 + 1


@pytest.mark.parametrize("codec", ["rawvideo", "ffv1"])
@pytest.mark.parametrize("format_name", ["nut", "matroska"])
def test_a_stream_torn_anywhere_never_gives_a_torn_frame(
    format_name: PipeFormat, codec: str
) -> None:
    """FFmpeg itself gives the torn frame of FFV1 in NUT, and its whole frames are the model."""
    made = ["-f", "lavfi", "-i", "testsrc2=size=32x16:rate=25", "-frames:v", "3"]
    command = ["ffmpeg", "-v", "error", *made, "-pix_fmt", "yuv420p", "-c:v", codec]
    whole = subprocess.run(
        [*command, "-f", format_name, "-"], capture_output=True, check=True
    ).stdout
    pictures = read(whole)
    assert len(pictures) == 3
    for end in range(len(whole) // 3, len(whole), 211):
        got: list[Picture] = []
        with pytest.raises(TruncatedMedia, match="truncated"):
            got.extend(open_pipe_source(Slot(whole[:end])))
        assert_same_planes(pictures[: len(got)], got)


@pytest.mark.parametrize("format_name", ["nut", "matroska"])
def test_reads_what_ffmpeg_pipes_with_sound(
    format_name: PipeFormat, caplog: pytest.LogCaptureFixture
) -> None:
    video = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=24000/1001"]
    sound = ["-f", "lavfi", "-i", "sine", "-frames:v", "10", "-shortest", "-c:a", "pcm_s16le"]
    command = ["ffmpeg", "-v", "error", *video, *sound, "-c:v", "rawvideo", "-pix_fmt", "yuv420p"]
    done = subprocess.run([*command, "-f", format_name, "-"], capture_output=True, check=True)
    source = open_pipe_source(Slot(done.stdout))
    assert source.format == format_name
    assert source.info.rate == RATE
    assert len(list(source)) == 10
    assert "left out: 1 audio" in caplog.text


@pytest.mark.parametrize("format_name", FORMATS)
def test_formats_are_told_apart_without_losing_a_byte(format_name: PipeFormat) -> None:
    data = write(*clip(), format_name)
    reader = ByteReader(Slot(data))
    assert sniff(reader) == format_name
    assert b"".join(iter(reader.read, b"")) == data


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "empty"),
        (b"hello world", r"must be y4m, nut or matroska, it begins like b'hello world'"),
        (b"\x00\x00\x00\x20ftypisom", "begins like MP4"),
        (b"\x89PNG\r\n\x1a\n", "begins like PNG"),
        (b"\xfe\xed\xfa\xce", "begins like fe ed fa ce"),
    ],
)
def test_anything_else_is_named_and_refused(data: bytes, text: str) -> None:
    with pytest.raises(UnsupportedMedia, match=text):
        open_pipe_source(Slot(data))


@pytest.mark.parametrize("format_name", ["nut", "matroska"])
def test_a_header_alone_is_refused(format_name: PipeFormat) -> None:
    info, _ = clip()
    tap = Tap()
    open_pipe_sink(tap, format_name, info)
    with pytest.raises(MediaError, match="the input"):
        open_pipe_source(Slot(bytes(tap.data)))


@pytest.mark.parametrize("format_name", ["nut", "matroska"])
def test_noise_in_a_stream_is_left_to_the_demuxer(format_name: PipeFormat) -> None:
    info, pictures = clip(num=12)
    data = bytearray(write(info, pictures, format_name))
    middle = len(data) // 2 // 4611 * 4611
    data[middle : middle + 4000] = bytes(range(250)) * 16
    got: list[Picture] = []
    with suppress(MediaError):  # it may give up, but with an error of ours
        got.extend(open_pipe_source(Slot(bytes(data))))
    assert len(got) >= 5


@pytest.mark.parametrize("format_name", FORMATS)
def test_fewer_frames_than_expected_are_truncated(format_name: PipeFormat) -> None:
    data = write(*clip(), format_name)
    source = open_pipe_source(Slot(data), expected_frames=7)
    assert source.info.num_frames == 7
    got: list[Picture] = []
    with pytest.raises(TruncatedMedia, match="got 6 of 7 expected frames"):
        got.extend(source)
    assert len(got) == 6


def test_more_frames_than_expected_are_given_with_a_warning() -> None:
    source = open_pipe_source(Slot(write(*clip(), "nut")), expected_frames=5)
    assert len(list(source)) == 6
    assert "got 6 frames, 5 were expected" in source.warnings()


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_reader_that_leaves_is_told_with_the_frames_it_got(format_name: PipeFormat) -> None:
    info, pictures = clip("yuv420p" if format_name != "matroska" else "yuv422p", num=6)
    frame_bytes = pictures[0].num_bytes
    sink = open_pipe_sink(tap := Tap(limit=2 * frame_bytes + 600), format_name, info)
    taken = 4 if format_name == "matroska" else 3  # whose last one is still in the muxer
    for picture in pictures[:taken]:
        sink.write(picture)
    with pytest.raises(ReaderGone, match="after 3 frames"):
        sink.write(pictures[taken])
    assert sink.num_written == 3
    before = len(tap.data)
    sink.abort()
    sink.abort()
    assert len(tap.data) == before


@pytest.mark.parametrize("format_name", FORMATS)
def test_abort_leaves_whole_frames_and_a_valid_end(format_name: PipeFormat) -> None:
    info, pictures = clip()
    sink = open_pipe_sink(tap := Tap(), format_name, info)
    for picture in pictures[:4]:
        sink.write(picture)
    sink.abort()
    assert_same_planes(pictures[:4], read(bytes(tap.data)))


@pytest.mark.parametrize("mode", ["auto", "on", "off"])
def test_interlaced_y4m_is_deinterlaced_to_as_many_frames(mode: str) -> None:
    made = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=50,interlace", "-frames:v", "5"]
    coded = ["-pix_fmt", "yuv420p", "-field_order", "tt", "-f", "yuv4mpegpipe", "-"]
    command = ["ffmpeg", "-v", "error", *made, *coded]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    assert b" It " in data[:80]
    source = open_pipe_source(Slot(data), deinterlace=mode)  # type: ignore[arg-type]
    pictures = list(source)
    assert [picture.pts for picture in pictures] == list(range(5))
    woven = read(data, deinterlace="off")
    same = torch.equal(pictures[2].planes[0], woven[2].planes[0])
    assert same == (mode == "off")
    assert source.info.field_order == ("tt" if mode == "off" else "progressive")
    assert any("deinterlaced" in line for line in source.warnings()) == (mode != "off")


def test_a_header_cut_anywhere_tells_no_siting_or_the_right_one() -> None:
    info, pictures = clip(color=Color(chroma_location="left"))
    data = write(info, pictures[:1], "matroska")
    assert chroma_siting(data) == "left"
    assert {chroma_siting(data[:end]) for end in range(500)} == {None, "left"}

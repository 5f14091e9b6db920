"""YUV4MPEG2: what is read leniently, written strictly, and noticed when it ends too early."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from io import BytesIO

import pytest
import torch
from support.media.fakes import moving_pictures, stream_info

from upframe.filters.errors import TooLarge
from upframe.filters.frame import StreamInfo
from upframe.io.errors import TruncatedMedia, UnsupportedMedia
from upframe.io.rawvideo.bytestream import ByteReader, ByteWriter
from upframe.io.rawvideo.y4m import Y4MSink, Y4MSource

HEADER = b"YUV4MPEG2 W4 H2 F24000:1001 Ip A1:1 C420jpeg"
FRAME_BYTES = 4 * 2 * 3 // 2
PIX_FMTS = (
    *("gray", "yuva444p", *(f"gray{depth}le" for depth in (9, 10, 12, 14, 16))),
    *(f"yuv{sampling}p" for sampling in (420, 422, 444)),
    *(f"yuv{sampling}p{depth}le" for sampling in (420, 422, 444) for depth in (9, 10, 12, 14, 16)),
)
READ_BY_FFMPEG = sorted(set(PIX_FMTS) - {"gray9le", "gray14le"})


def source_of(data: bytes) -> Y4MSource:
    return Y4MSource(ByteReader(BytesIO(data)))


def frames_of(num: int) -> bytes:
    return b"".join(
        b"FRAME\n" + bytes((20 * frame + byte) % 256 for byte in range(FRAME_BYTES))
        for frame in range(num)
    )


def written(info: StreamInfo, num: int = 3) -> bytes:
    out = BytesIO()
    sink = Y4MSink(ByteWriter(out), info)
    rate = info.rate or Fraction(25)
    for picture in moving_pictures(num, info.width, info.height, info.pix_fmt, rate=rate):
        sink.write(picture)
    sink.finish()
    return out.getvalue()


def test_reads_headers_of_a_kilobyte() -> None:
    line = HEADER + b" XCOMMENT=" + b"x" * (1023 - len(HEADER) - 10)
    assert len(line) == 1023
    assert source_of(line + b"\n" + frames_of(1)).info.width == 4
    with pytest.raises(UnsupportedMedia, match="longer than 1024 bytes"):
        source_of(line + b"x\n" + frames_of(1))


def test_gives_planes_times_and_duration_of_every_frame() -> None:
    pictures = list(source_of(HEADER + b"\n" + frames_of(3)))
    assert [picture.pts for picture in pictures] == [0, 1, 2]
    assert {(picture.duration, picture.time_base) for picture in pictures} == {
        (1, Fraction(1001, 24000))
    }
    assert pictures[1].planes[0].tolist() == [[20, 21, 22, 23], [24, 25, 26, 27]]
    assert pictures[1].planes[2].tolist() == [[30, 31]]


def test_pictures_do_not_share_memory() -> None:
    first, second = source_of(HEADER + b"\n" + frames_of(2))
    before = first.planes[0].clone()
    second.planes[0].zero_()
    assert torch.equal(first.planes[0], before)


def test_words_of_more_than_8_bits_are_little_endian() -> None:
    line = b"YUV4MPEG2 W1 H1 F25:1 Cmono10\n"
    (picture,) = source_of(line + b"FRAME\n" + b"\x01\x02")
    assert picture.planes[0].tolist() == [[0x0201]]


def test_frame_lines_may_have_parameters() -> None:
    line = b"YUV4MPEG2 W4 H2 F25:1 Im C420\n"
    body = bytes(FRAME_BYTES)
    pictures = list(source_of(line + b"FRAME It1p XFOO\n" + body + b"FRAME I1pp\n" + body))
    assert [picture.interlaced for picture in pictures] == [True, False]


@pytest.mark.parametrize("cut", [1, 6, FRAME_BYTES])
def test_a_stream_that_ends_inside_a_frame_gives_whole_frames_first(cut: int) -> None:
    data = HEADER + b"\n" + frames_of(3)
    pictures = iter(source_of(data[:-cut]))
    assert [next(pictures).pts, next(pictures).pts] == [0, 1]
    got = FRAME_BYTES - cut
    with pytest.raises(TruncatedMedia, match=f"truncated: got {got} of {FRAME_BYTES} bytes .* 3$"):
        next(pictures)


def test_a_stream_that_ends_inside_a_frame_line_is_truncated() -> None:
    pictures = iter(source_of(HEADER + b"\n" + frames_of(1) + b"FRA"))
    next(pictures)
    with pytest.raises(TruncatedMedia, match=f"got 0 of {FRAME_BYTES} bytes in frame 2"):
        next(pictures)


def test_fewer_frames_than_xlength_are_truncated() -> None:
    pictures = iter(source_of(HEADER + b" XLENGTH=3\n" + frames_of(2)))
    assert [next(pictures).pts, next(pictures).pts] == [0, 1]
    with pytest.raises(TruncatedMedia, match="got 2 of 3 frames"):
        next(pictures)


def test_more_frames_than_xlength_are_given_with_a_warning() -> None:
    source = source_of(HEADER + b" XLENGTH=1\n" + frames_of(2))
    assert len(list(source)) == 2
    assert source.warnings() == ["y4m: got 2 frames, the header announces 1 (XLENGTH)"]


def test_something_between_frames_is_refused() -> None:
    pictures = iter(source_of(HEADER + b"\n" + frames_of(1) + b"NOISE\n" + bytes(20)))
    next(pictures)
    with pytest.raises(UnsupportedMedia, match=r"frame 2 must begin with FRAME, got b'NOISE"):
        next(pictures)


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (b"", UnsupportedMedia, "empty"),
        (HEADER + b"\n", UnsupportedMedia, "empty: a y4m header, but no frame"),
        (HEADER, TruncatedMedia, f"truncated: got {len(HEADER)} bytes of the y4m header"),
    ],
)
def test_a_stream_without_frames_says_what_it_has(
    data: bytes, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        list(source_of(data))


def test_a_frame_that_no_memory_holds_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPFRAME_LIMITS", '{"width": 65535, "height": 65535}')
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    source = source_of(b"YUV4MPEG2 W65535 H65535 F25:1 C444p16\nFRAME\n" + bytes(100))
    resource.setrlimit(resource.RLIMIT_AS, (20 << 30, hard))  # the frame is 24 GiB
    try:
        with pytest.raises(TooLarge, match="no memory for a frame of 25769017350 bytes"):
            next(iter(source))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("pix_fmt", PIX_FMTS)
def test_what_is_written_is_read_back(pix_fmt: str) -> None:
    info = stream_info(5, 3, pix_fmt, rate=Fraction(24))
    pictures = moving_pictures(3, 5, 3, pix_fmt, rate=Fraction(24))
    again = list(source_of(written(info)))
    for picture, other in zip(pictures, again, strict=True):
        assert all(map(torch.equal, picture.planes, other.planes))
        if picture.alpha is not None and other.alpha is not None:
            assert torch.equal(picture.alpha, other.alpha)


@pytest.mark.parametrize("pix_fmt", READ_BY_FFMPEG)
def test_ffmpeg_reads_the_same_planes(pix_fmt: str) -> None:
    data = written(stream_info(18, 10, pix_fmt))
    command = ["ffmpeg", "-v", "error", "-f", "yuv4mpegpipe", "-i", "-", "-f", "rawvideo", "-"]
    done = subprocess.run(command, input=data, capture_output=True, check=True)
    body = data.partition(b"\n")[2]
    assert done.stdout == b"".join(body.split(b"FRAME\n"))


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "yuv444p", "gray", "gray16le"])
def test_reads_what_ffmpeg_writes(pix_fmt: str) -> None:
    made = ["-f", "lavfi", "-i", "testsrc2=size=34x18:rate=30000/1001:duration=0.2"]
    coded = ["-pix_fmt", pix_fmt, "-strict", "-1"]
    command = ["ffmpeg", "-v", "error", *made, *coded]
    y4m, raw = (
        subprocess.run([*command, "-f", name, "-"], capture_output=True, check=True).stdout
        for name in ("yuv4mpegpipe", "rawvideo")
    )
    source = source_of(y4m)
    assert source.info.rate == Fraction(30000, 1001)
    assert source.info.pix_fmt == pix_fmt
    planes = [plane.numpy().tobytes() for picture in source for plane in picture.planes]
    assert b"".join(planes) == raw


def test_the_header_is_written_before_the_first_frame() -> None:
    out = BytesIO()
    Y4MSink(ByteWriter(out), stream_info())
    assert out.getvalue() == b"YUV4MPEG2 W64 H48 F25:1 Ip A0:0 C420jpeg\n"


def test_refuses_what_it_cannot_hold_before_writing_anything() -> None:
    out = BytesIO()
    with pytest.raises(UnsupportedMedia, match=r"y4m cannot hold gbrp .*C420jpeg.*--format nut"):
        Y4MSink(ByteWriter(out), stream_info(pix_fmt="gbrp"))
    with pytest.raises(UnsupportedMedia, match="--format nut and --format matroska"):
        Y4MSink(ByteWriter(out), stream_info(rate=None))
    assert out.getvalue() == b""


def test_refuses_a_gap_that_a_constant_rate_cannot_tell() -> None:
    sink = Y4MSink(ByteWriter(BytesIO()), stream_info(rate=Fraction(25)))
    pictures = moving_pictures(3, rate=Fraction(25), pts=[0, 1, 5])
    sink.write(pictures[0])
    sink.write(pictures[1])
    with pytest.raises(UnsupportedMedia, match=r"frame 3 is 0.120 s off 25 a second.*nut"):
        sink.write(pictures[2])
    assert sink.num_written == 2


def test_millisecond_time_stamps_of_a_constant_rate_pass() -> None:
    sink = Y4MSink(ByteWriter(BytesIO()), stream_info(rate=Fraction(48000, 1001)))
    stamps = [round(1000 * index * 1001 / 48000) for index in range(12)]
    for picture in moving_pictures(12, pts=stamps, time_base=Fraction(1, 1000)):
        sink.write(picture)
    assert sink.num_written == 12


def test_a_picture_of_another_size_is_a_bug() -> None:
    sink = Y4MSink(ByteWriter(BytesIO()), stream_info())
    with pytest.raises(ValueError, match="the header says"):
        sink.write(moving_pictures(1, 32, 48)[0])

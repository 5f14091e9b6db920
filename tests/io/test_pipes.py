"""Y4M, NUT and Matroska in pipes: planes, times and tags are exact."""

from __future__ import annotations

import logging
import subprocess
from fractions import Fraction

import pytest
from support.media.fakes import moving_pictures, stream_info
from support.media.pipes import RATE, Slot, Tap, assert_same_planes, clip, ffprobe, read, write

from upframe.filters.frame import Color, ContentLight, MasteringDisplay
from upframe.io.errors import UnsupportedMedia
from upframe.io.pipes import (
    FORMATS,
    PipeFormat,
    check_pipe_sink,
    losses,
    open_pipe_sink,
    open_pipe_source,
)

PIX_FMTS = (
    *("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p12le", "yuv444p14le", "yuv420p16le"),
    *("gray", "gray10le", "gray16le", "yuva444p", "gbrp", "gbrp10le", "gbrap", "gbrap16le"),
)
TAGS = Color("tv", "bt2020", "smpte2084", "bt2020nc", "topleft")


@pytest.mark.parametrize(
    ("format_name", "pix_fmt"),
    [
        (format_name, pix_fmt)
        for format_name in FORMATS
        for pix_fmt in PIX_FMTS
        if format_name != "y4m" or not pix_fmt.startswith("gb")
    ],
)
def test_planes_pass_bit_for_bit(format_name: PipeFormat, pix_fmt: str) -> None:
    info, pictures = clip(pix_fmt)
    assert_same_planes(pictures, read(write(info, pictures, format_name)))


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "yuv444p16le", "gray", "gbrp"])
@pytest.mark.parametrize("format_name", ["nut", "matroska"])
def test_ffmpeg_reads_the_same_planes(format_name: PipeFormat, pix_fmt: str) -> None:
    info, pictures = clip(pix_fmt, num=3)
    data = write(info, pictures, format_name)
    coded = ["-pix_fmt", pix_fmt, "-f", "rawvideo", "-"]
    command = ["ffmpeg", "-v", "error", "-i", "-", *coded]
    done = subprocess.run(command, input=data, capture_output=True, check=True)
    order = (1, 2, 0) if pix_fmt == "gbrp" else range(len(pictures[0].planes))
    planes = [picture.planes[index].numpy().tobytes() for picture in pictures for index in order]
    assert done.stdout == b"".join(planes)


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_constant_rate_stays_exact(format_name: PipeFormat) -> None:
    info, pictures = clip(num=12)
    source = open_pipe_source(Slot(write(info, pictures, format_name)))
    assert source.info.rate == RATE
    ticks = Fraction(1, 1000) if format_name == "matroska" else 0
    for index, picture in enumerate(source):
        assert abs(picture.pts * picture.time_base - index / RATE) <= ticks / 2


@pytest.mark.parametrize("format_name", ["nut", "matroska"])
def test_variable_time_stamps_are_kept(format_name: PipeFormat) -> None:
    stamps = [0, 3003, 9009, 10010, 20020, 23023]
    info = stream_info(rate=None, time_base=Fraction(1, 90000))
    pictures = moving_pictures(6, pts=stamps, time_base=info.time_base)
    source = open_pipe_source(Slot(write(info, pictures, format_name)))
    assert source.info.rate is None
    seconds = [float(picture.pts * picture.time_base) for picture in source]
    expected = [stamp / 90000 for stamp in stamps]
    assert seconds == pytest.approx(expected, abs=0 if format_name == "nut" else 0.0005)


def test_a_stream_that_does_not_begin_at_zero_keeps_its_start() -> None:
    info = stream_info(rate=None, time_base=Fraction(1, 1000))
    pictures = moving_pictures(4, pts=[5000, 5040, 5080, 5120], time_base=info.time_base)
    first = read(write(info, pictures, "nut"))[0]
    assert first.pts * first.time_base == 5


@pytest.mark.parametrize("format_name", FORMATS)
def test_the_header_goes_out_at_once_and_frames_as_they_come(format_name: PipeFormat) -> None:
    info, pictures = clip(num=3)
    tap = Tap()
    sink = open_pipe_sink(tap, format_name, info)
    sizes = [len(tap.data)]
    for picture in pictures:
        sink.write(picture)
        sizes.append(len(tap.data))
    sink.finish()
    sizes.append(len(tap.data))
    frame_bytes = 64 * 48 * 3 // 2
    held = 1 if format_name == "matroska" else 0  # a cluster is written when the next one begins
    assert sizes[0] > 0
    for index in range(3):
        assert sizes[index + 1] >= sizes[0] + (index + 1 - held) * frame_bytes
    assert sink.num_written == 3


@pytest.mark.parametrize("format_name", FORMATS)
def test_the_same_pictures_give_the_same_bytes(format_name: PipeFormat) -> None:
    info, pictures = clip("yuv420p10le")
    assert write(info, pictures, format_name) == write(info, pictures, format_name)


@pytest.mark.parametrize(
    "ratio", [Fraction(4, 3), Fraction(64, 45), Fraction(1), Fraction(1000, 999)]
)
@pytest.mark.parametrize("format_name", FORMATS)
def test_sample_aspect_ratio_is_kept(format_name: PipeFormat, ratio: Fraction) -> None:
    info, pictures = clip(sample_aspect_ratio=ratio)
    data = write(info, pictures, format_name)
    assert open_pipe_source(Slot(data)).info.sample_aspect_ratio == ratio
    (stream,) = ffprobe(data, "stream=sample_aspect_ratio,nb_read_frames")["streams"]
    assert stream["sample_aspect_ratio"] == f"{ratio.numerator}:{ratio.denominator}"
    assert stream["nb_read_frames"] == "6"


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_matroska_keeps_every_colour_tag(pix_fmt: str) -> None:
    info, pictures = clip(pix_fmt, color=TAGS)
    data = write(info, pictures, "matroska")
    entries = "color_range,color_space,color_transfer,color_primaries,chroma_location"
    (stream,) = ffprobe(data, f"stream={entries}")["streams"]
    assert stream == {
        "color_range": "tv",
        "color_primaries": "bt2020",
        "color_transfer": "smpte2084",
        "color_space": "bt2020nc",
        "chroma_location": "topleft",
    }
    source = open_pipe_source(Slot(data))
    assert source.info.color == TAGS
    assert {picture.color for picture in source} == {TAGS}


def test_matroska_keeps_hdr10_data() -> None:
    def point(x: int, y: int) -> tuple[Fraction, Fraction]:
        return Fraction(x, 50000), Fraction(y, 50000)

    display = MasteringDisplay(
        point(34000, 16000),
        point(13250, 34500),
        point(7500, 3000),
        point(15635, 16450),
        Fraction(50, 10000),
        Fraction(1000),
    )
    light = ContentLight(1000, 400)
    info, pictures = clip("yuv420p10le", mastering_display=display, content_light=light)
    data = write(info, pictures, "matroska")
    found = open_pipe_source(Slot(data)).info
    assert found.content_light == light
    assert found.mastering_display is not None
    for name in ("red", "green", "blue", "white_point"):
        assert getattr(found.mastering_display, name) == pytest.approx(getattr(display, name))
    assert float(found.mastering_display.max_luminance) == pytest.approx(1000)
    assert float(found.mastering_display.min_luminance) == pytest.approx(0.005)


def test_says_which_tags_a_format_loses(caplog: pytest.LogCaptureFixture) -> None:
    info, _ = clip(color=TAGS, rotation=90)
    assert losses("y4m", info)[0].startswith(
        "y4m cannot store primaries, transfer, matrix, rotation"
    )
    assert "color range, chroma location" in losses("nut", info)[0]
    assert losses("matroska", info) == ["matroska cannot store rotation"]
    assert losses("nut", info)[0].endswith("; --format matroska keeps all but the rotation")
    assert losses("y4m", clip(color=TAGS)[0])[0].endswith("; --format matroska keeps them")
    assert losses("nut", clip(rotation=90)[0]) == ["nut cannot store rotation"]
    assert losses("nut", stream_info()) == []
    with caplog.at_level(logging.WARNING):
        open_pipe_sink(Tap(), "nut", info)
    assert len(caplog.records) == 1


def test_a_wrong_output_format_is_known_before_anything_is_written() -> None:
    check_pipe_sink("nut", stream_info(rate=None))
    check_pipe_sink("matroska", stream_info(pix_fmt="gbrp"))
    with pytest.raises(UnsupportedMedia, match="--format nut"):
        check_pipe_sink("y4m", stream_info(rate=None))
    with pytest.raises(UnsupportedMedia, match="y4m cannot hold gbrp"):
        check_pipe_sink("y4m", stream_info(pix_fmt="gbrp"))

"""The line that opens a YUV4MPEG2 stream."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from support.media.fakes import stream_info

from upframe.filters.frame import Color
from upframe.io.errors import UnsupportedMedia
from upframe.io.rawvideo.y4m import format_header, parse_header

FORMATS = {
    "420jpeg": ("yuv420p", "center"),
    "420mpeg2": ("yuv420p", "left"),
    "420paldv": ("yuv420p", "topleft"),
    "420": ("yuv420p", "center"),
    "422": ("yuv422p", None),
    "444": ("yuv444p", None),
    "444alpha": ("yuva444p", None),
    "mono": ("gray", None),
    **{
        f"{sampling}p{depth}": (f"yuv{sampling}p{depth}le", None)
        for sampling in ("420", "422", "444")
        for depth in (9, 10, 12, 14, 16)
    },
    **{f"mono{depth}": (f"gray{depth}le", None) for depth in (9, 10, 12, 14, 16)},
}


@pytest.mark.parametrize(("tag", "expected"), FORMATS.items())
def test_reads_every_chroma_tag(tag: str, expected: tuple[str, str | None]) -> None:
    header = parse_header(b"YUV4MPEG2 W4 H2 F25:1 C" + tag.encode())
    assert (header.pix_fmt, header.color.chroma_location) == expected


@pytest.mark.parametrize("tag", FORMATS)
def test_writes_back_the_chroma_tag_it_read(tag: str) -> None:
    info = parse_header(b"YUV4MPEG2 W4 H2 F25:1 C" + tag.encode())
    expected = "420jpeg" if tag == "420" else tag
    assert f" C{expected}".encode() in format_header(info)


def test_takes_tags_in_any_order_and_ignores_unknown_ones() -> None:
    header = parse_header(
        b"YUV4MPEG2 XYSCSS=420P10 C420p10 A4:3 XLENGTH=7 Zfoo Ip XCOLORRANGE=FULL F30:1  H48 W64"
    )
    assert (header.width, header.height, header.rate) == (64, 48, 30)
    assert (header.pix_fmt, header.color.range) == ("yuv420p10le", "pc")
    assert (header.sample_aspect_ratio, header.num_frames) == (Fraction(4, 3), 7)


def test_missing_chroma_is_420_and_missing_interlacing_is_progressive() -> None:
    info = parse_header(b"YUV4MPEG2 W64 H48 F25:1")
    assert (info.pix_fmt, info.field_order) == ("yuv420p", "progressive")
    assert info.sample_aspect_ratio is None


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"YUV4MPEG2 W4 H2 F25:1 C411", "C411 is not supported; C420jpeg, .*C422.*Cmono16 are"),
        (b"YUV4MPEG2 W4 H2 F25:1 C420p11", "C420p11 is not supported"),
        (b"YUV4MPEG2 W4 H2 C420", r"frame rate \(F\) must be like F30000:1001, got none"),
        (b"YUV4MPEG2 W4 H2 F0:0", "frame rate .* got '0:0'"),
        (b"YUV4MPEG2 W4 H2 F-25:1", "frame rate .* got '-25:1'"),
        (b"YUV4MPEG2 W0 H2 F25:1", r"width \(W\) must be 1 to 65535, got '0'"),
        (b"YUV4MPEG2 W4 H99999999999 F25:1", r"height \(H\) must be 1 to 65535"),
        (b"YUV4MPEG2 H2 F25:1", r"width \(W\) .* got none"),
        (b"YUV4MPEG9 W4 H2 F25:1", "must begin with YUV4MPEG2, got 'YUV4MPEG9'"),
    ],
)
def test_says_what_is_wrong_with_a_header(line: bytes, text: str) -> None:
    with pytest.raises(UnsupportedMedia, match=text):
        parse_header(line)


@pytest.mark.parametrize(("tag", "order"), [("It", "tt"), ("Ib", "bb"), ("Ip", "progressive")])
def test_field_order_is_read_and_written(tag: str, order: str) -> None:
    info = parse_header(f"YUV4MPEG2 W4 H2 F25:1 {tag} C420jpeg".encode())
    assert info.field_order == order
    assert f" {tag} ".encode() in format_header(info)


def test_keeps_rate_aspect_range_and_number_of_frames() -> None:
    info = replace(
        stream_info(pix_fmt="yuv422p", rate=Fraction(48000, 1001), num_frames=12),
        sample_aspect_ratio=Fraction(4, 3),
        color=Color(range="tv"),
    )
    assert format_header(info) == (
        b"YUV4MPEG2 W64 H48 F48000:1001 Ip A4:3 C422 XCOLORRANGE=LIMITED XLENGTH=12\n"
    )


def test_drops_what_readers_assume_before_a_header_gets_too_long_for_x264() -> None:
    info = replace(
        stream_info(7680, 4320, "yuv420p10le", rate=Fraction(120000, 1001), num_frames=123456),
        sample_aspect_ratio=Fraction(1),
        color=Color(range="tv"),
    )
    line = format_header(info)
    assert len(line) <= 80
    assert line.endswith(b"C420p10 XCOLORRANGE=LIMITED\n")


def test_no_size_rate_or_aspect_makes_a_header_too_long_unless_the_range_is_full() -> None:
    info = replace(
        stream_info(65535, 65535, "yuv420p16le", rate=Fraction(96000000, 1000001)),
        sample_aspect_ratio=Fraction(10000, 9999),
        color=Color(range="tv"),
    )
    assert len(format_header(info)) <= 80
    full = format_header(replace(info, color=Color(range="pc")))
    assert b"XCOLORRANGE=FULL" in full  # without it every reader would take limited

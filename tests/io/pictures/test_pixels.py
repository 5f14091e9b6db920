"""Frames of every pixel format to pictures and back."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np
import pytest
import torch
from av.video.reformatter import Interpolation

from upframe.filters.color.convert import ToFrame
from upframe.filters.frame import Color, Picture, PixelFormat
from upframe.io.errors import UnsupportedMedia
from upframe.io.pictures.pixels import conversion_warning, frame_of, picture_of, planar_pix_fmt

TIME_BASE = Fraction(1001, 24000)
EXACT = Interpolation.POINT | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
DEPTHS = ("", "9le", "10le", "12le", "14le", "16le")
NATIVE = (
    *(f"{family}{depth}" for family in ("gray", "gbrp") for depth in DEPTHS),
    *(f"yuv{chroma}p{depth}" for chroma in ("420", "422", "444") for depth in DEPTHS),
    *(
        f"yuva{chroma}p{depth}"
        for chroma in ("420", "422", "444")
        for depth in ("", "10le", "16le")
    ),
    *(f"gbrap{depth}" for depth in ("", "10le", "12le", "16le")),
)
# what FFmpeg's scaler can write without changing a value, and what holds it
LOSSLESS = {
    "nv12": "yuv420p", "nv21": "yuv420p", "nv16": "yuv422p", "nv24": "yuv444p", "nv42": "yuv444p",
    "nv20le": "yuv422p10le", "p010le": "yuv420p10le", "p010be": "yuv420p10le",
    "p012le": "yuv420p12le", "p016le": "yuv420p16le", "p210le": "yuv422p10le",
    "p216le": "yuv422p16le", "p410le": "yuv444p10le", "p416be": "yuv444p16le",
    "yuyv422": "yuv422p", "uyvy422": "yuv422p", "yvyu422": "yuv422p", "y210le": "yuv422p10le",
    "y212le": "yuv422p12le", "vuya": "yuva444p", "vuyx": "yuv444p", "ayuv64le": "yuva444p16le",
    "xv30le": "yuv444p10le", "v30xle": "yuv444p10le", "xv36le": "yuv444p12le",
    "rgb24": "gbrp", "bgr24": "gbrp", "rgb0": "gbrp", "bgr0": "gbrp", "0rgb": "gbrp",
    "0bgr": "gbrp", "rgba": "gbrap", "bgra": "gbrap", "argb": "gbrap", "abgr": "gbrap",
    "rgb48le": "gbrp16le", "rgb48be": "gbrp16le", "bgr48le": "gbrp16le",
    "rgba64le": "gbrap16le", "rgba64be": "gbrap16le", "bgra64le": "gbrap16le",
    "x2rgb10le": "gbrp10le", "x2bgr10le": "gbrp10le",
    "yuv420p10be": "yuv420p10le", "yuva444p16be": "yuva444p16le", "gbrp12be": "gbrp12le",
    "gray16be": "gray16le", "gbrap10be": "gbrap10le", "yuv444p10msble": "yuv444p10le",
}  # fmt: skip
NO_SAMPLES_TO_HOLD = (
    "gbrpf32le", "grayf32le", "rgbaf16le", "gray32le", "xyz12le", "bayer_rggb8", "cuda", "vaapi",
)  # fmt: skip


def noise(pix_fmt: str, width: int = 34, height: int = 10) -> Picture:
    """Random codes over the whole depth."""
    form = PixelFormat.parse(pix_fmt)
    random = np.random.default_rng(0)
    dtype = np.uint8 if form.bit_depth == 8 else np.uint16

    def plane(index: int) -> torch.Tensor:
        size = form.plane_size(width, height, index)[::-1]
        return torch.as_tensor(random.integers(0, 1 << form.bit_depth, size).astype(dtype))

    return Picture(
        tuple(plane(index) for index in range(form.num_planes)),
        pix_fmt,
        Color(),
        5,
        1,
        TIME_BASE,
        alpha=plane(0) if form.has_alpha else None,
    )


def taken(frame: av.VideoFrame, color: Color | None = None) -> Picture:
    return picture_of(frame, color or Color(), 5, 1, TIME_BASE)


def assert_same_codes(one: Picture, other: Picture) -> None:
    assert one.pix_fmt == other.pix_fmt
    for mine, theirs in zip(one.planes, other.planes, strict=True):
        assert torch.equal(mine, theirs)
    assert (one.alpha is None) == (other.alpha is None)
    if one.alpha is not None and other.alpha is not None:
        assert torch.equal(one.alpha, other.alpha)


def frame_from(pix_fmt: str, width: int, rows: list[list[int]], dtype: str = "u1") -> av.VideoFrame:
    """A frame of one plane with these elements."""
    frame = av.VideoFrame(width, len(rows), pix_fmt)
    memory = np.frombuffer(frame.planes[0], dtype).reshape(len(rows), -1)
    memory[:, : len(rows[0])] = rows
    return frame


@pytest.mark.parametrize("pix_fmt", NATIVE)
@pytest.mark.parametrize(("width", "height"), [(34, 10), (321, 181), (1, 1)])
def test_planar_formats_come_back_bit_for_bit(pix_fmt: str, width: int, height: int) -> None:
    assert planar_pix_fmt(pix_fmt) == pix_fmt
    given = noise(pix_fmt, width, height)
    frame = frame_of(given)
    assert (frame.format.name, frame.width, frame.height) == (pix_fmt, width, height)
    assert_same_codes(taken(frame), given)


@pytest.mark.parametrize(("pix_fmt", "planar"), LOSSLESS.items())
def test_other_layouts_hold_the_same_codes(pix_fmt: str, planar: str) -> None:
    assert planar_pix_fmt(pix_fmt) == planar
    given = noise(planar)
    packed = frame_of(given).reformat(format=pix_fmt, interpolation=EXACT, threads=1)
    assert packed.format.name == pix_fmt
    assert_same_codes(taken(packed), given)


@pytest.mark.parametrize("pix_fmt", ["ya8", "ya16le", "ya16be"])
def test_gray_with_alpha_becomes_rgb_of_equal_values(pix_fmt: str) -> None:
    words = pix_fmt != "ya8"
    dtype = {"ya8": "u1", "ya16le": "<u2", "ya16be": ">u2"}[pix_fmt]
    got = taken(frame_from(pix_fmt, 2, [[7, 200, 9, 100]], dtype))
    assert got.pix_fmt == ("gbrap16le" if words else "gbrap")
    assert [plane.tolist() for plane in got.planes] == [[[7, 9]]] * 3
    assert got.alpha is not None
    assert got.alpha.tolist() == [[200, 100]]


@pytest.mark.parametrize(
    ("pix_fmt", "dtype", "value", "rgb"),
    [
        ("rgb565le", "<u2", 0b00001_000010_11111, (8, 8, 255)),
        ("rgb565be", ">u2", 0b00001_000010_11111, (8, 8, 255)),
        ("bgr565le", "<u2", 0b00001_000010_11111, (255, 8, 8)),
        ("rgb555le", "<u2", 0b1_00001_00010_11111, (8, 16, 255)),
        ("bgr555le", "<u2", 0b1_00001_00010_11111, (255, 16, 8)),
        ("rgb444le", "<u2", 0b1111_0001_0010_1111, (17, 34, 255)),
        ("rgb8", "u1", 0b001_010_11, (36, 73, 255)),
        ("bgr8", "u1", 0b01_010_111, (255, 73, 85)),
        ("rgb4_byte", "u1", 0b1_01_0, (255, 85, 0)),
        ("bgr4_byte", "u1", 0b1_01_0, (0, 85, 255)),
    ],
)
def test_rgb_of_few_bits_becomes_the_nearest_of_eight(
    pix_fmt: str, dtype: str, value: int, rgb: tuple[int, int, int]
) -> None:
    got = taken(frame_from(pix_fmt, 1, [[value]], dtype))
    assert got.pix_fmt == "gbrp"
    assert tuple(int(plane[0, 0]) for plane in got.planes) == rgb


@pytest.mark.parametrize(
    ("pix_fmt", "values"), [("monow", [255, 0, 255, 255, 0]), ("monob", [0, 255, 0, 0, 255])]
)
def test_bits_become_black_and_white(pix_fmt: str, values: list[int]) -> None:
    got = taken(frame_from(pix_fmt, 5, [[0b01001_111]]))
    assert got.pix_fmt == "gray"
    assert got.planes[0].tolist() == [values]


def test_palettes_become_their_colours_with_alpha() -> None:
    frame = frame_from("pal8", 2, [[0, 255]])
    palette = np.frombuffer(frame.planes[1], np.uint32)
    palette[0], palette[255] = 0x80_01_02_03, 0xFF_FE_FD_FC  # A, R, G, B
    got = taken(frame)
    assert [plane.tolist() for plane in got.planes] == [[[1, 254]], [[2, 253]], [[3, 252]]]
    assert got.alpha is not None
    assert got.alpha.tolist() == [[0x80, 0xFF]]


@pytest.mark.parametrize(
    ("pix_fmt", "planar", "location", "chroma"),
    [
        ("yuv411p", "yuv422p", None, [[0, 40, 80, 80]]),
        ("yuv411p", "yuv422p", "center", [[0, 20, 60, 80]]),
        ("yuv440p", "yuv444p", None, [[0, 80, 160, 240, 0, 80, 160]] * 2),
    ],
)
def test_chroma_of_rare_samplings_is_interpolated_where_it_lies(
    pix_fmt: str, planar: str, location: str | None, chroma: list[list[int]]
) -> None:
    frame = av.VideoFrame(7, len(chroma), pix_fmt)
    for plane in frame.planes:
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)
        rows[:, : plane.width] = np.arange(plane.width) % 4 * 80
    got = taken(frame, Color(chroma_location=location))
    assert got.pix_fmt == planar
    assert got.planes[0].tolist()[0] == [0, 80, 160, 240, 0, 80, 160]
    assert got.planes[1].tolist() == got.planes[2].tolist() == chroma
    assert conversion_warning(pix_fmt) == f"chroma of {pix_fmt} is interpolated once to {planar}'s"


def test_lossless_conversions_need_no_warning() -> None:
    assert conversion_warning("nv12") is None
    assert conversion_warning("yuvj420p") is None


@pytest.mark.parametrize("pix_fmt", ["yuvj420p", "yuvj422p", "yuvj444p"])
def test_yuvj_is_full_range(pix_fmt: str) -> None:
    frame = av.VideoFrame(4, 2, pix_fmt)
    got = taken(frame)
    assert (got.pix_fmt, got.color.range) == (pix_fmt.replace("j", ""), "pc")


@pytest.mark.parametrize("pix_fmt", NO_SAMPLES_TO_HOLD)
def test_what_cannot_be_held_without_loss_is_refused_by_name(pix_fmt: str) -> None:
    with pytest.raises(UnsupportedMedia, match=f"integers, got {pix_fmt}"):
        planar_pix_fmt(pix_fmt)


def test_a_format_that_is_none_is_refused() -> None:
    with pytest.raises(UnsupportedMedia, match="must be one of FFmpeg's, got 'yuv421p'"):
        planar_pix_fmt("yuv421p")


def test_short_names_mean_their_little_endian_format() -> None:
    assert planar_pix_fmt("yuv420p10") == "yuv420p10le"
    assert planar_pix_fmt("gray8") == "gray"


def test_rows_from_bottom_to_top_are_turned() -> None:
    given = noise("yuv420p")
    graph = av.filter.Graph()
    source = graph.add_buffer(width=34, height=10, format="yuv420p", time_base=TIME_BASE)
    flip = graph.add("vflip")
    sink = graph.add("buffersink")
    source.link_to(flip)
    flip.link_to(sink)
    graph.configure()
    source.push(frame_of(given))
    flipped = sink.pull()
    assert isinstance(flipped, av.VideoFrame)
    assert flipped.planes[0].line_size < 0  # or this test shows nothing
    turned = replace(given, planes=tuple(plane.flip(0) for plane in given.planes))
    assert_same_codes(taken(flipped), turned)


def test_pictures_own_their_memory() -> None:
    given = noise("yuv420p10le")
    frame = frame_of(given)
    got = taken(frame)
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    assert_same_codes(got, given)
    assert all(plane.is_contiguous() for plane in got.planes)


def test_planes_that_are_views_are_written_as_they_look() -> None:
    given = noise("yuv444p", 12, 12)
    turned = replace(given, planes=tuple(plane.T for plane in given.planes))
    assert_same_codes(taken(frame_of(turned)), turned)


def test_time_and_tags_travel_both_ways() -> None:
    tags = Color("tv", "bt2020", "smpte2084", "bt2020nc")
    given = replace(noise("yuv420p10le"), color=tags, pts=1001, duration=7)
    frame = frame_of(given)
    assert (frame.pts, frame.duration, frame.time_base) == (1001, 7, TIME_BASE)
    assert (frame.color_range, frame.color_primaries, frame.color_trc, frame.colorspace) == (
        1,
        9,
        16,
        9,
    )
    got = picture_of(frame, tags, 1001, 7, TIME_BASE)
    assert (got.pts, got.duration, got.time_base, got.color) == (1001, 7, TIME_BASE, tags)
    assert not got.interlaced


@pytest.mark.parametrize(("matrix", "number"), [("bt709", 1), ("smpte170m", 5), ("bt2020nc", 9)])
@pytest.mark.parametrize("color_range", ["tv", "pc"])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p10le"])
def test_colours_agree_with_ffmpegs_scaler(
    matrix: str, number: int, color_range: str, pix_fmt: str
) -> None:
    """FFmpeg's scaler computes in integers: within 3 of 255 is the same colour, not more."""
    form = PixelFormat.parse(pix_fmt)
    y, x = np.mgrid[0:64, 0:96].astype(float)
    unit = 1 << (form.bit_depth - 8)
    full = (60 + x + y / 2, 110 + x / 4 + y / 8, 140 - x / 4)
    dtype = np.uint8 if form.bit_depth == 8 else np.uint16
    planes = [
        torch.as_tensor((plane * unit).astype(dtype)[:: 1 << shift_y, :: 1 << shift_x].copy())
        for plane, shift_y, shift_x in zip(
            full, (0, *[form.chroma_shift_y] * 2), (0, *[form.chroma_shift_x] * 2), strict=True
        )
    ]
    tags = Color(range="tv" if color_range == "tv" else "pc", matrix=matrix)
    given = Picture(tuple(planes), pix_fmt, tags, 0, 1, TIME_BASE)
    theirs = taken(
        frame_of(given).reformat(
            format="gbrp",
            src_colorspace=number,
            src_color_range=1 if color_range == "tv" else 2,
            dst_color_range=2,
            interpolation=Interpolation.BICUBIC
            | Interpolation.ACCURATE_RND
            | Interpolation.FULL_CHR_H_INP
            | Interpolation.FULL_CHR_H_INT,
        )
    )
    ours = ToFrame(torch.device("cpu"))(given).pixels * 255
    for plane, other in zip(ours, theirs.planes, strict=True):
        assert float((plane - other.float())[2:-2, 2:-2].abs().max()) <= 3


def test_a_real_decoders_frames_come_out_whole(data: Path) -> None:
    with av.open(str(data / "media" / "bigbuckbunny.mp4")) as container:
        frame = next(container.decode(video=0))
        got = taken(frame)
        array = frame.to_ndarray()
    assert torch.equal(got.planes[0], torch.as_tensor(array[:720]))
    assert (got.width, got.height, got.pix_fmt) == (1280, 720, "yuv420p")

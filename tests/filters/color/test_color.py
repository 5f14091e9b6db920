"""Pictures to frames and back, against the ITU's own equations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from support.kernels.colors import (
    RECOMMENDATIONS,
    Array,
    code_difference,
    codes_of,
    lattice,
    picture,
    ramp,
)

from upframe.filters.chain import Chain
from upframe.filters.color.convert import ToFrame, ToPicture, output_size
from upframe.filters.errors import UnsupportedPixels
from upframe.filters.frame import Color, Filter, Frame, Picture, StreamInfo

CPU = torch.device("cpu")
SMALL = [(321, 181), (33, 17), (5, 3), (2, 2), (1, 1), (1, 7), (7, 1)]

every_colour_system = pytest.mark.parametrize(
    ("recommendation", "color_range", "bit_depth"),
    [(r, c, b) for r in RECOMMENDATIONS for c in ("tv", "pc") for b in (8, 9, 10, 12, 14, 16)],
)


class Remake:
    """A filter that changes nothing, but makes every frame anew: the mean of it and its copy."""

    def open(self, info: StreamInfo) -> StreamInfo:
        return info

    def __call__(self, frame: Frame) -> Iterable[Frame]:
        yield frame
        middle = torch.stack((frame.pixels, frame.pixels.clone())).mean(0)
        yield replace(frame, pixels=middle, pts=frame.pts + 1)

    def flush(self) -> Iterable[Frame]:
        return ()

    def statistics(self) -> dict[str, int]:
        return {}


def color(recommendation: str, color_range: str) -> Color:
    matrix = RECOMMENDATIONS[recommendation][0]
    return Color(
        range="tv" if color_range == "tv" else "pc",
        primaries="bt2020" if recommendation == "2020" else "bt709",
        trc="arib-std-b67" if recommendation == "2020" else "bt709",
        matrix=matrix,
    )


def yuv(rgb: Array, recommendation: str, color_range: str, pix_fmt: str) -> Picture:
    depth = pix_fmt.removesuffix("le").rpartition("p")[2]
    codes = codes_of(rgb, recommendation, color_range, int(depth or 8))
    return picture(codes, pix_fmt, color(recommendation, color_range))


def named(family: str, bit_depth: int) -> str:
    return family if bit_depth == 8 else f"{family}{bit_depth}le"


def there_and_back(given: Picture, *filters: Filter) -> list[Picture]:
    to_frame, to_picture = ToFrame(CPU), ToPicture(given.pix_fmt, given.color)
    return [to_picture(frame) for frame in Chain(filters)(to_frame(given))]


@every_colour_system
def test_decodes_to_the_colour_that_the_recommendation_means(
    recommendation: str, color_range: str, bit_depth: int
) -> None:
    rgb = lattice()
    given = yuv(rgb, recommendation, color_range, named("yuv444p", bit_depth))
    got = ToFrame(CPU)(given).pixels.numpy()
    # half a code in each of Y, Cb and Cr moves R, G or B by at most (1 + 1.8814) / 2 codes
    codes = (219 if color_range == "tv" else 255) * 2.0 ** (bit_depth - 8)
    assert got.dtype == np.float32
    assert np.abs(got - rgb).max() < 1.45 / codes + 2e-6


@every_colour_system
@pytest.mark.parametrize("family", ["yuv420p", "yuv422p", "yuv444p"])
def test_ramps_come_back(
    recommendation: str, color_range: str, bit_depth: int, family: str
) -> None:
    given = yuv(ramp(), recommendation, color_range, named(family, bit_depth))
    (back,) = there_and_back(given)
    largest, mean = code_difference(given, back)
    assert largest <= 1
    assert mean <= 0.1
    assert back.color == given.color


@every_colour_system
def test_every_colour_of_the_gamut_comes_back_as_a_flat_field(
    recommendation: str, color_range: str, bit_depth: int
) -> None:
    rgb = lattice()
    given = yuv(rgb, recommendation, color_range, named("yuv444p", bit_depth))
    (back,) = there_and_back(given)
    largest, mean = code_difference(given, back)
    assert largest <= 1
    assert mean <= 0.1


@pytest.mark.parametrize(
    "rgb", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.2, 0.5, 0.7), (0.9, 0.1, 0.1)]
)
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "yuv422p10le"])
@pytest.mark.parametrize("color_range", ["tv", "pc"])
@pytest.mark.parametrize("recommendation", RECOMMENDATIONS)
def test_originals_and_remade_frames_have_the_same_mean(
    recommendation: str, color_range: str, pix_fmt: str, rgb: tuple[float, float, float]
) -> None:
    """Every n-th frame must not look brighter than those between them."""
    flat = np.broadcast_to(np.array(rgb)[:, None, None], (3, 36, 64))
    given = yuv(flat, recommendation, color_range, pix_fmt)
    original, remade = there_and_back(given, Remake())
    for one, other, source in zip(original.planes, remade.planes, given.planes, strict=True):
        assert abs(float(one.float().mean() - other.float().mean())) == 0
        assert abs(float(one.float().mean() - source.float().mean())) <= 0.1


@pytest.mark.parametrize("location", ["left", "center", "topleft", "top", "bottomleft", "bottom"])
def test_every_chroma_siting_comes_back(location: str) -> None:
    given = yuv(ramp(), "709", "tv", "yuv420p")
    given = replace(given, color=replace(given.color, chroma_location=location))
    (back,) = there_and_back(given)
    assert code_difference(given, back) == (0, 0)
    assert back.color.chroma_location == location


def test_chroma_noise_comes_back_where_it_stays_in_gamut() -> None:
    luma = np.full((64, 64), 126)
    noise = np.random.default_rng(0).integers(112, 144, (2, 64, 64))
    given = picture((luma, *noise), "yuv420p", color("709", "tv"))
    (back,) = there_and_back(given)
    assert code_difference(given, back) == (0, 0)


@pytest.mark.parametrize(
    "pix_fmt", ["yuv420p", "yuv420p10le", "yuv422p", "yuv444p", "gray", "gbrp"]
)
@pytest.mark.parametrize(("width", "height"), SMALL)
def test_odd_and_tiny_sizes_become_what_chroma_allows(
    pix_fmt: str, width: int, height: int
) -> None:
    unit = 4 if "10" in pix_fmt else 1
    codes = tuple(np.full((height, width), value * unit) for value in (100, 120, 130))
    given = picture(codes, pix_fmt, Color(matrix="bt709"))
    frame = ToFrame(CPU)(given)
    assert frame.pixels.shape == (3, height, width)
    back = ToPicture(pix_fmt, given.color)(frame)
    assert (back.width, back.height) == output_size(width, height, pix_fmt)
    for plane, source in zip(back.planes, given.planes, strict=True):
        assert set(plane.flatten().tolist()) == {int(source[0, 0])}


def test_output_sizes_are_even_only_where_chroma_is_halved() -> None:
    assert output_size(321, 181, "yuv420p") == (320, 180)
    assert output_size(321, 181, "yuv422p10le") == (320, 181)
    assert output_size(321, 181, "yuv444p") == (321, 181)
    assert output_size(1, 1, "yuva420p") == (2, 2)
    assert output_size(1, 1, "gray") == (1, 1)


@pytest.mark.parametrize("bit_depth", [8, 9, 10, 12, 14, 16])
@pytest.mark.parametrize("color_range", ["tv", "pc", None])
@pytest.mark.parametrize("family", ["gray", "gbrp"])
def test_gray_and_rgb_come_back_exactly(
    family: str, color_range: str | None, bit_depth: int
) -> None:
    low, high = (16, 235) if color_range == "tv" else (0, 255)
    unit = 1 << (bit_depth - 8)
    top = high * unit if color_range == "tv" else (1 << bit_depth) - 1
    levels = np.linspace(low * unit, top, 64 * 32).astype(np.int64).reshape(32, 64)
    tags = Color(range="tv" if color_range == "tv" else "pc" if color_range else None)
    given = picture((levels, levels[::-1], levels[:, ::-1]), named(family, bit_depth), tags)
    frame = ToFrame(CPU)(given)
    assert float(frame.pixels.min()) == 0
    assert float(frame.pixels.max()) == 1
    assert code_difference(given, ToPicture(given.pix_fmt, tags)(frame)) == (0, 0)


@pytest.mark.parametrize("pix_fmt", ["yuva420p", "yuva444p10le", "gbrap", "gbrap16le"])
def test_alpha_comes_back_exactly(pix_fmt: str) -> None:
    codes = tuple(np.full((8, 16), value) for value in (100, 120, 130))
    given = picture(codes, pix_fmt, Color(matrix="bt709"))
    frame = ToFrame(CPU)(given)
    assert frame.alpha is not None
    assert float(frame.alpha.max()) == 1
    (back,) = there_and_back(given)
    assert given.alpha is not None
    assert back.alpha is not None
    assert torch.equal(back.alpha, given.alpha)


def test_alpha_that_is_missing_is_opaque_and_alpha_not_wanted_is_dropped() -> None:
    codes = tuple(np.full((8, 16), value) for value in (100, 120, 130))
    frame = ToFrame(CPU)(picture(codes, "yuv444p", Color()))
    with_alpha = ToPicture("gbrap16le", Color())(frame)
    assert with_alpha.alpha is not None
    assert set(with_alpha.alpha.flatten().tolist()) == {65535}
    assert ToPicture("yuv444p", Color())(ToFrame(CPU)(with_alpha)).alpha is None


def test_values_outside_the_gamut_are_clipped_and_counted() -> None:
    luma = np.full((4, 4), 128)
    luma[0] = 255  # whiter than white: R, G and B of 4 pixels
    luma[1, 0] = 0  # blacker than black: R, G and B of 1 pixel
    neutral = np.full((4, 4), 128)
    given = picture((luma, neutral, neutral), "yuv444p", color("709", "tv"))
    to_frame = ToFrame(CPU)
    frame = to_frame(given)
    assert float(frame.pixels.min()) == 0
    assert float(frame.pixels.max()) == 1
    assert to_frame.statistics() == {"clipped_values": 15}
    back = ToPicture("yuv444p", given.color)(frame)
    assert back.planes[0][:2, 0].tolist() == [235, 16]
    to_frame(replace(given, pts=1))
    assert to_frame.statistics() == {"clipped_values": 30}


def test_rounding_of_colours_on_the_faces_of_the_gamut_is_not_counted_as_outside() -> None:
    """Pure white, black and the primaries of a clean stream are not worth a line in a report."""
    cube = lattice(2)[..., [0, -1]]
    given = yuv(cube, "709", "tv", "yuv444p")
    to_frame = ToFrame(CPU)
    to_frame(given)
    assert to_frame.statistics()["clipped_values"] == 0


def test_values_that_filters_leave_outside_are_clipped_and_counted() -> None:
    pixels = torch.full((3, 2, 2), 0.5)
    pixels[0] = 1.5
    pixels[1, 0, 0] = -0.1
    frame = Frame(pixels, 0, 1, Fraction(1, 25))
    to_picture = ToPicture("gbrp", Color())
    made = to_picture(frame)
    assert made.planes[0].unique().tolist() == [255]
    assert made.planes[1][0, 0] == 0
    assert to_picture.statistics() == {"clipped_values": 5}
    assert float(pixels.max()) == 1.5  # a frame is a value


def test_codes_are_rounded_not_cut_off() -> None:
    pixels = torch.tensor([100.4, 100.6, 254.6]).div(255).expand(3, 1, 3)
    made = ToPicture("gbrp", Color())(Frame(pixels, 0, 1, Fraction(1, 25)))
    assert made.planes[0].tolist() == [[100, 101, 255]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_frames_of_any_float_dtype_are_taken(dtype: torch.dtype) -> None:
    frame = Frame(torch.full((3, 4, 4), 0.5, dtype=dtype), 0, 1, Fraction(1, 25))
    made = ToPicture("yuv420p10le", color("709", "tv"))(frame)
    assert [int(plane[0, 0]) for plane in made.planes] == [502, 512, 512]


def test_timestamps_and_flags_pass_through() -> None:
    given = replace(yuv(ramp(), "709", "tv", "yuv420p"), pts=7, duration=3)
    frame = ToFrame(CPU)(given, cut=True)
    assert (frame.pts, frame.duration, frame.time_base) == (7, 3, Fraction(1, 25))
    assert (frame.cut, frame.duplicate) == (True, False)
    back = ToPicture("yuv420p", given.color)(frame)
    assert (back.pts, back.duration, back.time_base) == (7, 3, Fraction(1, 25))


def test_duplicates_reuse_the_work_and_keep_their_own_time() -> None:
    given = yuv(ramp(), "709", "tv", "yuv420p")
    to_frame, to_picture = ToFrame(CPU), ToPicture("yuv420p", given.color)
    first = to_frame(given)
    second = to_frame(replace(given, pts=1), duplicate=True)
    assert second.pixels is first.pixels
    assert second.duplicate
    one, other = to_picture(first), to_picture(second)
    assert (one.pts, other.pts) == (0, 1)
    assert all(a is b for a, b in zip(one.planes, other.planes, strict=True))


def test_a_duplicate_without_anything_before_it_is_converted() -> None:
    given = yuv(ramp(), "709", "tv", "yuv420p")
    frame = ToFrame(CPU)(given, duplicate=True)
    back = ToPicture("yuv420p", given.color)(frame)
    assert code_difference(given, back) == (0, 0)


def test_a_duplicate_of_another_size_is_converted() -> None:
    to_picture = ToPicture("yuv420p", Color())
    to_picture(Frame(torch.zeros(3, 4, 4), 0, 1, Fraction(1, 25)))
    made = to_picture(Frame(torch.ones(3, 8, 8), 1, 1, Fraction(1, 25), duplicate=True))
    assert made.planes[0].unique().tolist() == [235]


def test_a_matrix_that_cannot_be_undone_is_refused_before_any_frame() -> None:
    wanted = r"matrix must be .*, got ictcp"
    with pytest.raises(UnsupportedPixels, match=wanted):
        ToPicture("yuv420p10le", Color(matrix="ictcp"))
    given = replace(yuv(ramp(), "709", "tv", "yuv420p"), color=Color(matrix="ictcp"))
    with pytest.raises(UnsupportedPixels, match=wanted):
        ToFrame(CPU)(given)
    ToPicture("gbrp", Color(matrix="ictcp"))  # RGB has no use for it


@pytest.mark.needs_cuda
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "yuv444p16le", "yuva422p10le"])
def test_cuda_gives_what_the_cpu_gives(pix_fmt: str) -> None:
    given = yuv(ramp(), "709", "tv", "yuv444p16le")
    given = ToPicture(pix_fmt, given.color)(ToFrame(CPU)(given))
    to_frame = ToFrame(torch.device("cuda"))
    frame = to_frame(given)
    assert frame.pixels.device.type == "cuda"
    back = ToPicture(pix_fmt, given.color)(frame)
    assert code_difference(given, back) == (0, 0)
    assert to_frame.statistics() == {"clipped_values": 0}

"""What a level shows, in the output's size, pixel format and colours whatever comes in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.live.pictures import INFO, WIDTH, computed, feed, live, options, picture

from upframe.filters.frame import Color, Picture, PixelFormat


def test_cheap_levels_show_the_same_picture() -> None:
    compute, _ = live(options(exp=0))
    shown: dict[str, Picture] = {}
    for name in ("full", "bicubic", "pass"):
        list(compute.switch(name))
        (shown[name],) = feed(compute, [4])
    for name in ("bicubic", "pass"):
        for one, other in zip(shown["full"].planes, shown[name].planes, strict=True):
            difference = (one.int() - other.int())[4:-4, 4:-4].abs().float()
            assert difference.mean() < 1.5
            assert difference.max() <= 12


@pytest.mark.parametrize("pix_fmt", ["yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le"])
@pytest.mark.parametrize("name", ["full", "pass"])
def test_other_samplings_and_depths_become_the_outputs_with_the_same_colours(
    pix_fmt: str, name: str
) -> None:
    color = Color(range="tv", matrix="bt709")
    info = replace(INFO, pix_fmt=pix_fmt, color=color)
    compute, _ = live(options(exp=0), info, "yuv420p")
    list(compute.switch(name))
    source = picture(7, info)
    (out,) = computed(compute, source)
    assert (out.pix_fmt, out.color) == ("yuv420p", color)
    for before, after in zip(source.planes, out.planes, strict=True):
        mean = before.float().mean() / (1 << (PixelFormat.parse(pix_fmt).bit_depth - 8))
        assert abs(float(after.float().mean() - mean)) < 0.6


@pytest.mark.parametrize("pix_fmt", ["gray", "gbrp", "yuva420p"])
def test_what_is_coded_in_another_way_becomes_the_outputs_at_every_level(
    pix_fmt: str,
) -> None:
    info = replace(INFO, pix_fmt=pix_fmt)
    compute, _ = live(options(exp=0), info, "yuv420p")
    source = picture(3, info)
    luma: list[float] = []
    for name in ("full", "bicubic"):
        list(compute.switch(name))
        (out,) = computed(compute, source)
        assert (out.pix_fmt, out.width, out.alpha) == ("yuv420p", 2 * WIDTH, None)
        assert out.color == compute.info.color
        luma.append(float(out.planes[0].float().mean()))
    assert abs(luma[0] - luma[1]) < 0.6


def test_a_matrix_that_must_be_named_is_named_at_every_level() -> None:
    """640x360 says nothing and means BT.601; a player would take 1280x720 as BT.709."""
    info = replace(INFO, width=640, height=360)
    compute, _ = live(options(exp=0), info)
    list(compute.switch("pass"))
    (out,) = computed(compute, picture(0, info))
    assert out.color == compute.info.color
    assert out.color.matrix == "smpte170m"


def test_odd_sizes_have_the_same_even_output_at_every_level() -> None:
    info = replace(INFO, width=49, height=35)
    compute, levels = live(options(exp=1, scale=1.5), info)
    sizes: set[tuple[int, int]] = set()
    for level in levels.values():
        pictures = list(compute.switch(level.name))
        pictures += computed(compute, picture(0, info), breaks=True)
        pictures += compute.flush()
        sizes |= {(out.width, out.height) for out in pictures}
    assert sizes == {(72, 52)} == {(compute.info.width, compute.info.height)}

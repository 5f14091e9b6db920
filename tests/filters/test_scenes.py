"""Cuts are found, and nothing else is taken for one."""

from __future__ import annotations

import random
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from upframe.filters.frame import Color, Picture, PixelFormat
from upframe.filters.scenes import HISTORY, Marks, Scenes
from upframe.io.cuts import PICTURES_BEFORE

HEIGHT, WIDTH = 90, 160
LENGTH = 10


def scenery(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """(H, W), [0, 1]: blobs of several sizes, in the contrast of a usual picture."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(1, 1, height, width)
    for size in (36, 18, 9):
        coarse = torch.rand(1, 1, height // size + 2, width // size + 2, generator=generator)
        image += F.interpolate(coarse, size=(height, width), mode="bicubic") - 0.5
    return (0.5 + 0.35 * image[0, 0]).clamp(0, 1)


def shot(seed: int, length: int = LENGTH) -> list[Tensor]:
    """A scene that moves 2 pixels per picture."""
    wide = scenery(seed, HEIGHT, WIDTH + 2 * length)
    return [wide[:, 2 * i : 2 * i + WIDTH] for i in range(length)]


def picture(luma: Tensor, pix_fmt: str = "yuv420p", alpha: float = 1) -> Picture:
    form = PixelFormat.parse(pix_fmt)
    dtype = torch.uint8 if form.bit_depth == 8 else torch.uint16
    peak = 2**form.bit_depth - 1

    def coded(values: Tensor) -> Tensor:
        return (values * peak).round().to(torch.int32).to(dtype)

    height, width = luma.shape
    planes = [coded(luma)]
    for index in range(1, form.num_planes):
        across, down = form.plane_size(width, height, index)
        planes.append(coded(F.interpolate(luma[None, None], size=(down, across))[0, 0]))
    return Picture(
        tuple(planes),
        pix_fmt,
        Color(),
        0,
        1,
        Fraction(1, 25),
        alpha=coded(torch.full_like(luma, alpha)) if form.has_alpha else None,
    )


def cuts(lumas: Iterable[Tensor], pix_fmt: str = "yuv420p") -> list[int]:
    """The numbers of the pictures that are marked as cuts."""
    scenes = Scenes()
    return [i for i, luma in enumerate(lumas) if scenes(picture(luma, pix_fmt)).cut]


@pytest.mark.parametrize(
    "pix_fmt",
    ["yuv420p", "yuv422p10le", "yuv444p16le", "yuva420p", "gbrp", "gbrp12le", "gray", "gray16le"],
)
def test_finds_every_cut_in_every_kind_of_planes(pix_fmt: str) -> None:
    assert cuts(shot(1) + shot(2) + shot(3), pix_fmt) == [10, 20]


def test_finds_nearly_every_cut_between_scenes_of_equal_brightness() -> None:
    lumas = [luma for seed in range(40) for luma in shot(seed, 4)]
    found = cuts(lumas)
    assert set(found) <= set(range(4, 160, 4))
    assert len(found) >= 37  # of 39


def test_finds_cuts_between_shots_of_a_few_pictures() -> None:
    assert cuts(shot(1, 3) + shot(2, 3) + shot(3, 3)) == [3, 6]


def test_finds_cuts_between_plain_colours() -> None:
    plain = [torch.full((48, 64), value) for value in (0.2, 0.8, 0.3) for _ in range(5)]
    assert cuts(plain) == [5, 10]


def test_finds_the_cut_to_black_and_the_one_back() -> None:
    black = [torch.zeros(HEIGHT, WIDTH)] * 10
    assert cuts(shot(1) + black + shot(1)) == [10, 20]


def test_the_first_picture_is_no_cut() -> None:
    assert cuts(shot(1, 1)) == []


@pytest.mark.parametrize("length", [6, 12, 50])
@pytest.mark.parametrize("shade", [0.0, 1.0])
def test_takes_no_fade_for_a_cut(length: int, shade: float) -> None:
    weights = torch.linspace(1, 0, length)
    out = [luma * w + shade * (1 - w) for luma, w in zip(shot(1, length), weights, strict=True)]
    into = [
        luma * w + shade * (1 - w) for luma, w in zip(shot(2, length), weights.flip(0), strict=True)
    ]
    plain = [torch.full((HEIGHT, WIDTH), shade)] * 3
    assert cuts(shot(1) + out + plain + into) == [10]  # where the two shots meet
    assert cuts(out + plain + into) == []


@pytest.mark.parametrize("length", [12, 25])
def test_takes_no_dissolve_for_a_cut(length: int) -> None:
    weights = torch.linspace(0, 1, length)
    mixed = zip(shot(1, length), shot(2, length), weights, strict=True)
    assert cuts(a * (1 - w) + b * w for a, b, w in mixed) == []


@pytest.mark.parametrize("length", [1, 2])
def test_takes_no_flash_for_a_cut(length: int) -> None:
    lumas = shot(1, 20)
    lumas[10 : 10 + length] = [torch.ones(HEIGHT, WIDTH)] * length
    assert cuts(lumas) == []


def test_takes_no_overexposed_picture_for_a_cut() -> None:
    lumas = shot(1, 20)
    lumas[10] = (0.6 + 0.5 * lumas[10]).clamp(0, 1)
    assert cuts(lumas) == []


def test_finds_the_cut_that_hides_behind_a_flash() -> None:
    white = [torch.ones(HEIGHT, WIDTH)]
    assert cuts(shot(1) + white + shot(2)) == [11]


@pytest.mark.parametrize(
    ("across", "down"), [(1, 0), (4, 0), (8, 0), (12, 0), (0, 1), (0, 4), (0, 8), (6, 6)]
)
def test_takes_no_pan_for_a_cut(across: int, down: int) -> None:
    """Up to 1/13 of the width per picture, starting at once after pictures that stood still."""
    wide = scenery(1, HEIGHT + 200, WIDTH + 200)
    steps = [0, 0, 0, *range(200 // max(across, down))]
    views = [wide[down * i : down * i + HEIGHT, across * i : across * i + WIDTH] for i in steps]
    assert cuts(views) == []


def test_takes_no_zoom_for_a_cut() -> None:
    image = scenery(1)[None, None]
    zooms = [F.interpolate(image, scale_factor=1 + 0.05 * i, mode="bilinear") for i in range(12)]
    assert cuts(zoom[0, 0, :HEIGHT, :WIDTH] for zoom in zooms) == []


def test_chaos_has_no_cuts() -> None:
    """Where every picture is another one, repeating each would be a slide show."""
    assert len(cuts(scenery(seed) for seed in range(30))) <= 5


def test_a_real_shot_has_no_cuts_and_its_mirror_image_is_another_scene(data: Path) -> None:
    with av.open(str(data / "media" / "bigbuckbunny.mp4")) as container:
        lumas = [
            torch.from_numpy(frame.to_ndarray(format="gray")).float() / 255
            for frame in container.decode(video=0)
        ]
    assert cuts(lumas) == []
    assert cuts([*lumas[:30], *(luma.flip(1) for luma in lumas[30:60])]) == [30]


def test_marks_exactly_equal_pictures_as_duplicates() -> None:
    luma = scenery(1)
    barely = luma.clone()
    barely[-1, -1] += 1 / 255 if barely[-1, -1] < 0.9 else -1 / 255
    scenes = Scenes()
    marks = [scenes(picture(value)) for value in (luma, luma.clone(), barely, barely, luma)]
    assert [mark.duplicate for mark in marks] == [False, True, False, True, False]
    assert not any(mark.cut for mark in marks)
    assert scenes.statistics() == {"cuts": 0, "duplicates": 2}


def test_looks_at_chroma_and_alpha_before_it_says_duplicate() -> None:
    grey = picture(torch.full((32, 32), 0.5))
    pink = Picture((*grey.planes[:2], grey.planes[2] + 1), *_rest(grey))
    scenes = Scenes()
    assert [scenes(p).duplicate for p in (grey, pink, pink)] == [False, False, True]
    faded = [picture(torch.zeros(32, 32), "yuva420p", alpha) for alpha in (1, 0.5, 0.5)]
    scenes = Scenes()
    assert [scenes(p).duplicate for p in faded] == [False, False, True]


def _rest(of: Picture) -> tuple[str, Color, int, int, Fraction]:
    return of.pix_fmt, of.color, of.pts, of.duration, of.time_base


def test_another_format_or_size_is_no_duplicate() -> None:
    scenes = Scenes()
    luma = torch.full((32, 32), 0.5)
    pictures = [picture(luma), picture(luma, "gray"), picture(luma[:16], "gray")]
    assert [scenes(p).duplicate for p in pictures] == [False] * 3


def test_finds_duplicates_also_where_cuts_are_not_wanted() -> None:
    scenes = Scenes(detect_cuts=False)
    marks = [scenes(picture(luma)) for luma in (scenery(1), scenery(2), scenery(2))]
    assert marks == [Marks(False, False), Marks(False, False), Marks(False, True)]


def test_counts_cuts() -> None:
    scenes = Scenes()
    for luma in shot(1) + shot(2) + shot(3):
        scenes(picture(luma))
    assert scenes.statistics() == {"cuts": 2, "duplicates": 0}


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (2, 2), (720, 1280)])
def test_works_at_any_size(size: tuple[int, int]) -> None:
    scenes = Scenes()
    assert not scenes(picture(torch.zeros(size), "gray")).cut
    assert scenes(picture(torch.ones(size) * 0.5, "gray")).cut


@pytest.mark.parametrize("seed", range(6))
def test_a_part_is_judged_as_in_the_whole_if_it_may_look_back(seed: int) -> None:
    """Among scenes, chaos, repeated, black and overexposed pictures, wherever the part begins."""
    chance = random.Random(seed)
    lumas: list[Tensor] = []
    while len(lumas) < 90:
        kind = chance.choice(["shot", "chaos", "repeat", "long repeat", "black", "white"])
        number, last = chance.randrange(1000), lumas[-1] if lumas else scenery(seed)
        lumas += {
            "shot": lambda number=number: shot(number, chance.randint(1, 5)),
            "chaos": lambda number=number: [scenery(number + i) for i in range(5)],
            "repeat": lambda last=last: [last] * chance.randint(1, 3),
            "long repeat": lambda last=last: [last] * 2 * HISTORY,
            "black": lambda: [torch.full((HEIGHT, WIDTH), 0.06)] * chance.randint(1, 9),
            "white": lambda: [torch.full((HEIGHT, WIDTH), 0.97)] * chance.randint(1, 9),
        }[kind]()
    pictures = [picture(luma) for luma in lumas]
    whole = [*map(Scenes(), pictures)]
    for first in range(1, len(pictures)):
        part = Scenes()
        part.look_back(pictures[max(0, first - HISTORY) : first])
        found = [*map(part, pictures[first:])]
        assert found[0] == Marks(cut=False, duplicate=False)
        assert found[1:] == whole[first + 1 :]
        assert part.statistics()["cuts"] == sum(marks.cut for marks in found)


def test_sources_give_as_many_pictures_before_a_segment_as_are_looked_back_on() -> None:
    assert PICTURES_BEFORE >= HISTORY

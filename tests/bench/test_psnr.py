from __future__ import annotations

import math

import pytest
import torch
from support.scripts import script

psnr = script("psnr")


def test_a_tenth_off_everywhere_is_20_db() -> None:
    picture = torch.full((3, 4, 5), 0.5)
    assert psnr.psnr_db([picture + 0.1], [picture]) == pytest.approx(20, abs=1e-4)


def test_all_pictures_count_by_their_pixels() -> None:
    """Half of all pixels off by 0.1: half the mean square."""
    same, off = torch.zeros(3, 2, 2), torch.full((3, 2, 2), 0.1)
    expected = 20 + 10 * math.log10(2)
    assert psnr.psnr_db([same, off], [same, same]) == pytest.approx(expected, abs=1e-4)


def test_identical_pictures_are_infinitely_near() -> None:
    assert psnr.psnr_db([torch.ones(3, 2, 2)], [torch.ones(3, 2, 2)]) == math.inf


@pytest.mark.parametrize("size", [(3, 2, 3), (1, 2, 2)])
def test_refuses_other_shapes(size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="same shape"):
        psnr.psnr_db([torch.zeros(size)], [torch.zeros(3, 2, 2)])


def test_refuses_other_numbers_of_pictures() -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        psnr.psnr_db([], [torch.zeros(3, 2, 2)])
    with pytest.raises(ValueError, match="at least one pixel"):
        psnr.psnr_db([], [])

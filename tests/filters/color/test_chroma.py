"""Chroma to full size and back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from upframe.filters.color import planes
from upframe.filters.color.planes import Phase, downsample, phases, upsample

PHASES: tuple[Phase, ...] = ("first", "between", "second")
POSITIONS = {"first": 0.0, "between": 0.5, "second": 1.0}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("dim", [-1, -2])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 32])
def test_there_and_back_changes_nothing_even_on_noise(phase: Phase, dim: int, count: int) -> None:
    noise = torch.rand(2, count, count)
    full = upsample(noise, 2 * count, dim, phase)
    assert full.shape[dim] == 2 * count
    torch.testing.assert_close(downsample(full, dim, phase), noise, rtol=0, atol=1e-4)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("size", [1, 3, 5, 31])
def test_odd_sizes_come_back_but_for_their_last_samples(phase: Phase, size: int) -> None:
    noise = torch.rand(2, (size + 1) // 2, 3)
    full = upsample(noise, size, -2, phase)
    back = downsample(full, -2, phase)
    assert full.shape == (2, size, 3)
    assert back.shape == noise.shape
    torch.testing.assert_close(back[:, :-6], noise[:, :-6], rtol=0, atol=1e-4)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("size", [1, 2, 5, 8, 31, 32])
def test_a_flat_plane_stays_flat(phase: Phase, size: int) -> None:
    flat = torch.full((1, 4, (size + 1) // 2), 0.7)
    full = upsample(flat, size, -1, phase)
    torch.testing.assert_close(full, torch.full((1, 4, size), 0.7))
    torch.testing.assert_close(downsample(full, -1, phase), flat)


@pytest.mark.parametrize("phase", PHASES)
def test_samples_land_where_the_siting_says(phase: Phase) -> None:
    """A straight line stays the same line, in the coordinates of luma."""
    positions = torch.arange(16.0) * 2 + POSITIONS[phase]
    full = upsample(positions[None, None], 32, -1, phase)[0, 0]
    inner = slice(6, -6)
    torch.testing.assert_close(full[inner], torch.arange(32.0)[inner])
    line = torch.arange(32.0)[None, None]
    torch.testing.assert_close(downsample(line, -1, phase)[0, 0][4:-4], positions[4:-4])


@pytest.mark.parametrize("phase", PHASES)
def test_shrinking_removes_the_detail_that_chroma_cannot_hold(phase: Phase) -> None:
    stripes = (torch.arange(64) % 2).float().expand(1, 4, 64)
    inner = downsample(stripes, -1, phase)[..., 4:-4]
    torch.testing.assert_close(inner, torch.full_like(inner, 0.5), rtol=0, atol=1e-5)
    three_quarters = torch.cos(torch.arange(64.0) * 0.75 * torch.pi + 0.3).expand(1, 4, 64)
    assert downsample(three_quarters, -1, phase)[..., 6:-6].abs().max() < 0.2


@pytest.mark.parametrize("phase", PHASES)
def test_both_axes_are_treated_alike(phase: Phase) -> None:
    noise = torch.rand(2, 9, 9)
    across = upsample(noise, 18, -1, phase)
    torch.testing.assert_close(upsample(noise.mT, 18, -2, phase).mT, across)
    torch.testing.assert_close(downsample(across.mT, -2, phase).mT, downsample(across, -1, phase))


def test_the_inverse_inverts_and_is_near_the_one_of_least_aliasing() -> None:
    """The inverses span a plane; any basis of it has the same optimum, on every BLAS."""
    taps = np.arange(-2, 4)
    quarter = dict(zip(range(-2, 2), planes._QUARTER, strict=True))
    identity = np.zeros((5, 6))
    for shift, (column, tap) in itertools.product(range(5), enumerate(taps)):
        identity[shift, column] = quarter.get(shift - tap, 0) + quarter.get(-shift - tap, 0)
    chosen = np.array(planes._QUARTER_INVERSE)
    np.testing.assert_allclose(identity @ chosen, np.eye(5)[0], atol=1e-4)
    angles = np.linspace(0, np.pi, 400)
    weight = np.where(angles > 0.55 * np.pi, 1.0, np.where(angles < 0.45 * np.pi, 0.5, 0.0))
    response = 2 * np.cos(angles[:, None] * (2 * taps - 0.5)) * np.sqrt(weight)[:, None]
    wanted = np.sqrt(weight) * (angles < np.pi / 2)
    free = response @ np.linalg.svd(identity)[2][4:].T
    missing = wanted - response @ chosen
    least = missing - free @ np.linalg.lstsq(free, missing, rcond=None)[0]
    assert (missing**2).sum() < 1.45 * (least**2).sum()


def test_left_is_the_default_siting() -> None:
    assert phases(None) == phases("left") == ("first", "between")
    assert phases("center") == ("between", "between")
    assert phases("topleft") == ("first", "first")


def test_an_unknown_siting_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be one of left, center, .*, got middle"):
        phases("middle")


def test_inputs_are_not_written_to() -> None:
    for phase, dim in itertools.product(PHASES, (-1, -2)):
        noise: Tensor = torch.rand(1, 8, 8)
        kept = noise.clone()
        upsample(noise, 16, dim, phase)
        downsample(noise, dim, phase)
        assert torch.equal(noise, kept)

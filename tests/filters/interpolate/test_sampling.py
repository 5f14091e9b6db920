"""Padding, resizing and warping."""

from __future__ import annotations

import pytest
import torch

from upframe.filters.interpolate.network import (
    merge_taps,
    pad,
    padding_multiple,
    rescale,
    resize,
    taps,
    warp,
)


@pytest.mark.parametrize(("scale", "multiple"), [(0.25, 128), (0.5, 64), (1, 32), (2, 32), (4, 32)])
def test_pads_to_what_the_coarsest_block_needs(scale: float, multiple: int) -> None:
    assert padding_multiple(scale) == multiple
    padded = pad(torch.ones(1, 3, 75, 133), padding_multiple(scale))
    assert padded.shape[-2] % multiple == padded.shape[-1] % multiple == 0
    assert padded.shape[-2] - 75 < multiple
    assert padded.shape[-1] - 133 < multiple


def test_pads_with_zeros_right_and_below_and_not_at_all_where_it_fits() -> None:
    padded = pad(torch.ones(1, 3, 33, 64), 32)
    assert padded.shape == (1, 3, 64, 64)
    assert padded[:, :, :33].eq(1).all()
    assert padded[:, :, 33:].eq(0).all()


@pytest.mark.parametrize("cell", [0.25, 0.5, 1, 2, 4, 8, 16, 32])
def test_taps_are_all_that_a_resize_reads(cell: float) -> None:
    image = torch.rand(2, 3, 64, 96)
    found = merge_taps(taps(image, cell), cell)
    torch.testing.assert_close(found, resize(image, 1 / cell), rtol=0, atol=1e-6)


@pytest.mark.parametrize("cell", [0.5, 1, 2, 4, 8, 16, 32])
def test_going_to_a_finer_block_is_as_going_through_full_size(cell: float) -> None:
    image = torch.rand(2, 3, 8, 12)
    expected = resize(resize(image, cell), 2 / cell)
    torch.testing.assert_close(rescale(image, cell, cell / 2), expected, rtol=0, atol=1e-6)


def test_warp_reads_where_the_flow_points_right_and_down() -> None:
    image = torch.rand(1, 2, 32, 64)
    flow = torch.tensor([3.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 32, 64)
    found = warp(image, flow)
    torch.testing.assert_close(found[..., :-2, :-3], image[..., 2:, 3:], rtol=0, atol=1e-5)


def test_warp_repeats_the_border() -> None:
    image = torch.rand(1, 1, 32, 64)
    found = warp(image, torch.full((1, 2, 32, 64), 1000.0))
    torch.testing.assert_close(found, image[..., -1:, -1:].expand_as(found))


@pytest.mark.parametrize("cell", [4, 8])
def test_warp_at_the_taps_is_the_warp_at_these_pixels(cell: int) -> None:
    image, flow = torch.rand(2, 7, 64, 96), 5 * torch.randn(2, 2, 64, 96)
    found = warp(image, taps(flow, cell), cell)
    torch.testing.assert_close(found, taps(warp(image, flow), cell), rtol=0, atol=1e-6)


def test_warp_keeps_a_hundredth_of_a_pixel_at_8k() -> None:
    """fp16 grids are off by whole pixels there."""
    ramp = torch.arange(7680.0).expand(1, 1, 2, -1) / 7680
    flow = torch.zeros(1, 2, 2, 7680)
    flow[:, 0] = 0.25
    moved = (warp(ramp, flow) - ramp) * 7680
    assert (moved[..., :-1] - 0.25).abs().max() < 0.01

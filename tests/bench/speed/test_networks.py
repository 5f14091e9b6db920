"""Held against operations per pixel that were counted by hand from the published networks."""

from __future__ import annotations

import pytest
import torch
from support.scripts import script
from torch import Tensor

from upframe.filters.errors import CheckpointRejected
from upframe.filters.interpolate.network import expected_shapes
from upframe.filters.upscale.network import RRDBNet, SRVGGNetCompact

networks = script("speed/networks")


def state_of(network: type[torch.nn.Module], *sizes: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        return network(*sizes).state_dict()


def rife() -> dict[str, Tensor]:
    shapes = expected_shapes()
    return {f"module.{key}": torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.mark.parametrize(("convolutions", "flop"), [(16, 1_238_400), (32, 2_418_048)])
def test_srvgg_works_at_the_size_of_its_input(convolutions: int, flop: int) -> None:
    assert networks.upscale_flop_per_pixel(state_of(SRVGGNetCompact, 64, convolutions, 4)) == flop


def test_rrdb_ends_at_sixteen_times_the_pixels() -> None:
    assert networks.upscale_flop_per_pixel(state_of(RRDBNet, 64, 23, 32, 4)) == 35_853_696


@pytest.mark.parametrize(("scale", "folding"), [(2, 4), (1, 16)])
def test_rrdb_folds_its_input_for_small_scales(scale: int, folding: int) -> None:
    whole = networks.upscale_flop_per_pixel(state_of(RRDBNet, 64, 2, 32, 4))
    folded = networks.upscale_flop_per_pixel(state_of(RRDBNet, 64, 2, 32, scale))
    first_layer = 2 * 9 * 64 * 3  # takes more channels where it is folded
    assert folded == (whole - first_layer) // folding + first_layer


def test_rife_counts_one_encoder_for_each_source_frame() -> None:
    assert networks.interpolate_flop(rife(), 1920, 1088, 1) == round(47_681.25 * 1920 * 1088)


def test_rife_works_on_padded_frames() -> None:
    assert networks.interpolate_flop(rife(), 1918, 1080, 1) == networks.interpolate_flop(
        rife(), 1920, 1088, 1
    )


def test_rife_halves_so_inserted_frames_are_encoded_too() -> None:
    """Between 2 frames exp 3 makes 1, then 2, then 4, and encodes the first 3 of them."""
    encoder = 3032
    blocks = 47_681.25 - encoder
    assert networks.interpolate_flop(rife(), 64, 32, 3) == round(
        (4 * encoder + 7 * blocks) * 64 * 32
    )


@pytest.mark.parametrize("state", [{}, {"fc.weight": torch.zeros(3, 3)}])
def test_refuses_what_it_does_not_know(state: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointRejected, match="not known"):
        networks.upscale_flop_per_pixel(state)
    with pytest.raises(CheckpointRejected, match="not known"):
        networks.interpolate_flop(state, 64, 32, 1)


def test_names_a_network_by_what_makes_it_costly() -> None:
    assert (
        networks.describe_network(state_of(SRVGGNetCompact, 64, 16, 4))
        == "SRVGGNetCompact 64f16c x4"
    )
    assert networks.describe_network(state_of(RRDBNet, 64, 6, 32, 2)) == "RRDBNet 64f6b x2"

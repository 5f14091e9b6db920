"""The network against the same in the plainest words, and against what motion should do."""

from __future__ import annotations

import pytest
import torch
from support.kernels.interpolation import counted_calls, moving, plain_ifnet, random_state, texture
from torch import Tensor

from upframe.filters.interpolate.network import NUM_FEATURES, IFNet, blend, load_ifnet


def in_between(
    network: IFNet, left: Tensor, right: Tensor, times: list[float], scale: float = 1
) -> Tensor:
    with torch.inference_mode():
        pairs = torch.stack((network.sources(left), network.sources(right)), 1)
        flow, mask = network(pairs, torch.tensor(times), scale)
        return blend(pairs[:, :, NUM_FEATURES:], flow, mask)


def psnr(found: Tensor, expected: Tensor) -> float:
    return float(-10 * torch.log10((found - expected).square().mean()))


@pytest.mark.parametrize("scale", [0.25, 0.5, 1, 2, 4])
def test_equals_the_plainly_written_network_at_every_scale(scale: float) -> None:
    """Nothing that is folded, left out or computed at the taps only may show."""
    state = random_state()
    edge = 128 if scale == 0.25 else 64
    left, right = texture(edge, edge, 1)[None], texture(edge, edge, 2)[None]
    expected = plain_ifnet(state, left, right, 0.3, scale)
    found = in_between(load_ifnet(state), left, right, [0.3], scale)
    assert (expected - (left + right) / 2).abs().mean() > 0.05  # it does move and choose
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


def test_a_batch_gives_what_its_pairs_give_alone(network: IFNet) -> None:
    a, b, c = (image[None] for image in moving(3))
    together = in_between(network, torch.cat((a, b)), torch.cat((b, c)), [0.25, 0.5])
    alone = [in_between(network, a, b, [0.25]), in_between(network, b, c, [0.5])]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


def test_what_does_not_move_stays(network: IFNet) -> None:
    image = texture(64, 96)[None]
    assert psnr(in_between(network, image, image, [0.5]), image) > 40  # dB


def test_what_moves_is_found_half_way(network: IFNet) -> None:
    """A texture moving 6 pixels; away from the edges, where nobody knows what comes in."""
    left, middle, right = (image[None] for image in moving(3, 96, 160, step=6))
    inner = (..., slice(16, -16), slice(24, -24))
    found = psnr(in_between(network, left, right, [0.5])[inner], middle[inner])
    assert found > 30  # dB, for small starter weights
    assert found > psnr(((left + right) / 2)[inner], middle[inner]) + 6


def test_alpha_moves_with_the_colours_and_does_not_touch_them(network: IFNet) -> None:
    left, right = (image[None] for image in moving(2))
    plain = in_between(network, left, right, [0.5])
    with_alpha = in_between(
        network, torch.cat((left, left[:, :1]), 1), torch.cat((right, right[:, :1]), 1), [0.5]
    )
    assert torch.equal(with_alpha[:, :3], plain)
    assert torch.equal(with_alpha[:, 3], plain[:, 0])  # alpha was a copy of red


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_flow_mask_and_blending_stay_in_fp32_in_half_precision(
    network: IFNet, dtype: torch.dtype
) -> None:
    half = load_ifnet(random_state()).to(dtype)
    images = [image[None] for image in moving(2)]
    with torch.inference_mode():
        pairs = torch.stack([half.sources(image) for image in images], 1)
        flow, mask = half(pairs, torch.tensor([0.5]), 1)
    assert {pairs.dtype, flow.dtype, mask.dtype} == {torch.float32}
    assert torch.equal(pairs[:, 0, NUM_FEATURES:], images[0])  # not one bit of the picture is lost
    assert not torch.equal(flow, flow.to(dtype).float())  # finer than the convolutions


def test_samples_without_keeping_gradients(network: IFNet) -> None:
    assert not any(parameter.requires_grad for parameter in network.parameters())
    with counted_calls(network.encode) as calls:
        in_between(network, *(image[None] for image in moving(2)), [0.5])
    assert calls == [1, 1]

import pytest
import torch

from upframe.filters.upscale.network import resize, scaled_size


@pytest.mark.parametrize(
    ("size", "scale", "wanted"),
    [
        ((10, 10), 1.1, (11, 11)),  # 10 * 1.1 is 11.000000000000002 in floats
        ((100, 50), 2.3, (230, 115)),  # and 100 * 2.3 is 229.99999999999997
        ((1000, 3), 4.35, (4350, 13)),
        ((47, 33), 3.3, (155, 108)),
        ((1920, 1080), 2, (3840, 2160)),
        ((1, 1), 1.999, (1, 1)),
        ((7, 5), 1, (7, 5)),
        ((3, 3), 8.0, (24, 24)),
    ],
)
def test_sizes_are_exact_products_rounded_down(
    size: tuple[int, int], scale: float, wanted: tuple[int, int]
) -> None:
    assert scaled_size(*size, scale) == wanted


def test_the_right_size_is_left_alone() -> None:
    x = torch.rand(1, 3, 6, 8)
    assert resize(x, 8, 6) is x


@pytest.mark.parametrize(("width", "height"), [(1, 1), (5, 3), (8, 6), (13, 11), (31, 1)])
def test_flat_stays_flat_at_every_size(width: int, height: int) -> None:
    result = resize(torch.full((1, 3, 6, 8), 0.3), width, height)
    assert result.shape == (1, 3, height, width)
    torch.testing.assert_close(result, torch.full_like(result, 0.3))


def test_shrinking_does_not_alias() -> None:
    """Lines of one pixel become gray, whichever of them a sampler would have met."""
    lines = torch.zeros(1, 3, 64, 64)
    lines[:, :, :, ::2] = 1
    torch.testing.assert_close(
        resize(lines, 16, 16)[..., 2:-2], torch.full((1, 3, 16, 12), 0.5), rtol=0, atol=0.01
    )


def test_enlarging_keeps_edges_as_sharp_as_the_plain_kernel_does() -> None:
    """Keys' kernel with a = -0.75, a quarter and three quarters of a pixel beside an edge."""
    edge = torch.zeros(1, 3, 1, 8)
    edge[..., 4:] = 1
    row = resize(edge, 16, 2)[0, 0, 0]
    # w(t) = (a+2)|t|³ - (a+3)|t|² + 1 for |t| <= 1, a(|t|³ - 5|t|² + 8|t| - 4) up to 2
    w = [1.25 * t**3 - 2.25 * t**2 + 1 for t in (0.25, 0.75)]
    far = [-0.75 * (t**3 - 5 * t**2 + 8 * t - 4) for t in (1.25, 1.75)]
    assert row[7].item() == pytest.approx(w[1] + far[1], abs=1e-6)
    assert row[8].item() == pytest.approx(w[0] + far[0], abs=1e-6)


@pytest.mark.parametrize("width", [16, 48])
def test_the_middle_of_a_ramp_stays_in_the_middle(width: int) -> None:
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 4, 32)
    result = resize(ramp, width, 4)[0, 0, 0]
    assert result.mean().item() == pytest.approx(0.5, abs=1e-5)
    torch.testing.assert_close(result, 1 - result.flip(0), rtol=0, atol=1e-5)

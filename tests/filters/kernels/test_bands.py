"""Linear maps that are read off the functions that do them."""

from functools import partial

import pytest
import torch

from upframe.filters.color.planes import Phase, downsample, upsample
from upframe.filters.kernels.convolution import Band, band_of, identity

CPU = torch.device("cpu")
PHASES: tuple[Phase, ...] = ("first", "between", "second")


def applied(band: Band, x: torch.Tensor) -> torch.Tensor:
    taps = band.starts.long()[:, None] + torch.arange(band.num_taps)
    return (x[taps] * band.weights).sum(1)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("size", [2, 7, 40, 1030])
def test_a_band_does_what_shrinking_does(phase: Phase, size: int) -> None:
    band, x = band_of(partial(downsample, dim=-1, phase=phase), size, CPU), torch.rand(size)
    assert band.num_taps <= 15 or size < 20
    torch.testing.assert_close(applied(band, x), downsample(x[None], -1, phase)[0])


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("results", [4, 13, 80])
def test_a_band_does_what_enlarging_does(phase: Phase, results: int) -> None:
    size = -(-results // 2)
    band = band_of(lambda x: upsample(x, results, -1, phase), size, CPU)
    x = torch.rand(size)
    torch.testing.assert_close(applied(band, x), upsample(x[None], results, -1, phase)[0])


def test_the_identity_changes_nothing() -> None:
    x = torch.rand(9)
    assert torch.equal(applied(identity(9, CPU), x), x)

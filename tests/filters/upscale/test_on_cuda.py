"""The networks by kernels; without a card in Triton's interpreter."""

from __future__ import annotations

import copy
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
import torch
from support.kernels.devices import kernel_device
from support.kernels.upscaling import Wrapped, small_rrdb, small_srvgg
from torch import Tensor

from upframe.filters.upscale.checkpoint import load_upscaler
from upframe.filters.upscale.cuda import FusedRRDB, Proven, on_cuda
from upframe.filters.upscale.filter import Enlarger
from upframe.filters.upscale.network import ReducedSRVGG, RRDBNet, Upscaler
from upframe.filters.weights import load_state_dict

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Triton's own, of its next version


@pytest.fixture(autouse=True)
def _no_gradients() -> Generator[None]:
    with torch.no_grad():
        yield


def half(network: Upscaler, device: torch.device) -> Upscaler:
    made: Upscaler = copy.deepcopy(network).to(device, torch.float16)
    return made.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def psnr(result: Tensor, wanted: Tensor) -> float:
    return float(-10 * torch.log10((result.cpu() - wanted).square().mean()))


def small_dense(scale: int = 4) -> RRDBNet:
    torch.manual_seed(1)
    return RRDBNet(32, 1, 32, scale).requires_grad_(False).eval()


class Refused(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("this must not be asked")


@pytest.mark.parametrize(
    "network",
    [small_srvgg(32, 1, 4), small_srvgg(32, 2, 1), ReducedSRVGG(small_srvgg(32, 1, 4), 2)],
    ids=["x4", "x1", "x4 to x2"],
)
def test_compact_networks_give_the_same_picture(network: Upscaler) -> None:
    device, x = kernel_device(), torch.rand(1, 3, 5, 9)
    made = on_cuda(half(network, device))
    assert isinstance(made, Proven)
    result = made(x.to(device))
    assert psnr(result, network(x)) >= 60
    made.plain = Refused(made.plain)
    assert torch.equal(made(x.to(device)), result)  # by the kernels


@pytest.mark.slow
@pytest.mark.parametrize("scale", [4, 2])
def test_dense_networks_give_the_same_picture(scale: int) -> None:
    network, device, x = small_dense(scale), kernel_device(), torch.rand(1, 3, 3, 4)
    result = FusedRRDB(half(network, device))(x.to(device))  # pyright: ignore[reportArgumentType]
    assert psnr(result, network(x)) >= 60


def test_a_small_frame_after_the_first_may_have_another_size() -> None:
    network, device = small_srvgg(32, 1, 2), kernel_device()
    made = on_cuda(half(network, device))
    for size in ((4, 6), (1, 1), (2, 7)):
        x = torch.rand(1, 3, *size)
        assert psnr(made(x.to(device)), network(x)) >= 60


def test_where_triton_is_missing_the_plain_network_is_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = small_srvgg(8, 1, 2).half()

    def build() -> Upscaler:
        raise ModuleNotFoundError("No module named 'triton'")

    made, x = Proven(network, build), torch.rand(1, 3, 4, 4)
    for _ in range(2):
        assert torch.equal(made(x), network(x))
    (said,) = [record.message for record in caplog.records]
    assert said.startswith("SRVGGNetCompact is computed by plain torch: Module")


def test_kernels_that_disagree_are_not_used(caplog: pytest.LogCaptureFixture) -> None:
    network = small_srvgg(8, 1, 3).half()

    class Off(Wrapped):
        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + 0.01

    made, x = Proven(network, lambda: Off(network)), torch.rand(1, 3, 4, 4)
    assert torch.equal(made(x), network(x))
    assert "disagrees" in caplog.text


def test_what_no_kernel_knows_stays_as_it_is() -> None:
    for network in (
        small_srvgg(32, 1, 2),  # fp32 is exact as it is
        small_srvgg(8, 1, 2).half(),
        small_srvgg(32, 1, 3).half(),  # lines of three pixels
        small_rrdb(8).half(),
    ):
        assert on_cuda(network) is network
    assert isinstance(on_cuda(small_dense().half()), Proven)


@pytest.mark.needs_cuda
@pytest.mark.parametrize("name", ["rrdb_x4", "srvgg_x2", "srvgg_x3p3", "srvgg_x4", "starter_x4"])
def test_golden_cases_by_kernels_stay_within_50_db_of_fp32(data: Path, name: str) -> None:
    with np.load(data / "golden" / f"esrgan_{name}.npz") as case:
        frame = torch.from_numpy(case["frame"]).permute(2, 0, 1) / 255
        wanted = torch.from_numpy(case["out"]).permute(2, 0, 1)
        scale, weights = float(case["scale"]), data / "weights" / str(case["weights"])
    network = load_upscaler(load_state_dict(weights))
    enlarger = Enlarger(network, torch.device("cuda", 0), torch.float16)
    for _ in range(5):  # plainly, and by a graph
        assert psnr(enlarger(frame, scale), wanted) >= 50
    assert enlarger.num_redone_in_fp32 == 0


@pytest.mark.needs_cuda
@pytest.mark.parametrize(
    "network", [small_srvgg(64, 2, 4), small_dense()], ids=["compact", "dense"]
)
def test_kernels_hold_their_ground_on_a_card(network: Upscaler) -> None:
    """With Triton at hand, a whole frame is computed by them: neither wrong nor slower."""
    device = kernel_device()
    made, x = on_cuda(half(network, device)), torch.rand(1, 3, 360, 640)
    assert isinstance(made, Proven)
    assert psnr(made(x.to(device)), network(x)) >= 50
    made.plain = Refused(made.plain)
    made(x.to(device))

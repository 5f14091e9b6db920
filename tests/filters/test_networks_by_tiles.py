"""Whole networks in bf16 by tiles are close to fp32. Without AMX, tiles are emulated."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.kernels.interpolation import as_frames, moving, run
from torch import Tensor, nn

from upframe.filters.device import cpu_has
from upframe.filters.interpolate.cpu import FusedIFNet
from upframe.filters.interpolate.filter import Interpolate
from upframe.filters.interpolate.network import PlainEngine, load_ifnet
from upframe.filters.kernels.cpu_convolution import SWITCH, TileStack, has_tiles
from upframe.filters.upscale.checkpoint import load_upscaler
from upframe.filters.upscale.cpu import CompactOnCpu, DenseOnCpu, on_cpu
from upframe.filters.upscale.filter import Enlarger
from upframe.filters.upscale.network import ReducedSRVGG, RRDBNet, SRVGGNetCompact, Upscaler
from upframe.filters.weights import RIFE, load_state_dict, resolve_weights

BF16 = torch.bfloat16
SIZES = [(1, 1), (1, 7), (5, 1), (33, 47)]
LEAST = 52
"""PSNR to fp32, dB: that of bf16 by torch; 50 are wanted."""


@pytest.fixture(autouse=True)
def tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    if not cpu_has("amx_bf16"):
        monkeypatch.setenv(SWITCH, "emulate")
    monkeypatch.setenv("UPFRAME_WAY", "tiles,torch")
    if not has_tiles(BF16):
        pytest.skip("no kernels, or a CPU without AVX512-BF16")


@pytest.fixture
def two_threads() -> Iterator[None]:
    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(usual)


def psnr(found: Tensor, expected: Tensor) -> float:
    return float(-10 * torch.log10((found - expected).square().mean()))


def golden(data: Path, name: str) -> dict[str, Any]:
    with np.load(data / "golden" / f"{name}.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.mark.parametrize(
    "name", ["rrdb_x4", "srvgg_x2", "srvgg_x3p3", "srvgg_x4", "starter_x2", "starter_x4"]
)
def test_upscalers_give_the_golden_pictures(data: Path, name: str) -> None:
    case = golden(data, f"esrgan_{name}")
    network = load_upscaler(load_state_dict(data / "weights" / str(case["weights"])))
    frame = torch.from_numpy(case["frame"]).permute(2, 0, 1) / 255
    found = Enlarger(network, torch.device("cpu"), BF16)(frame, float(case["scale"]))
    assert psnr(found, torch.from_numpy(case["out"]).permute(2, 0, 1)) >= LEAST


@pytest.mark.parametrize("name", ["even_exp1", "even_exp2_direct", "even_half", "odd_exp2"])
def test_interpolation_gives_the_golden_frames(data: Path, name: str) -> None:
    case, state = golden(data, f"rife_{name}"), load_state_dict(data / "weights" / "flownet.pkl")
    exp, scale = int(case["exp"]), float(case["scale"])
    built = Interpolate(
        load_ifnet(state).to(BF16), exp=exp, scale=scale, method=str(case["method"])
    )
    images = torch.from_numpy(case["frames"]).permute(0, 3, 1, 2).float() / 255
    found = torch.stack([frame.pixels for frame in run(built, as_frames(images))])
    expected = torch.from_numpy(case["out"]).permute(0, 3, 1, 2)
    inserted = [index for index in range(len(found)) if index % 2**exp]
    assert psnr(found[inserted], expected[inserted]) >= LEAST


def in_bf16(plain: Upscaler) -> Upscaler:
    half = copy.deepcopy(plain).to(BF16)
    # torch's stub of `to` forgets this argument
    return half.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


@torch.inference_mode()
def assert_as_close_as_torch(plain: Upscaler, size: tuple[int, int], kind: type[Upscaler]) -> None:
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    half = in_bf16(plain)
    fast = on_cpu(half)
    assert isinstance(fast, kind)
    expected, found = plain(x), fast(x)
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    limit = 1.2 * (half(x) - expected).square().mean() + 1e-5 * expected.square().mean()
    assert (found - expected).square().mean() < limit


def compact(num_feat: int, num_conv: int) -> SRVGGNetCompact:
    made = SRVGGNetCompact(num_feat, num_conv, 4).requires_grad_(False)
    for layer in made.body:
        if isinstance(layer, nn.PReLU):
            layer.weight.data.uniform_(-0.5, 0.5)
    return made


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(64, 16), (64, 32), (24, 2)])
def test_the_compact_network_is_as_close_as_torch(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    assert_as_close_as_torch(compact(*shape), size, CompactOnCpu)


@pytest.mark.parametrize("scale", [2, 3])
def test_the_reduced_network_is_as_close_as_torch(scale: int) -> None:
    assert_as_close_as_torch(ReducedSRVGG(compact(64, 4), scale), (33, 47), CompactOnCpu)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [4, 2, 1])
def test_dense_blocks_are_as_close_as_torch(scale: int, size: tuple[int, int]) -> None:
    plain = RRDBNet(32, 1, 32, scale).requires_grad_(False)
    assert_as_close_as_torch(plain, size, DenseOnCpu)


def test_all_convolutions_of_the_compact_network_are_one_call() -> None:
    made = on_cpu(in_bf16(compact(64, 16)))
    assert isinstance(made, CompactOnCpu)
    assert isinstance(made._chained, TileStack)


@torch.inference_mode()
def test_the_number_of_threads_changes_nothing(two_threads: None) -> None:
    made, x = on_cpu(in_bf16(compact(64, 4))), torch.rand(1, 3, 70, 90)
    expected = made(x)
    torch.set_num_threads(1)
    assert made(x).equal(expected)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(32, 32), (64, 96), (96, 224)])
def test_interpolation_is_as_close_as_torch(size: tuple[int, int]) -> None:
    network = load_ifnet(load_state_dict(resolve_weights("builtin", RIFE).path))
    half = copy.deepcopy(network).to(BF16)
    engines = [PlainEngine(network), PlainEngine(half), FusedIFNet(half, "tiles")]
    images = torch.stack(moving(2, *size))
    exact, torchs, found = (
        engine.middles(*([one] for one in engine.sources(images)), [0.5], 1) for engine in engines
    )
    assert (found - exact).square().mean() < 2 * (torchs - exact).square().mean() + 1e-6

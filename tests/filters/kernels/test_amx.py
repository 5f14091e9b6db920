"""Convolutions by tiles give what plain ones give, rounded once. Without AMX they are emulated."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upframe.filters.device import cpu_has
from upframe.filters.kernels.convolution import Residual
from upframe.filters.kernels.cpu_convolution import (
    SWITCH,
    ConvolutionJob,
    Layers,
    TileConv,
    TileStack,
    has_tiles,
)
from upframe.filters.kernels.native import kernels

Layer = nn.Conv2d | nn.ConvTranspose2d
BF16 = torch.bfloat16
SIZES = [(1, 1), (1, 7), (5, 1), (3, 17), (20, 130), (33, 47)]
CHANNELS = [(1, 1), (3, 64), (15, 96), (28, 33), (64, 48), (96, 52), (192, 192)]
SOURCES = Path(__file__).parents[3] / "filters" / "kernels"
TRAPS = Path(__file__).parents[2] / "support" / "kernels" / "amx_traps.c"
KINDS = ["stride 1", "stride 2", "transposed"]


@pytest.fixture(autouse=True)
def tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    if not cpu_has("amx_bf16"):
        monkeypatch.setenv(SWITCH, "emulate")
    is_there = hasattr(kernels(), "upframe_tiles")
    assert is_there or os.environ.get("UPFRAME_REQUIRE_NATIVE") != "1", "no kernels, or older ones"
    if not is_there or not cpu_has("avx512_bf16"):
        pytest.skip("no kernels, or older ones, or a CPU without AVX512-BF16")
    assert has_tiles(BF16)


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    usual = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(usual)


def layer(kind: str, num_in: int, num_out: int, *, bias: bool = True) -> Layer:
    torch.manual_seed(num_in)
    if kind == "transposed":
        return nn.ConvTranspose2d(num_in, num_out, 4, 2, 1, bias=bias, dtype=BF16)
    return nn.Conv2d(num_in, num_out, 3, int(kind[-1]), 1, bias=bias, dtype=BF16)


def pixels(num: int, channels: int, size: tuple[int, int]) -> Tensor:
    noise = torch.randn(num, channels, *size, generator=torch.Generator().manual_seed(3))
    return noise.to(BF16, memory_format=torch.channels_last)


def exact(conv: Layer, x: Tensor) -> Tensor:
    bias = None if conv.bias is None else conv.bias.double()
    weight = conv.weight.double()
    if isinstance(conv, nn.ConvTranspose2d):
        return F.conv_transpose2d(x.double(), weight, bias, stride=2, padding=1)
    return F.conv2d(x.double(), weight, bias, stride=conv.stride, padding=1)


def assert_rounded_once(found: Tensor, expected: Tensor) -> None:
    """Half a unit in the last of bf16's 8 places; and what sums in fp32 lose."""
    assert found.dtype == BF16
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), expected, rtol=1.01 * 2**-8, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_agrees_with_a_plain_convolution(
    kind: str, channels: tuple[int, int], size: tuple[int, int]
) -> None:
    conv, x = layer(kind, *channels), pixels(2, channels[0], size)
    assert TileConv.fits(conv)
    assert_rounded_once(TileConv(conv)(x), exact(conv, x))


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_slopes_are_of_what_is_negative_and_a_bias_may_be_missing(kind: str, threads: int) -> None:
    conv, x = layer(kind, 32, 40, bias=False), pixels(1, 32, (37, 51))
    slopes = torch.linspace(-1, 2, 40)
    expected = F.prelu(exact(conv, x), slopes.double())
    assert_rounded_once(TileConv(conv, slopes)(x), expected)


@torch.inference_mode()
@pytest.mark.parametrize("num_out", [32, 48, 64])
def test_residuals_are_added_to_channels_of_larger_tensors(num_out: int, threads: int) -> None:
    conv = layer("stride 1", 48, num_out)
    assert isinstance(conv, nn.Conv2d)
    wide, near, far = (pixels(1, num_out + 48, (19, 35)) for _ in range(3))
    wide, before = wide.clone(), wide.clone()
    near, far = near[:, 8 : num_out + 8] * 2, far[:, -num_out:]
    expected = (exact(conv, wide[:, :48]) * 0.2 + near.double()) * 0.5 + far.double()
    out = wide[:, 48:]
    TileConv(conv).into(wide[:, :48], out, Residual(near, 0.2), Residual(far, 0.5))
    torch.testing.assert_close(out.double(), expected, rtol=1.01 * 2**-8, atol=1e-5)
    assert wide[:, :48].equal(before[:, :48])


@torch.inference_mode()
def test_a_residual_may_be_what_is_written() -> None:
    conv, x, out = layer("stride 1", 32, 32), pixels(1, 32, (9, 40)), pixels(1, 32, (9, 40)).neg()
    expected = exact(conv, x) * 0.2 + out.double()
    assert_rounded_once(TileConv(conv).into(x, out, Residual(out, 0.2)), expected)


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES)
def test_pixels_may_stand_for_two_by_two(size: tuple[int, int]) -> None:
    conv, x = layer("stride 1", 64, 64), pixels(2, 64, size)
    large = F.interpolate(x, scale_factor=2, mode="nearest")
    out = torch.empty_like(large)
    assert TileConv(conv).into(x, out, doubled=True).equal(TileConv(conv)(large))


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES)
def test_three_channels_are_drawn_in_float32(size: tuple[int, int]) -> None:
    conv, x = layer("stride 1", 64, 3), pixels(2, 64, size)
    assert isinstance(conv, nn.Conv2d)
    assert TileConv.fits_rgb(conv)
    found = TileConv(conv).to_rgb(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact(conv, x), rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (64, 200)])
def test_layers_in_one_call_give_what_they_give_one_by_one(
    size: tuple[int, int], threads: int
) -> None:
    kinds = ["stride 1"] * 4 + ["stride 2", "stride 1", "stride 1", "transposed"]
    channels = [3, 64, 64, 64, 64, 96, 96, 96, 20]
    layers = [
        TileConv(layer(kind, *channels[i : i + 2]), torch.full((channels[i + 1],), 0.2))
        for i, kind in enumerate(kinds)
    ]
    x = pixels(2, 3, size)
    expected, before = x, x.clone()
    for one in layers:
        expected = one(expected)
    assert TileStack(layers)(x).equal(expected)
    assert x.equal(before)


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_number_spoils_its_surroundings_only(kind: str) -> None:
    conv, x = layer(kind, 40, 32), pixels(1, 40, (40, 40))
    clean = TileConv(conv)(x)
    x[0, :, 18, 18] = float("nan")
    spoilt = TileConv(conv)(x).isnan().any(1)[0]
    expected = exact(conv, x).isnan().any(1)[0]
    assert spoilt.equal(expected)
    assert 0 < spoilt.sum() <= 16
    assert TileConv(conv)(x)[:, :, ~spoilt].equal(clean[:, :, ~spoilt])


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(64, 64, 3, padding=1),
        nn.Conv2d(64, 64, 3, dtype=BF16),
        nn.Conv2d(64, 64, 3, stride=3, padding=1, dtype=BF16),
        nn.Conv2d(64, 64, 5, padding=2, dtype=BF16),
        nn.Conv2d(64, 64, 3, padding=1, groups=2, dtype=BF16),
        nn.Conv2d(64, 64, 3, padding=1, dilation=2, dtype=BF16),
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect", dtype=BF16),
        nn.ConvTranspose2d(64, 64, 4, 2, dtype=BF16),
        nn.ConvTranspose2d(64, 64, 3, 2, 1, 1, dtype=BF16),
        nn.ConvTranspose2d(64, 64, 4, 2, 1, 1, dtype=BF16),
    ],
    ids=str,
)
def test_other_convolutions_are_left_to_torch(conv: Layer) -> None:
    assert not TileConv.fits(conv)


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_give_what_emulated_ones_give(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not cpu_has("amx_bf16"):
        pytest.skip("no AMX")
    conv, x = TileConv(layer(kind, 64, 80)), pixels(1, 64, (33, 47))
    found = conv(x)
    monkeypatch.setenv(SWITCH, "emulate")
    torch.testing.assert_close(found, conv(x), rtol=2**-7, atol=1e-5)


def test_without_amx_and_emulation_it_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    if cpu_has("amx_bf16"):
        pytest.skip("this CPU has AMX")
    monkeypatch.delenv(SWITCH)
    assert not has_tiles(BF16)
    assert not TileConv.fits(layer("stride 1", 64, 64))


@torch.inference_mode()
def test_what_is_compiled_for_amx_gives_what_is_emulated(tmp_path: Path, threads: int) -> None:
    """Instructions that this CPU lacks are carried out when they fail, see `amx_traps.c`."""
    if cpu_has("amx_bf16") or (compiler := shutil.which("cc")) is None:
        pytest.skip("this CPU has AMX, or there is no C compiler")
    layers = [TileConv(layer(kind, 40, 40), torch.full((40,), 0.2)) for kind in KINDS]
    x = pixels(1, 40, (13, 37))
    expected = [x]
    jobs = list[ConvolutionJob]()
    for one in layers:
        expected.append(one(expected[-1]))
    found = [torch.zeros_like(each) for each in expected[1:]]
    for one, near, out in zip(layers, [x, *found], found, strict=False):
        jobs.append(one.job(near))
        jobs[-1].output = one.pixels(out)
    made = tmp_path / "traps.so"
    flags = ["-O3", "-shared", "-fPIC", "-fopenmp", "-Wno-psabi", f"-I{SOURCES}"]
    subprocess.run([compiler, *flags, str(TRAPS), "-o", str(made)], check=True)
    array = (ConvolutionJob * len(jobs))(*jobs)
    library = ctypes.CDLL(str(made))
    job = Layers(ctypes.addressof(array), len(jobs), 0)
    assert library.upframe_tiles(ctypes.byref(job), 1, threads) == 0
    assert library.num_carried_out() > 1000
    for mine, theirs in zip(found, expected[1:], strict=True):
        assert mine.equal(theirs)

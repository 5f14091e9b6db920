"""The independent implementation that made the golden cases, and ours."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.kernels.interpolation import as_frames, run
from torch import Tensor

from upframe.filters import interpolate_frames
from upframe.filters.interpolate.filter import Interpolate
from upframe.filters.interpolate.network import IFNet, load_ifnet
from upframe.filters.weights import load_state_dict

CASES = (
    "even_exp1",
    "even_exp2",
    "even_exp2_direct",
    "even_half",
    "odd_double",
    "odd_exp1",
    "odd_exp2",
    "odd_half",
)


@pytest.fixture(scope="module")
def golden_network(data: Path) -> IFNet:
    return load_ifnet(load_state_dict(data / "weights" / "flownet.pkl"))


def load(data: Path, case: str) -> dict[str, Any]:
    with np.load(data / "golden" / f"rife_{case}.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def results(case: dict[str, Any], network: IFNet) -> Tensor:
    built = Interpolate(
        network, exp=int(case["exp"]), scale=float(case["scale"]), method=str(case["method"])
    )
    images = torch.from_numpy(case["frames"]).permute(0, 3, 1, 2).float() / 255
    return torch.stack([frame.pixels for frame in run(built, as_frames(images))])


@pytest.mark.parametrize("name", CASES)
def test_fp32_gives_the_golden_frames(data: Path, golden_network: IFNet, name: str) -> None:
    case = load(data, name)
    expected = torch.from_numpy(case["out"]).permute(0, 3, 1, 2)
    found = results(case, golden_network)
    # 6e-6 was measured
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-5)
    assert ((found * 255).round() - (expected * 255).round()).abs().max() <= 1


@pytest.mark.parametrize("name", CASES)
def test_bf16_stays_within_52_db_of_the_golden_frames(
    data: Path, golden_network: IFNet, name: str
) -> None:
    case = load(data, name)
    found = results(case, copy.deepcopy(golden_network).to(torch.bfloat16))
    expected = torch.from_numpy(case["out"]).permute(0, 3, 1, 2)
    inserted = [
        i for i in range(len(found)) if i % 2 ** int(case["exp"])
    ]  # originals would flatter
    error = (found - expected)[inserted].square().mean()
    assert -10 * torch.log10(error) >= 52  # dB; 67 was measured


def test_lists_of_arrays_give_the_golden_frames_after_rounding(data: Path) -> None:
    case = load(data, "even_exp2")
    frames, multiplier = interpolate_frames(
        list(case["frames"]), 2, 1.0, str(data / "weights"), device="cpu"
    )
    assert multiplier == 4
    expected = np.round(case["out"] * 255)
    assert np.abs(np.stack(frames) - expected).max() <= 1
    # cutting off instead of rounding would be half a level darker
    assert abs((np.stack(frames) - case["out"] * 255).mean()) < 0.05

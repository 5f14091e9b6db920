"""Against an independent implementation's results with published and with our own weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from upframe.filters.upscale.checkpoint import load_upscaler
from upframe.filters.upscale.filter import Enlarger
from upframe.filters.upscale.network import Upscaler
from upframe.filters.weights import load_state_dict

CASES = ["rrdb_x4", "srvgg_x2", "srvgg_x3p3", "srvgg_x4", "starter_x2", "starter_x4"]
CPU = torch.device("cpu")


class Case:
    def __init__(self, data: Path, name: str) -> None:
        with np.load(data / "golden" / f"esrgan_{name}.npz") as case:
            self.frame = torch.from_numpy(case["frame"]).permute(2, 0, 1) / 255
            self.out = torch.from_numpy(case["out"]).permute(2, 0, 1)
            self.scale = float(case["scale"])
            self.weights = data / "weights" / str(case["weights"])

    def network(self) -> Upscaler:
        return load_upscaler(load_state_dict(self.weights))


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, data: Path) -> Case:
    return Case(data, request.param)


def assert_same_picture(result: Tensor, case: Case) -> None:
    assert result.shape == case.out.shape
    assert (result - case.out).abs().max() <= 5e-4
    assert ((result * 255).round() - (case.out * 255).round()).abs().max() <= 1


def psnr(result: Tensor, wanted: Tensor) -> float:
    return float(-10 * torch.log10((result - wanted).square().mean()))


def test_fp32_gives_the_reference_picture(case: Case) -> None:
    assert_same_picture(Enlarger(case.network(), CPU)(case.frame, case.scale), case)


def test_bf16_stays_within_52_db_of_fp32(case: Case) -> None:
    result = Enlarger(case.network(), CPU, torch.bfloat16)(case.frame, case.scale)
    assert psnr(result, case.out) >= 52


@pytest.mark.needs_cuda
def test_fp32_on_cuda_gives_the_reference_picture(case: Case) -> None:
    """TF32 would be off by more."""
    result = Enlarger(case.network(), torch.device("cuda"))(case.frame, case.scale)
    assert_same_picture(result.cpu(), case)


@pytest.mark.needs_cuda
def test_fp16_on_cuda_stays_within_52_db_of_fp32(case: Case) -> None:
    enlarger = Enlarger(case.network(), torch.device("cuda"), torch.float16)
    assert psnr(enlarger(case.frame, case.scale).cpu(), case.out) >= 52
    assert enlarger.num_redone_in_fp32 == 0

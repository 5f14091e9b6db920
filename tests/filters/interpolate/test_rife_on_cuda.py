"""Interpolation on a CUDA card; not yet seen on a GPU."""

from __future__ import annotations

import copy
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from support.kernels.interpolation import as_frames, moving, run
from support.scripts import script
from torch import Tensor

from upframe.filters.frame import Frame, StreamInfo
from upframe.filters.interpolate import cuda
from upframe.filters.interpolate.cuda import KernelEngine, ProvenEngine
from upframe.filters.interpolate.filter import Interpolate, engine_for
from upframe.filters.interpolate.network import IFNet, load_ifnet
from upframe.filters.weights import load_state_dict

psnr = script("psnr")

pytestmark = pytest.mark.needs_cuda

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


@pytest.fixture
def half(network: IFNet) -> IFNet:
    return copy.deepcopy(network).half().cuda()


@pytest.fixture
def golden_half(data: Path) -> IFNet:
    return load_ifnet(load_state_dict(data / "weights" / "flownet.pkl")).half().cuda()


@pytest.mark.parametrize("name", CASES)
def test_fp16_stays_within_50_db_of_the_golden_frames(
    data: Path, golden_half: IFNet, name: str
) -> None:
    with np.load(data / "golden" / f"rife_{name}.npz") as arrays:
        case = dict(arrays)
    exp = int(case["exp"])
    built = Interpolate(
        golden_half, exp=exp, scale=float(case["scale"]), method=str(case["method"])
    )
    images = torch.from_numpy(case["frames"]).permute(0, 3, 1, 2).float().cuda() / 255
    found = [frame.pixels.cpu() for frame in run(built, as_frames(images))]
    expected = torch.from_numpy(case["out"]).permute(0, 3, 1, 2)
    inserted = [i for i in range(len(found)) if i % 2**exp]  # originals would flatter
    assert psnr.psnr_db([found[i] for i in inserted], list(expected[inserted])) >= 50


def test_the_kernels_prove_themselves_here(half: IFNet) -> None:
    engine = engine_for(half, 1)
    assert isinstance(engine, ProvenEngine)
    with torch.inference_mode():
        source = engine.sources(torch.stack(moving(1, 64, 96)).cuda())
    assert source.dtype == cuda.SOURCE_DTYPE


def test_graphs_give_what_the_same_kernels_give_one_by_one(half: IFNet) -> None:
    recorded, eager = KernelEngine(half), KernelEngine(half)
    eager.is_recorded = False
    images = torch.stack(moving(9, 96, 160, 3)).cuda()
    with torch.inference_mode():
        sources = [eager.sources(image[None])[0] for image in images]
        results = list[tuple[Tensor, Tensor]]()
        for index in range(8):
            lefts, rights = (sources[i : i + 1] * 2 for i in (index, index + 1))
            times = (0.5, (index + 1) / 10)
            results.append(
                tuple(engine.middles(lefts, rights, times, 1) for engine in (recorded, eager))  # type: ignore[arg-type]
            )
    # read at the end: no result may lie where a later one was written
    for ours, theirs in results:
        assert psnr.psnr_db([ours], [theirs]) >= 65  # layers may be computed by other kernels
    assert psnr.psnr_db([results[0][0]], [results[7][0]]) < 40


def test_work_is_done_on_the_stream_of_the_caller(half: IFNet) -> None:
    engine = KernelEngine(half)
    images = torch.stack(moving(2, 64, 96)).cuda()
    stream = torch.cuda.Stream()
    found = list[Tensor]()
    with torch.inference_mode():
        for _ in range(5):  # the last ones are recorded
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                left, right = (tuple(engine.sources(image[None])) for image in images)
                found.append(engine.middles(left, right, (0.5,), 1))
                found[-1].record_stream(torch.cuda.current_stream())
            torch.cuda.current_stream().wait_stream(stream)
    for each in found[1:]:
        assert psnr.psnr_db([each], found[:1]) >= 65


def test_1080p_fits_in_8_gib(half: IFNet) -> None:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    built = Interpolate(half, exp=3)
    one = Fraction(1, 25)
    built.open(StreamInfo(1920, 1080, "gbrp", one, rate=1 / one, average_rate=1 / one))
    for pts, image in enumerate(moving(6, 1080, 1920)):
        for frame in built(Frame(image.cuda(), pts, 1, one)):
            assert frame.pixels.isfinite().all()
    assert torch.cuda.max_memory_reserved() <= 8 << 30

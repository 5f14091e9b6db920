"""What is accepted as a checkpoint of RIFE 4.22.lite, and how the rest is refused."""

from __future__ import annotations

import copy
import logging
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from support.kernels.interpolation import as_frames, moving, random_state, run
from torch import Tensor

from upframe.filters.chain import build_filters
from upframe.filters.device import Runtime
from upframe.filters.errors import CheckpointRejected
from upframe.filters.interpolate.filter import build_interpolate
from upframe.filters.interpolate.network import load_ifnet
from upframe.filters.options import FilterOptions, InterpolateOptions

CPU = Runtime(torch.device("cpu"), torch.float32)


def with_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{key}": value for key, value in state.items()}


def weights_of(state: dict[str, Tensor]) -> list[Tensor]:
    return list(load_ifnet(state).parameters())


def test_the_prefix_of_data_parallel_training_makes_no_difference() -> None:
    state = random_state()
    pairs = zip(weights_of(state), weights_of(with_prefix(state)), strict=True)
    assert all(torch.equal(bare, prefixed) for bare, prefixed in pairs)


def test_does_not_change_the_state_it_is_given() -> None:
    state = random_state()
    before = copy.deepcopy(state)
    load_ifnet(state)
    assert all(torch.equal(state[key], before[key]) for key in before)


def test_ignores_and_logs_what_only_training_needs(caplog: pytest.LogCaptureFixture) -> None:
    state = random_state() | {
        "teacher.conv.weight": torch.zeros(3),
        "caltime.0.bias": torch.zeros(3),
        "caltime.1.bias": torch.zeros(3),
    }
    with caplog.at_level(logging.INFO, "upframe.filters.interpolate"):
        load_ifnet(with_prefix(state))
    (record,) = caplog.records
    assert "caltime, teacher" in record.getMessage()


def refused(state: dict[str, Tensor]) -> str:
    with pytest.raises(CheckpointRejected, match=r"^not a RIFE 4\.22\.lite checkpoint: ") as caught:
        load_ifnet(state)
    return str(caught.value)


def test_names_a_missing_key_and_its_shape() -> None:
    state = random_state()
    del state["block2.convblock.3.beta"]
    assert "block2.convblock.3.beta should be (1, 64, 1, 1), found nothing" in refused(state)


def test_names_a_misshapen_key_with_both_shapes() -> None:
    """RIFE 4.26 has wider blocks under the same keys."""
    state = random_state()
    state["block0.conv0.0.0.weight"] = torch.zeros(128, 15, 3, 3)
    text = refused(with_prefix(state))
    assert "block0.conv0.0.0.weight should be (96, 15, 3, 3), found (128, 15, 3, 3)" in text


def test_refuses_a_fifth_block() -> None:
    """RIFE 4.25 has one; the other four alone would run, and give nonsense."""
    state = random_state()
    state |= {k.replace("block3", "block4"): v for k, v in state.items() if k.startswith("block3")}
    text = refused(state)
    assert "block4.conv0.0.0.weight should not be there, found (16, 28, 3, 3)" in text
    assert text.endswith("; and 27 more")


def test_refuses_keys_inside_blocks_that_it_does_not_know() -> None:
    state = random_state() | {"block1.attention.weight": torch.zeros(2, 2)}
    assert "block1.attention.weight should not be there, found (2, 2)" in refused(state)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"body.0.weight": torch.zeros(64, 3, 3, 3), "body.0.bias": torch.zeros(64)},
        {"conv_first.weight": torch.zeros(64, 3, 3, 3)},
    ],
    ids=["empty", "SRVGG", "RRDB"],
)
def test_refuses_checkpoints_of_other_networks(state: dict[str, Tensor]) -> None:
    assert "encode.cnn0.weight should be (16, 3, 3, 3), found nothing" in refused(state)


def save_as(kind: str, folder: Path, state: dict[str, Tensor]) -> Path:
    if kind == "pkl":
        torch.save(with_prefix(state), folder / "flownet.pkl")
        return folder / "flownet.pkl"
    safetensors.torch.save_file(state, folder / f"flownet.{kind}")
    return folder / f"flownet.{kind}"


@pytest.mark.parametrize("kind", ["pkl", "safetensors"])
@pytest.mark.parametrize("named_by", ["file", "folder"])
def test_builds_the_filter_from_a_file_or_its_folder(
    tmp_path: Path, kind: str, named_by: str
) -> None:
    file = save_as(kind, tmp_path, random_state())
    name = str(file if named_by == "file" else tmp_path)
    built, weights = build_interpolate(
        InterpolateOptions(frame_interpolation_model_path=name, frame_interpolation_exp=2), CPU
    )
    assert weights.path == file
    assert weights.origin == "local"
    assert len(run(built, as_frames(moving(2)))) == 5


def test_says_which_file_is_none(tmp_path: Path) -> None:
    state = random_state()
    del state["encode.cnn3.bias"]
    file = save_as("safetensors", tmp_path, state)
    options = InterpolateOptions(frame_interpolation_model_path=str(file))
    with pytest.raises(
        CheckpointRejected,
        match=re.escape(f"{file}: not a RIFE 4.22.lite checkpoint: encode.cnn3.bias"),
    ):
        build_interpolate(options, CPU)


def test_the_chain_builds_it_with_the_built_in_weights_in_any_precision() -> None:
    options = FilterOptions(enable_frame_interpolation=True)
    for precision in (torch.float32, torch.bfloat16):
        runtime = Runtime(torch.device("cpu"), precision, "builtin")
        (built,) = build_filters(options, runtime)
        assert built.name == "interpolate"
        assert built.weights is not None
        assert built.weights.origin == "builtin"

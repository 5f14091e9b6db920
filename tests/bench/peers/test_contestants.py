"""Frames, weights and processes that peers are compared with; no peer is needed for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import peers as peer_samples
from support.scripts import script
from torch import nn

checkpoints = script("peers/checkpoints")
children = script("peers/children")
clip_frames = script("peers/clip_frames")
contests = script("peers/contests")
packages = script("peers/packages")
torch_entrants = script("peers/torch_entrants")


def moving_frames(number: int, width: int = 32, height: int = 16) -> np.ndarray[Any, Any]:
    ramp = np.arange(height * width * 3).reshape(height, width, 3)
    return np.stack([(ramp + 40 * index) % 256 for index in range(number)]).astype(np.uint8)


def setting_with(frames: np.ndarray[Any, Any], folder: Path) -> contests.Setting:
    path = folder / "frames.npy"
    np.save(path, frames)
    return contests.Setting(contests.Contest("srvgg", 32, 16), path, folder, folder, "cpu", 1)


# -------------------------------------------------------------------------------- loading


def test_a_modules_file_is_loaded_without_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "needs_a_frame_server"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('no frame server here')\n")
    (package / "network.py").write_text("from .parts import SIZE\nDOUBLE = 2 * SIZE\n")
    (package / "parts.py").write_text("SIZE = 21\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert packages.load_module("needs_a_frame_server", "network").DOUBLE == 42


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_peer is not installed"):
        packages.load_module("no_such_peer", "network")


def test_a_checkpoint_with_longer_names_and_more_tensors_fits() -> None:
    network = nn.Conv2d(1, 1, 1)
    state = {"module.weight": torch.full((1, 1, 1, 1), 3.0), "module.bias": torch.ones(1)}
    checkpoints.fit(network, state | {"module.teacher.weight": torch.zeros(5)})
    assert (float(network.weight), float(network.bias or 0)) == (3, 1)
    assert not network.weight.requires_grad


@pytest.mark.parametrize(
    ("state", "complaint"),
    [
        ({"weight": torch.ones(1, 1, 1, 1)}, "lacks 1 tensors, bias among them"),
        (
            {"weight": torch.ones(1, 1, 3, 3), "bias": torch.ones(1)},
            r"weight must be \(1, 1, 1, 1\), got \(1, 1, 3, 3\)",
        ),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(
    state: dict[str, torch.Tensor], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        checkpoints.fit(nn.Conv2d(1, 1, 1), state)


def test_frames_are_padded_right_and_below_to_multiples_of_32() -> None:
    assert torch_entrants.padding(360, 640) == (0, 0, 0, 24)
    assert torch_entrants.padding(352, 641) == (0, 31, 0, 0)


def test_the_sampling_grid_without_motion_gives_the_picture_itself() -> None:
    picture = torch.rand(1, 3, 5, 7)
    half, grid = torch_entrants.geometry(5, 7, torch.device("cpu"))
    assert half.tolist() == [3, 2]
    same = nn.functional.grid_sample(picture, grid.permute(0, 2, 3, 1), align_corners=True)
    torch.testing.assert_close(same, picture)


# ---------------------------------------------------------------------------------- frames


def test_frames_out_of_a_clip_are_those_that_were_written(tmp_path: Path) -> None:
    flat = np.repeat(np.array([40, 90, 140, 190], np.uint8), 16 * 32 * 3).reshape(4, 16, 32, 3)
    clip_frames.write_clip(flat, tmp_path / "clip.mp4")
    frames = clip_frames.decode(tmp_path / "clip.mp4", 32, 16, number=2, skipped=1)
    assert np.abs(frames.mean((1, 2, 3)) - [90, 140]).max() < 3
    assert clip_frames.planar(frames).shape == (2, 3, 16, 32)
    assert [plane.shape for plane in clip_frames.luma(tmp_path / "clip.mp4")] == [(1, 16, 32)] * 4


@pytest.mark.parametrize(("number", "complaint"), [(2, "stands still"), (9, "must have 10")])
def test_a_clip_that_stands_still_or_is_short_is_refused(
    tmp_path: Path, number: int, complaint: str
) -> None:
    clip_frames.write_clip(np.full((4, 16, 32, 3), 90, np.uint8), tmp_path / "clip.mp4")
    with pytest.raises(ValueError, match=complaint):
        clip_frames.decode(tmp_path / "clip.mp4", 32, 16, number, skipped=1)


# ---------------------------------------------------------------------------- contestants


def test_frames_come_in_order_and_a_picture_after_the_one_before_it() -> None:
    seen: list[int] = []

    def work(index: int) -> np.ndarray[Any, Any]:
        seen.append(index)
        return np.full((3, 1, 1), index, np.float32)

    turns = children.Turns(contests.Contestant(work, lambda value: value / 100), number=4)
    turns.time(calls=2)
    picture = turns.picture(2)
    assert [index % 4 for index in seen] == [0, 1, 2, 1, 2]
    assert seen == sorted(seen)
    assert float(picture[0, 0, 0]) == pytest.approx(seen[-1] / 100)


def test_a_contestant_answers_from_a_process_of_its_own_until_it_crashes(tmp_path: Path) -> None:
    frames = moving_frames(3)
    setting = setting_with(frames, tmp_path)
    with children.started(
        contests.Entry("d", "p", "fp32", peer_samples.doubling), setting, tmp_path
    ) as child:
        child.ready()
        assert child.timed(1) > 0
        assert child.peak_mib() > 1
        expected = np.clip(clip_frames.planar(frames)[2] * 2, 0, 1)
        np.testing.assert_array_equal(child.picture(2), expected)
        with pytest.raises(children.Failed, match="the process ended with -9"):
            child.timed(peer_samples.CRASHES_AT)


def test_one_that_cannot_be_built_says_why(tmp_path: Path) -> None:
    setting = setting_with(moving_frames(2), tmp_path)
    entry = contests.Entry("x", "p", "fp32", peer_samples.refusing)
    complaint = "^ValueError: no srvgg for a stranger$"
    with (
        children.started(entry, setting, tmp_path) as child,
        pytest.raises(children.Failed, match=complaint),
    ):
        child.ready()

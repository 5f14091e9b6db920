"""interpolate_frames: lists of arrays in, lists of arrays out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.kernels.interpolation import moving, random_state

from upframe.filters import interpolate_frames
from upframe.filters.errors import DeviceUnavailable, WeightsUnavailable

Image = npt.NDArray[np.uint8]


def arrays(count: int, height: int = 33, width: int = 47) -> list[Image]:
    return [
        (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        for image in moving(count, height, width)
    ]


def interpolated(frames: list[Image], exp: int = 1, **options: Any) -> tuple[list[Image], int]:
    return interpolate_frames(frames, exp, model_path="builtin", device="cpu", **options)


@pytest.mark.parametrize("exp", [1, 2])
def test_gives_the_frames_and_how_many_times_the_rate_became_higher(exp: int) -> None:
    frames = arrays(3)
    out, multiplier = interpolated(frames, exp)
    assert multiplier == 2**exp
    assert len(out) == 2 * 2**exp + 1
    assert {(frame.shape, frame.dtype.name) for frame in out} == {((33, 47, 3), "uint8")}


def test_originals_are_the_arrays_that_were_given() -> None:
    frames = arrays(3)
    out, _ = interpolated(frames)
    assert all(kept is given for kept, given in zip(out[::2], frames, strict=True))


def test_without_a_gap_nothing_changes() -> None:
    frames = arrays(1)
    assert interpolated(frames, 3) == (frames, 1)


def test_every_gap_is_interpolated_even_across_a_cut() -> None:
    dark, bright = np.full((32, 32, 3), 10, np.uint8), np.full((32, 32, 3), 240, np.uint8)
    out, _ = interpolated([dark, bright])
    assert 10 < out[1].mean() < 240


def test_read_only_and_strided_arrays_are_welcome() -> None:
    frames = [frame[:, ::-1] for frame in arrays(2)]
    for frame in frames:
        frame.flags.writeable = False
    expected, _ = interpolated([frame.copy() for frame in frames])
    assert np.array_equal(interpolated(frames)[0][1], expected[1])


def test_precision_none_is_fp32_and_others_are_near() -> None:
    frames = arrays(2)
    exact, half = interpolated(frames)[0][1], interpolated(frames, precision="bf16")[0][1]
    assert np.array_equal(exact, interpolated(frames, precision="fp32")[0][1])
    assert np.abs(exact.astype(int) - half).max() <= 8


def test_weights_stay_loaded_between_calls_until_the_file_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "flownet.pkl"
    frames = arrays(2)
    with caplog.at_level(logging.INFO, "upframe.filters.interpolate"):  # loading tells of `teacher`
        for seed, expected in ((1, 1), (1, 1), (2, 2)):
            if len(caplog.records) < seed:
                torch.save(random_state(seed) | {"teacher.bias": torch.zeros(1)}, file)
            interpolate_frames(frames, model_path=file, device="cpu")
            assert len(caplog.records) == expected


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([np.zeros((32, 32, 5), np.uint8)] * 2, "frame 0 must be uint8 or float: .* got uint8"),
        ([np.zeros((32, 32, 3), np.int64)] * 2, r"frame 0 .*; got int64 array \(32, 32, 3"),
        (
            [np.zeros((32, 32, 3), np.uint8), np.zeros((32, 16, 3), np.uint8)],
            r"frame 1 must be uint8 array \(32, 32, 3\) .*, got uint8 array \(32, 16, 3\)",
        ),
    ],
)
def test_refuses_other_arrays(frames: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interpolated(frames)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exp": 0}, "^exp must be a whole number from 1 to 6, got 0$"),
        ({"exp": 7}, "^exp must be a whole number from 1 to 6, got 7$"),
        ({"exp": 1.5}, "^exp must be a whole number from 1 to 6, got 1.5$"),
        ({"scale": 0.3}, "^scale must be 0.25, 0.5, 1, 2 or 4, got 0.3$"),
        ({"precision": "fp8"}, "precision must be auto, fp32, bf16 or fp16"),
    ],
)
def test_refuses_options_that_do_not_exist(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interpolated(arrays(2), **options)


def test_says_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="flownet"):
        interpolate_frames(arrays(2), model_path=tmp_path, device="cpu")
    with pytest.raises(DeviceUnavailable, match="cuda:99"):
        interpolate_frames(arrays(2), model_path="builtin", device="cuda:99")

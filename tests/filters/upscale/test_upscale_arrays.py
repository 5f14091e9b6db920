import os
from pathlib import Path

import numpy as np
import pytest
import torch
from support.kernels.upscaling import small_rrdb, small_srvgg

import upframe.filters
from upframe.filters.batch import upscale_frames
from upframe.filters.errors import CheckpointRejected, DeviceUnavailable
from upframe.filters.upscale.filter import Enlarger


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "small.pth"
    torch.save({"params": small_srvgg().state_dict()}, path)
    return path


def pictures(num: int = 2, height: int = 6, width: int = 8) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(num)]


def wanted(array: np.ndarray, scale: float, dtype: torch.dtype = torch.float32) -> np.ndarray:
    pixels = torch.from_numpy(array.copy()).permute(2, 0, 1) / 255
    result = Enlarger(small_srvgg(), torch.device("cpu"), dtype)(pixels, scale)
    return (result * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def test_is_offered_by_the_filters() -> None:
    assert upframe.filters.upscale_frames is upscale_frames


@pytest.mark.parametrize("scale", [1, 2, 2.5, 4])
def test_enlarges_every_frame(weights: Path, scale: float) -> None:
    frames = pictures(3)
    results = upscale_frames(frames, str(weights), scale)
    assert len(results) == 3
    for frame, result in zip(frames, results, strict=True):
        assert result.dtype == np.uint8
        assert result.flags["C_CONTIGUOUS"]
        assert np.array_equal(result, wanted(frame, scale))


def test_takes_its_arguments_in_the_order_of_diffusion_pipelines(weights: Path) -> None:
    (frame,) = pictures(1)
    (result,) = upscale_frames([frame], str(weights), 2, False)
    assert np.array_equal(result, wanted(frame, 2))


def test_enlarges_by_4_if_nothing_is_said(weights: Path) -> None:
    (result,) = upscale_frames(pictures(1), str(weights))
    assert result.shape == (24, 32, 3)


def test_results_are_rounded_not_cut_off(tmp_path: Path) -> None:
    """A network that adds three quarters of a level lifts every level by one."""
    network = small_srvgg(scale=1)
    network.body[-1].weight.zero_()
    network.body[-1].bias.fill_(0.75 / 255)
    torch.save(network.state_dict(), tmp_path / "lift.pth")
    frame = np.arange(240, dtype=np.uint8).reshape(8, 10, 3)
    (result,) = upscale_frames([frame], str(tmp_path / "lift.pth"), 1)
    assert np.array_equal(result, frame + 1)


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({}, torch.float32),
        ({"precision": "fp32", "half_precision": True}, torch.float32),
        ({"half_precision": True}, torch.bfloat16),
        ({"precision": "bf16"}, torch.bfloat16),
        ({"precision": "fp16"}, torch.float16),
    ],
)
def test_precision_is_fp32_unless_asked_otherwise(
    weights: Path, options: dict[str, object], dtype: torch.dtype
) -> None:
    (frame,) = pictures(1, 20, 20)
    (result,) = upscale_frames([frame], str(weights), 2, device="cpu", **options)
    assert np.array_equal(result, wanted(frame, 2, dtype))
    others = {torch.float32, torch.bfloat16, torch.float16} - {dtype}
    assert any(not np.array_equal(result, wanted(frame, 2, other)) for other in others)


def test_weights_stay_loaded_between_calls(weights: Path) -> None:
    """The second call reads nothing from the file: what looks unchanged from outside is garbage."""
    before = upscale_frames(pictures(), str(weights), 2)
    status = weights.stat()
    weights.write_bytes(bytes(status.st_size))
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = upscale_frames(pictures(), weights, 2)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_other_weights_under_the_same_name_are_noticed(weights: Path) -> None:
    frames = pictures(1)
    before = upscale_frames(frames, str(weights), 2)
    torch.save(small_rrdb(scale=2).state_dict(), weights)
    after = upscale_frames(frames, str(weights), 2)
    assert not np.array_equal(before[0], after[0])


def test_frames_may_differ_in_size(weights: Path) -> None:
    results = upscale_frames([*pictures(1, 3, 5), *pictures(1, 1, 1)], str(weights), 2)
    assert [r.shape for r in results] == [(6, 10, 3), (2, 2, 3)]


def test_equal_frames_give_equal_but_separate_results(weights: Path) -> None:
    (frame,) = pictures(1)
    first, second = upscale_frames([frame, frame.copy()], str(weights), 2)
    assert np.array_equal(first, second)
    first[:] = 0
    assert second.any()


def test_views_and_read_only_arrays_are_taken(weights: Path) -> None:
    (frame,) = pictures(1)
    mirrored = frame[:, ::-1]
    mirrored.flags.writeable = False
    (result,) = upscale_frames([mirrored], str(weights), 2)
    assert np.array_equal(result, wanted(mirrored, 2))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4,), np.uint8),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_a_bug(weights: Path, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"frame 1 must be uint8 or float: an array or PIL"):
        upscale_frames([*pictures(1, 4, 4), array], str(weights))


@pytest.mark.parametrize("scale", [0.5, 9])
def test_scales_out_of_range_are_a_bug(weights: Path, scale: float) -> None:
    with pytest.raises(ValueError, match="scale must be from 1 to 8"):
        upscale_frames(pictures(1), str(weights), scale)


def test_an_unknown_precision_is_a_bug(weights: Path) -> None:
    with pytest.raises(ValueError, match="precision must be"):
        upscale_frames(pictures(1), str(weights), precision="fp8")


def test_an_unknown_device_is_unavailable(weights: Path) -> None:
    with pytest.raises(DeviceUnavailable, match="tpu"):
        upscale_frames(pictures(1), str(weights), device="tpu")


def test_wrong_weights_are_refused(data: Path) -> None:
    with pytest.raises(CheckpointRejected, match="RIFE"):
        upscale_frames(pictures(1), str(data / "weights" / "flownet.pkl"))

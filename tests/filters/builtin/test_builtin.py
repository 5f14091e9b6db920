"""The built-in weights do what the checkpoints do from which they were made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from upframe.filters import interpolate_frames, upscale_frames

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt


def assert_alike(results: list[npt.NDArray[np.uint8]], golden: npt.NDArray[np.float32]) -> None:
    """At most one level apart, and that in one value of a hundred."""
    expected = np.round(golden * 255)
    apart = np.abs(np.stack(results).astype(np.float32) - expected)
    assert apart.max() <= 1
    assert np.mean(apart > 0) < 0.01


@pytest.mark.parametrize("case", ["rife_even_exp1", "rife_odd_half"])
def test_built_in_interpolation_follows_its_float32_checkpoint(data: Path, case: str) -> None:
    golden = np.load(data / "golden" / f"{case}.npz")
    frames = list(golden["frames"])
    results, _ = interpolate_frames(frames, int(golden["exp"]), float(golden["scale"]), "builtin")
    assert_alike(results, golden["out"])


@pytest.mark.parametrize("case", ["esrgan_starter_x4", "esrgan_starter_x2"])
def test_built_in_enlarging_follows_its_float32_checkpoint(data: Path, case: str) -> None:
    golden = np.load(data / "golden" / f"{case}.npz")
    results = upscale_frames([golden["frame"]], "builtin", float(golden["scale"]))
    assert_alike(results, golden["out"][None])

"""What the bench measures is the pipeline that `run` runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from support.scripts import script

from upframe.daemon.convert.compute import Compute
from upframe.filters.device import Runtime
from upframe.filters.frame import Picture
from upframe.filters.options import FilterOptions
from upframe.io.demo import write_demo_clip

pipeline = script("speed/pipeline")


class Counting(Compute):
    staged = settled = 0

    def stage(self, picture: Picture) -> Picture:
        Counting.staged += 1
        return super().stage(picture)

    def settle(self, until: Callable[[], bool] | None = None) -> Iterator[Picture]:
        Counting.settled += 1
        return super().settle(until)


def test_pictures_are_staged_and_settled_as_in_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "Compute", Counting)
    write_demo_clip(tmp_path / "clip.mp4", width=64, height=48, rate=Fraction(25), num_frames=6)
    options = FilterOptions(enable_frame_interpolation=True)
    runtime = Runtime(torch.device("cpu"), torch.float32, "builtin")
    bench = pipeline.Workbench(tmp_path / "clip.mp4", tmp_path, options, runtime, "ultrafast")
    flow = bench.file_to_file().flow
    assert Counting.staged == flow.frames_in > 0
    assert Counting.settled > 1

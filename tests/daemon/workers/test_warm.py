"""Filters that are kept from job to job, and count each job for itself."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
from support.media.clips import make_clip

from upframe.daemon.convert.conversion import run
from upframe.daemon.convert.preflight import RunRequest
from upframe.daemon.specification import ConversionOptions
from upframe.daemon.workers.attempt import WarmFilters
from upframe.filters.device import Runtime
from upframe.filters.errors import WeightsUnavailable
from upframe.filters.options import FilterOptions
from upframe.filters.weights import RIFE
from upframe.io.encode.encoder import EncoderOptions

CPU = Runtime(torch.device("cpu"), torch.float32, "builtin")


def interpolate(exp: int = 1, **more: object) -> FilterOptions:
    given = {"enable_frame_interpolation": True, "frame_interpolation_exp": exp}
    return FilterOptions.model_validate(given | more)


def test_the_same_options_get_the_same_filters_and_others_their_own() -> None:
    warm = WarmFilters()
    (first,) = warm(interpolate(), CPU)
    assert warm(interpolate(), CPU)[0].filter is first.filter
    assert warm(interpolate(2), CPU)[0].filter is not first.filter


def test_only_those_used_last_are_kept() -> None:
    warm = WarmFilters(most_kept=2)
    (first,) = warm(interpolate(1), CPU)
    (second,) = warm(interpolate(2), CPU)
    assert warm(interpolate(1), CPU)[0].filter is first.filter
    warm(interpolate(3), CPU)
    assert warm(interpolate(1), CPU)[0].filter is first.filter
    assert warm(interpolate(2), CPU)[0].filter is not second.filter


def test_weights_that_were_replaced_are_loaded_anew(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    shutil.copy(RIFE.builtin_path, path)
    options = interpolate(frame_interpolation_model_path=str(path))
    warm = WarmFilters()
    (first,) = warm(options, CPU)
    assert warm(options, CPU)[0] is first
    os.utime(path, ns=(1, 1))
    assert warm(options, CPU)[0] is not first
    path.unlink()
    with pytest.raises(WeightsUnavailable):
        warm(options, CPU)


def test_each_job_counts_for_itself_and_forgets_the_one_before(tmp_path: Path) -> None:
    warm = WarmFilters()
    options = interpolate(enable_upscaling=True, upscaling_scale=2)
    warm.warm_up(options, CPU)
    reports = []
    for frames in (5, 3, 5):
        request = RunRequest(
            str(make_clip(tmp_path / "in.mp4", frames=frames)),
            str(tmp_path / "out.mp4"),
            ConversionOptions(
                filters=options, encoder=EncoderOptions(preset="ultrafast"), overwrite=True
            ),
            CPU,
        )
        reports.append(run(request, filters=warm))
    assert [report.frames_out for report in reports] == [9, 5, 9]
    assert reports[0].counters == reports[2].counters
    assert reports[1].counters["inserted"] < reports[0].counters["inserted"]
    assert reports[1].counters["upscaled"] + reports[1].counters["reused"] == 5


def test_what_was_said_of_the_weights_is_said_to_every_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    warm = WarmFilters()
    runtime = Runtime(torch.device("cpu"), torch.float32, "auto")
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "upframe"):
            warm(interpolate(enable_upscaling=True), runtime)
        (text,) = caplog.messages
        assert text.startswith("THE BUILT-IN STARTER WEIGHTS ARE USED")

"""One conversion, as its owner sees it: stages, the ledger, filters that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.jobs.work import frames_in, names_in
from support.media.clips import make_clip

from upframe.daemon.convert.conversion import Ledger, RunRequest, run
from upframe.daemon.convert.report import Report
from upframe.daemon.specification import ConversionOptions, Stage
from upframe.filters.device import Runtime
from upframe.filters.options import FilterOptions
from upframe.io.encode.encoder import EncoderOptions
from upframe.io.errors import SinkFull

RUNTIME = Runtime(torch.device("cpu"), torch.float32, "builtin")


def request_of(tmp_path: Path, **more: Any) -> RunRequest:
    return RunRequest(
        str(make_clip(tmp_path / "in.mp4", frames=4)),
        str(tmp_path / "out" / "a.mp4"),
        ConversionOptions(
            filters=FilterOptions(enable_frame_interpolation=True),
            encoder=EncoderOptions(preset="ultrafast"),
            **more,
        ),
        RUNTIME,
    )


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_stages_come_in_order_and_the_ledger_before_the_name(tmp_path: Path, out: Path) -> None:
    seen: list[object] = []

    def record(report: Report, renames: Sequence[tuple[Path, Path]]) -> None:
        seen.append("recorded")
        assert names_in(out) == {".a.mp4.job-1.partial"}
        assert [final for _, final in renames] == [out / "a.mp4"]
        assert (report.frames_in, report.frames_out) == (4, 7)
        assert (
            report.counters["inserted"]
            + sum(count for name, count in report.counters.items() if name.startswith("repeated"))
            == 3
        )

    def tell(stage: Stage) -> None:
        seen.append(stage)

    report = run(request_of(tmp_path), ledger=Ledger("job-1", record), on_stage=tell)
    assert seen == ["loading", "streaming", "publishing", "recorded"]
    assert report.frames_out == frames_in(out / "a.mp4") == 7
    assert names_in(out) == {"a.mp4"}


def test_a_ledger_that_cannot_be_written_stops_the_publication(tmp_path: Path, out: Path) -> None:
    def record(report: Report, renames: Sequence[tuple[Path, Path]]) -> None:
        raise SinkFull("the ledger's disk is full")

    with pytest.raises(SinkFull, match="the ledger's disk is full"):
        run(request_of(tmp_path), ledger=Ledger("job-1", record))
    assert names_in(out) == set()


def test_what_cannot_be_encoded_fails_before_weights_are_loaded(tmp_path: Path, out: Path) -> None:
    def build(options: FilterOptions, runtime: Runtime) -> Any:
        raise AssertionError("the weights were loaded")

    request = request_of(tmp_path, container="nonsense")
    with pytest.raises(Exception, match="nonsense"):
        run(request, filters=build)

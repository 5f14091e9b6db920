"""One conversion, as its owner sees it: stages, the ledger, filters that are kept."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.jobs.work import frames_in, names_in
from support.media.clips import make_clip

from upframe.daemon.convert.conversion import Ledger, run
from upframe.daemon.convert.preflight import RunRequest
from upframe.daemon.convert.progress import Display
from upframe.daemon.convert.report import Report
from upframe.daemon.specification import ConversionOptions, Stage
from upframe.filters.device import Runtime
from upframe.filters.options import FilterOptions
from upframe.io.encode.encoder import EncoderOptions
from upframe.io.errors import SinkFull, SinkRefused

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

    class Told(Display):
        def begin(self, stage: Stage) -> None:
            seen.append(stage)

    report = run(request_of(tmp_path), Told(), ledger=Ledger("job-1", record))
    assert seen == ["loading", "streaming", "publishing", "recorded"]
    assert report.frames_out == frames_in(out / "a.mp4") == 7
    assert names_in(out) == {"a.mp4"}


def test_a_ledger_that_cannot_be_written_stops_the_publication(tmp_path: Path, out: Path) -> None:
    def record(report: Report, renames: Sequence[tuple[Path, Path]]) -> None:
        raise SinkFull("the ledger's disk is full")

    with pytest.raises(SinkFull, match="the ledger's disk is full"):
        run(request_of(tmp_path), ledger=Ledger("job-1", record))
    assert names_in(out) == set()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no such container": ({"container": "nonsense"}, "nonsense"),
    **{
        f"{codec} in {name}": (
            {"container": name, "encoder": EncoderOptions(codec=codec)},
            f"{name} cannot hold {codec}",
        )
        for name, codec in [
            ("mp4", "prores"), ("mp4", "gif"), ("mp4", "libwebp"), ("webm", "libx264"),
            ("gif", "libx264"), ("3gp", "libsvtav1"),
        ]
    },
    "a rate that the ticks do not hold": (
        {"container": "gif", "encoder": EncoderOptions(), "filters": FilterOptions(
            enable_frame_interpolation=True, frame_interpolation_exp=3
        )},
        "gif counts time in 1/100 s, too coarse for 200 frames",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_encoded_fails_before_weights_are_loaded(
    tmp_path: Path, out: Path, case: str
) -> None:
    def build(options: FilterOptions, runtime: Runtime) -> Any:
        raise AssertionError("the weights were loaded")

    options, wanted = REFUSED[case]
    request = request_of(tmp_path)
    refused = request.options.model_copy(update=options)
    with pytest.raises(SinkRefused, match=wanted):
        run(replace(request, options=refused), filters=build)


@pytest.mark.parametrize("announce", [False, True])
def test_a_stream_that_is_left_out_is_said_once(
    tmp_path: Path, out: Path, announce: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "upframe")
    make_clip(tmp_path / "in.mp4", frames=4, audio="aac")
    request = request_of(tmp_path, audio_codec="none")
    make_clip(tmp_path / "in.mp4", frames=4, audio="aac")
    report = run(request, announce=announce)
    said = [(one.levelname, one.getMessage()) for one in caplog.records if "audio" in one.message]
    line = "audio #1 aac: left out, as --audio-codec none asks"
    assert said == [("WARNING", line)]
    assert (report.streams, report.losses, report.warnings.count(line)) == ([line], [line], 1)


def test_a_time_code_is_refused_or_lost_by_the_rate_of_the_output(
    tmp_path: Path, out: Path
) -> None:
    """An MP4 counts 240 frames a second of a time code, but not twice as many."""
    request = request_of(tmp_path)
    command = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=s=64x48:r=240"]
    command += ["-frames:v", "4", "-timecode", "01:00:00:00", request.source]
    subprocess.run([str(word) for word in command], check=True)
    lost = "video: time code 01:00:00:00: not kept"
    assert run(request).losses == [lost]
    strict = request.options.model_copy(update={"strict_streams": True, "overwrite": True})

    def build(options: FilterOptions, runtime: Runtime) -> Any:
        raise AssertionError("the weights were loaded")

    with pytest.raises(SinkRefused, match=lost):
        run(replace(request, options=strict), filters=build)

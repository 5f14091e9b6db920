"""The report of a conversion: counters, times, weights and warnings, as one JSON file."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, BeforeValidator, Field

from ...filters.chain import BuiltFilter
from ...filters.device import Runtime
from ...filters.frame import StreamInfo
from ...filters.options import Way
from ...io.errors import SameFile, SinkRefused
from ...io.files import is_special
from ...io.redaction import json_text, one_line
from .estimate import Estimate
from .memory import Memory
from .pipeline import STEPS, Flow, StageTime
from .segments import Resumed


class WrittenReport(BaseModel, frozen=True):
    """What `--report FILE` writes."""

    def write(self, path: Path) -> None:
        """Write the report.

        Raises:
            SinkRefused: if the file cannot be written.
        """
        try:
            path.write_text(json_text(self.model_dump(mode="json", by_alias=True)) + "\n")
        except OSError as error:
            raise SinkRefused(f"cannot write the report {path}: {error.strerror}") from error


def check_report_path(path: Path, *media: str) -> None:
    """Refuse a report that could not be written after the work, or would replace input or output.

    Raises:
        SinkRefused: if the file cannot be written.
        SameFile: if it is one of the others.
    """
    if is_special(path):  # opening a FIFO would wait for its reader
        return
    for other in media:
        there = os.path.exists(other) and os.path.exists(path)
        if os.path.realpath(other) == os.path.realpath(path) or (
            there and os.path.samefile(other, path)
        ):
            raise SameFile(f"the report would replace the input or the output: {path}")
    is_new = not os.path.lexists(path)
    try:
        path.open("ab").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise SinkRefused(f"cannot write the report {path}: {error.strerror}") from error


class WeightsReport(BaseModel, frozen=True):
    """The weights of a filter."""

    filter: str
    name: str
    sha256: str
    origin: str = Field(description="local, hub or builtin.")
    way: Way | None = Field(None, description="How its network was computed on a CPU.")


class VideoReport(BaseModel, frozen=True):
    """The properties of a video stream."""

    width: int
    height: int
    pix_fmt: str
    rate: str | None = Field(description="Frames per second as a fraction; null if variable.")
    color: dict[str, str | None]


_Lines = Annotated[list[str], BeforeValidator(lambda lines: list(dict.fromkeys(lines)))]
"""Of which each is said once."""


class Report(WrittenReport, frozen=True):
    """What `--report FILE` writes."""

    schema_name: Literal["upframe.report/1"] = Field("upframe.report/1", alias="schema")
    version: str
    source: str
    sink: str
    frames_in: int
    frames_out: int
    counters: dict[str, int] = Field(description="cuts, duplicates, clipped_values, …")
    input: VideoReport
    output: VideoReport
    seconds: float
    estimate: Estimate | None = Field(None, description="Made before a long work.")
    memory: Memory | None = Field(None, description="What the work was judged to need.")
    resumed: Resumed | None = Field(None, description="Of a film that was made in segments.")
    first_frame_seconds: float | None
    stages: dict[str, StageTime]
    limiting_stage: str
    device: str
    precision: str
    weights: list[WeightsReport]
    streams: list[str] = []
    losses: _Lines = Field([], description="What the output was found to lack of its source.")
    warnings: _Lines

    @property
    def summary(self) -> str:
        """The report in one line."""
        fps = self.frames_out / self.seconds if self.seconds > 0 else 0.0
        size = f"{self.output.width}x{self.output.height}"
        return (
            f"{self.sink}: {self.frames_in} frames in, {self.frames_out} out at {size}, "
            f"{self.seconds:.1f} s, {fps:.2f} fps, slowest step: {STEPS[self.limiting_stage]}"
        )


class WarningLog(logging.Handler):
    """Keeps warnings for the report."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one message."""
        self.messages.append(one_line(record.getMessage(), 1000))


@contextmanager
def kept_warnings() -> Generator[WarningLog]:
    """Keep the warnings that are logged within, for the report."""
    warned = WarningLog()
    logger = logging.getLogger("upframe")
    logger.addHandler(warned)
    try:
        yield warned
    finally:
        logger.removeHandler(warned)


def make_report(
    flow: Flow,
    incoming: StreamInfo,
    outgoing: StreamInfo,
    runtime: Runtime,
    filters: Sequence[BuiltFilter],
    **known: Any,
) -> Report:
    """Make the report of a conversion; all other fields are given by their names."""
    return Report(
        version=version("upframe"),
        frames_in=flow.frames_in,
        frames_out=flow.frames_out,
        input=_video_of(incoming),
        output=_video_of(outgoing),
        seconds=round(flow.elapsed_seconds, 3),
        first_frame_seconds=flow.first_frame_seconds,
        stages=dict(flow.stages),
        limiting_stage=flow.limiting_stage,
        device=device_name(runtime.device),
        precision=str(runtime.precision).removeprefix("torch."),
        weights=weights_of(filters),
        **known,
    )


def device_name(device: torch.device) -> str:
    """Return the model name of a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def weights_of(filters: Iterable[BuiltFilter]) -> list[WeightsReport]:
    """Describe the weights of the filters that have some."""
    return [
        WeightsReport(
            filter=built.name, name=used.name, sha256=used.sha256, origin=used.origin, way=built.way
        )
        for built in filters
        if (used := built.weights) is not None
    ]


def _video_of(info: StreamInfo) -> VideoReport:
    return VideoReport(
        width=info.width,
        height=info.height,
        pix_fmt=info.pix_fmt,
        rate=None if info.rate is None else str(info.rate),
        color=asdict(info.color),
    )

"""What a run of the benchmark has found: one JSON file, written here and read by the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field
from rounds import Spread

from upframe.daemon.convert.report import WrittenReport

SCHEMA = "upframe.bench/1"


class LeftOut(BaseModel, frozen=True):
    """Something that was not measured."""

    what: str
    reason: str


class ConvolutionLimit(BaseModel, frozen=True):
    """The best that torch makes of a 3x3 convolution of 64 to 64 channels."""

    precision: str
    size: str
    layout: str
    gflop_per_second: float


class Limits(BaseModel, frozen=True):
    """What the device can do at most, measured in the same run."""

    convolutions: list[ConvolutionLimit]
    copy_gb_per_second: Spread
    """10^9 bytes, read and written ones."""


class FilterFigures(BaseModel, frozen=True):
    """One filter alone, in one precision, at one size. A run takes one source frame."""

    filter: Literal["interpolate", "upscale"]
    weights: str
    network: str
    size: str
    precision: str
    exp: int | None = None
    scale: float | None = None
    frames: int
    """That a run makes: 2^exp - 1 inserted ones, or 1 enlarged one."""
    ms: Spread
    """Of a run."""
    fps: float
    """Frames made a second, by the median."""
    gflop: float
    """10^9 operations of a run, by the arithmetic of the published network."""
    gflop_per_second: float
    convolution_gflop_per_second: float | None
    """The best single convolution's rate between these very runs."""
    share_of_convolution: float | None
    share_of_copy: float
    """What the copy of the frames that go in and out would take, of a run."""
    psnr_db: float | Literal["identical"] | None
    """To the same in fp32; null for fp32 itself, and where that was left out."""
    peak_mib: float | None
    """By which memory grew at most, with the weights."""
    duplicate_ms: Spread
    """Of a run whose source frame is exactly the one before."""


class StageFigures(BaseModel, frozen=True):
    """What a stage did, medians in seconds."""

    worked_seconds: float
    waited_seconds: float


class PipeFigures(BaseModel, frozen=True):
    """ffmpeg, `upframe pipe` and ffmpeg again, three processes."""

    seconds: Spread
    """From the first process's start to the last one's end."""
    flow_seconds: Spread
    """From the weights being loaded to the last frame being written."""
    ratio: float
    """Filters alone over `flow_seconds`."""
    first_frame_seconds: Spread
    stages: dict[str, StageFigures]
    peak_mib: float
    """Resident, of the process in the middle."""


class PipelineFigures(BaseModel, frozen=True):
    """Filters alone against the whole way, of the same frames, interleaved."""

    size: str
    precision: str
    weights: list[str]
    exp: int
    scale: float
    frames_in: int
    frames_out: int
    filters_seconds: Spread
    """Frames lie ready on the device, results are thrown away."""
    file_seconds: Spread
    """From a file to an H.264 file."""
    preset: str = "fast"
    """Of x264."""
    encoder_seconds: Spread | None = None
    """Encoding of the same results alone; None where they would take too much memory."""
    ratio: float
    """Filters alone over file to file: 1 means that nothing around the filters costs any time."""
    first_frame_seconds: Spread
    """From the begin of the flow to the first frame's encoding."""
    stages: dict[str, StageFigures]
    run_peak_mib: float
    """Resident, of the process of `upframe run`."""
    cuda_peak_mib: float | None
    pipe: PipeFigures | None


class StartFigures(BaseModel, frozen=True):
    """`upframe pipe` from the start of its process, weights on this machine."""

    size: str
    precision: str
    weights: list[str]
    exp: int
    scale: float
    header_seconds: Spread
    """Until the output's header: interpreter, torch and weights are loaded."""
    first_frame_seconds: Spread
    """Until the whole first frame was read."""
    peak_mib: float


class Document(WrittenReport, frozen=True):
    """One run."""

    schema_name: Literal["upframe.bench/1"] = Field(SCHEMA, alias="schema")
    began: str
    """UTC, ISO 8601."""
    seconds: float
    machine: dict[str, Any]
    device: str
    clip: str
    settings: dict[str, Any]
    limits: Limits | None = None
    filters: list[FilterFigures] = Field(default_factory=list[FilterFigures])
    pipeline: list[PipelineFigures] = Field(default_factory=list[PipelineFigures])
    start: list[StartFigures] = Field(default_factory=list[StartFigures])
    left_out: list[LeftOut] = Field(default_factory=list[LeftOut])


def read_document(path: Path) -> Document | None:
    """Read a file of results; None where it is of another benchmark.

    Raises:
        ValueError: if it says that it is one of these, but is not.
    """
    text = path.read_text()
    if f'"{SCHEMA}"' not in text:
        return None
    return Document.model_validate_json(text)

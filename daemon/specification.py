"""What a user asks for: the specification of a conversion and that of a live stream.

Each option is written here once. The command line, the configuration, MQTT and the control API
take their options from these models, with the descriptions as help texts; what one of them does
not have is in `REFUSED`, with the reason. Nothing here loads torch or PyAV.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    Field,
    model_validator,
)

from ..filters.options import FilterOptions, Policy
from ..io.encode.options import EncoderOptions, PipeFormat, SoundOptions
from ..io.part import Part, parse_time
from ..io.redaction import LOCATION_MAX_BYTES

Model = TypeVar("Model", bound=BaseModel)

Origin = Literal["watch", "mqtt", "cli"]
"""Where a job comes from."""
Stage = Literal["loading", "streaming", "publishing"]
"""Of a conversion, in this order: plan and weights, pictures, then completing and checking."""
OnLoss = Literal["slate", "freeze", "stop"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Transport = Literal["tcp", "udp", "auto"]
ProgressStyle = Literal["auto", "bar", "line", "json", "none"]

DEFAULT_LEVELS = ("full", "exp", "no-interpolation", "bicubic", "half-rate", "pass")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LEVEL = re.compile(r"full|exp(-[1-9][0-9]*)?|no-interpolation|bicubic|half-rate|pass")
_RATE = r"^0{0,8}[1-9][0-9]{0,8}(/0{0,8}[1-9][0-9]{0,8})?$"
_LATER = ("hwaccel", "audio_codec", "start", "end", "duration", "segment_frames")
"""Options that are newer than the digests in stores; at their default they are left out of them."""


def check_length(location: str) -> str:
    """Return a path or URL as it is.

    Raises:
        ValueError: if it is too long.
    """
    size = len(location.encode(errors="surrogateescape"))
    if size > LOCATION_MAX_BYTES:
        raise ValueError(f"must have at most {LOCATION_MAX_BYTES} bytes, got {size}")
    return location


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("must be letters, digits, '.', '_' or '-', at most 64, got " + repr(name))
    return name


def _check_level(name: str) -> str:
    if not _LEVEL.fullmatch(name):
        known = "full, exp, exp-N (N at least 1), no-interpolation, bicubic, half-rate or pass"
        raise ValueError(f"must be {known}, got {name!r}")
    return name


def _exact_time(value: object) -> object:
    """Return a time as its seconds, so that equal times are equal texts."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"must be a time such as 90 or 00:01:30.5, got {value!r}")
    seconds = parse_time(str(value))
    if seconds < 0:
        raise ValueError(f"must be 0 or more, got {value}")
    whole, nanoseconds = divmod(round(seconds * 10**9), 10**9)
    return f"{whole}.{nanoseconds:09}".rstrip("0").rstrip(".")


Priority = Annotated[
    int, Field(ge=-1000, le=1000, description="Priority, -1000 to 1000. The highest runs first.")
]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Time = Annotated[str, BeforeValidator(_exact_time)]
"""Seconds from the start of the film, or of the part."""
Location = Annotated[str, AfterValidator(check_length)]
StreamName = Annotated[str, AfterValidator(_check_name)]
LevelName = Annotated[str, AfterValidator(_check_level)]


class _Specification(BaseModel, frozen=True, extra="forbid"):
    """What files and live streams have in common."""

    filters: FilterOptions
    encoder: EncoderOptions = Field(default_factory=lambda: EncoderOptions.model_validate({}))
    container: str | None = Field(
        default=None,
        validation_alias=AliasChoices("container", "format"),
        description="Container of the output: an extension such as mkv, or FFmpeg's name of the "
        "format. Without it, the output's name decides.",
    )

    @model_validator(mode="after")
    def _refuse_idleness(self) -> Self:
        if not self.filters.any_enabled:
            raise ValueError("filters: none is enabled, such as enable_frame_interpolation")
        return self


class MediaOptions(_Specification, SoundOptions, frozen=True, extra="forbid"):
    """How to convert a file, whatever decides its name and that of the result."""

    strict_streams: bool = Field(
        default=False,
        description="Fail if anything of the input is lost, before the work if it is known.",
    )
    deinterlace: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Deinterlace always (on), never (off), or what is interlaced by its pixels, "
        "or by its flags where they show nothing (auto).",
    )
    hwaccel: Literal["none", "auto", "cuda"] = Field(
        default="none",
        description="Let an NVIDIA card decode, whose frames then stay on it: where the filters "
        "run on it (auto), or wherever it can (cuda). What it cannot decode, software does, which "
        "is logged.",
    )
    segment_frames: Count | None = Field(
        default=None,
        description="Cut the film before a key frame after so many frames at least, and encode "
        "each segment by itself, so that a run that is broken off can be continued. Without it, "
        "32 to 1024 by their size.",
    )


class PartOptions(BaseModel, frozen=True, extra="forbid"):
    """Which part of a film to take."""

    start: Time | None = Field(
        default=None,
        description="Take the film from this time on, such as 90, 1:30 or 00:01:30.5, counted from "
        "its start. The part has exactly the frames from start to end.",
    )
    end: Time | None = Field(default=None, description="Take the film up to this time.")
    duration: Time | None = Field(
        default=None,
        description="Take so much of the film. A live stream ends well after so much output; "
        "without it, it runs until it is stopped.",
    )

    @model_validator(mode="after")
    def _check_part(self) -> Self:
        if self.end is not None and self.duration is not None:
            raise ValueError("end and duration exclude each other: give one of them")
        if self.duration is not None and not Fraction(self.duration):
            raise ValueError("duration must be above 0: it is 0")
        if self.end is not None and Fraction(self.end) <= Fraction(self.start or 0):
            raise ValueError(f"end must be after start: {self.end} is not after {self.start or 0}")
        return self

    @property
    def part(self) -> Part | None:
        """The part; None for the whole film."""
        start = Fraction(self.start or 0)
        end = None if self.end is None else Fraction(self.end)
        if self.duration is not None:
            end = start + Fraction(self.duration)
        return Part(start, end) if start or end is not None else None


class ConversionOptions(MediaOptions, PartOptions, frozen=True, extra="forbid"):
    """How to convert a file that the user names."""

    overwrite: bool = Field(default=False, description="Replace an existing output.")
    framerate: str | None = Field(
        default=None,
        pattern=_RATE,
        description="Frame rate of images and raw streams, such as 24 or 24000/1001.",
    )

    @property
    def rate(self) -> Fraction | None:
        """The frame rate of images and raw streams, as a number."""
        return None if self.framerate is None else Fraction(self.framerate)


class ConversionSpec(ConversionOptions, frozen=True, extra="forbid"):
    """A conversion: what a client asks for, and what decides whether two jobs are the same."""

    source: Location = Field(
        min_length=1, description="The input: a file, a numbered sequence or a URL."
    )
    sink: Location = Field(min_length=1, description="The output: a file or a numbered sequence.")

    @property
    def digest(self) -> str:
        """SHA-256 of the content: equal for equal work, whatever the order of its keys."""
        values = self.model_dump(mode="json")
        for name in _LATER:
            if values[name] == type(self).model_fields[name].default:
                del values[name]
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class PipeOptions(MediaOptions, frozen=True, extra="forbid"):
    """How to convert a stream between two programs."""

    container: PipeFormat | None = Field(
        default=None,
        validation_alias=AliasChoices("container", "format"),
        description="Container of the output. Without it, that of the input.",
    )
    input_format: Literal["auto", PipeFormat] = Field(
        default="auto", description="Container of the input."
    )
    expect_frames: Count | None = Field(
        default=None,
        description="Fail with code 65 where the input has fewer frames. Those it has are written.",
    )
    allow_early_close: bool = Field(
        default=False,
        description="End with code 0, not 141, where the reader closes stdout early, as '| head' "
        "does.",
    )


class DeviceOptions(BaseModel, frozen=True, extra="forbid"):
    """On what to compute."""

    device: str = Field(default="auto", description="Device: auto, cpu, cuda or cuda:N.")
    precision: Precision = Field(
        default="auto",
        description="Precision of the convolutions. auto means fp16 on CUDA, bf16 on a CPU that "
        "has it in hardware, else fp32.",
    )


class RuntimeOptions(DeviceOptions, frozen=True, extra="forbid"):
    """On what to compute, and with which weights."""

    device: str = Field(
        default="auto",
        description="Device: auto, cpu, cuda or cuda:N. `upframe run` makes a film that is a file "
        "on several of one kind, each by a process of its own: cuda:0,cuda:1, every card (all), or "
        "the CPU twice (cpu*2).",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Threads of each process for computing on the CPU. Without it, they share all "
        "cores.",
    )
    weights: Policy = Field(
        default="auto",
        description="Where weights come from that are not named: auto takes the published ones, "
        "or where the hub cannot be reached the small built-in ones, with a warning; hub never "
        "takes the built-in ones; builtin never asks the hub.",
    )


class StreamSpec(_Specification, DeviceOptions, frozen=True, extra="forbid"):
    """A live stream: what to read, where to publish, and what to do in between."""

    name: StreamName = Field(
        description="Name of the stream on the slate, in topics, metrics and the log. `upframe "
        "run` makes one of the input."
    )
    input: Location = Field(
        description="The input: a URL, a device such as /dev/video0, or a file."
    )
    output: Location = Field(
        description="The output: a URL, a file, or a name with fields of strftime."
    )
    credentials_file: Path | None = Field(
        default=None,
        description="File with one line USER:PASSWORD for the input, readable by its owner alone.",
    )
    output_credentials_file: Path | None = Field(
        default=None,
        description="File with one line USER:PASSWORD for the output, readable by its owner alone.",
    )
    latency_seconds: float = Field(
        default=2.0,
        ge=0.2,
        le=60,
        allow_inf_nan=False,
        description="Longest time from a packet's arrival to the moment its frame is written.",
    )
    levels: tuple[LevelName, ...] = Field(
        default=DEFAULT_LEVELS,
        min_length=1,
        description="What may be given up under load, in this order. exp stands for every smaller "
        "exponent, exp-N for one. A level that is not named is never entered.",
    )
    on_loss: OnLoss = Field(
        default="slate",
        description="What to do without an input: show the last picture and then a slate (slate), "
        "show the last picture (freeze), or end the stream (stop).",
    )
    rtsp_transport: Transport = Field(
        default="tcp",
        description="Transport of RTSP inputs. auto tries UDP first and keeps what worked.",
    )
    stall_seconds: Positive | None = Field(
        default=None,
        description="Time without a frame after which the input is connected again. Without it, "
        "the stream's rate decides.",
    )
    segment_seconds: float = Field(
        default=600.0,
        ge=1,
        allow_inf_nan=False,
        description="Length of the files of an output such as %Y%m%d-%H%M%S.mp4.",
    )
    keep_days: Positive | None = Field(
        default=None,
        description="Remove recordings of the output that are older, when one is completed.",
    )
    keep_gibibytes: Positive | None = Field(
        default=None,
        description="Remove the oldest recordings of the output beyond this size together, when "
        "one is completed.",
    )
    tls_insecure: bool = Field(
        default=False,
        description="Accept any certificate: passwords and pictures may go to an impostor.",
    )
    sound: bool = Field(default=True, description="Copy the sound.")

    @model_validator(mode="after")
    def _keep_recordings_only(self) -> Self:
        is_series = "%" in self.output and "://" not in self.output
        if (self.keep_days or self.keep_gibibytes) and not is_series:
            text = "must be an output such as %Y%m%d-%H%M%S.mp4, for keep_days or keep_gibibytes"
            raise ValueError(text)
        return self


def part_of(value: BaseModel, model: type[Model]) -> Model:
    """Copy from a value the fields that a model has, which is one of its bases."""
    return model.model_validate({name: getattr(value, name) for name in model.model_fields})


_NO_PART = "a part of every film makes no sense"
_SHARED = "what the daemon runs at the same time shares the cores"
_TOP = "the key at the top of the file holds for all"
_OF_FILES = "a live stream is decoded as it comes, by software, and its sound is all that is copied"

REFUSED: Mapping[str, Mapping[str, str]] = {
    "job": {
        "device": "the daemon's [jobs] devices decides",
        "precision": "the daemon's [jobs] precision decides",
        "weights": "the daemon's weights decides",
        "threads": _SHARED,
        "tls_insecure": "a job verifies certificates",
    },
    "watch": {
        "source": "each file of the folder is one",
        "sink": "output names the folder of the results",
        "overwrite": 'on_existing = "overwrite" replaces results',
        "framerate": "files are taken one by one, never as an image sequence",
        **dict.fromkeys(("start", "end", "duration"), _NO_PART),
        "device": "[jobs] devices decides",
        "precision": "[jobs] precision decides",
        "weights": _TOP,
        "threads": _SHARED,
    },
    "live": {
        "overwrite": "a file whose name is taken gets a number",
        "weights": _TOP,
        "threads": _SHARED,
    },
    "stream": {
        **dict.fromkeys(
            ("strict_streams", "audio_codec", "deinterlace", "framerate", "hwaccel"), _OF_FILES
        ),
        "segment_frames": "a live stream is not continued from where it was",
        **dict.fromkeys(("start", "end"), "a live stream begins when it is connected to"),
    },
    "pipe": {
        "encoder": "stdout carries uncompressed video",
        "strict_streams": "a pipe carries video alone",
        "audio_codec": "a pipe carries video alone",
        "overwrite": "stdout has no name",
        "framerate": "the input states its rate",
        **dict.fromkeys(("start", "end", "duration"), "the program before it cuts, as ffmpeg -ss"),
        "hwaccel": "the input is uncompressed video",
        "segment_frames": "a pipe is not continued from where it was",
    },
}
"""By front end, the options that it does not have, and why: jobs by MQTT, the control API and
`jobs submit`; `[[watch]]`; `[[live]]`; any live stream; `upframe pipe`."""

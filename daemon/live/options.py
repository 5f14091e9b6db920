"""What a user says of a live stream, on the command line and in `[[live]]` alike."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

OnLoss = Literal["slate", "freeze", "stop"]
Transport = Literal["tcp", "udp", "auto"]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]

DEFAULT_LEVELS = ("full", "exp", "no-interpolation", "bicubic", "half-rate", "pass")


class LiveOptions(BaseModel, frozen=True, extra="forbid"):
    """How a live stream is kept up; a field's description is its help text."""

    latency_seconds: float = Field(
        default=2.0,
        ge=0.2,
        le=60,
        allow_inf_nan=False,
        description="from a packet's arrival to the moment its frame is written, at most",
    )
    levels: tuple[str, ...] = Field(
        default=DEFAULT_LEVELS,
        min_length=1,
        description="what may be given up under load, in this order; `exp` stands for every "
        "smaller exponent, exp-N for one; without a name its level is never entered",
    )
    on_loss: OnLoss = Field(
        default="slate",
        description="while there is no input: freeze, then a slate; freeze for good; or stop",
    )
    rtsp_transport: Transport = Field(
        default="tcp", description="of RTSP inputs; auto tries UDP first and keeps what worked"
    )
    stall_seconds: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="without a frame, after which the input is connected to anew (by its rate)",
    )
    segment_seconds: float = Field(
        default=600.0,
        ge=1,
        allow_inf_nan=False,
        description="length of the files of an output such as %%Y%%m%%d-%%H%%M%%S.mp4",
    )
    format: str | None = Field(
        default=None, description="container of the output, where its name does not tell"
    )
    tls_insecure: bool = Field(
        default=False,
        description="trust any certificate: passwords and pictures go to whoever answers",
    )
    sound: bool = Field(default=True, description="copy the sound along")

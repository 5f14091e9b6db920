"""The configuration of `upframe serve`: one TOML file, strict, every key described here.

The sample file `systemd/upframe.toml` names every key with its default; a test holds them equal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from ...filters.options import FilterOptions
from ...filters.policy import Policy
from ...io.encode.options import EncoderOptions
from ..live.options import LiveOptions, Name

Stage = Literal["loading", "streaming", "publishing"]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
TopicLevel = Annotated[str, StringConstraints(pattern=r"^[^/+#$\x00][^/+#\x00]*$", max_length=64)]

_STAGE_SECONDS: dict[Stage, float] = {"loading": 600.0, "streaming": 300.0, "publishing": 600.0}


class Section(BaseModel):
    """A part of the file: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class JobsConfig(Section):
    """How jobs are run, and what a request may touch."""

    slots: int | None = Field(
        default=None, ge=1, le=64, description="jobs at once; without it one for each device"
    )
    devices: tuple[str, ...] = Field(
        default=("auto",), min_length=1, description="auto, cpu, cuda:N; slots take them in turn"
    )
    precision: Precision = "auto"
    roots: tuple[Path, ...] = Field(
        default=(), description="folders that requests may name; none: no file by MQTT"
    )
    allowed_schemes: tuple[str, ...] = ("file", "rtsp", "http", "https")
    attempts: int = Field(default=3, ge=1, le=1000, description="before a job counts as failed")
    retry_delays: tuple[Seconds, ...] = Field(
        default=(5.0, 30.0), min_length=1, description="before attempt 2, 3, …; the last repeats"
    )
    drain_seconds: Seconds = Field(
        default=60.0, description="that running jobs get to end after SIGTERM"
    )
    stage_seconds: dict[Stage, Seconds] = Field(
        default=_STAGE_SECONDS,
        description="without any progress, after which a worker counts as hung",
    )
    recycle_jobs: int = Field(default=200, ge=1, description="after which a worker is replaced")
    recycle_mebibytes: int = Field(
        default=8192, ge=64, description="of resident memory, from which a worker is replaced"
    )
    keep_days: float = Field(default=30.0, gt=0, description="that ended jobs are remembered")

    @field_validator("stage_seconds")
    @classmethod
    def _keep_other_defaults(cls, given: dict[Stage, float]) -> dict[Stage, float]:
        return _STAGE_SECONDS | given

    @field_validator("roots")
    @classmethod
    def _must_be_absolute(cls, roots: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(_absolute(root) for root in roots)


class WatchConfig(Section):
    """One watched folder."""

    input: Path
    output: Path
    filters: FilterOptions
    encoder: EncoderOptions = Field(default_factory=lambda: EncoderOptions.model_validate({}))
    container: str | None = Field(
        default=None, description="extension of the outputs, such as mkv (the input's)"
    )
    recursive: bool = True
    include: tuple[str, ...] = Field(
        default=(), description="globs of names; none: every name of a media file"
    )
    exclude: tuple[str, ...] = Field(default=(), description="globs, beside the built-in ones")
    stable_seconds: Annotated[float, Field(gt=0)] = 10.0
    scan_seconds: Annotated[float, Field(gt=0)] = Field(
        default=60.0, description="from one full scan to the next, give or take a quarter"
    )
    on_existing: Literal["skip", "overwrite", "suffix", "if-newer"] = "skip"
    on_done: Literal["keep", "move", "delete"] = "keep"
    done_dir: Path | None = None
    on_failed: Literal["leave", "move"] = "leave"
    failed_dir: Path | None = None
    priority: int = Field(default=0, ge=-1000, le=1000)
    mode: Literal["auto", "events", "poll"] = "auto"

    @field_validator("input", "output", "done_dir", "failed_dir")
    @classmethod
    def _must_be_absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else _absolute(path)

    @model_validator(mode="after")
    def _check_folders(self) -> Self:
        if not self.filters.any_enabled:
            raise ValueError("filters: none is enabled")
        if self.on_done == "move" and self.done_dir is None:
            raise ValueError('on_done = "move" needs done_dir')
        if self.on_failed == "move" and self.failed_dir is None:
            raise ValueError('on_failed = "move" needs failed_dir')
        return self


class LiveConfig(LiveOptions, frozen=True, extra="forbid"):
    """One live stream, kept up for as long as the daemon runs."""

    name: Name = Field(description="unique; on the slate, in topics, metrics and the log")
    input: str = Field(description="a URL, a device such as /dev/video0, or a file")
    output: str = Field(description="a URL, a file, or a name with fields of strftime")
    filters: FilterOptions
    encoder: EncoderOptions = Field(default_factory=lambda: EncoderOptions.model_validate({}))
    device: str = Field(default="auto", description="auto, cpu, cuda:N")
    precision: Precision = "auto"
    credentials_file: Path | None = Field(
        default=None, description="one line USER:PASSWORD for the input, closed to others"
    )
    output_credentials_file: Path | None = Field(default=None, description="for the output")
    enabled: bool = Field(default=True, description="false: known, and not tried")

    @field_validator("credentials_file", "output_credentials_file")
    @classmethod
    def _must_be_absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else _absolute(path)

    @field_validator("input", "output")
    @classmethod
    def _must_say_where(cls, text: str) -> str:
        if not (text.startswith(("/", "v4l2:")) or "://" in text):
            raise ValueError("must be a URL or an absolute path")
        return text

    @model_validator(mode="after")
    def _check_filters(self) -> Self:
        if not self.filters.any_enabled:
            raise ValueError("filters: none is enabled")
        return self

    @property
    def options(self) -> LiveOptions:
        """What the entry says of how the stream is kept up."""
        said = {key: getattr(self, key) for key in LiveOptions.model_fields}
        return LiveOptions.model_validate(said)


class MqttConfig(Section):
    """The broker, and who we are there."""

    host: str = Field(min_length=1)
    port: int | None = Field(default=None, ge=1, le=65535, description="(1883, with TLS 8883)")
    tls: bool = False
    tls_ca: Path | None = Field(default=None, description="(the system's authorities)")
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_insecure: bool = Field(default=False, description="trust any certificate: for trials only")
    username: str | None = None
    password_file: Path | None = Field(
        default=None,
        description="readable by nobody else; else the systemd credential mqtt-password",
    )
    prefix: TopicLevel = "upframe"
    node_id: TopicLevel | None = Field(default=None, description="(the host's name)")
    session_expiry: int = Field(
        default=86400, ge=0, le=0xFFFFFFFF, description="seconds that the broker keeps messages"
    )
    state_keep_seconds: Seconds = Field(
        default=86400.0, description="after a job's end, when its retained state is cleared"
    )
    discovery: bool = Field(default=False, description="announce a device to Home Assistant")
    discovery_prefix: TopicLevel = "homeassistant"


class HttpConfig(Section):
    """Health and metrics over HTTP."""

    listen: str = Field(description="ADDRESS:PORT; loopback unless allow_remote says otherwise")
    allow_remote: bool = False


class LogConfig(Section):
    """How to log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "plain", "journal", "json"] = Field(
        default="auto", description="auto: the journal where stderr goes there, else plain"
    )
    repeat_seconds: Seconds = Field(
        default=60.0, description="in which a repeated warning is said once, with its count after"
    )


class Config(Section):
    """The whole file."""

    state_dir: Path = Path("/var/lib/upframe")
    weights: Policy = Field(default="hub", description="auto | hub | builtin")
    jobs: JobsConfig = JobsConfig()
    watch: tuple[WatchConfig, ...] = ()
    live: tuple[LiveConfig, ...] = ()
    mqtt: MqttConfig | None = None
    http: HttpConfig | None = None
    log: LogConfig = LogConfig()

    @field_validator("state_dir")
    @classmethod
    def _must_be_absolute(cls, path: Path) -> Path:
        return _absolute(path)


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"must be an absolute path, got {str(path)!r}")
    return path

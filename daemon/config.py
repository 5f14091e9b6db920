"""The configuration of `upframe serve`: one TOML file, read strictly.

The sample file `systemd/upframe.toml` is the manual: it explains every key, with its default, and
a test compares the two.
"""

from __future__ import annotations

import difflib
import json
import os.path
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, cast, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from ..filters.options import FilterOptions, Policy
from ..io.limits import InputLimits
from ..io.redaction import excerpt
from ..io.root import Root
from .errors import ConfigError
from .specification import (
    REFUSED,
    MediaOptions,
    Origin,
    Precision,
    Priority,
    Stage,
    StreamName,
    StreamSpec,
)

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
TopicLevel = Annotated[str, StringConstraints(pattern=r"^[^/+#$\x00][^/+#\x00]*$", max_length=64)]
TopicPrefix = Annotated[str, StringConstraints(pattern=r"^[^+#$\x00][^+#\x00]*$", max_length=256)]


def with_absolute_weights(filters: FilterOptions) -> FilterOptions:
    """Make the paths of local weights absolute, since workers have another working folder."""

    def absolute(path: str) -> str:
        return os.path.abspath(path) if path != "builtin" and os.path.exists(path) else path

    return filters.with_models(absolute)


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"must be an absolute path, got {str(path)!r}")
    return path


def _host(text: str) -> str:
    try:
        ip_network(text, strict=False)
    except ValueError as error:
        if not re.fullmatch(r"[\w.-]+", text):
            raise ValueError("must be a name, an address or a network") from error
    return text


def _scheme(text: str) -> str:
    if not re.fullmatch(r"[\w+.-]+", text):
        raise ValueError("must be a scheme such as https")
    return text


_AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
_Host = Annotated[str, AfterValidator(_host)]
_EXTENSIONS = {"matroska": "mkv", "mpegts": "ts"}
"""Of the containers whose names in FFmpeg are no extensions."""
_STAGE_SECONDS: dict[Stage, float] = {"loading": 600.0, "streaming": 300.0, "publishing": 600.0}


class Section(BaseModel):
    """A part of the file: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class JobsConfig(Section):
    """How jobs are run, and what a request may access."""

    slots: int | None = Field(default=None, ge=1, le=64)
    devices: tuple[str, ...] = Field(default=("auto",), min_length=1)
    precision: Precision = "auto"
    roots: tuple[_AbsolutePath, ...] = ()
    allowed_schemes: tuple[Annotated[str, AfterValidator(_scheme)], ...] = ("file",)
    allowed_hosts: tuple[_Host, ...] = ()
    models: tuple[str, ...] = ()
    model_mebibytes: int = Field(default=512, ge=1)
    attempts: int = Field(default=3, ge=1, le=1000)
    retry_delays: tuple[Seconds, ...] = Field(default=(5.0, 30.0), min_length=1)
    drain_seconds: Seconds = 60.0
    stage_seconds: dict[Stage, Seconds] = _STAGE_SECONDS
    recycle_jobs: int = Field(default=200, ge=1)
    recycle_mebibytes: int = Field(default=8192, ge=64)
    keep_days: float = Field(default=30.0, gt=0)

    @field_validator("stage_seconds")
    @classmethod
    def _keep_other_defaults(cls, given: dict[Stage, float]) -> dict[Stage, float]:
        return _STAGE_SECONDS | given


class WatchConfig(MediaOptions, frozen=True, extra="forbid"):
    """One watched folder."""

    refused: ClassVar = REFUSED["watch"]

    name: StreamName | None = None
    input: _AbsolutePath
    output: _AbsolutePath
    recursive: bool = True
    follow_links: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    stable_seconds: float = Field(default=10.0, gt=0)
    scan_seconds: float = Field(default=60.0, gt=0)
    on_existing: Literal["skip", "overwrite", "suffix", "if-newer"] = "skip"
    on_done: Literal["keep", "move", "delete"] = "keep"
    done_dir: _AbsolutePath | None = None
    on_failed: Literal["leave", "move"] = "leave"
    failed_dir: _AbsolutePath | None = None
    sidecars: bool = False
    priority: Priority = 0
    mode: Literal["auto", "events", "poll"] = "auto"

    _absolute_weights = field_validator("filters")(with_absolute_weights)

    @model_validator(mode="after")
    def _check_folders(self) -> Self:
        if self.on_done == "move" and self.done_dir is None:
            raise ValueError('on_done = "move" needs done_dir')
        if self.on_failed == "move" and self.failed_dir is None:
            raise ValueError('on_failed = "move" needs failed_dir')
        return self

    @property
    def extension(self) -> str | None:
        """The extension of the results, with its dot; None: that of the input."""
        if self.container is None:
            return None
        return "." + _EXTENSIONS.get(self.container, self.container.lstrip("."))

    @property
    def label(self) -> str:
        """Its name in metrics and lists: that of the folder, unless another is given."""
        return self.name or self.input.name or "root"

    def root(self, folder: Path, closed: Path | None) -> Root:
        """Return the root of a folder: the input for those inside, whose writers may bend links."""
        return Root(self.input if folder.is_relative_to(self.input) else folder, closed)


class LiveConfig(StreamSpec, frozen=True, extra="forbid"):
    """One live stream, which runs as long as the daemon."""

    refused: ClassVar = {**REFUSED["live"], **REFUSED["stream"]}

    enabled: bool = True

    _absolute_weights = field_validator("filters")(with_absolute_weights)

    @field_validator("input", "output")
    @classmethod
    def _must_say_where(cls, text: str) -> str:
        if not (text.startswith(("/", "v4l2:")) or "://" in text):
            raise ValueError("must be a URL or an absolute path")
        return text

    @field_validator("credentials_file", "output_credentials_file")
    @classmethod
    def _must_be_absolute(cls, path: Path | None) -> Path | None:
        return path and _absolute(path)


class MqttConfig(Section):
    """The broker, and the identity of this node there."""

    host: str = Field(min_length=1)
    port: int | None = Field(default=None, ge=1, le=65535)
    tls: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_insecure: bool = False
    username: str | None = None
    password_file: Path | None = None
    prefix: TopicLevel = "upframe"
    node_id: TopicLevel | None = None
    session_expiry: int = Field(default=86400, ge=0, le=0xFFFFFFFF)
    state_keep_seconds: Seconds = 86400.0
    response_prefixes: tuple[TopicPrefix, ...] = ()
    discovery: bool = False
    discovery_prefix: TopicLevel = "homeassistant"


class ExecutorConfig(Section):
    """Where films are made."""

    kind: Literal["local", "ray"] = "local"
    address: str = ""


class HttpConfig(Section):
    """Health and metrics over HTTP."""

    listen: str
    allow_remote: bool = False
    hosts: tuple[_Host, ...] = ()


class LogConfig(Section):
    """How to log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "plain", "journal", "json"] = "auto"
    repeat_seconds: Seconds = 60.0


class Config(Section):
    """The whole file."""

    state_dir: _AbsolutePath = Path("/var/lib/upframe")
    weights: Policy = "hub"
    jobs: JobsConfig = JobsConfig()
    executor: ExecutorConfig = ExecutorConfig()
    limits: InputLimits = InputLimits()
    watch: tuple[WatchConfig, ...] = ()
    live: tuple[LiveConfig, ...] = ()
    mqtt: MqttConfig | None = None
    http: HttpConfig | None = None
    log: LogConfig = LogConfig()


@dataclass(frozen=True, slots=True)
class Fault:
    """One wrong key."""

    key: str
    """A TOML path: `jobs.slots`, `watch[0].input`."""
    got: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.key}: got {self.got}, wanted {self.wanted}"


def load_config(path: Path) -> Config:
    """Read a file.

    Raises:
        ConfigError: names file, key, got and wanted of every fault.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        text = f"{path}: got {error.strerror or error}, wanted a readable file"
        raise ConfigError(text) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: got {error.reason}, wanted UTF-8") from error
    config = parse_config(text, path)
    faults = list(contradictions(config))
    if faults:
        raise refusal(path, faults)
    return config


def refusal(path: Path, faults: list[Fault]) -> ConfigError:
    """Make one error of all faults in a file, one line each."""
    return ConfigError(*(f"{path}: {fault}" for fault in faults))


def parse_config(text: str, path: Path) -> Config:
    """Read the text of a file, and check each key and value by itself."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: got a file that is not TOML, wanted TOML: {error}") from error
    try:
        # in JSON, "strict" still accepts a string for a path and a list for a tuple
        return Config.model_validate_json(json.dumps(document, default=str), strict=True)
    except ValidationError as error:
        raise refusal(path, [_fault(dict(fault)) for fault in error.errors()]) from error


def contradictions(config: Config) -> Iterator[Fault]:
    """Find values that contradict each other."""
    if config.http is not None:
        try:
            parse_listen(config.http)
        except ValueError as error:
            yield Fault("http.listen", _shown(config.http.listen), str(error))
    yield from _contradicting_folders(config)
    yield from _contradicting_streams(config)
    for there, missing in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        if getattr(config.mqtt, there, None) and not getattr(config.mqtt, missing):
            yield Fault(f"mqtt.{missing}", "nothing", f"a file, since {there} is given")


def _contradicting_folders(config: Config) -> Iterator[Fault]:
    inputs: dict[Path, int] = {}
    named = {f"jobs.roots[{index}]": root for index, root in enumerate(config.jobs.roots)}
    for index, watch in enumerate(config.watch):
        for key in ("input", "output", "done_dir", "failed_dir"):
            if (folder := getattr(watch, key)) is not None:
                named[f"watch[{index}].{key}"] = folder
        if watch.input in inputs:
            text = f"another folder than that of watch[{inputs[watch.input]}]"
            yield Fault(f"watch[{index}].input", _shown(str(watch.input)), text)
        inputs.setdefault(watch.input, index)
        apart = watch.container is not None or watch.on_existing == "suffix"
        if watch.output == watch.input and not apart:
            text = 'another folder than input, or a container, or on_existing = "suffix"'
            yield Fault(f"watch[{index}].output", _shown(str(watch.output)), text)
    for key, folder in named.items():
        if folder.is_relative_to(config.state_dir):
            yield Fault(key, _shown(str(folder)), "a folder outside of state_dir")


def _contradicting_streams(config: Config) -> Iterator[Fault]:
    names: dict[str, int] = {}
    outputs: dict[str, int] = {}
    for index, live in enumerate(config.live):
        where = f"live[{index}]"
        for key, value, seen in (("name", live.name, names), ("output", live.output, outputs)):
            if (first := seen.setdefault(value, index)) != index:
                text = f"another {key} than that of live[{first}]"
                yield Fault(f"{where}.{key}", _shown(value), text)
        if live.name in get_args(Origin):
            text = "another name: frames of jobs are counted under this one"
            yield Fault(f"{where}.name", _shown(live.name), text)


def _fault(fault: Mapping[str, Any]) -> Fault:
    location = cast("tuple[str | int, ...]", fault["loc"])
    text = ""
    for part in location:
        if part == "[key]":  # pydantic's mark: the key itself is wrong
            continue
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    key = text or "the file"
    if fault["type"] == "extra_forbidden":
        return Fault(key, "an unknown key", _known_keys(location))
    if fault["type"] == "missing":
        return Fault(key, "nothing", "a value: it has no default")
    # what pydantic or a validator of ours says is turned into what is wanted
    wanted = str(fault["msg"]).removeprefix("Value error, ").partition(", got ")[0]
    wanted = wanted.removeprefix("Input should be ").removeprefix("must be ")
    wanted = wanted[0].lower() + wanted[1:] if wanted[:2].istitle() else wanted
    return Fault(key, _shown(fault["input"]), wanted)


def _known_keys(location: tuple[str | int, ...]) -> str:
    model: type[BaseModel] | None = Config
    for part in location[:-1]:
        if isinstance(part, str) and model is not None:
            model = _model_in(model.model_fields[part].annotation)
    if reason := getattr(model, "refused", {}).get(str(location[-1])):
        return f"none: {reason}"
    known = sorted(model.model_fields) if model is not None else []
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"{close[0]}, perhaps" if close else "one of " + ", ".join(known)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Find the model in `Model`, `Model | None` and `tuple[Model, ...]`."""
    inner = get_args(annotation)
    if not inner and isinstance(annotation, type):
        kind = cast("type[object]", annotation)
        return kind if issubclass(kind, BaseModel) else None
    return next((model for each in inner if (model := _model_in(each)) is not None), None)


def _shown(value: Any) -> str:
    return excerpt(json.dumps(value, default=str, ensure_ascii=False), 79)


def parse_listen(config: HttpConfig) -> tuple[str, int]:
    """Read ADDRESS:PORT; an IPv6 address stands in brackets.

    Raises:
        ValueError: if it is neither, or not loopback without `allow_remote`; names what is wanted.
    """
    host, colon, port = config.listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("ADDRESS:PORT, such as 127.0.0.1:9310 or [::1]:9310")
    try:
        loopback = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        raise ValueError("ADDRESS:PORT with an IP address or localhost") from None
    if not loopback and not config.allow_remote:
        raise ValueError("a loopback address such as 127.0.0.1, or allow_remote = true beside it")
    return host, int(port)

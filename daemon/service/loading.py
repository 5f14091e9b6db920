"""Read a configuration file, strictly; what is wrong is said with file, key, got and wanted."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import BaseModel, ValidationError

from ...io.redaction import redacted
from ..errors import ConfigError, UsageError
from ..jobs.model import Origin
from ..live.levels import parse_levels
from .config import Config
from .http import parse_listen

_MOST_CHARACTERS = 80
"""Of a value that is shown."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One wrong key."""

    key: str
    """As a TOML path: `jobs.slots`, `watch[0].input`."""
    got: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.key}: got {self.got}, wanted {self.wanted}"


def load_config(path: Path) -> Config:
    """Read a file.

    Raises:
        ConfigError: names file, key, got and wanted of everything that is wrong.
    """
    config = parse_config(_read(path), path)
    faults = list(contradictions(config))
    if faults:
        raise refusal(path, faults)
    return config


def refusal(path: Path, faults: list[Fault]) -> ConfigError:
    """Make one error of all faults in a file, a line each."""
    return ConfigError("\n".join(f"{path}: {fault}" for fault in faults))


def parse_config(text: str, path: Path) -> Config:
    """Read the text of a file: its keys and values, one by one."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: got a file that is not TOML, wanted TOML: {error}") from error
    try:
        # by way of JSON, "strict" still lets a string name a path and a list be a tuple
        return Config.model_validate_json(json.dumps(document, default=str), strict=True)
    except ValidationError as error:
        raise refusal(path, [_fault(dict(fault)) for fault in error.errors()]) from error


def contradictions(config: Config) -> Iterator[Fault]:
    """Find values that do not fit together."""
    if config.http is not None:
        try:
            parse_listen(config.http)
        except ValueError as error:
            yield Fault("http.listen", _shown(config.http.listen), str(error))
    yield from _contradicting_folders(config)
    yield from _contradicting_streams(config)
    if config.mqtt is not None and (config.mqtt.tls_cert is None) != (config.mqtt.tls_key is None):
        there, missing = ("tls_cert", "tls_key")
        if config.mqtt.tls_cert is None:
            there, missing = missing, there
        yield Fault(f"mqtt.{missing}", "nothing", f"a file, since {there} is given")


def _contradicting_folders(config: Config) -> Iterator[Fault]:
    inputs: dict[Path, int] = {}
    for index, watch in enumerate(config.watch):
        if watch.input in inputs:
            text = f"another folder than that of watch[{inputs[watch.input]}]"
            yield Fault(f"watch[{index}].input", _shown(str(watch.input)), text)
        inputs.setdefault(watch.input, index)
        apart = watch.container is not None or watch.on_existing == "suffix"
        if watch.output == watch.input and not apart:
            text = 'another folder than input, or a container, or on_existing = "suffix"'
            yield Fault(f"watch[{index}].output", _shown(str(watch.output)), text)


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
        try:
            parse_levels(live.levels, live.filters)
        except UsageError as error:
            wanted = str(error).removeprefix("a level must be ").partition(", got ")[0]
            yield Fault(f"{where}.levels", _shown(live.levels), wanted)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: got {error.strerror or error}, wanted a readable file"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: got {error.reason}, wanted UTF-8") from error


def _fault(fault: Mapping[str, Any]) -> Fault:
    location = cast("tuple[str | int, ...]", fault["loc"])
    key = _key(location)
    kind = str(fault["type"])
    if kind == "extra_forbidden":
        return Fault(key, "an unknown key", _known_keys(location))
    if kind == "missing":
        return Fault(key, "nothing", "a value: it has no default")
    return Fault(key, _shown(fault["input"]), _wanted(str(fault["msg"])))


def _wanted(message: str) -> str:
    """Turn pydantic's sentence, or a validator's, into what is wanted."""
    message = message.removeprefix("Value error, ").partition(", got ")[0]
    for start in ("Input should be ", "must be "):
        message = message.removeprefix(start)
    return message[0].lower() + message[1:] if message[:2].istitle() else message


def _key(location: tuple[str | int, ...]) -> str:
    text = ""
    for part in location:
        if part == "[key]":  # pydantic's mark: the key itself is wrong
            continue
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the file"


def _known_keys(location: tuple[str | int, ...]) -> str:
    model: type[BaseModel] | None = Config
    for part in location[:-1]:
        if isinstance(part, str) and model is not None:
            model = _model_in(model.model_fields[part].annotation)
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
    text = redacted(json.dumps(value, default=str, ensure_ascii=False))
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"

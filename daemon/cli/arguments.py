"""Command-line arguments, made from the models they fill: one place names, explains and checks."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ...filters.options import FilterOptions
from ...io.encode.options import EncoderOptions
from ...io.redaction import excerpt
from ..errors import UsageError
from ..parser import PIPE_EXAMPLE
from ..specification import REFUSED, PartOptions, ProgressStyle, RuntimeOptions, check_length

if TYPE_CHECKING:
    from ...filters.device import Runtime

Model = TypeVar("Model", bound=BaseModel)

_FLAGS = {
    "container": ("--container", "--format"),
    "latency_seconds": ("--latency", "--latency-seconds"),
    "options": ("--encoder-option",),
}
"""Of fields whose options are not spelled as they are."""
_NESTED = ("filters", "encoder")
"""Fields that are models; their fields are options like all others."""
_SHORT = {"interpolate": "frame_interpolation_exp", "upscale": "upscaling_scale"}
"""Of the options that enable a filter too, the fields that they fill."""
_MOST_DIGITS = 9  # of either number in a rate


def add_options(group: argparse._ActionsContainer, model: type[BaseModel], *names: str) -> None:  # pyright: ignore[reportPrivateUsage]
    """Add the options of a model: all, or those of some fields."""
    for name, info in model.model_fields.items():
        if name in names or not (names or name in _NESTED):
            group.add_argument(*_flags(name), dest=name, default=None, **_argument_of(name, info))


def add_filter_arguments(parser: argparse.ArgumentParser) -> None:
    """Add every option of every filter, and the short forms that enable and set in one."""
    text = "Ask for at least one. The short forms enable a filter and set it in one go."
    group = parser.add_argument_group("filters", text)
    text = "Insert 2^EXP-1 frames into every gap: 1 doubles the frame rate, 2 makes it 4 times."
    group.add_argument("--interpolate", type=int, metavar="EXP", help=text)
    text = "Enlarge every frame SCALE times, 1 to 8."
    group.add_argument("--upscale", type=float, metavar="SCALE", help=text)
    add_options(group, FilterOptions)


def add_progress_arguments(parser: argparse.ArgumentParser) -> None:
    """Offer how to watch the work and what to keep of it."""
    group = parser.add_argument_group("watching")
    styles, text = get_args(ProgressStyle), "How to show the progress on stderr. Default: auto."
    group.add_argument("--progress", default="auto", choices=styles, help=text)
    text = "Write what was done to this file, as JSON."
    group.add_argument("--report", type=Path, metavar="FILE", help=text)


def refuse_options(parser: argparse.ArgumentParser, front_end: str) -> None:
    """Have each option that a command does not have refused with the reason for it."""
    for name, reason in REFUSED[front_end].items():
        how: dict[str, Any] = {"action": _Refusal, "nargs": "?", "help": argparse.SUPPRESS}
        for each in EncoderOptions.model_fields if name == "encoder" else (name,):
            parser.add_argument(*_flags(each), const=reason, **how)


class _Refusal(argparse.Action):
    """Refuses an option, with its constant as the reason."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> NoReturn:
        parser.error(f"{option_string} is no option of {parser.prog}: {self.const}")


def filter_options_of(arguments: argparse.Namespace) -> FilterOptions:
    """Read the filter options from parsed arguments.

    Raises:
        UsageError: for a wrong value, no filter at all, or an option of a disabled filter.
    """
    given = given_options(arguments, FilterOptions)
    for short, field in _SHORT.items():
        if (value := getattr(arguments, short)) is not None:
            given |= {f"enable_{field.rpartition('_')[0]}": True, field: value}
    try:
        options = validated(FilterOptions, given)
    except UsageError as error:
        text = str(error)
        for short, field in _SHORT.items():  # named as it was given
            if getattr(arguments, short) is not None:
                text = text.replace(f"{flag_of(field)}:", f"{flag_of(short)}:")
        raise UsageError(text) from error
    if not options.any_enabled:
        raise UsageError("no filter asked for: give --interpolate EXP, --upscale SCALE or both")
    return options


def specified(arguments: argparse.Namespace, model: type[Model], **given: object) -> Model:
    """Read a specification from parsed arguments, some of its fields given by the caller.

    Raises:
        UsageError: for a wrong value, no filter at all, or an option of a disabled filter.
    """
    values = given_options(arguments, model)
    if "filters" in model.model_fields:
        values["filters"] = filter_options_of(arguments)
        values["encoder"] = validated(EncoderOptions, given_options(arguments, EncoderOptions))
    return validated(model, values | given)


def runtime_of(arguments: argparse.Namespace, *, several: bool = False) -> Runtime:
    """Find device and precision, and set the number of threads.

    Raises:
        UsageError: for a wrong value.
        DeviceUnavailable: if the device is not there.
    """
    # loads torch, which takes seconds; commands that only talk to the daemon need none of it
    from ...filters.device import resolve_device, resolve_runtime

    options = specified(arguments, RuntimeOptions)
    if not several:
        resolve_device(options.device)  # refuses a list
    return resolve_runtime(options.device, options.precision, options.weights, options.threads)


def location(text: str) -> str:
    """Return a path or URL from the command line; a UsageError if it is too long, or `-`."""
    if text == "-":
        raise UsageError(f"'-' is no file; `upframe pipe` is for stdin and stdout: {PIPE_EXAMPLE}")
    try:
        return check_length(text)
    except ValueError as error:
        raise UsageError(f"a path or URL {error}") from error


def flag_of(name: str) -> str:
    """Spell a field as its option on the command line."""
    return _flags(name)[0]


def _flags(name: str) -> tuple[str, ...]:
    return _FLAGS.get(name, ("--" + name.replace("_", "-"),))


def _argument_of(name: str, info: FieldInfo) -> dict[str, Any]:
    """Describe a field to argparse. Values are checked by the model, not here."""
    text = (info.description or "").replace("%", "%%")
    if info.annotation is bool:
        action = argparse.BooleanOptionalAction if info.default is True else "store_true"
        return {"action": action, "help": text}
    origin, metavar = get_origin(info.annotation), name.rsplit("_", 1)[-1].upper()
    metavar = "TIME" if name in PartOptions.model_fields else metavar
    if origin is dict:
        text += " May be given several times."
        return {"action": "append", "type": _pair, "metavar": "KEY=VALUE", "help": text}
    if origin is tuple:
        text += f" Default: {','.join(info.default)}."
        return {"type": _words, "metavar": f"{metavar[:-1]},…", "help": text}
    if info.default is not None and not info.is_required():
        text += f" Default: {info.default}."
    for kind in (info.annotation, *get_args(info.annotation)):
        if get_origin(kind) is Literal:
            metavar = "{" + ",".join(get_args(kind)) + "}"
    return {"metavar": metavar, "help": text} | ({"type": rate} if name == "framerate" else {})


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UsageError(f"--encoder-option must be such as tune=film, got {text!r}")
    return key, value


def rate(text: str) -> str:
    """Read a rate as a fraction; argparse says this function's name where it fails."""
    try:
        value = Fraction(text)
    except ZeroDivisionError as error:
        raise ValueError(text) from error
    if max(len(str(value.numerator)), len(str(value.denominator))) > _MOST_DIGITS:
        value = value.limit_denominator(10 ** (_MOST_DIGITS // 2))
    if value <= 0:
        raise ValueError(text)
    return str(value)


def given_options(arguments: argparse.Namespace, model: type[BaseModel]) -> dict[str, Any]:
    """Collect the fields of a model that the command line gives."""
    values = {name: getattr(arguments, name, None) for name in model.model_fields}
    return {
        name: dict(value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType]
        for name, value in values.items()
        if value is not None
    }


def validated(model: type[Model], given: Mapping[str, Any]) -> Model:
    """Fill a model with what the command line says.

    Raises:
        UsageError: for a wrong value, in the words of the command line.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        lines = [_line_of(dict(fault)) for fault in error.errors()]
        raise UsageError("; ".join(lines)) from error


def _line_of(fault: Mapping[str, Any]) -> str:
    """Describe one fault of a model in the words of the command line."""
    text, _, got = str(fault["msg"]).removeprefix("Value error, ").partition(", got ")
    if not fault["loc"]:
        return text
    flag, got = flag_of(str(fault["loc"][0])), excerpt(got or repr(fault["input"]))
    return f"{flag}: {text[0].lower()}{text[1:]}, got {got}"

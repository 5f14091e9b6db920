"""Command-line arguments, made from the models they fill: one place names, explains and checks."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ...filters.options import FilterOptions
from ...io.encode.options import EncoderOptions
from ..errors import UsageError
from ..jobs.model import check_length

if TYPE_CHECKING:
    from ...filters.device import Runtime

Model = TypeVar("Model", bound=BaseModel)


def add_filter_arguments(parser: argparse.ArgumentParser) -> None:
    """Offer every option of every filter, and the short forms that enable and set in one."""
    group = parser.add_argument_group(
        "filters", "Ask for at least one. The short forms enable a filter and set it in one go."
    )
    group.add_argument(
        "--interpolate",
        type=int,
        metavar="EXP",
        help="insert 2^EXP-1 frames into every gap: 1 doubles the frame rate, 2 makes it 4 times",
    )
    group.add_argument(
        "--upscale", type=float, metavar="SCALE", help="enlarge every frame SCALE times, 1 to 8"
    )
    _add_model(group, FilterOptions)


def add_runtime_arguments(parser: argparse.ArgumentParser) -> None:
    """Offer the choice of device, precision and where weights come from."""
    group = parser.add_argument_group("device and weights")
    group.add_argument(
        "--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or cuda:N (auto)"
    )
    group.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "fp32", "bf16", "fp16"),
        help="of the convolutions; auto: fp16 on CUDA, bf16 on a CPU that has it, else fp32",
    )
    group.add_argument(
        "--weights",
        default="auto",
        choices=("auto", "hub", "builtin"),
        help="auto: the published weights, or where the hub cannot be reached the small built-in "
        "ones, with a warning; hub: never the built-in ones; builtin: never the hub (auto)",
    )


def add_encoder_arguments(parser: argparse.ArgumentParser) -> None:
    """Offer the options of the encoder."""
    group = parser.add_argument_group("encoder")
    _add_model(group, EncoderOptions, skip={"options"})
    group.add_argument(
        "--encoder-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a private option of the encoder, as ffmpeg knows it; may be given several times",
    )


def add_media_arguments(
    parser: argparse.ArgumentParser,
) -> argparse._ArgumentGroup:  # pyright: ignore[reportPrivateUsage]  (argparse names it no other way)
    """Offer how to read the input and what the output may be; give the group, for more."""
    group = parser.add_argument_group("input and output")
    group.add_argument("--format", metavar="NAME", help="container of the output (by extension)")
    group.add_argument("--overwrite", action="store_true", help="replace an existing output")
    group.add_argument(
        "--strict-streams",
        action="store_true",
        help="fail where a stream could not be copied or converted without loss",
    )
    group.add_argument(
        "--deinterlace", default="auto", choices=("auto", "on", "off"), help="(auto)"
    )
    group.add_argument(
        "--framerate",
        type=rate,
        metavar="RATE",
        help="of an image sequence, such as 24 or 24000/1001",
    )
    return group


def add_tls_argument(parser: argparse._ActionsContainer) -> None:  # pyright: ignore[reportPrivateUsage]
    """Offer to trust anybody; `upframe.daemon.__main__` sees to it."""
    parser.add_argument(
        "--tls-insecure", action="store_true", default=None,
        help="trust any certificate: passwords and pictures go to whoever answers",
    )  # fmt: skip


def filter_options_of(arguments: argparse.Namespace) -> FilterOptions:
    """Read the filter options from parsed arguments.

    Raises:
        UsageError: for a wrong value, no filter at all, or an option of a disabled filter.
    """
    given = _given(arguments, FilterOptions)
    if arguments.interpolate is not None:
        given |= {"enable_frame_interpolation": True}
        given |= {"frame_interpolation_exp": arguments.interpolate}
    if arguments.upscale is not None:
        given |= {"enable_upscaling": True, "upscaling_scale": arguments.upscale}
    options = validated(FilterOptions, given)
    if not options.any_enabled:
        raise UsageError("no filter asked for: give --interpolate EXP, --upscale SCALE or both")
    return options


def encoder_options_of(arguments: argparse.Namespace) -> EncoderOptions:
    """Read the encoder's options from parsed arguments.

    Raises:
        UsageError: for a wrong value, or an --encoder-option that is not KEY=VALUE.
    """
    given = _given(arguments, EncoderOptions)
    private: dict[str, str] = {}
    for pair in arguments.encoder_option:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise UsageError(f"--encoder-option must be such as tune=film, got {pair!r}")
        private[key] = value
    return validated(EncoderOptions, given | ({"options": private} if private else {}))


def runtime_of(arguments: argparse.Namespace) -> Runtime:
    """Find device and precision.

    Raises:
        DeviceUnavailable: if the device is not there.
    """
    # loads torch, which takes seconds; commands that only talk to the daemon need none of it
    from ...filters.device import Runtime, resolve_device, resolve_precision

    device = resolve_device(arguments.device)
    return Runtime(device, resolve_precision(arguments.precision, device), arguments.weights)


def rate(text: str) -> Fraction:
    """Read a rate from the command line; argparse says this function's name where it fails."""
    try:
        value = Fraction(text)
    except ZeroDivisionError as error:
        raise ValueError(text) from error
    if value <= 0:
        raise ValueError(text)
    return value


def location(text: str) -> str:
    """Take a path or URL from the command line; a UsageError if it is too long."""
    try:
        return check_length(text)
    except ValueError as error:
        raise UsageError(f"a path or URL {error}") from error


def flag_of(name: str) -> str:
    """Spell a field as its option on the command line."""
    return "--" + name.replace("_", "-")


def _add_model(
    group: argparse._ArgumentGroup,  # pyright: ignore[reportPrivateUsage]  (argparse names it no other way)
    model: type[BaseModel],
    skip: set[str] = frozenset(),  # pyright: ignore[reportArgumentType]
) -> None:
    for name, info in model.model_fields.items():
        if name not in skip:
            group.add_argument(flag_of(name), dest=name, default=None, **_argument_of(name, info))


def _argument_of(name: str, info: FieldInfo) -> dict[str, Any]:
    """Say to argparse what a field is. Values are checked by the model, not here."""
    text = (info.description or "").rstrip(".").replace("%", "%%")
    if info.annotation is bool:
        if info.default is True:
            return {"action": argparse.BooleanOptionalAction, "help": text}
        return {"action": "store_true", "help": text}
    shown = "" if info.default is None else f" ({info.default})"
    metavar = name.rsplit("_", 1)[-1].upper()
    if get_origin(info.annotation) is Literal:
        metavar = "{" + ",".join(str(choice) for choice in get_args(info.annotation)) + "}"
    return {"metavar": metavar, "help": text + shown}


def _given(arguments: argparse.Namespace, model: type[BaseModel]) -> dict[str, Any]:
    values = {name: getattr(arguments, name, None) for name in model.model_fields}
    return {name: value for name, value in values.items() if value is not None}


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
    """One fault of a model, in the words of the command line."""
    text = str(fault["msg"]).removeprefix("Value error, ")
    if not fault["loc"]:
        return text
    return f"{flag_of(str(fault['loc'][0]))}: {text[0].lower()}{text[1:]}, got {fault['input']!r}"

from __future__ import annotations

import argparse

import pytest
import torch

from upframe.daemon.cli.arguments import (
    add_filter_arguments,
    add_options,
    filter_options_of,
    flag_of,
    runtime_of,
    specified,
)
from upframe.daemon.errors import UsageError
from upframe.daemon.specification import RuntimeOptions
from upframe.filters.errors import DeviceUnavailable
from upframe.filters.options import FilterOptions
from upframe.io.encode.options import EncoderOptions


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_filter_arguments(parser)
    add_options(parser, EncoderOptions)
    add_options(parser, RuntimeOptions)
    return parser.parse_args(words)


def test_every_filter_option_has_its_flag() -> None:
    parser = argparse.ArgumentParser()
    add_filter_arguments(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    assert {flag_of(name) for name in FilterOptions.model_fields} <= flags


def test_short_forms_enable_and_set_in_one() -> None:
    options = filter_options_of(parse("--interpolate", "2", "--upscale", "2.5"))
    assert options.enable_frame_interpolation
    assert options.frame_interpolation_exp == 2
    assert options.enable_upscaling
    assert options.upscaling_scale == 2.5


def test_long_forms_do_the_same() -> None:
    words = "--enable-frame-interpolation --frame-interpolation-exp 3 --no-scene-detection"
    options = filter_options_of(parse(*words.split(), "--frame-interpolation-scale", "0.5"))
    assert options.enable_frame_interpolation
    assert options.frame_interpolation_exp == 3
    assert options.frame_interpolation_scale == 0.5
    assert not options.scene_detection
    assert not options.enable_upscaling


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "no filter asked for: give --interpolate EXP, --upscale SCALE or both"),
        (
            "--upscaling-scale 2",
            "upscaling_scale: given, but enable_upscaling is not",
        ),
        (
            "--upscale 2 --frame-interpolation-exp 2",
            "frame_interpolation_exp: given, but enable_frame_interpolation is not",
        ),
        ("--interpolate 7", "--interpolate: input should be less than .* 6, got 7"),
        ("--interpolate 0", "--interpolate: input should be greater than .* 1, got 0"),
        ("--upscale 9", "--upscale: input should be less than or equal to 8, got 9.0"),
        (
            "--interpolate 1 --frame-interpolation-scale 3",
            "--frame-interpolation-scale: must be 0.25, 0.5, 1, 2 or 4, got '3'",
        ),
        (
            "--interpolate 1 --frame-interpolation-scale much",
            "--frame-interpolation-scale: .*got 'much'",
        ),
    ],
)
def test_wrong_filter_options_say_what_was_got_and_wanted(words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        filter_options_of(parse(*words.split()))


def test_encoder_options_are_pairs() -> None:
    arguments = parse("--crf", "20", "--encoder-option", "tune=film", "--encoder-option", "a=b=c")
    options = specified(arguments, EncoderOptions)
    assert options.options == {"tune": "film", "a": "b=c"}


def test_an_encoder_option_without_a_value_is_refused() -> None:
    with pytest.raises(UsageError, match="must be such as tune=film, got 'tune'"):
        specified(parse("--encoder-option", "tune"), EncoderOptions)


def test_a_cuda_device_that_is_not_there_is_said_in_plain_words() -> None:
    with pytest.raises(DeviceUnavailable, match=r"cuda:99 was asked for, but this (PyT|mach)"):
        runtime_of(parse("--device", "cuda:99"))


def test_several_devices_are_for_commands_that_can_use_them() -> None:
    arguments = parse("--device", "cpu*2", "--threads", str(torch.get_num_threads()))
    assert len(runtime_of(arguments, several=True).workers) == 2
    with pytest.raises(DeviceUnavailable, match="several are for a film from file to file"):
        runtime_of(arguments)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(DeviceUnavailable, match="got 'tpu'"):
        runtime_of(parse("--device", "tpu"))

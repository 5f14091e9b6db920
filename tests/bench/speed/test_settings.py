from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from support.scripts import script

from upframe.daemon.errors import UsageError

settings = script("speed/settings")


def asked_for(*words: str) -> settings.Settings:
    parser = argparse.ArgumentParser()
    settings.add_settings(parser)
    return settings.settings_of(parser.parse_args(["--device", "cpu", *words]))


def test_measures_the_sizes_and_precisions_that_matter_by_itself() -> None:
    found = asked_for()
    assert [str(size) for size in found.sizes] == ["320x180", "640x360", "1280x720", "1920x1080"]
    assert [str(size) for size in found.pipeline_sizes] == ["640x360"]
    assert found.precisions == settings.precisions_of(torch.device("cpu"))
    assert (found.exps, found.scales) == ((1, 2, 3), (2.0, 4.0))
    assert (found.policy, found.clip) == ("builtin", None)


def test_fp32_comes_first_because_the_others_are_held_against_it() -> None:
    assert asked_for("--precision", "bf16,fp32").precisions == ("fp32", "bf16")


def test_the_pipeline_takes_the_fastest_precision_unless_one_is_asked_for() -> None:
    assert asked_for("--precision", "fp32,bf16").pipeline_precision == "auto"
    assert asked_for("--precision", "fp32").pipeline_precision == "fp32"


def test_sizes_that_are_asked_for_are_those_of_the_pipeline_too() -> None:
    found = asked_for("--sizes", "64x48, 128x72,64x48")
    assert found.sizes == found.pipeline_sizes == ((64, 48), (128, 72))


def test_short_is_small_but_what_is_asked_for_counts() -> None:
    assert asked_for("--short").repeats < asked_for().repeats
    assert asked_for("--short", "--repeats", "5").repeats == 5


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--sizes", "64"), "--sizes: must be sizes such as 640x360,1280x720, got '64'"),
        (("--sizes", "65x48"), "--sizes: width and height must be even"),
        (("--precision", "fp8"), "--precision: must be of fp32, bf16, fp16"),
        (("--interpolate", "0"), "--interpolate: must be whole numbers from 1 to 6"),
        (("--upscale", "2,nan"), "--upscale: must be numbers from 1 to 8"),
        (("--upscale", "x"), "--upscale: must be numbers from 1 to 8"),
        (("--repeats", "0"), "--repeats must be at least 1, got 0"),
        (("--frames", "1"), "--frames must be at least 2, got 1"),
    ],
)
def test_says_what_is_wrong(words: tuple[str, ...], text: str) -> None:
    with pytest.raises(UsageError) as raised:
        asked_for(*words)
    assert text in str(raised.value)


def test_the_results_name_no_folder_of_this_machine(tmp_path: Path) -> None:
    weights = tmp_path / "mine.pth"
    weights.write_bytes(b"")
    words = ("--upscaling-model-path", str(weights), "--upscaling-model-path", "owner/name:x.pth")
    told = asked_for(*words).as_dict()
    assert told["upscaling_models"] == ["mine.pth", "owner/name:x.pth"]

"""`upframe bench`: one table, and where its former parts went."""

from __future__ import annotations

import json

import pytest

from upframe.daemon.__main__ import main

_TINY = ("--device", "cpu", "--weights", "builtin", "--seconds", "0", "--precision", "fp32")


def test_each_filter_alone_and_all_of_them_are_measured_at_every_size(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", *_TINY, "--sizes", "64x48,96x64"]) == 0
    heading, _, names, *rows = capsys.readouterr().out.splitlines()
    assert "device cpu" in heading
    assert "precision float32, interpolate weights builtin, upscale weights builtin" in heading
    assert names.split("  ")[0] == "input"
    filters = ["interpolate", "upscale", "interpolate + upscale"]
    expected = [[size, name] for size in ("64x48", "96x64") for name in filters]
    assert [list(filter(None, row.split("  ")))[:2] for row in rows] == expected


def test_json_has_the_same_figures_and_a_filter_that_is_asked_for_stands_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", *_TINY, "--sizes", "64x48", "--interpolate", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["interpolate weights"] == "builtin"
    (speed,) = document["speeds"]
    assert (speed["size"], speed["filters"]) == ("64x48", "interpolate")
    assert speed["frames_out_per_second"] == pytest.approx(4 * speed["frames_in_per_second"])


@pytest.mark.parametrize("part", ["filters", "pipeline", "start", "all", "table"])
def test_a_former_part_is_refused_with_where_it_went(
    part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", part, "--out", "results", "--short"]) == 64
    assert f"`python bench/speed/measure.py {part}`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--sizes", "64"], 64),
        (["--sizes", "64x0"], 64),
        (["--seconds", "-1"], 64),
        (["everything"], 64),
        (
            ["--interpolate", "1", "--upscaling-scale", "2"],
            64,
        ),
        (["--device", "cuda:99"], 69),
    ],
)
def test_what_cannot_be_measured_is_refused(words: list[str], code: int) -> None:
    assert main(["bench", "--weights", "builtin", *words]) == code

"""Films of many kinds in segments, from the command line to what ffmpeg finds in the output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.scripts import script

from upframe.daemon.__main__ import main

films = script("films")
segments = script("segments")

_SLOW = {kind.name for kind in films.KINDS} - {"VFR", "MP4 with two audio tracks", "TS"}


def run(film: Path, sink: Path, *words: object) -> int:
    """Convert; returns the number of segments."""
    report = sink.with_suffix(".json")
    fixed = ["--interpolate", 1, "--weights", "builtin", "--progress", "none", "--report", report]
    assert main(["run", *map(str, (film, sink, *fixed, *words))]) == 0
    resumed = json.loads(report.read_text())["resumed"]
    return 1 if resumed is None else resumed["segments"]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, id=kind.name, marks=[pytest.mark.slow] if kind.name in _SLOW else [])
        for kind in films.KINDS
    ],
)
@pytest.mark.parametrize("part", [(), ("--start", "0.4", "--end", "1.8")], ids=["all", "part"])
def test_a_film_in_segments_is_the_film_in_one_piece(
    kind: films.Kind, part: tuple[str, ...], tmp_path: Path
) -> None:
    film = tmp_path / kind.file
    kind.make(film, 2.2)
    whole, divided = (tmp_path / f"{name}{kind.output}" for name in ("whole", "divided"))
    words = (*kind.encode, *part)
    assert run(film, whole, *words, "--segment-frames", segments.ONE_SEGMENT) == 1
    assert run(film, divided, *words, "--segment-frames", 6) >= 2
    assert films.frames_in(divided) == films.frames_in(whole)
    assert list(films.differences(films.described(divided), films.described(whole))) == []
    for what in ("audio", "subtitle"):
        assert films.packets_in(divided, what) == films.packets_in(whole, what)


def test_times_and_sound_of_a_film_of_variable_rate_stay_exact_over_segments(
    tmp_path: Path,
) -> None:
    silent = films.uneven(tmp_path / "silent.mkv", 60, 96, 80, start=1480, seed=4, keys=10)
    film, sink = films.with_sound(silent, tmp_path / "film.mp4", 4.0), tmp_path / "out.mp4"
    assert run(film, sink, "--preset", "ultrafast", "--segment-frames", 10) >= 4
    missed = [check for check in segments.exact_times(film, sink) if not check.ok]
    assert missed == []

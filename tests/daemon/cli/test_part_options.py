"""`--start`, `--end` and `--duration`: on the command line, in jobs and in messages."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support.media.clips import make_clip
from support.media.sinks import packets

from upframe.daemon.__main__ import main
from upframe.daemon.config import WatchConfig
from upframe.daemon.mqtt.requests import SubmitRequest, parse
from upframe.daemon.specification import REFUSED, ConversionSpec
from upframe.io.part import Part

Captured = pytest.CaptureFixture[str]
BUILTIN = ("--interpolate", "1", "--weights", "builtin", "--device", "cpu")
FILTERS = {"enable_frame_interpolation": True}


def spec(**given: Any) -> ConversionSpec:
    return ConversionSpec.model_validate({"source": "/a", "sink": "/b", "filters": FILTERS} | given)


@pytest.mark.parametrize(
    ("words", "frames"),
    [
        (("--start", "0.52", "--end", "00:01"), 12), (("--duration", "00:00.1"), 3),
        (("--start", "520ms", "--duration", "0.48"), 12), (("--start", "2.9"), 2),
    ],
)  # fmt: skip
def test_run_makes_in_betweens_between_frames_of_the_part_only(
    words: tuple[str, ...], frames: int, tmp_path: Path
) -> None:
    clip, out, report = make_clip(tmp_path / "a.mp4", frames=75), tmp_path / "b.mp4", "r.json"
    told = ("--report", str(tmp_path / report))
    assert main(["run", str(clip), str(out), *words, *BUILTIN, "--progress", "none", *told]) == 0
    times = sorted(float(one["pts_time"]) for one in packets(out))
    assert times == [pytest.approx(0.02 * n, abs=1e-4) for n in range(2 * frames - 1)]
    found = json.loads((tmp_path / report).read_text())
    assert any(line.startswith("only the part from ") for line in found["streams"])


def test_probe_tells_of_the_part(tmp_path: Path, capsys: Captured) -> None:
    clip = make_clip(tmp_path / "a.mkv", frames=75, audio="aac")
    words = [str(clip), str(tmp_path / "b.mkv"), "--start", "1", "--end", "0:02", "--no-estimate"]
    assert main(["probe", *words, "--interpolate", "2"]) == 0
    said = capsys.readouterr().out
    assert "part: from 1 s to 2 s\n" in said
    assert "video: 64x48, 25 fps, 25 frames\n" in said
    assert "result: 97 frames of " in said
    assert main(["probe", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["part"] == "from 1 s to 2 s"
    assert Fraction(found["probe"]["info"]["duration_seconds"]) == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--start", "1:99"), "--start: must be a time such as 90, 1:30, "),
        (("--start=-1",), "--start: must be 0 or more, got"),
        (("--end", "1", "--duration", "1"), "end and duration exclude each other"),
        (("--start", "2", "--end", "1"), "end must be after start: 1 is not after 2"),
        (("--duration", "0"), "duration must be above 0: it is 0"),
        (("--start", "5"), "part from 5 s to the end holds no frame: the film has 12 fr"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["run", "probe"])
def test_a_wrong_part_is_refused_before_the_work(
    command: str, words: tuple[str, ...], text: str, tmp_path: Path, capsys: Captured
) -> None:
    clip = make_clip(tmp_path / "a.mp4")
    assert main([command, str(clip), str(tmp_path / "b.ts"), *words, *BUILTIN]) == 64
    assert text in capsys.readouterr().err
    assert not (tmp_path / "b.mp4").exists()


def test_a_live_stream_has_a_duration_in_any_syntax_and_no_start(
    tmp_path: Path, capsys: Captured
) -> None:
    for words, text in (
        (("--start", "1"), "--start is no option of live streams: a live stream begins when"),
        (("--duration", "1:99"), "--duration must be a time such as 90, "),
        (("--duration", "0"), "--duration must be above 0, got 0"),
        (("--duration", "nan"), "--duration must be above 0, got nan"),
    ):
        assert main(["run", "rtsp://127.0.0.1:9/a", str(tmp_path / "b.ts"), *words, *BUILTIN]) == 64
        assert text in capsys.readouterr().err


def test_a_pipe_and_a_watched_folder_say_why_they_have_no_part(capsys: Captured) -> None:
    assert main(["pipe", "--interpolate", "1", "--start", "1"]) == 64
    assert REFUSED["pipe"]["start"] in capsys.readouterr().err
    with pytest.raises(ValidationError):
        WatchConfig.model_validate(
            {"input": "/in", "output": "/out", "filters": FILTERS, "end": "1"}
        )
    assert REFUSED["watch"].keys() >= {"start", "end", "duration"}


def test_a_job_has_the_part_as_text_or_number() -> None:
    message = {"schema": "upframe.job/1", "source": "/a", "sink": "/b", "filters": FILTERS}
    for start in ("1:30.5", 90.5, "90500ms"):
        request = parse("submit", json.dumps(message | {"start": start, "duration": 2}).encode())
        assert isinstance(request, SubmitRequest)
        assert (request.start, request.duration) == ("90.5", "2")
        assert request.part == Part(Fraction(181, 2), Fraction(185, 2))


def test_equal_parts_are_equal_work_and_no_part_is_the_work_it_was() -> None:
    assert spec(start="60").digest == spec(start="1:00").digest == spec(start=60).digest
    assert len({spec().digest, spec(start="1").digest, spec(end="1").digest}) == 3
    assert spec(start=None).digest == spec().digest
    assert spec().part is None
    assert spec(start="0").part is None

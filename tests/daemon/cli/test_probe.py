from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from support.media.clips import make_clip, make_hdr10_clip, make_still, make_vfr_clip
from support.media.fakes import stream_info

from upframe.daemon.__main__ import main
from upframe.daemon.cli.probe import expect
from upframe.filters.options import FilterOptions

Captured = pytest.CaptureFixture[str]


def said(capsys: Captured, *arguments: object) -> str:
    code = main(["probe", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


def told(capsys: Captured, *arguments: object) -> dict:
    return json.loads(said(capsys, *arguments, "--json"))


def test_says_what_the_input_is(tmp_path: Path, capsys: Captured) -> None:
    clip = make_clip(tmp_path / "clip.mkv", rate=Fraction(24_000, 1001), audio="aac")
    lines = said(capsys, clip).splitlines()
    assert lines[0].startswith(f"{clip}: matroska,webm, 0.")
    assert "  #1 audio aac 48000 Hz mono" in lines
    assert "video: 64x48, 24000/1001 (23.976) fps, 12 frames" in lines
    assert not any(line.startswith(("streams:", "result:", "time:")) for line in lines)


def test_json_says_the_same_with_exact_fractions(tmp_path: Path, capsys: Captured) -> None:
    found = told(capsys, make_clip(tmp_path / "clip.mkv", rate=Fraction(24_000, 1001)))
    assert found["schema"] == "upframe.probe/1"
    assert found["probe"]["info"]["rate"] == "24000/1001"
    assert found["probe"]["verdicts"]["is_constant_rate"] is True
    assert (found["streams_plan"], found["result"], found["estimate"]) == (None, None, None)


def test_hdr10_is_in_the_json(tmp_path: Path, capsys: Captured) -> None:
    info = told(capsys, make_hdr10_clip(tmp_path / "clip.mp4"))["probe"]["info"]
    assert info["content_light"] == {"max_cll": 1000, "max_fall": 400}
    assert info["mastering_display"]["max_luminance"] == "1000"


def test_output_shows_what_becomes_of_every_stream(tmp_path: Path, capsys: Captured) -> None:
    clip = make_clip(tmp_path / "clip.mkv", audio="aac", subtitles=[(0, 0.2, "hello")])
    out = said(capsys, clip, tmp_path / "out.mp4")
    plan = out.split("streams:\n")[1]
    assert "audio #1 aac: copied" in plan
    assert "subtitle #2 subrip: converted to mov_text" in plan
    assert not (tmp_path / "out.mp4").exists()


def test_filters_show_what_comes_out_without_loading_weights(
    tmp_path: Path, capsys: Captured
) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    missing = ["--upscaling-model-path", tmp_path / "nowhere.pth", "--no-estimate"]
    found = told(capsys, clip, "--interpolate", 2, "--upscale", 1.5, *missing)
    assert found["result"] == {
        "num_frames": 45,
        "width": 96,
        "height": 72,
        "pix_fmt": "yuv420p",
        "rate": "100",
    }
    assert found["estimate"] is None
    assert found["no_estimate"] is None


def test_weights_are_not_fetched_for_an_estimate(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    clip = make_clip(tmp_path / "clip.mp4", frames=6)
    model = ["--frame-interpolation-model-path", "nobody/here:nothing.pkl", "--device", "cpu"]
    found = told(capsys, clip, "--interpolate", 1, *model)
    assert (found["estimate"], found["memory"]) == (None, None)
    assert "nothing.pkl is not in the hub's cache" in found["no_estimate"]
    out = said(capsys, clip, "--interpolate", 1, *model)
    assert "time: no estimate: nobody/here: nothing.pkl is not" in out


@pytest.mark.parametrize(
    ("options", "size", "wanted"),
    [
        ({"enable_upscaling": True, "upscaling_scale": 1.5}, (65, 47), (96, 70)),
        ({"enable_upscaling": True, "upscaling_scale": 4}, (1, 1), (4, 4)),
        ({"enable_frame_interpolation": True}, (65, 47), (64, 46)),
        ({"enable_frame_interpolation": True}, (1, 1), (2, 2)),
    ],
)
def test_expected_size_is_even_where_chroma_needs_it(
    options: dict[str, object], size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    outcome = expect(stream_info(*size), FilterOptions.model_validate(options), "yuv420p")
    assert (outcome.width, outcome.height) == wanted


def test_unknown_number_of_frames_stays_unknown() -> None:
    options = FilterOptions.model_validate({"enable_frame_interpolation": True})
    outcome = expect(stream_info(rate=None, time_base=Fraction(1, 1000)), options, "yuv420p")
    assert (outcome.num_frames, outcome.rate) == (None, None)


def test_estimate_runs_the_real_filters_on_real_frames(tmp_path: Path, capsys: Captured) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=6)
    found = told(capsys, clip, "--interpolate", 1, "--weights", "builtin", "--device", "cpu")
    estimate = found["estimate"]
    assert estimate["num_pictures"] > 1
    assert estimate["frames"] == 11
    assert estimate["seconds"] == estimate["total_seconds"]
    assert found["no_estimate"] is None
    assert found["memory"]["needed_bytes"] > 0
    each = estimate["seconds_per_input_frame"]
    assert each > 0
    assert estimate["total_seconds"] == pytest.approx(6 * each)


def test_single_picture_gives_no_estimate(tmp_path: Path, capsys: Captured) -> None:
    still = make_still(tmp_path / "still.png")
    found = told(capsys, still, "--upscale", 2, "--weights", "builtin", "--device", "cpu")
    assert found["result"]["num_frames"] == 1
    assert found["estimate"] is None
    assert found["no_estimate"] == "wanted a file of several frames that can seek"


def test_variable_rate_is_said_with_its_average(tmp_path: Path, capsys: Captured) -> None:
    clip = make_vfr_clip(tmp_path / "clip.mkv")
    assert "video: 64x48, variable, 18.182 fps on average, 8 frames" in said(capsys, clip)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere.mp4"], 66, "upframe: nowhere.mp4: no such file\n"),
        (["."], 66, "upframe: .: is a directory, wanted a file\n"),
        (["a", "--framerate", "0"], 64, "argument --framerate: invalid rate value: '0'"),
    ],
)
def test_failures_end_with_their_code_and_no_traceback(
    arguments: list[str], code: int, message: str, capsys: Captured
) -> None:
    assert main(["probe", *arguments]) == code
    out, err = capsys.readouterr()
    assert message in err
    assert "Traceback" not in err
    assert out == ""


def test_losses_are_said_before_the_work(tmp_path: Path, capsys: Captured) -> None:
    clip = make_clip(tmp_path / "clip.mkv", attachment=True, metadata={"SHOT_BY": "me"})
    out = said(capsys, clip, tmp_path / "out.mp4")
    lines = out.split("losses:\n")[1].splitlines()
    assert "  file: tag SHOT_BY 'me': not kept" in lines
    assert any(line.startswith("  attachment #1 font.ttf: left out") for line in lines)
    assert "none is known before the work" in said(capsys, clip, tmp_path / "out.mkv")
    assert told(capsys, clip, tmp_path / "out.mkv")["losses"] == []
    assert told(capsys, clip)["losses"] is None

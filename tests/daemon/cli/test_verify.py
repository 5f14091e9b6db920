"""`upframe verify`, as a person and as a machine use it."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from support.media import clips as samples
from support.media.sinks import constant, encode, through
from support.media.stills import exif_data, with_segments

from upframe.daemon.__main__ import main
from upframe.io.encode.encoder import EncoderOptions


def test_a_good_file_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = encode(tmp_path / "a.mp4", constant())
    assert main(["verify", str(target), "--decode"]) == 0
    said = capsys.readouterr().out
    for line in ("frames: 12", "duration: 0.480000 s", "size: 64x48", "streams: 1 video"):
        assert line in said
    assert "frames that decode: 12" in said
    assert "BAD" not in said


def test_a_copy_agrees_with_its_source(tmp_path: Path) -> None:
    clip = samples.make_clip(tmp_path / "in.mp4", audio="aac", frames=12, tags=samples.BT709)
    through(clip, tmp_path / "out.mkv")
    assert main(["verify", str(tmp_path / "out.mkv"), "--against", str(clip)]) == 0


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tiff"])
def test_a_photo_that_was_turned_agrees_with_its_source_and_its_report(
    tmp_path: Path, name: str
) -> None:
    photo = samples.make_still(tmp_path / "in.jpg", pix_fmt="yuvj420p")
    with_segments(photo, (0xE1, b"Exif\0\0" + exif_data(6)))
    target = tmp_path / name
    report = str(tmp_path / "report.json")
    asked = ["--upscale", "2", "--weights", "builtin", "--progress", "none", "--report", report]
    assert main(["run", str(photo), str(target), *asked]) == 0
    assert main(["verify", str(target), "--against", str(photo), "--report", report]) == 0


def test_a_long_apng_agrees_with_its_source(tmp_path: Path) -> None:
    """FFmpeg's demuxer rounds every delay to 10 µs, so its time runs away from the file's."""
    clip = samples.make_clip(tmp_path / "in.mkv", frames=700, rate=Fraction(60), codec="ffv1")
    through(clip, tmp_path / "out.apng", options=EncoderOptions(codec="apng"))
    assert main(["verify", str(tmp_path / "out.apng"), "--against", str(clip)]) == 0


def test_differences_from_the_source_end_with_70(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = samples.make_clip(tmp_path / "in.mp4", audio="aac", frames=12, tags=samples.BT709)
    target = encode(tmp_path / "a.mp4", constant(), 10)
    assert main(["verify", str(target), "--against", str(clip), "--json"]) == 70
    answer = json.loads(capsys.readouterr().out)
    assert (answer["schema"], answer["ok"]) == ("upframe.verify/1", False)
    wrong = {finding["name"] for finding in answer["findings"] if not finding["ok"]}
    assert {"frames", "duration", "audio streams", "color matrix"} <= wrong


def test_a_report_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = encode(tmp_path / "a.mp4", constant())
    report = tmp_path / "report.json"
    output = {"width": 64, "height": 48, "rate": "25"}
    report.write_text(json.dumps({"frames_out": 12, "output": output}))
    assert main(["verify", str(target), "--report", str(report)]) == 0
    report.write_text(json.dumps({"frames_out": 23, "output": output | {"width": 128}}))
    assert main(["verify", str(target), "--report", str(report)]) == 70
    said = capsys.readouterr().out
    assert "BAD  frames of the report: wanted 23, got 12" in said
    assert "BAD  size of the report: wanted 128x48, got 64x48" in said


@pytest.mark.parametrize(("name", "code"), [("none.mp4", 66), ("text.mp4", 65), ("empty.mp4", 65)])
def test_files_that_cannot_be_read_have_their_own_codes(
    tmp_path: Path, name: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.mp4").write_text("no video at all\n" * 100)
    (tmp_path / "empty.mp4").touch()
    assert main(["verify", str(tmp_path / name)]) == code
    said = capsys.readouterr().err
    assert name in said
    assert "Traceback" not in said


def test_a_report_that_is_none_is_refused(tmp_path: Path) -> None:
    target = encode(tmp_path / "a.mp4", constant())
    (tmp_path / "report.json").write_text("[]")
    assert main(["verify", str(target), "--report", str(tmp_path / "report.json")]) == 65
    assert main(["verify", str(target), "--report", str(tmp_path / "none.json")]) == 66


def test_an_mp4_that_was_cut_is_found(tmp_path: Path) -> None:
    """Its header still promises every frame."""
    clip = samples.make_clip(
        tmp_path / "in.mp4", frames=50, container_options={"movflags": "+faststart"}
    )
    whole = clip.read_bytes()
    clip.write_bytes(whole[: len(whole) - 400])
    assert main(["verify", str(clip)]) in (65, 70)


def test_what_was_lost_is_listed_and_is_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = samples.make_clip(tmp_path / "in.mkv", frames=12, metadata={"SHOT_BY": "me"})
    through(clip, tmp_path / "out.mp4")
    arguments = ["verify", str(tmp_path / "out.mp4"), "--against", str(clip)]
    assert main(arguments) == 0
    assert "lost file: tag SHOT_BY 'me': not kept\n" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["losses"] == ["file: tag SHOT_BY 'me': not kept"]

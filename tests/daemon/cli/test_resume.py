"""Runs that are broken off: killed for real, continued by the same words or by `upframe resume`."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import pytest
from support.media.clips import make_clip

from upframe.daemon.__main__ import main
from upframe.daemon.convert.plan import Plan, plan_folder

FRAMES, LEAST = 96, 8
QUIET = ["--progress", "none"]


def words(source: Path, sink: Path, *more: object) -> list[str]:
    options = ["--interpolate", 1, "--segment-frames", LEAST, "--weights", "builtin", *QUIET]
    return ["run", *(str(word) for word in (source, sink, *options, *more))]


def decoded(path: Path) -> list[str]:
    """Times and hashes of all decoded frames, by an independent decoder."""
    command = ["ffmpeg", "-v", "error", "-i", path, "-map", "0:v", "-f", "framehash", "-"]
    text = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return [line for line in text.splitlines() if not line.startswith("#")]


def done(sink: Path) -> int:
    """How many segments are done."""
    plan = Plan.opened(plan_folder(sink))
    if plan is None:
        return 0
    entries = plan.entries()
    plan.close()
    return sum(entry.state == "done" for entry in entries)


def break_off(source: Path, sink: Path, number: int, *more: object) -> None:
    """Kill a run once some segments are done."""
    command = [sys.executable, "-m", "upframe.daemon", *words(source, sink, *more)]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while done(sink) < number:
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not sink.exists()


def resumed_of(report: Path) -> dict[str, int]:
    document: dict[str, Any] = json.loads(report.read_text())
    return document["resumed"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"g": "8", "bf": "2"}
    return make_clip(tmp_path_factory.mktemp("film") / "in.mkv", frames=FRAMES, options=options)


@pytest.fixture(scope="module")
def wanted(source: Path) -> list[str]:
    sink = source.with_name("wanted.mkv")
    assert main(words(source, sink)) == 0
    return decoded(sink)


@pytest.fixture
def sink(source: Path, tmp_path: Path) -> Path:
    return tmp_path / "out.mkv"


def test_the_same_words_continue_a_run_that_was_killed(
    source: Path, sink: Path, wanted: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    break_off(source, sink, 3)
    report = sink.with_name("report.json")
    assert main(words(source, sink, "--report", report)) == 0
    found = resumed_of(report)
    assert found["segments"] == FRAMES // LEAST
    assert found["found"] >= 3
    assert found["repeated"] <= 1
    assert f"{found['segments']} segments, of which an earlier run has made {found['found']}" in (
        capfd.readouterr().err
    )
    assert decoded(sink) == wanted
    assert not plan_folder(sink).exists()
    assert json.loads(report.read_text())["frames_out"] == 2 * FRAMES - 1


def test_resume_needs_the_output_alone(
    source: Path, sink: Path, wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source.parent)
    break_off(Path("in.mkv"), sink, 2, "--crf", 30)
    monkeypatch.chdir(sink.parent)
    kept = done(sink)
    assert main(["resume", sink.name, *QUIET]) == 0
    assert kept >= 2
    assert len(decoded(sink)) == len(wanted)
    assert not plan_folder(sink).exists()


def test_resume_without_anything_to_resume_is_a_missing_input(
    sink: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["resume", str(sink)]) == 66
    assert "nothing to resume: no run has left" in capfd.readouterr().err
    plan_folder(sink).mkdir()
    assert main(["resume", str(sink)]) == 66
    assert "holds no plan: the run had not begun" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--crf", 40), "settings.encoder.crf was 30.0, is 40.0"),
        (("--crf", 30, "--precision", "fp32", "--upscale", 2), "settings.filters.enable_upscaling"),
        (("--crf", 30, "--preset", "fast"), "settings.encoder.preset was not set, is fast"),
    ],
)
def test_another_plan_begins_anew_and_says_what_changed(
    source: Path,
    sink: Path,
    more: tuple[object, ...],
    said: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    break_off(source, sink, 1, "--crf", 30)
    report = sink.with_name("report.json")
    assert main(words(source, sink, *more, "--report", report)) == 0
    assert said in capfd.readouterr().err
    assert resumed_of(report) == {"segments": FRAMES // LEAST, "found": 0, "repeated": 0}


def test_a_plan_decides_precision_and_threads_unless_they_are_asked_for(
    source: Path, sink: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(source, sink, 1, "--precision", "fp32")
    report = sink.with_name("report.json")
    assert main(words(source, sink, "--report", report)) == 0
    assert resumed_of(report)["found"] >= 1
    assert json.loads(report.read_text())["precision"] == "float32"
    sink.unlink()
    break_off(source, sink, 1, "--precision", "fp32")
    assert main(words(source, sink, "--precision", "bf16")) == 0
    assert "begun anew (precision was float32, is bfloat16" in capfd.readouterr().err


def test_a_plan_of_other_settings_decides_nothing(
    source: Path, sink: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("OMP_NUM_THREADS", "1")
        break_off(source, sink, 1, "--precision", "fp32")
    report = sink.with_name("report.json")
    assert main(words(source, sink, "--crf", 30, "--precision", "auto", "--report", report)) == 0
    said = capfd.readouterr().err
    assert "settings.encoder.crf was not set, is 30.0; threads was 1, is " in said
    assert resumed_of(report)["found"] == 0


def test_no_resume_begins_anew_and_leaves_nothing(source: Path, sink: Path) -> None:
    break_off(source, sink, 2)
    report = sink.with_name("report.json")
    assert main(words(source, sink, "--no-resume", "--report", report)) == 0
    assert resumed_of(report)["found"] == 0
    sink.unlink()
    command = [sys.executable, "-m", "upframe.daemon", *words(source, sink, "--no-resume")]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while done(sink) < 1:
        assert child.poll() is None
        time.sleep(0.01)
    child.terminate()
    assert child.wait() == 143
    assert not plan_folder(sink).exists()


def test_a_signal_keeps_what_is_done(source: Path, sink: Path, wanted: list[str]) -> None:
    command = [sys.executable, "-m", "upframe.daemon", *words(source, sink)]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while done(sink) < 2:
        assert child.poll() is None
        time.sleep(0.01)
    child.terminate()
    _, said = child.communicate()
    assert child.returncode == 143
    assert "segments are done; the next run continues from " in said
    assert main(words(source, sink)) == 0
    assert decoded(sink) == wanted


def test_a_second_run_of_the_same_output_is_refused_while_one_works(
    source: Path, sink: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "upframe.daemon", *words(source, sink)], stderr=subprocess.DEVNULL
    )
    while done(sink) < 1:
        assert child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGSTOP)
    assert main(words(source, sink)) == 73
    assert "another" in capfd.readouterr().err
    child.kill()
    child.wait()


def test_a_source_that_changed_begins_anew(
    source: Path, sink: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = sink.with_name("own.mkv")
    own.write_bytes(source.read_bytes())
    break_off(own, sink, 1)
    os.utime(own, ns=(1, 1))
    assert main(words(own, sink)) == 0
    assert "source.mtime_ns was" in capfd.readouterr().err


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_segment_that_was_damaged_is_made_again(
    source: Path, sink: Path, wanted: list[str], damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    break_off(source, sink, 2)
    path = min(plan_folder(sink).glob("[0-9a-f]*.mkv"))
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-10])
    else:
        path.unlink()
    assert main(words(source, sink)) == 0
    assert f"is made again: {path.name}" in capfd.readouterr().err
    assert decoded(sink) == wanted


def test_a_film_that_has_other_frames_than_planned_is_made_in_one_piece(
    source: Path, sink: Path, wanted: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    break_off(source, sink, 1)
    connection = sqlite3.connect(plan_folder(sink) / "plan.sqlite", isolation_level=None)
    text = "json_set(bounds, '$.last_pts', json_extract(bounds, '$.last_pts') + 40)"
    last = "(SELECT max(number) - 1 FROM segment)"
    connection.execute(f"UPDATE segment SET bounds = {text} WHERE number = {last}")
    connection.close()
    report = sink.with_name("report.json")
    assert main(words(source, sink, "--report", report)) == 0
    assert "the film is made anew in one piece" in capfd.readouterr().err
    assert resumed_of(report) is None
    assert [line.split(",")[2] for line in decoded(sink)] == [line.split(",")[2] for line in wanted]
    assert not plan_folder(sink).exists()


@pytest.mark.parametrize("plan", ["of another version", "damaged"])
def test_a_plan_that_cannot_be_read_is_begun_anew_and_said(
    source: Path, sink: Path, plan: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = plan_folder(sink)
    folder.mkdir()
    connection = sqlite3.connect(folder / "plan.sqlite")
    connection.execute("CREATE TABLE plan (other TEXT)")
    connection.close()
    if plan == "damaged":
        (folder / "plan.sqlite").write_bytes(b"not a database" * 99)
    assert main(words(source, sink)) == 0
    assert "is damaged or of another version: begun anew" in capfd.readouterr().err
    assert not folder.exists()


def test_what_another_user_or_a_link_has_put_there_is_not_used(
    source: Path, sink: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = plan_folder(sink)
    folder.symlink_to(elsewhere)
    assert main(words(source, sink)) == 73
    assert "wanted a folder of this user" in capfd.readouterr().err
    assert list(elsewhere.iterdir()) == []
    folder.unlink()
    if os.geteuid() == 0:
        folder.mkdir()
        os.chown(folder, 12345, 12345)
        assert main(words(source, sink)) == 73


def test_clean_and_doctor_tell_what_was_left(
    source: Path, sink: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(source, sink, 1)
    monkeypatch.chdir(sink.parent)
    capfd.readouterr()
    main(["doctor", "--json"])
    findings = json.loads(capfd.readouterr().out)["findings"]
    [kept] = [one for one in findings if one["name"] == "kept runs"]
    assert plan_folder(sink).name in kept["text"]
    assert main(["jobs", "clean"]) == 0
    assert f"removed {plan_folder(sink).name}" in capfd.readouterr().out
    assert not plan_folder(sink).exists()
    assert main(["jobs", "clean", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == []


def test_what_cannot_be_cut_says_so_and_is_made_in_one_piece(
    source: Path, sink: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(words(source, sink, "--encoder-option", "b=500k")) == 0
    assert "if it is broken off, it begins anew: the encoder's option b" in capfd.readouterr().err
    assert not plan_folder(sink).exists()


def test_a_part_in_segments_has_the_pictures_of_the_part_in_one(source: Path, sink: Path) -> None:
    asked = ["--start", "0.5", "--end", "3.01", "--codec", "ffv1"]
    assert main(words(source, sink, *asked, "--report", sink.with_suffix(".json"))) == 0
    assert resumed_of(sink.with_suffix(".json"))["segments"] == 8
    whole = sink.with_name("whole.mkv")
    assert main(words(source, whole, *asked, "--segment-frames", 1000)) == 0
    assert decoded(sink) == decoded(whole)


def test_damage_is_said_once_with_the_number_of_all_segments(
    source: Path, sink: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damaged = sink.with_name("damaged.mkv")
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        found = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    for packet in (found[20], found[70]):
        place = data.index(packet)
        data[place : place + len(packet)] = bytes(len(packet))
    damaged.write_bytes(data)
    said: list[str] = []
    for path, more in ((sink, LEAST), (sink.with_name("whole.mkv"), 1000)):
        assert main(words(damaged, path, "--segment-frames", more)) == 0
        said += [line for line in capfd.readouterr().err.splitlines() if "damaged frames" in line]
    assert len(said) == 2
    assert said[0] == said[1]

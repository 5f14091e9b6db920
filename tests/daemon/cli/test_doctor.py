"""`upframe doctor`: true on this machine, and true when something is missing."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from support.servers.hub import running_hub

from upframe.daemon.__main__ import main
from upframe.daemon.cli.doctor import (
    Finding,
    as_json,
    as_text,
    describe_hub,
    describe_live,
    describe_machine,
    describe_media,
    describe_ways,
    describe_weights,
    fail,
    main_job_runs,
    ok,
    warn,
)
from upframe.filters.kernels import ways
from upframe.io.capabilities import has_protocol


def named(findings: object, name: str) -> Finding:
    assert hasattr(findings, "__iter__")
    (found,) = (finding for finding in findings if finding.name == name)
    return found


def test_the_whole_examination_passes_here_and_its_json_agrees(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "upframe.doctor/1"
    assert document["ok"] is True
    verdicts = {finding["name"]: finding["verdict"] for finding in document["findings"]}
    assert verdicts["main job"] == verdicts["weights interpolate"] == verdicts["encoders"] == "ok"
    assert "fail" not in verdicts.values()
    assert "hub" not in verdicts  # nobody asked for the network


def test_says_each_verdict_at_the_start_of_a_line() -> None:
    text = as_text([ok("a", "fine"), warn("longer", "less fine"), fail("c", "bad")])
    assert text == "OK    a       fine\nwarn  longer  less fine\nFAIL  c       bad\n"


def test_only_a_failure_stops_the_main_job() -> None:
    assert main_job_runs([ok("a", ""), warn("b", "")])
    assert not main_job_runs([ok("a", ""), fail("b", "")])
    assert json.loads(as_json([fail("b", "no", size=3)])) == {
        "schema": "upframe.doctor/1",
        "ok": False,
        "findings": [{"verdict": "fail", "name": "b", "text": "no", "facts": {"size": 3}}],
    }


def test_ends_with_69_where_the_main_job_cannot_run(tmp_path: Path) -> None:
    """A temporary folder that is none: the example cannot be written."""
    program = "import sys, tempfile; tempfile.tempdir = sys.argv[1]; " + (
        "from upframe.daemon.__main__ import main; sys.exit(main(['doctor']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "none")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 69
    assert "FAIL  disk " in done.stdout
    assert "FAIL  main job " in done.stdout
    assert "Traceback" not in done.stderr


def test_tells_the_precision_that_auto_means_and_why() -> None:
    found = named(describe_machine(), "precision")
    assert f"auto means {found.facts['auto']} on {found.facts['device']}" in found.text
    if found.facts["device"] == "cpu":
        has_bf16 = named(describe_machine(), "cpu").facts["has_bf16"]
        assert found.facts["auto"] == ("bf16" if has_bf16 else "fp32")
        assert ("no bf16 hardware" in found.text) != has_bf16


def test_warns_of_fewer_threads_than_processors() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = named(describe_machine(), "threads")
    finally:
        torch.set_num_threads(before)
    assert found.facts["threads"] == 1
    assert found.verdict == ("warn" if found.facts["usable"] != 1 else "ok")


def test_knows_the_memory_and_the_disk() -> None:
    memory = named(describe_machine(), "memory").facts["available_bytes"]
    assert isinstance(memory, int)
    assert 2**27 < memory < 2**46
    disk = named(describe_machine(), "disk")
    assert disk.facts["folder"] == tempfile.gettempdir()


def test_names_what_a_build_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = list(describe_media())
    assert named(found, "encoders").facts["libx264"] is True
    assert "lib" in named(found, "av").text
    ffmpeg = named(found, "ffmpeg")
    assert (ffmpeg.verdict, ffmpeg.facts["path"]) == ("ok", None)


def test_warns_of_an_ffmpeg_that_does_not_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "ffmpeg"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = named(describe_media(), "ffmpeg")
    assert found.verdict == "warn"
    assert "does not run" in found.text


def test_tells_by_what_each_kind_of_live_stream_is_had(tmp_path: Path) -> None:
    (tmp_path / "video0").touch()
    found = list(describe_live(tmp_path))
    inputs, outputs = named(found, "live inputs"), named(found, "live outputs")
    assert {inputs.facts[name] for name in ("rtsp", "rtmp", "hls", "v4l2")} == {"PyAV"}
    assert {outputs.facts[name] for name in ("rtsp", "rtmp", "hls")} == {"PyAV"}
    assert named(found, "cameras").text == str(tmp_path / "video0")
    assert named(found, "live encoder").facts["encoder"] in ("h264_nvenc", "libx264")


def test_says_what_srt_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if has_protocol("srt"):
        pytest.skip("this build of PyAV has SRT")
    monkeypatch.setenv("PATH", str(tmp_path))
    without = named(describe_live(), "live inputs")
    assert (without.verdict, without.facts["srt"]) == ("warn", None)
    assert without.text.endswith("not available: srt (srt needs an ffmpeg program that has it)")
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho 'Input:'\necho '  srt'\n")
    program.chmod(0o755)
    found = named(describe_live(), "live outputs")
    assert (found.verdict, found.facts["srt"]) == ("ok", str(program))
    assert found.text.endswith(f"srt by {program}")


def test_built_in_weights_are_the_recorded_ones() -> None:
    for name in ("interpolate", "upscale"):
        found = named(describe_weights(), f"weights {name}")
        assert found.verdict == "ok"
        assert len(str(found.facts["sha256"])) == 64


def test_the_hub_answers_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free}")
    (found,) = describe_hub()
    assert found.verdict == "warn"
    assert "cannot be reached: [Errno 111] Connection refused" in found.text
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (found,) = describe_hub()
    assert "it is not used" in found.text


def test_any_answer_of_the_hub_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with running_hub() as hub:  # it holds nothing, so all it says is 404
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        (found,) = describe_hub()
    assert (found.verdict, found.text) == ("ok", f"{hub.endpoint} answers")


def test_says_which_variable_of_the_hub_is_malformed() -> None:
    """In a process of its own: the hub's client reads them when it is imported."""
    program = (
        "from upframe.daemon.cli.doctor import describe_weights\n"
        "for found in describe_weights(): print(found.verdict, found.name, found.text)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"HF_HUB_ETAG_TIMEOUT": "soon", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ok weights upscale" in done.stdout
    assert "warn cache the hub's client cannot be used: " in done.stdout
    assert "'soon'" in done.stdout


@pytest.fixture
def _nothing_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ways.forget()


@pytest.mark.usefixtures("_nothing_measured")
def test_shows_the_way_of_each_network_with_its_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ways.SWITCH)
    first, *readings = describe_ways()
    assert first.text.startswith(
        f"interpolate by {first.facts['interpolate']}, upscale by {first.facts['upscale']}; "
    )
    for found in readings:
        assert found.text.startswith(f"{found.facts['way']} for {found.facts['network']}, ms at ")
        assert len(str(found.facts["torch_ms"]).split()) == ways.ROUNDS
    taken = {found.network: found.taken for found in ways.measurements()}
    assert len(readings) == len(taken)  # none where the machine is too busy
    list(describe_ways(renew=True))
    assert all(found.taken > taken.get(found.network, 0) for found in ways.measurements())


@pytest.mark.usefixtures("_nothing_measured")
def test_measures_nothing_where_the_way_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ways.SWITCH, "torch")
    (found,) = describe_ways()
    assert found.facts == {"interpolate": "torch", "upscale": "torch"}


@pytest.mark.usefixtures("_nothing_measured")
def test_says_that_a_way_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ways.SWITCH, "rocket")
    (found,) = describe_ways()
    assert found.verdict == "warn"
    assert "not by rocket" in found.text

"""A configuration is held against the machine, key by key."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from upframe.daemon.config import Config, Fault
from upframe.daemon.service.checks import examine, examine_at_start

UPSCALE = {"enable_upscaling": True, "upscaling_scale": 2}


def config_of(folder: Path, **changes: Any) -> Config:
    for name in ("state", "in", "out"):
        (folder / name).mkdir(exist_ok=True)
    watch = {"input": folder / "in", "output": folder / "out", "filters": UPSCALE}
    return Config.model_validate(
        {
            "state_dir": folder / "state",
            "weights": "builtin",
            "jobs": {"devices": ("cpu",)} | changes.pop("jobs", {}),
            "watch": (watch | changes.pop("watch", {}),),
            **changes,
        }
    )


def faults(config: Config) -> dict[str, str]:
    return {fault.key: str(fault) for fault in examine(config)}


def test_a_good_configuration_has_no_fault(tmp_path: Path) -> None:
    assert faults(config_of(tmp_path)) == {}


def test_nothing_is_left_behind_or_made(tmp_path: Path) -> None:
    config = config_of(tmp_path, watch={"output": tmp_path / "new" / "deep"})
    before = sorted(tmp_path.rglob("*"))
    assert faults(config) == {}
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "key", "wanted"),
    [
        ({"jobs": {"devices": ("cpu", "cuda:9")}}, "jobs.devices[1]", "a device of this machine"),
        ({"watch": {"input": Path("/nowhere/in")}}, "watch[0].input", "a folder that is there"),
        ({"watch": {"output": Path("/proc/nowhere")}}, "watch[0].output", "may write to"),
        ({"state_dir": Path("/proc/nowhere")}, "state_dir", "may write to"),
        ({"watch": {"encoder": {"codec": "libx999"}}}, "watch[0].encoder.codec", "an encoder"),
        (
            {"watch": {"filters": UPSCALE | {"upscaling_model_path": "/no/weights.pth"}}},
            "watch[0].filters.upscaling_model_path",
            "weights that are on this machine",
        ),
        ({"mqtt": {"host": "a", "tls_ca": Path("/no/ca")}}, "mqtt.tls_ca", "user may read"),
    ],
)
def test_what_would_not_work_is_named(
    changes: dict[str, Any], key: str, wanted: str, tmp_path: Path
) -> None:
    found = faults(config_of(tmp_path, **changes))
    assert list(found) == [key]
    assert wanted in found[key]
    assert f"{key}: got " in found[key]


@pytest.mark.parametrize(
    ("container", "encoder", "fault"),
    [
        ("mp4", {"crf": 60}, "libx264 has no crf 60; it has 0 to 51"),
        ("mkv", {"crf": 52}, "libx264 has no crf 52; it has 0 to 51"),
        ("vob", {"crf": 40}, "mpeg2video has no crf 40; it has 1 to 31"),
        ("webm", {"crf": 60}, None),
        ("webm", {"crf": 60, "codec": "av1"}, None),
        ("mp4", {"preset": "8"}, "libx264 has no preset '8'"),
        ("mp4", {"codec": "hevc", "options": {"nonsense": "1"}}, "knows no option 'nonsense'"),
        ("nonsense", {"crf": 18}, "unknown output format 'nonsense'"),
        (None, {"crf": 60}, None),
    ],
)
def test_options_without_a_codec_are_those_of_the_containers_own(
    tmp_path: Path, container: str | None, encoder: dict[str, Any], fault: str | None
) -> None:
    found = faults(config_of(tmp_path, watch={"container": container, "encoder": encoder}))
    key = "watch[0].encoder.codec" if "codec" in encoder else "watch[0].encoder"
    assert list(found) == ([] if fault is None else [key])
    assert fault is None or fault in found[key]


def test_options_of_a_live_stream_are_those_of_its_output(tmp_path: Path) -> None:
    live = {"name": "a", "input": "rtsp://127.0.0.1/a", "filters": UPSCALE, "encoder": {"crf": 60}}
    outputs = (f"{tmp_path}/%H.mp4", f"{tmp_path}/%H.webm", "rtmp://127.0.0.1/a")
    config = config_of(
        tmp_path,
        live=[live | {"name": f"a{i}", "output": output} for i, output in enumerate(outputs)],
    )
    assert list(faults(config)) == ["live[0].encoder", "live[2].encoder"]


def test_weights_that_nobody_fetched_are_missed_without_asking_the_hub(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from upframe.daemon.service.checks import examine\n"
        "from upframe.daemon.config import Config\n"
        "for fault in examine(Config(state_dir=Path(sys.argv[1]))): print(fault)\n"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    assert all(line.startswith('weights: got "hub": ') for line in lines)
    assert "`upframe models pull` fetches it" in lines[0]


def test_with_a_fallback_missing_weights_are_no_fault(tmp_path: Path) -> None:
    assert faults(config_of(tmp_path, weights="auto")) == {}


def test_a_password_that_others_can_read_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("x")
    secret.chmod(0o644)
    config = config_of(tmp_path, mqtt={"host": "a", "password_file": secret})
    assert "with mode 0644" in faults(config)["mqtt.password_file"]
    assert [fault.key for fault in examine_at_start(config)] == ["mqtt.password_file"]
    secret.chmod(0o640)
    assert faults(config) == {}


def test_at_the_start_a_folder_may_come_later(tmp_path: Path) -> None:
    """It may be on a mount that is not there yet: the watch pauses, the daemon lives."""
    watch = {"input": Path("/nowhere/in"), "output": Path("/nowhere/out")}
    config = config_of(tmp_path, watch=watch)
    assert examine_at_start(config) == []
    assert "watch[0].input" in faults(config)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_there_and_not_ours_is_a_fault_at_the_start(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    (tmp_path / "out").chmod(0o500)
    assert [fault.key for fault in examine_at_start(config)] == ["watch[0].output"]


def test_a_share_that_hangs_does_not_hold_up_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answers = threading.Event()

    def look(_: Config) -> Iterator[Fault]:
        answers.wait()
        yield Fault("watch[0].input", "nothing", "an answer in time")

    assert examine_at_start(config_of(tmp_path), 0.01, look) == []
    answers.set()
    assert "do not answer within 0.01 s" in caplog.text


def test_an_encoder_is_tried_with_a_picture_as_files_and_streams_have_them(tmp_path: Path) -> None:
    wrong = {"codec": "libx265", "options": {"x265-params": "level-idc=1:high-tier=0:nonsense=1"}}
    level = {"codec": "h264", "options": {"profile": "baseline"}, "pix_fmt": "yuv444p"}
    live = {"input": "rtsp://127.0.0.1/a", "filters": UPSCALE, "output": f"{tmp_path}/%H.mp4"}
    config = config_of(
        tmp_path,
        watch={"encoder": level},
        live=[live | {"name": "a", "encoder": level}, live | {"name": "b", "encoder": {"crf": 20}}],
    )
    assert list(faults(config)) == ["watch[0].encoder.codec", "live[0].encoder.codec"]
    small = config_of(tmp_path, watch={"encoder": {"codec": "h263"}})  # takes CIF alone
    assert faults(small) == {}
    assert faults(config_of(tmp_path, watch={"encoder": wrong | {"options": {}}})) == {}


def test_a_file_system_without_space_for_any_job_is_named(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    found = [str(fault) for fault in examine(config, lambda _: 1 << 20)]
    assert [text.partition(":")[0] for text in found] == ["state_dir", "watch[0].output"]
    assert all("with 1 MiB free, wanted at least 64 MiB" in text for text in found)
    assert list(examine(config, lambda _: None)) == []  # nobody knows

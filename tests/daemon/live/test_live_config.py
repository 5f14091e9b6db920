"""[[live]] in the configuration: read strictly, held against the machine, compared at a reload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.live.supervision import UPSCALE, config_with, entry

from upframe.daemon.config import Config, load_config
from upframe.daemon.errors import ConfigError
from upframe.daemon.live.live_pipeline import request_of
from upframe.daemon.service.checks import examine, examine_at_start
from upframe.daemon.service.daemon import reload_of
from upframe.daemon.specification import StreamSpec, part_of
from upframe.daemon.workers.messages import RunStream, read_request

GATE = """
[[live]]
name = "gate"
input = "rtsp://me:pa55@camera.lan/1"
output = "/out/%H%M%S.mp4"
filters = { enable_upscaling = true }
"""


def loaded(folder: Path, text: str) -> Config:
    path = folder / "upframe.toml"
    path.write_text(text)
    return load_config(path)


def test_the_least_entry_has_the_defaults_of_the_command_line(tmp_path: Path) -> None:
    (gate,) = loaded(tmp_path, GATE).live
    assert (gate.latency_seconds, gate.on_loss, gate.device, gate.enabled) == (
        2.0,
        "slate",
        "auto",
        True,
    )


def test_every_option_of_the_command_line_is_a_key(tmp_path: Path) -> None:
    keys = """
    latency_seconds = 1.5
    levels = ["full", "half-rate"]
    on_loss = "freeze"
    rtsp_transport = "auto"
    stall_seconds = 4
    segment_seconds = 60
    keep_days = 14
    keep_gibibytes = 0.5
    format = "mp4"
    tls_insecure = true
    sound = false
    """
    (gate,) = loaded(tmp_path, GATE + keys).live
    chosen = {
        "latency_seconds": 1.5,
        "levels": ("full", "half-rate"),
        "on_loss": "freeze",
        "rtsp_transport": "auto",
        "stall_seconds": 4.0,
        "segment_seconds": 60.0,
        "keep_days": 14.0,
        "keep_gibibytes": 0.5,
        "container": "mp4",
        "tls_insecure": True,
        "sound": False,
    }
    assert gate.model_dump(include=set(chosen)) == chosen


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (GATE + GATE, 'live[1].name: got "gate", wanted another name than that of live[0]'),
        (GATE + GATE, 'live[1].output: got "/out/%H%M%S.mp4", wanted another output than that'),
        (GATE.replace('"gate"', '"the gate"'), 'live[0].name: got "the gate", wanted '),
        (GATE.replace('"gate"', '"a/b"'), 'live[0].name: got "a/b", wanted '),
        (GATE.replace('"gate"', '"mqtt"'), "another name: frames of jobs are counted under this"),
        (GATE.replace("rtsp://me:pa55@", ""), 'live[0].input: got "camera.lan/1", wanted a URL or'),
        (GATE.replace('"/out', '"out'), 'live[0].output: got "out/%H%M%S.mp4", wanted a URL or '),
        (GATE.replace("true", "false"), "wanted filters: none is enabled"),
        (GATE + 'levels = ["full", "fast"]', 'live[0].levels[1]: got "fast", '),
        (GATE + 'levels = ["full", "fast"]', "wanted full, exp, exp-N (N at least 1), no-interp"),
        (GATE + "levels = []", "live[0].levels: got [], wanted "),
        (GATE + "latency = 2", "live[0].latency: got an unknown key, wanted latency_seconds, perh"),
        (GATE + "keep_days = 0", "live[0].keep_days: got 0, wanted greater than 0"),
        (
            GATE.replace('"/out/%H%M%S.mp4"', '"rtsp://relay/x"') + "keep_days = 7",
            "wanted an output such as %Y%m%d-%H%M%S.mp4, for keep_days or keep_gibibytes",
        ),
        (GATE.replace("%H%M%S", "gate") + "keep_gibibytes = 7", "wanted an output such as %Y%m%d"),
        (GATE + "latency_seconds = 0", "live[0].latency_seconds: got 0, wanted greater than or "),
        (GATE + 'on_loss = "black"', "wanted 'slate', 'freeze' or 'stop'"),
        (GATE + 'credentials_file = "secret"', 'live[0].credentials_file: got "secret", wanted an'),
        (GATE.replace('output = "/out/%H%M%S.mp4"\n', ""), "live[0].output: got nothing, wanted "),
    ],
)
def test_what_is_wrong_is_said_with_key_got_and_wanted(
    text: str, wanted: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    assert wanted in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [("rtsp://me:pa55@camera.lan/1", "me:pa55@camera.lan://"), ("true", "false"), ("/out", "out")],
)
def test_no_refusal_shows_a_password(change: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, GATE.replace(*change) + "latency = 2")
    assert "rtsp://me:pa55" not in str(caught.value)


def test_only_changed_entries_are_a_reason_to_begin_anew() -> None:
    old = config_with(Path("/state"), entry("gate"), entry("yard"))
    same = config_with(Path("/state"), entry("gate"), entry("yard"))
    assert reload_of(old, same).parts == frozenset()
    new = config_with(Path("/state"), entry("gate"), entry("yard", enabled=False))
    assert reload_of(old, new).parts == {"live"}
    assert str(reload_of(old, new)) == "configuration read again: live changed"


def test_an_order_is_read_as_it_was_written() -> None:
    (gate,) = config_with(Path("/state"), entry("gate", latency_seconds=1, format="mpegts")).live
    order = RunStream(spec=part_of(gate, StreamSpec), weights="builtin", threads=2)
    assert read_request(order.line) == order
    request = request_of(order.spec, order.weights)
    assert request.spec == part_of(gate, StreamSpec)
    assert (request.spec.name, request.spec.container) == ("gate", "mpegts")
    assert (request.runtime.device.type, request.runtime.policy) == ("cpu", "builtin")
    assert (request.give_up, request.duration_seconds) == (False, None)  # it goes on for ever
    assert request.numbered


# Held against the machine.


def faults(folder: Path, **fields: Any) -> dict[str, str]:
    given = {"output": str(folder / "%H%M%S.mp4"), **fields}
    config = config_with(folder, entry("gate", **given), devices=("cpu",))
    assert examine_at_start(config) == []  # it may mend itself, or its state will tell
    return {fault.key: str(fault) for fault in examine(config)}


def secret(folder: Path, text: str = "me:pa55\n", mode: int = 0o600) -> Path:
    path = folder / "secret"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_good_entry_has_no_fault(tmp_path: Path) -> None:
    assert faults(tmp_path, credentials_file=secret(tmp_path)) == {}


def test_a_recording_that_is_there_is_no_fault_for_the_next_gets_a_number(tmp_path: Path) -> None:
    output = tmp_path / "gate.mp4"
    output.touch()
    assert faults(tmp_path, output=str(output)) == {}


@pytest.mark.parametrize(
    ("fields", "key", "wanted"),
    [
        ({"device": "cuda:9"}, "device", "a device of this machine"),
        ({"encoder": {"codec": "libx999"}}, "encoder.codec", "an encoder that FFmpeg has"),
        ({"output": "/nowhere/out.mp4"}, "output", "an output that can be written here"),
        ({"output": "gopher://host/x"}, "output", "an output that can be written here"),
        ({"input": "gopher://host/x"}, "input", "an input that can be read here"),
        ({"input": "/dev/video99"}, "input", "a device or file that is there"),
        (
            {"filters": UPSCALE | {"upscaling_model_path": "/no/weights.pth"}},
            "filters.upscaling_model_path",
            "weights that are on this machine",
        ),
        ({"credentials_file": Path("/no/secret")}, "credentials_file", "USER:PASSWORD"),
    ],
)
def test_what_would_not_work_is_named(
    fields: dict[str, Any], key: str, wanted: str, tmp_path: Path
) -> None:
    found = faults(tmp_path, **fields)
    assert list(found) == [f"live[0].{key}"]
    assert wanted in found[f"live[0].{key}"]


@pytest.mark.parametrize(("text", "mode"), [("me:pa55\n", 0o644), ("pa55\n", 0o600)])
def test_credentials_that_cannot_be_used_are_named_and_not_shown(
    text: str, mode: int, tmp_path: Path
) -> None:
    path = secret(tmp_path, text, mode)
    found = faults(tmp_path, output_credentials_file=path)
    assert list(found) == ["live[0].output_credentials_file"]
    assert "pa55" not in str(found)

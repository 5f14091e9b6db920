"""TLS that trusts anybody is asked for by name, and said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.media.clips import make_clip
from support.servers.tls import make_authority, tls_server

from upframe.daemon.__main__ import main
from upframe.daemon.cli.serve import check
from upframe.daemon.config import Config, load_config
from upframe.daemon.mqtt.requests import BadRequest, parse
from upframe.daemon.service.checks import cautions
from upframe.io.web import is_insecure

LIVE = """
state_dir = "{0}/state"
weights = "builtin"
[[live]]
name = "gate"
input = "rtsps://camera.lan/stream"
output = "{0}/%H%M%S.mp4"
filters = {{ enable_upscaling = true }}
tls_insecure = true
[[live]]
name = "door"
input = "rtsps://camera.lan/stream"
output = "{0}/door-%H%M%S.mp4"
filters = {{ enable_upscaling = true }}
"""


def config_in(folder: Path) -> tuple[Config, Path]:
    path = folder / "upframe.toml"
    path.write_text(LIVE.format(folder))
    return load_config(path), path


@pytest.mark.parametrize("command", ["probe", "run"])
def test_the_command_line_trusts_a_server_only_where_it_is_told_to(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    authority = make_authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", authority.path)
    make_clip(tmp_path / "clip.mp4", frames=3, width=32, height=32)
    words = {
        "probe": [],
        "run": [str(tmp_path / "out.mp4"), "--upscale", "2", "--weights", "builtin"],
    }[command]
    with tls_server(authority, "unknown", tmp_path) as server:
        url = f"https://localhost:{server.port}/clip.mp4"
        assert main([command, url, *words]) == 66
        assert "certificate not trusted: self-signed certificate" in capsys.readouterr().err
        assert main([command, url, *words, "--tls-insecure"]) == 0
        assert "--tls-insecure: no certificate is verified" in capsys.readouterr().err
    assert not is_insecure()


def test_check_names_the_streams_that_trust_anybody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, path = config_in(tmp_path)
    (said,) = cautions(config)
    assert said.startswith("live stream gate: tls_insecure = true: no certificate is verified")
    assert check(config, path) == 0
    assert f"warning: {said}" in capsys.readouterr().err


def test_doctor_names_them_too_and_the_authorities(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    _, path = config_in(tmp_path)
    main(["doctor", "--json", "--config", str(path)])
    found = json.loads(capsys.readouterr().out)["findings"]
    texts = {finding["name"]: finding["text"] for finding in found}
    assert "gate" in texts["config"]
    assert "none.pem" in texts["certificates"]


def test_a_request_cannot_ask_for_it() -> None:
    request = {
        "schema": "upframe.job/1", "id": "a", "source": "https://h/a.mp4", "sink": "/a.mp4",
        "filters": {"enable_upscaling": True}, "tls_insecure": True,
    }  # fmt: skip
    with pytest.raises(BadRequest, match="tls_insecure: no option of a job"):
        parse("submit", json.dumps(request).encode())

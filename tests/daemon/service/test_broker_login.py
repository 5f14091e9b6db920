"""`serve --check` logs in to the broker, and says what is wrong in a sentence of its own."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from support.jobs.mqtt_node import node_on
from support.servers.mqtt import Broker, broker_in, free_port

from upframe.daemon.__main__ import main
from upframe.daemon.config import MqttConfig
from upframe.daemon.mqtt.broker import ConnectionLost, try_login


def check(folder: Path, capsys: pytest.CaptureFixture[str], **mqtt: object) -> tuple[int, str]:
    path = folder / "upframe.toml"
    lines = [f"{name} = {value!r}".replace("True", "true") for name, value in mqtt.items()]
    path.write_text(
        f'state_dir = "{folder}/state"\nweights = "builtin"\n[jobs]\ndevices = ["cpu"]\n'
        "[mqtt]\n" + "\n".join(lines) + "\n"
    )
    code = main(["serve", "--check", "--config", str(path)])
    return code, capsys.readouterr().err


def secret(folder: Path, text: str) -> str:
    path = folder / f"secret-{text}"
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def test_the_password_is_tried_beside_a_node_that_is_connected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed")
    passwords = tmp_path / "passwords"
    passwords.touch()
    subprocess.run([tool, "-b", str(passwords), "upframe", "right"], check=True)
    passwords.chmod(0o644)

    async def beside(broker: Broker, ours: dict[str, Any]) -> None:
        password = Path(ours["password_file"])
        async with node_on(broker, tmp_path, username="upframe", password_file=password) as node:
            await node.up()
            config = MqttConfig(**(ours | {"node_id": "node1"}))
            await try_login(config)
            health = node.bridge.health()
            assert (health["connected"], health["connections"]) == (True, 1)

    lines = (f"password_file {passwords}",)
    with broker_in(tmp_path / "broker", lines=lines, open_to_all=False) as broker:
        ours = {"host": "127.0.0.1", "port": broker.port, "username": "upframe"}
        right = ours | {"password_file": secret(tmp_path, "right")}
        code, text = check(tmp_path, capsys, **right)
        assert (code, "is fine" in text) == (0, True)
        code, text = check(tmp_path, capsys, **ours, password_file=secret(tmp_path, "wrong"))
        assert code == 78
        assert f"mqtt: got 127.0.0.1:{broker.port}: the broker refuses us: Not authorized" in text
        assert "see mqtt.username and mqtt.password_file" in text
        asyncio.run(beside(broker, right))
        code, text = check(tmp_path, capsys, **right, tls=True)
        assert code == 69
        assert "is port" in text
        broker.pause()
        began = time.monotonic()
        config = MqttConfig(host="127.0.0.1", port=broker.port)
        with pytest.raises(ConnectionLost, match=r"no answer from .* within 0\.5 s"):
            asyncio.run(try_login(config, 0.5))
        assert time.monotonic() - began < 4
        broker.resume()


def test_a_broker_that_is_not_there_is_no_fault_of_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    code, text = check(tmp_path, capsys, host="127.0.0.1", port=port)
    assert code == 69
    assert f"mqtt: 127.0.0.1:{port}: nothing listens there: is the broker running?" in text
    code, text = check(tmp_path, capsys, host="nowhere.invalid")
    assert code == 69
    assert "mqtt: nowhere.invalid: no such host is known" in text


def test_a_certificate_that_is_not_trusted_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    words += ["-noenc", "-subj", "/CN=other", "-days", "2", "-keyout", "key", "-out", "crt"]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    for name in ("key", "crt"):
        (tmp_path / name).chmod(0o644)
    port = free_port()
    lines = (f"listener {port} 127.0.0.1", f"certfile {tmp_path}/crt", f"keyfile {tmp_path}/key")
    with broker_in(tmp_path / "broker", lines=lines):
        code, text = check(tmp_path, capsys, host="127.0.0.1", port=port, tls=True)
    assert code == 78
    assert f"mqtt: got 127.0.0.1:{port}: its certificate is not trusted: self-signed" in text

"""Connections with TLS: a broker whose certificate is of our own making."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.jobs.mqtt_node import config_of, node_on
from support.servers.mqtt import Broker, broker_in, free_port

from upframe.daemon.config import MqttConfig
from upframe.daemon.mqtt.broker import (
    LoginRefused,
    address_of,
    read_credentials,
    read_password,
)


@dataclass(frozen=True)
class Certificates:
    """An authority, and what it has signed: a broker's and a client's."""

    folder: Path

    def path(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
    for name in ("ca", "other-ca"):
        openssl(
            "req", "-x509", *key, "-subj", f"/CN={name}", "-days", "2",
            "-keyout", f"{name}.key", "-out", f"{name}.crt",
        )  # fmt: skip
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("broker", "client"):
        openssl(
            "req", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr"
        )
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
            "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", f"{name}.crt",
        )  # fmt: skip
    for path in folder.iterdir():
        path.chmod(0o644)  # Mosquitto may run as another user
    return Certificates(folder)


def tls_lines(certificates: Certificates, port: int) -> tuple[str, ...]:
    return (
        f"listener {port} 127.0.0.1",
        f"cafile {certificates.path('ca.crt')}",
        f"certfile {certificates.path('broker.crt')}",
        f"keyfile {certificates.path('broker.key')}",
        "require_certificate true",
    )


def test_trusts_its_authority_and_shows_its_own_certificate(
    certificates: Certificates, tmp_path: Path
) -> None:
    port = free_port()

    async def main(broker: Broker) -> None:
        ours = {
            "port": port,
            "tls_ca": certificates.path("ca.crt"),
            "tls_cert": certificates.path("client.crt"),
            "tls_key": certificates.path("client.key"),
        }
        async with node_on(broker, tmp_path, **ours) as node:
            await node.up()
        (tmp_path / "distrusts").mkdir()
        ours["tls_ca"] = certificates.path("other-ca.crt")
        async with node_on(broker, tmp_path / "distrusts", **ours) as node:
            await node.until(lambda: node.bridge.health()["attempts"] > 1, "attempts")
            assert "certificate verify failed" in node.bridge.health()["reason"]
            assert not node.bridge.health()["connections"]
        (tmp_path / "insecure").mkdir()
        async with node_on(broker, tmp_path / "insecure", **ours, tls_insecure=True) as node:
            await node.up()

    with broker_in(tmp_path / "broker", lines=tls_lines(certificates, port)) as broker:
        asyncio.run(main(broker))


def test_a_port_of_the_other_kind_is_hinted_at(certificates: Certificates, tmp_path: Path) -> None:
    port = free_port()

    async def reason_of(broker: Broker, name: str, **ours: object) -> str:
        (tmp_path / name).mkdir()
        async with node_on(broker, tmp_path / name, **ours) as node:
            await node.until(lambda: node.bridge.health()["attempts"] > 1, "attempts")
            return str(node.bridge.health()["reason"])

    async def main(broker: Broker) -> None:
        plain = await reason_of(broker, "plain", port=port)
        assert plain.endswith(f"does port {port} want TLS (tls = true)?")
        ca = certificates.path("ca.crt")
        secure = await reason_of(broker, "secure", tls_ca=ca)
        hint = f"is port {broker.port} one without TLS (usual with TLS: 8883)?"
        assert secure.endswith(hint), secure
        away = await reason_of(broker, "away", port=free_port())
        assert "TLS" not in away
        other = certificates.path("other-ca.crt")
        wrong = await reason_of(broker, "wrong", port=port, tls_ca=other)
        assert "certificate verify failed" in wrong
        assert "without TLS" not in wrong

    with broker_in(tmp_path / "broker", lines=tls_lines(certificates, port)) as broker:
        asyncio.run(main(broker))


def test_a_certificate_that_is_none_is_said(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("no certificate")
    mqtt = config_of(broker, tmp_path, tls_ca=tmp_path / "ca.crt").mqtt
    assert mqtt is not None
    with pytest.raises(LoginRefused, match="the certificates cannot be used"):
        read_credentials(mqtt)


@pytest.mark.parametrize(
    ("options", "address"),
    [
        ({}, "b:1883"),
        ({"tls": True}, "b:8883"),
        ({"tls_ca": "/ca"}, "b:8883"),
        ({"tls": True, "port": 1}, "b:1"),
    ],
)
def test_the_usual_ports(options: dict[str, object], address: str) -> None:
    assert address_of(MqttConfig.model_validate({"host": "b"} | options)) == address


def test_the_password_is_read_from_its_file_or_from_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert read_password(MqttConfig(host="b")) is None
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_password(MqttConfig(host="b")) is None
    (tmp_path / "mqtt-password").write_text(" of systemd \n")
    (tmp_path / "mqtt-password").chmod(0o440)
    assert read_password(MqttConfig(host="b")) == " of systemd "
    own = tmp_path / "own"
    own.write_text("ä\n")
    own.chmod(0o600)
    assert read_password(MqttConfig(host="b", password_file=own)) == "ä"
    own.write_bytes(b"\xff")
    with pytest.raises(LoginRefused, match="cannot be read"):
        read_password(MqttConfig(host="b", password_file=own))
    with pytest.raises(LoginRefused, match="cannot be read"):
        read_password(MqttConfig(host="b", password_file=tmp_path / "none"))


def test_a_password_needs_a_user(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("x")
    own.chmod(0o600)
    mqtt = MqttConfig(host="b", password_file=own)
    with pytest.raises(LoginRefused, match="no username"):
        read_credentials(mqtt)

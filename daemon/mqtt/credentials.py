"""How to reach the broker and who we are there, from the configuration and its secret files.

Read anew for every connection, so that a changed password or certificate needs no restart.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from ..config import MqttConfig
from .message import LoginRefused, Publication
from .topics import Topics

log = logging.getLogger("upframe.mqtt.credentials")

CREDENTIAL = "mqtt-password"
"""Of systemd's LoadCredential."""

_PORT = 1883
_TLS_PORT = 8883


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach a broker, and who we are there."""

    host: str
    port: int
    identifier: str
    session_expiry: int
    """Seconds that the broker keeps messages for us while we are away."""
    will: Publication
    username: str | None = None
    password: str | None = None
    tls: ssl.SSLContext | None = None


def topics_of(config: MqttConfig) -> Topics:
    """Name the topics of a configuration; without a node_id the host's name stands for it."""
    host = socket.gethostname().translate(str.maketrans("/+#$", "----")) or "localhost"
    name = config.node_id or host
    return Topics(config.prefix, name, config.discovery_prefix, config.response_prefixes)


def address_of(config: MqttConfig) -> str:
    """Name the broker for people."""
    return f"{config.host}:{_port_of(config)}"


def settings_of(config: MqttConfig, topics: Topics) -> Settings:
    """Gather all that a connection needs. Blocks: reads files.

    Raises:
        LoginRefused: if a file of a secret or certificate cannot be used.
    """
    password = password_of(config)
    if password is not None and config.username is None:
        raise LoginRefused("mqtt: there is a password, but no username")
    return Settings(
        host=config.host,
        port=_port_of(config),
        identifier=f"{topics.prefix}-{topics.node_id}",
        session_expiry=config.session_expiry,
        will=Publication(topics.status, b"offline", retain=True),
        username=config.username,
        password=password,
        tls=_tls_context(config) if _uses_tls(config) else None,
    )


def password_of(config: MqttConfig) -> str | None:
    """Read the password from its file or from systemd's credential; None: there is none.

    Raises:
        LoginRefused: if it cannot be read, or everybody may read it.
    """
    path = config.password_file
    if path is None:
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        path = Path(folder) / CREDENTIAL if folder else None
        if path is None or not path.exists():
            return None
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
        if mode & stat.S_IRWXO:
            raise LoginRefused(f"{path}: mode {mode:04o} lets everybody read it: chmod o= {path}")
        return content.decode().removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise LoginRefused(f"{path}: the password cannot be read: {error}") from error


def _uses_tls(config: MqttConfig) -> bool:
    return config.tls or config.tls_ca is not None or config.tls_cert is not None


def _port_of(config: MqttConfig) -> int:
    return config.port or (_TLS_PORT if _uses_tls(config) else _PORT)


def _tls_context(config: MqttConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.tls_ca)
        if config.tls_cert is not None:
            context.load_cert_chain(config.tls_cert, config.tls_key)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise LoginRefused(f"mqtt: the certificates cannot be used: {error}") from error
    if config.tls_insecure:
        log.warning("mqtt.tls_insecure: anybody can pretend to be the broker and read everything")
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.sslsocket_class = _ClosingSocket
    return context


class _ClosingSocket(ssl.SSLSocket):
    """Closes itself where the handshake fails, since the MQTT library does not."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise

"""Where the daemon's state is, for who wants to speak with it or to read its store."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from ..service.config import Config
from .store import STORE_NAME
from .wire import SOCKET_NAME


@dataclass(frozen=True, slots=True)
class Place:
    """The two files by which a daemon is found."""

    socket: Path
    store: Path


def place_in(state_dir: Path) -> Place:
    """Name the files in a state directory."""
    return Place(state_dir / SOCKET_NAME, state_dir / STORE_NAME)


def find_place(config: Path | None = None, socket: Path | None = None) -> Place:
    """Find them by a socket or a configuration file; without either in the default directory.

    Raises:
        ConfigError: if the file cannot be read, or its `state_dir` is none.
    """
    if socket is not None:
        return Place(socket.absolute(), socket.absolute().with_name(STORE_NAME))
    return place_in(Config().state_dir if config is None else _state_dir_of(config))


def _state_dir_of(config: Path) -> Path:
    """Read one key only: what else is in the file is the daemon's concern, right or wrong."""
    try:
        document = tomllib.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{config}: got {error.strerror}, wanted a readable file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{config}: got a file that is not TOML, wanted TOML: {error}") from error
    given = document.get("state_dir", str(Config().state_dir))
    if not isinstance(given, str) or not Path(given).is_absolute():
        raise ConfigError(f"{config}: state_dir: got {given!r}, wanted an absolute path")
    return Path(given)

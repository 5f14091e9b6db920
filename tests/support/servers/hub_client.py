"""Resolve weights in a process of its own, for the hub's client reads its environment at import."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from upframe.filters import weights
from upframe.filters.errors import FilterError

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Answer:
    """What came of one resolve_weights in the other process."""

    seconds: float
    logged: list[str]
    """``LEVEL text`` of every record of the package."""
    name: str = ""
    path: str = ""
    sha256: str = ""
    origin: str = ""
    error: str = ""
    """``Class: text``, empty if there was none."""

    @property
    def content(self) -> bytes:
        return Path(self.path).read_bytes()

    @property
    def warnings(self) -> list[str]:
        return [line for line in self.logged if line.startswith("WARNING")]


@dataclass
class Client:
    """The other process; its stdout carries nothing but answers."""

    process: subprocess.Popen[str]
    stderr: Path

    def resolve(
        self,
        name: str | None,
        default: str = "RIFE",
        policy: str = "auto",
        most_bytes: int | None = None,
    ) -> Answer:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([name, default, policy, most_bytes]) + "\n")
        self.process.stdin.flush()
        return Answer(**json.loads(self.process.stdout.readline()))

    @property
    def noise(self) -> str:
        """All that reached its stderr so far."""
        return self.stderr.read_text()


@contextmanager
def running_client(folder: Path, **environment: str) -> Iterator[Client]:
    """Start the other process with a cache below `folder`, and these variables."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    direct = {"HF_HOME": str(folder / "hf"), "NO_PROXY": "*", "HF_HUB_DISABLE_TELEMETRY": "1"}
    stderr = folder / f"stderr-{len(list(folder.glob('stderr-*')))}"
    with (
        stderr.open("w") as noise,
        subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=noise,
            text=True,
            env=clean | direct | environment,
        ) as process,
    ):
        yield Client(process, stderr)


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")


def _answer(requests: IO[str], answers: IO[str]) -> None:
    logger = logging.getLogger("upframe")
    logger.setLevel(logging.DEBUG)
    for line in requests:
        name, default, policy, most_bytes = json.loads(line)
        records = _Records()
        logger.addHandler(records)
        began = time.monotonic()
        try:
            found = weights.resolve_weights(
                name, getattr(weights, default), policy, most_bytes=most_bytes
            )
        except FilterError as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        else:
            weights.warn_of_builtin([found])
            result = {"name": found.name, "path": str(found.path), "sha256": found.sha256}
            result |= {"origin": found.origin}
        logger.removeHandler(records)
        result |= {"seconds": time.monotonic() - began, "logged": records.lines}
        answers.write(json.dumps(result) + "\n")
        answers.flush()


if __name__ == "__main__":
    _answer(sys.stdin, sys.stdout)
    sys.stderr.flush()
    os._exit(0)  # nobody waits for torch to be taken apart

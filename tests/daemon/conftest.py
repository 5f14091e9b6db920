"""A served queue, and the command that speaks with it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from support.jobs.queues import ServedQueue

from upframe.daemon.__main__ import main


@pytest.fixture
def served(tmp_path: Path) -> Generator[ServedQueue]:
    with ServedQueue(tmp_path) as serving:
        yield serving


@pytest.fixture
def jobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`upframe jobs …` for the daemon in `tmp_path`: exit code, stdout, stderr."""

    def command(*words: str) -> tuple[int, str, str]:
        code = main(["jobs", words[0], "--socket", str(tmp_path / "upframe.sock"), *words[1:]])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command

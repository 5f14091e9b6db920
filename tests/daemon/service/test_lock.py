"""A state directory belongs to one daemon, for as long as its process lives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from upframe.daemon.errors import AlreadyRunning
from upframe.daemon.exits import Exit, exit_code_of
from upframe.daemon.service.lifecycle import state_lock

HOLD = (
    "import sys\n"
    "from pathlib import Path\n"
    "from upframe.daemon.service.lifecycle import state_lock\n"
    "with state_lock(Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


def holder_of(folder: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_the_folder_is_made_and_not_for_everybody(tmp_path: Path) -> None:
    with state_lock(tmp_path / "deep" / "state"):
        mode = (tmp_path / "deep" / "state").stat().st_mode & 0o777
        assert mode & 0o007 == 0


def test_a_second_daemon_is_told_who_has_it(tmp_path: Path) -> None:
    child = holder_of(tmp_path)
    with pytest.raises(AlreadyRunning, match=rf"process {child.pid}\)") as caught:
        state_lock(tmp_path).__enter__()
    assert exit_code_of(caught.value) == Exit.TRY_LATER
    child.communicate(timeout=10)


def test_a_killed_daemon_holds_nothing(tmp_path: Path) -> None:
    child = holder_of(tmp_path)
    child.kill()
    child.communicate(timeout=10)
    with state_lock(tmp_path):
        assert (tmp_path / "upframe.lock").read_text() == f"{os.getpid()}\n"
    with state_lock(tmp_path):
        pass


def test_children_do_not_inherit_it(tmp_path: Path) -> None:
    with state_lock(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with state_lock(tmp_path):  # the child still lives
        pass
    child.communicate(timeout=10)

"""A worker dies with its daemon, and its lock tells who it is for as long as it lives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.jobs.work import is_alive

from upframe.daemon.workers import worker_lock

HOLDER = """
    import sys, time
    from pathlib import Path
    from upframe.daemon.workers import worker_lock
    lock = worker_lock.hold(Path(sys.argv[1]))
    print("held", flush=True)
    time.sleep(600)
"""
CHILD = """
    import os, sys, time
    from upframe.io import child
    print(os.getpid(), child.kill_on_parent_death(int(sys.argv[1])), flush=True)
    time.sleep(600)
"""
PARENT = """
    import os, subprocess, sys, time
    subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], start_new_session=True)
    time.sleep(600)
"""


def dedented(script: str) -> str:
    return "\n".join(line[4:] for line in script.splitlines())


def started(script: str, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", dedented(script), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ended(process: subprocess.Popen[str]) -> int:
    process.kill()
    process.communicate()
    return process.returncode


def test_the_kernel_kills_a_worker_whose_daemon_is_killed() -> None:
    parent = started(PARENT, dedented(CHILD))
    pid, tied = first_line(parent).split()
    assert tied == "True"
    assert is_alive(int(pid))
    parent.kill()
    parent.wait(5)
    ends = time.monotonic() + 5
    while is_alive(int(pid)):
        assert time.monotonic() < ends
        time.sleep(0.01)
    parent.communicate()


def test_a_daemon_that_was_gone_before_is_noticed() -> None:
    child = started(CHILD, "999999")
    assert first_line(child).split()[1] == "False"
    ended(child)


def test_the_lock_names_its_holder_and_is_free_when_it_is_dead(tmp_path: Path) -> None:
    path = tmp_path / "workers" / "0.lock"
    holder = started(HOLDER, str(path))
    assert first_line(holder) == "held"
    assert worker_lock.holder_of(path) == holder.pid
    with pytest.raises(BlockingIOError, match=r"0\.lock is held by another process"):
        worker_lock.hold(path)
    ended(holder)
    assert worker_lock.holder_of(path) is None
    worker_lock.hold(path).close()


def test_workers_left_behind_are_killed_and_nobody_else(tmp_path: Path) -> None:
    left, other = (started(HOLDER, str(tmp_path / name)) for name in ("0.lock", "0.other"))
    assert first_line(left) == first_line(other) == "held"
    (tmp_path / "1.lock").write_text(f"{os.getpid()}\n")  # whatever a file says
    assert worker_lock.end_holders(tmp_path, 10) == [left.pid]
    assert left.wait(5) == -signal.SIGKILL
    assert other.poll() is None
    assert worker_lock.end_holders(tmp_path, 10) == []
    for process in (left, other):
        ended(process)


def test_without_workers_there_is_nothing_to_end(tmp_path: Path) -> None:
    assert worker_lock.end_holders(tmp_path / "none", 1) == []


TIED = """
    import os, sys
    from pathlib import Path
    from upframe.daemon.workers import worker_lock
    lock = worker_lock.bind(os.getppid(), Path(sys.argv[1]))
    assert all(name.isdigit() for name in os.listdir("."))
    try:
        Path("made").write_text("by root, too")
    except OSError as error:
        print(type(error).__name__)
    else:
        print("made", os.getcwd())
"""


def test_in_a_workers_folder_nothing_can_be_made_not_even_by_root(tmp_path: Path) -> None:
    process = started(TIED, str(tmp_path / "workers" / "0.lock"))
    assert process.communicate()[0].strip() in ("FileNotFoundError", "PermissionError")
    assert [path.name for path in (tmp_path / "workers").iterdir()] == ["0.lock"]

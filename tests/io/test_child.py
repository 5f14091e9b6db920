"""Child processes that are fed without blocking: real ones, killed and left behind as may be."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from upframe.io.child import Child, Tail, Waker

DEADLINE_SECONDS = 30.0


@contextmanager
def started(program: str) -> Generator[Child]:
    waker = Waker()
    child = Child([sys.executable, "-c", program], waker)
    try:
        yield child
    finally:
        child.close()
        waker.close()


def lines_until_the_end(child: Child) -> list[bytes]:
    lines: list[bytes] = []
    ends = time.monotonic() + DEADLINE_SECONDS
    while child.returncode is None:
        assert time.monotonic() < ends, f"still runs, after {lines}"
        child.turn(0.1)
        lines += child.lines()
    return lines


def first_line(child: Child) -> bytes:
    ends = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < ends:
        child.turn(0.1)
        if lines := child.lines():
            return lines[0]
    pytest.fail("it said nothing")


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_gets_all_that_is_sent_however_much_and_answers_in_lines() -> None:
    program = "import sys; data = sys.stdin.buffer.read(); print(len(data)); print(hash(data) != 0)"
    with started(program) as child:
        for _ in range(50):
            child.send(bytes(100_000))
        child.close_stdin()
        assert lines_until_the_end(child) == [b"5000000", b"True"]
        assert (child.returncode, child.unsent_bytes) == (0, 0)


def test_one_that_reads_nothing_blocks_nobody() -> None:
    with started("import time; print(1, flush=True); time.sleep(1000)") as child:
        first_line(child)
        child.send(bytes(1_000_000))
        for _ in range(3):
            child.turn(0.01)
        assert 0 < child.unsent_bytes < 1_000_000


def test_one_that_closes_its_stdin_is_heard_to_its_end() -> None:
    program = "import os, sys; os.close(0); print('a', flush=True); sys.exit(3)"
    with started(program) as child:
        child.send(bytes(1_000_000))
        assert lines_until_the_end(child) == [b"a"]
        child.send(b"more")
        assert (child.returncode, child.unsent_bytes) == (3, 0)


def test_nothing_that_was_said_before_the_end_is_lost() -> None:
    with started("for n in range(20000): print(n)") as child:
        lines = lines_until_the_end(child)
        assert lines == [str(n).encode() for n in range(20_000)]


def test_stderr_is_drained_and_its_last_lines_are_kept_without_passwords() -> None:
    program = (
        "import sys\n"
        "for n in range(50000): print('line', n, file=sys.stderr)\n"
        "print('rtsp://user:hidden@host/x', file=sys.stderr)"
    )
    with started(program) as child:
        lines_until_the_end(child)
        lines = child.tail.lines(published=True)
        assert len(lines) == 100
        assert lines[-2:] == ["line 49999", "rtsp://***@host/***"]


def test_another_thread_can_end_the_waiting() -> None:
    waker = Waker()
    child = Child([sys.executable, "-c", "import time; time.sleep(1000)"], waker)
    try:
        caller = threading.Timer(0.05, waker.wake)
        caller.start()
        child.turn(DEADLINE_SECONDS)
        caller.join()
        assert child.returncode is None
    finally:
        child.close()
        waker.close()
    waker.wake()  # nobody is there any more, and nothing happens


def test_closing_kills_and_reaps_and_leaves_no_descriptor() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with started("import time; time.sleep(1000)") as child:
        pid = child.pid
    assert child.returncode == -signal.SIGKILL
    assert is_gone(pid)
    assert set(os.listdir("/proc/self/fd")) == before
    child.close()


def test_what_it_has_started_ends_with_it() -> None:
    program = (
        "import subprocess, sys\n"
        "one = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])\n"
        "print(one.pid, flush=True)"
    )
    with started(program) as child:
        (line,) = lines_until_the_end(child)
        assert child.returncode == 0
    ends = time.monotonic() + DEADLINE_SECONDS
    while not is_gone(int(line)) and "Z" not in Path(f"/proc/{int(line)}/stat").read_text():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_program_that_is_not_there_is_an_error() -> None:
    waker = Waker()
    with pytest.raises(FileNotFoundError):
        Child(["/no/such/program"], waker)
    waker.close()


def test_the_bytes_of_a_child_come_as_they_are_and_no_more_than_is_read() -> None:
    program = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 1000)"
    child = Child([sys.executable, "-c", program], text=False)
    data = b""
    try:
        while not child.stdout_ended:
            child.turn(DEADLINE_SECONDS)
            data += child.read(100)
        while more := child.read(4096):
            data += more
        assert data == bytes(range(256)) * 1000
        assert child.lines() == []
    finally:
        child.close()


def test_a_line_too_long_shows_no_part_of_itself_and_the_next_one_is_whole() -> None:
    tail = Tail()
    for _ in range(40):
        tail.feed(b"secret" * 1000)
    tail.feed(b"end of a secret\nwhole\r50 %\rlast")
    assert tail.lines() == ["***", "whole", "50 %", "last"]

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack

import pytest
from support.scripts import script

commands = script("speed/commands")

_MIB = 2**20
_HOLDS = "import sys; data = b'x' * (48 << 20); sys.stdin.read()"


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_the_peak_is_the_childs_own() -> None:
    """Ours is larger: torch and the tests are in it."""
    reading, writing = os.pipe()
    with ExitStack() as stack:
        child = commands.Watched(stack, [sys.executable, "-c", _HOLDS], os.fdopen(reading, "rb"))
        deadline = time.monotonic() + 60
        while child.peak_bytes < 48 * _MIB and time.monotonic() < deadline:
            time.sleep(0.005)
        os.close(writing)
        child.wait()
    assert 48 * _MIB <= child.peak_bytes < 100 * _MIB


def test_a_failure_is_reported_with_the_stderr() -> None:
    with (
        ExitStack() as stack,
        pytest.raises(commands.ProcessFailed, match=r"ended with 3: no such luck"),
    ):
        commands.Watched(
            stack,
            [
                sys.executable,
                "-c",
                "import sys; print('no such luck', file=sys.stderr);sys.exit(3)",
            ],
        ).wait()


def test_nothing_is_left_running() -> None:
    with ExitStack() as stack:
        child = commands.Watched(stack, [sys.executable, "-c", "import time; time.sleep(600)"])
        pid = child.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)

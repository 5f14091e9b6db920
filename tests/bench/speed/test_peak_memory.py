from __future__ import annotations

import subprocess
import sys

import pytest
from support.scripts import BENCH

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")

_FOLDERS = [str(BENCH), str(BENCH / "speed")]

# A process of its own: the resident set of the tests' process moves for other reasons.
_SCRIPT = """
import sys
import torch
sys.path += sys.argv[1:]
from alone import PeakMemory
cpu, mib = torch.device("cpu"), 2**20
def grown(allocate):
    with PeakMemory(cpu) as memory:
        allocate()
    return -1 if memory.grown_bytes is None else memory.grown_bytes // mib
large = grown(lambda: torch.ones(64 * mib // 4))
none = grown(lambda: None)
again = grown(lambda: torch.ones(32 * mib // 4))
print(large, none, again)
"""


def test_sees_what_was_allocated_and_freed_and_starts_again() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *_FOLDERS], capture_output=True, text=True, check=True
    )
    large, none, again = (int(word) for word in ran.stdout.split())
    if large == -1:
        pytest.skip("this system does not let a process reset its high-water mark")
    assert 60 <= large <= 90
    assert none <= 8
    assert 28 <= again <= 48

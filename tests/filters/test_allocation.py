import subprocess
import sys

PROGRAM = """
import resource, sys
import torch
from upframe.filters.device import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(20 << 18)  # 20 MiB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

told = keep_freed_memory()
# A thread keeps seven odd ends of blocks of each size before it lets them grow together, and until
# then a block may be a little too small for the next: up to 13 rounds were seen.
for _ in range(60):
    faults()
print(told, min(faults() for _ in range(3)))
"""


def run(**environment: str) -> tuple[bool, int]:
    told, count = subprocess.check_output(
        [sys.executable, "-c", PROGRAM], text=True, env=environment
    ).split()
    return told == "True", int(count)


def test_memory_of_the_frame_before_is_used_again_without_asking_the_system() -> None:
    told, faults = run()
    assert told
    assert faults < 100  # of 5,120 pages


def test_settings_that_somebody_made_are_left_alone() -> None:
    told, faults = run(MALLOC_TRIM_THRESHOLD_="65536", MALLOC_MMAP_THRESHOLD_="65536")
    assert not told
    assert faults > 5000

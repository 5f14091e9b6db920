import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from upframe.filters.device import available_bytes, cgroup_free_bytes


def test_a_cpu_has_some_memory_but_not_more_than_there_is() -> None:
    free = available_bytes(torch.device("cpu"))
    assert free is not None
    assert 0 < free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.needs_cuda
def test_what_torch_holds_on_cuda_but_does_not_use_is_free() -> None:
    device = torch.device("cuda", 0)
    before = available_bytes(device)
    held = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    during = available_bytes(device)
    del held
    after = available_bytes(device)
    assert before is not None
    assert during is not None
    assert before - during >= 1 << 30
    assert after == pytest.approx(before, abs=64 << 20)


def _group(folder: Path, limit: str, used: int, inactive_file: int) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {inactive_file}\n")
    return folder


def test_a_control_group_allows_what_is_left_and_what_files_give_back(tmp_path: Path) -> None:
    assert cgroup_free_bytes(_group(tmp_path, "1000", 700, 200)) == 500


def test_a_control_group_above_its_limit_allows_nothing(tmp_path: Path) -> None:
    assert cgroup_free_bytes(_group(tmp_path, "1000", 1100, 0)) == 0


def test_a_control_group_without_a_limit_says_nothing(tmp_path: Path) -> None:
    assert cgroup_free_bytes(_group(tmp_path, "max", 700, 0)) is None
    assert cgroup_free_bytes(tmp_path / "none") is None


ALLOWED = """
import torch
from upframe.filters.device import allow_memory, available_bytes
before = available_bytes(torch.device("cpu"))
allow_memory(3072)
torch.empty(1 << 30, dtype=torch.uint8)
after = available_bytes(torch.device("cpu"))
assert after <= 3 << 30, after
assert after > 2.5 * (1 << 30) or after == before, after
try:
    torch.empty(4 << 30, dtype=torch.uint8)
except RuntimeError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is the kernel's")
def test_process_takes_no_more_than_it_is_allowed_and_knows_it() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", ALLOWED], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "can't allocate memory" in ran.stdout

"""Kernels that broke a card are left alone from then on, also by other processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from upframe.daemon.cli.doctor import describe_machine
from upframe.filters.color.staging import Transfer
from upframe.filters.guard import Verdict
from upframe.filters.kernels.cuda import KernelSelfTest

ILLEGAL = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be"

PROCESS = """
import sys
import torch

name, fault = sys.argv[1:]
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 1
torch.cuda.get_device_name = lambda index: name

from upframe.filters.kernels.cuda import KernelSelfTest


def trial():
    print("tried")
    if fault:
        raise RuntimeError(fault)


print(KernelSelfTest("frames are enlarged by plain torch").passed(trial))
"""
"""A process with a card of some name, whose kernels fail as they are told."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("UPFRAME_KERNELS", raising=False)


def process(fault: str = "", card: str = "NVIDIA H200") -> list[str]:
    command = [sys.executable, "-c", PROCESS, card, fault]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_process_leaves_alone_what_broke_the_card_in_another(tmp_path: Path) -> None:
    assert process(ILLEGAL) == ["tried", "False"]
    assert process() == ["False"]
    assert process(card="NVIDIA L4") == ["tried", "True"]
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    file.unlink()
    assert process() == ["tried", "True"]


@pytest.mark.parametrize("fault", ["no kernel image is available", "CUDA error: unknown error"])
def test_what_does_not_come_of_a_kernel_is_tried_again(fault: str) -> None:
    assert process(fault) == ["tried", "False"]
    assert process() == ["tried", "True"]


def test_memory_that_is_missing_is_the_callers_matter_and_no_fault_of_the_kernel() -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        process("CUDA out of memory")
    assert error.value.stdout == "tried\n"
    assert process() == ["tried", "True"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0\n" * 99, b"NVIDIA H200"])
def test_a_damaged_memory_is_none(tmp_path: Path, content: bytes) -> None:
    process(ILLEGAL)
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    file.write_bytes(content)
    assert process() == ["tried", "True"]


def test_a_memory_that_cannot_be_written_is_no_fault_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "upframe").write_text("in the way")
    assert process(ILLEGAL) == ["tried", "False"]


def test_kernels_are_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPFRAME_KERNELS", "0")
    assert process() == ["False"]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A card that is there and whose kernels are in use, until one of them breaks it."""
    from upframe.filters.kernels import cuda

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (1 << 36, 1 << 37))
    monkeypatch.setattr(cuda, "_in_use", set())
    cuda._machine.cache_clear()
    assert KernelSelfTest("frames are enlarged by plain torch").passed(lambda: None)
    yield
    cuda._machine.cache_clear()


class Breaking:
    """What is waited for, on a card that a kernel broke a while ago."""

    device = torch.device("cuda", 0)

    def synchronize(self) -> None:
        raise RuntimeError(ILLEGAL)

    def __torch_function__(self, *_: object) -> None:  # as a tensor whose values are asked for
        raise RuntimeError(ILLEGAL)


def test_a_fault_that_shows_later_is_remembered_too(broken: None) -> None:
    with pytest.raises(RuntimeError, match="illegal memory"):
        Transfer((), Breaking()).wait()  # type: ignore[arg-type]
    assert not KernelSelfTest("frames are enlarged by plain torch").passed(lambda: None)


def test_a_fault_that_the_guard_sees_is_remembered_too(broken: None) -> None:
    with pytest.raises(RuntimeError, match="illegal memory"):
        Verdict([Breaking()], torch.zeros(1))  # type: ignore[list-item]
    assert not KernelSelfTest("frames are enlarged by plain torch").passed(lambda: None)


def test_the_doctor_says_what_is_left_alone_and_how_it_is_tried_again(
    broken: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said() -> str:
        (found,) = (one for one in describe_machine() if one.name == "cuda kernels")
        return f"{found.verdict}: {found.text}"

    assert said() == "ok: used where their self-test passes"
    with pytest.raises(RuntimeError, match="illegal memory"):
        Transfer((), Breaking()).wait()  # type: ignore[arg-type]
    assert said() == (
        "warn: the card broke before: frames are enlarged by plain torch; "
        f"to try again, delete {tmp_path / 'upframe' / 'faulted-kernels'}"
    )
    monkeypatch.setenv("UPFRAME_KERNELS", "0")
    assert said() == "warn: switched off by UPFRAME_KERNELS=0"

"""A GPU that the unit hides is noticed, and the setting that hides it is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from upframe.daemon.service.checks import hidden_gpu


def machine(folder: Path, *devices: str, card: bool = True) -> tuple[Path, Path]:
    proc, dev = folder / "proc", folder / "dev"
    dev.mkdir()
    cards = proc / "driver" / "nvidia" / "gpus"
    cards.mkdir(parents=True)
    if card:
        (cards / "0000:01:00.0").mkdir()
    for name in devices:
        (dev / name).touch()
    return proc, dev


def test_all_is_well_where_all_devices_can_be_opened(tmp_path: Path) -> None:
    proc, dev = machine(tmp_path, "nvidiactl", "nvidia0", "nvidia-uvm")
    assert hidden_gpu(["auto"], proc, dev) is None


def test_a_hidden_device_names_the_setting(tmp_path: Path) -> None:
    proc, dev = machine(tmp_path)
    text = hidden_gpu(["cuda:0"], proc, dev)
    assert text is not None
    assert "nvidiactl" in text
    assert "PrivateDevices=" in text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_device_of_others_names_the_groups(tmp_path: Path) -> None:
    proc, dev = machine(tmp_path, "nvidiactl", "nvidia0", "nvidia-uvm")
    (dev / "nvidia0").chmod(0)
    text = hidden_gpu(["auto"], proc, dev)
    assert text is not None
    assert "SupplementaryGroups=" in text


def test_nobody_is_told_of_a_gpu_that_nobody_wants(tmp_path: Path) -> None:
    proc, dev = machine(tmp_path)
    assert hidden_gpu(["cpu"], proc, dev) is None


@pytest.mark.parametrize("driver", [True, False])
def test_without_a_card_or_driver_nothing_is_said(driver: bool, tmp_path: Path) -> None:
    proc, dev = machine(tmp_path, card=False)
    assert hidden_gpu(["auto"], proc if driver else tmp_path / "none", dev) is None

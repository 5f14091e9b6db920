"""The measurement of AMX, where there is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.scripts import script

from upframe.filters.device import cpu_has
from upframe.filters.kernels.cpu_convolution import SWITCH

tiles = script("speed/tiles")


@pytest.fixture(autouse=True)
def without_amx() -> None:
    if cpu_has("amx_bf16"):
        pytest.skip("this CPU has AMX")


def test_it_says_that_there_is_none_even_if_tiles_are_emulated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(SWITCH, "emulate")
    assert tiles.main([]) == 69
    assert capsys.readouterr().out.startswith("no AMX")


def test_the_peak_asks_for_permission_before_it_uses_tiles(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    assert tiles.compiled_peak(tmp_path).peak(1, 1) == 0

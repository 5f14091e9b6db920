"""Fixtures of the tests of the whole daemon."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny frames: threads would wait for each other, and for other work, more than compute."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

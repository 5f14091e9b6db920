"""Fixtures for the tests of running jobs."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _one_thread_per_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several workers with several threads each would wait for each other on a small machine."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

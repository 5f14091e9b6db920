"""Fixtures of the tests of the whole daemon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tiny frames: threads would wait for each other, and for other work, more than compute.

    Of a module's scope, so that it holds for a daemon that all tests of a module share.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield

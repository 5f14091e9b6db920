"""Two cores of this machine, for a run and all its processes."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def on_two_cores() -> Generator[None]:
    """Keep this thread, and what it starts, to the first two cores that it may use."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[:2]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)

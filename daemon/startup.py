"""The start of a process: import large libraries without garbage collection, and share cores."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def collector_resting() -> Generator[None]:
    """Exclude what is imported within from garbage collection, for the life of the process.

    torch creates some hundred thousand objects that never become garbage. The collector would
    traverse them repeatedly during the import, in every full collection after it, in the middle of
    some frame, and at the end of the process: about a third of the time that importing torch takes.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


# torch computes in teams of threads that wait for each other after every step, by spinning for up
# to ten milliseconds. That is fastest if each thread has a core. But a live stream runs next to its
# decoder, its encoder and the process that publishes: if one of them uses a core, the awaited
# thread does not run, and the spinning one keeps the core from it. Measured at 160x90 on two cores,
# a frame of 35 ms takes 3600 ms next to one busy process. With short spinning it takes 40 ms alone,
# and 130 ms next to that process.

_VARIABLE = "GOMP_SPINCOUNT"  # of GNU libgomp, which torch includes
_SPINS = "5000"


def share_cores() -> None:
    """Let waiting threads sleep after a short time; call it before torch is loaded.

    If the variable or OpenMP's wait policy is set, nothing changes.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(_VARIABLE, _SPINS)

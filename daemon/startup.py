"""Large libraries come in, and the garbage collector rests meanwhile."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def collector_resting() -> Generator[None]:
    """Import what lives as long as the process, without a look for garbage in it, now or later.

    torch makes some hundred thousand objects, none of which is ever garbage. The collector would
    walk through them again and again while they are made, in every full collection after that,
    in the middle of some frame, and once more at the end of the process: together about a third
    of what it costs to import torch.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


# How a process that works on a live stream shares the cores with those beside it.
#
# torch computes in teams of threads that wait for each other after every step, and wait by
# spinning: up to ten milliseconds of it. That is the fastest way on cores of one's own. But a live
# stream has its decoder, its encoder and the process that publishes beside it: where one of them
# has a core, the thread that is waited for is not running, and the one that spins keeps it from
# that. Measured at 160x90 on two cores, a frame of 35 ms takes 3600 ms beside one busy process.
# With short spinning it takes 40 ms alone and 130 ms in company.

_VARIABLE = "GOMP_SPINCOUNT"  # of GNU libgomp, which torch brings along
_SPINS = "5000"


def share_cores() -> None:
    """Have threads wait by sleeping, after a short while; to be called before torch is loaded.

    Who has set the variable, or one for OpenMP's waiting, is left alone.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(_VARIABLE, _SPINS)

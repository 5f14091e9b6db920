"""Large libraries come in, and the garbage collector rests meanwhile."""

from __future__ import annotations

import gc
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

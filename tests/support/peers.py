"""Contestants that are no network, for the tests of what compares peers. Imported by children."""

from __future__ import annotations

import os
import signal

import numpy as np
from support.scripts import script

contests = script("peers/contests")
quality = script("peers/quality")

CRASHES_AT = 20
"""The frame at which `doubling` ends its process, as a crash in native code does."""


def doubling(setting: contests.Setting) -> contests.Contestant:
    """Gives twice the frame, so that half of it leaves the range."""
    frames = setting.arrays

    def work(index: int) -> quality.Picture:
        if index == CRASHES_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        return frames[index % len(frames)] * 2

    return contests.Contestant(work, np.asarray)


def refusing(setting: contests.Setting) -> contests.Contestant:
    """Cannot be built."""
    raise ValueError(f"no {setting.contest.network} for a stranger")

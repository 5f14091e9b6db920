"""What ties a child process to its parent: none is left behind when the parent is killed."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with(parent: int) -> bool:
    """Have the kernel kill this process when its parent ends.

    More exactly: when the thread ends that started us, so that must be one that lives as long as we
    are wanted.

    Args:
        parent: process id of who started us.

    Returns:
        Whether the parent is still there; if not, nothing will tell us any more.

    Raises:
        OSError: if the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    return os.getppid() == parent

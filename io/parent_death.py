"""What ties a child process to its parent: none is left behind when the parent is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

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


# Programs that die with us: no recording and no connection goes on after a crash.
#
# The kernel kills a child whose parent is gone, if the child has asked for it; a program that is
# not ours cannot ask, so Python does and then becomes the program, under the same process id.

# PR_SET_PDEATHSIG (linux/prctl.h) is 1, SIGKILL 9; where the parent is gone, it is too late to ask
_BECOME = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9, 0, 0, 0);"
    " os.getppid() == int(sys.argv[1]) and os.execvp(sys.argv[2], sys.argv[2:])"
)


def tied(command: Sequence[str]) -> list[str]:
    """Give a command that runs another one, which is killed when the thread ends that starts it.

    Start it from a thread that stays for as long as it is wanted.
    """
    return [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), *command]

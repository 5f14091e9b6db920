"""Child processes that die with their parent: none goes on after it was killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def kill_on_parent_death(parent: int) -> bool:
    """Have the kernel kill this process when its parent ends.

    More exactly: at the end of the thread that started it, which must therefore live on for as long
    as the process is wanted.

    Args:
        parent: process id of the parent.

    Returns:
        Whether the parent is still there; if not, the kernel will not kill us any more.

    Raises:
        OSError: if the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    return os.getppid() == parent


# a foreign program cannot ask for it: Python does, and then becomes the program by exec.
# PR_SET_PDEATHSIG (linux/prctl.h) is 1, SIGKILL 9; where the parent is gone, it is too late to ask
_ASK_AND_EXEC = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9, 0, 0, 0);"
    " os.getppid() == int(sys.argv[1]) and os.execvp(sys.argv[2], sys.argv[2:])"
)


def with_parent_death(command: Sequence[str]) -> list[str]:
    """Return a command that runs a foreign program under :func:`kill_on_parent_death`.

    The process that runs it keeps its process id.
    """
    return [sys.executable, "-I", "-S", "-c", _ASK_AND_EXEC, str(os.getpid()), *command]

"""Programs that die with us: no recording and no connection goes on after a crash.

The kernel kills a child whose parent is gone, if the child has asked for it; a program that is not
ours cannot ask, so Python does and then becomes the program, under the same process id.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

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

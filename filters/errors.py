"""What can go wrong in a filter, and who acts on it; a ValueError or TypeError means a bug."""

from __future__ import annotations

import re

_NO_MEMORY = re.compile(
    r"out of memory|(can't|cannot) allocate|not enough memory|bad.alloc|can't start new thread",
    re.I,
)
"""Messages of torch, C++ and Python for failed allocations without an error class."""
_MOST_CAUSES = 20
"""Bound on the chain of causes: an error can be its own cause."""


def says_no_memory(text: str) -> bool:
    """Return whether a message of an error or a dead process means a failed allocation."""
    return _NO_MEMORY.search(text) is not None


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, is a failed allocation."""
    for _ in range(_MOST_CAUSES):
        # torch's error by its name: the caller may not have loaded torch
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        if isinstance(error, RuntimeError | OSError) and says_no_memory(str(error)):
            return True
        error = None if error is None else error.__cause__
    return False


class FilterError(Exception):
    """A filter cannot do its work, for a reason the user can act on: no bug of ours."""


class CheckpointRejected(FilterError):
    """No checkpoint, a hostile one, or one of another architecture: exit 65, no retry."""


class WeightsUnavailable(FilterError):
    """The weights exist somewhere, but cannot be fetched now: exit 69, try again later."""


class DeviceUnavailable(FilterError):
    """The requested device does not exist: exit 69."""


class UnsupportedPixels(FilterError):
    """A pixel format or colour description that cannot be converted exactly: exit 65."""


class TooLarge(FilterError):
    """A frame does not fit in memory, not even cut into the smallest tiles: exit 75."""

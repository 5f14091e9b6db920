"""Exit codes, one table: sysexits.h where it has a code, the shell's convention for signals."""

from __future__ import annotations

from enum import IntEnum

from ..filters.errors import (
    CheckpointRejected,
    DeviceUnavailable,
    FilterError,
    TooLarge,
    UnsupportedPixels,
    WeightsUnavailable,
)
from ..io.errors import (
    MediaError,
    ReaderGone,
    SameFile,
    SinkFull,
    SinkRefused,
    SourceMissing,
    TruncatedMedia,
    UnsupportedMedia,
    VerificationFailed,
)
from .errors import AlreadyRunning, ConfigError, StartFailed, Stopped, UsageError
from .jobs.model import Conflict, DaemonAbsent, IllegalChange, StoreBroken, UnknownJob


class Exit(IntEnum):
    """What the process says when it ends."""

    OK = 0
    USAGE = 64
    DATA = 65
    NO_INPUT = 66
    UNAVAILABLE = 69
    INTERNAL = 70
    CANNOT_CREATE = 73
    IO = 74
    TRY_LATER = 75
    CONFIG = 78
    READER_GONE = 141


# The first class that fits decides, so subclasses stand before their bases.
_CODES: tuple[tuple[type[BaseException], Exit], ...] = (
    (UsageError, Exit.USAGE),
    (ConfigError, Exit.CONFIG),
    (AlreadyRunning, Exit.TRY_LATER),
    (Conflict, Exit.USAGE),
    (IllegalChange, Exit.USAGE),
    (UnknownJob, Exit.NO_INPUT),
    (DaemonAbsent, Exit.UNAVAILABLE),
    (StoreBroken, Exit.IO),
    (CheckpointRejected, Exit.DATA),
    (WeightsUnavailable, Exit.UNAVAILABLE),
    (DeviceUnavailable, Exit.UNAVAILABLE),
    (UnsupportedPixels, Exit.DATA),
    (TooLarge, Exit.TRY_LATER),
    (MemoryError, Exit.TRY_LATER),
    (SourceMissing, Exit.NO_INPUT),
    (TruncatedMedia, Exit.DATA),
    (UnsupportedMedia, Exit.DATA),
    (SameFile, Exit.USAGE),
    (SinkRefused, Exit.CANNOT_CREATE),
    (SinkFull, Exit.IO),
    (ReaderGone, Exit.READER_GONE),
    (VerificationFailed, Exit.INTERNAL),
    (FilterError, Exit.INTERNAL),
    (MediaError, Exit.IO),
    (OSError, Exit.IO),
)


def exit_code_of(error: BaseException) -> int:
    """Find the exit code for an error that ended the work; unknown ones are ours: 70."""
    if isinstance(error, Stopped):
        return 128 + error.signal_number
    if isinstance(error, StartFailed):
        return error.code
    if isinstance(error, KeyboardInterrupt):
        return 130
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return Exit.INTERNAL


def is_expected(error: BaseException) -> bool:
    """Whether the message alone tells the user what to do, without a traceback."""
    return isinstance(error, Stopped | StartFailed | KeyboardInterrupt) or any(
        isinstance(error, kind) for kind, _ in _CODES
    )

"""Exit codes in one table: those of sysexits.h, and the shell's convention for signals."""

from __future__ import annotations

import resource
from enum import IntEnum

from ..filters.errors import (
    CheckpointRejected,
    DeviceUnavailable,
    FilterError,
    TooLarge,
    UnsupportedPixels,
    WeightsUnavailable,
    is_out_of_memory,
)
from ..io.errors import (
    MediaError,
    ReaderGone,
    SameFile,
    SinkFull,
    SinkRefused,
    SourceMissing,
    TooLargeMedia,
    TruncatedMedia,
    UnsupportedMedia,
    VerificationFailed,
    WrongLimits,
)
from .errors import (
    AlreadyRunning,
    ConfigError,
    Conflict,
    DaemonAbsent,
    IllegalChange,
    StartFailed,
    Stopped,
    StoreBroken,
    UnknownJob,
    UsageError,
)


class Exit(IntEnum):
    """The exit codes."""

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


# The first class that matches decides, so subclasses stand before their bases.
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
    (TooLargeMedia, Exit.TRY_LATER),
    (SourceMissing, Exit.NO_INPUT),
    (TruncatedMedia, Exit.DATA),
    (UnsupportedMedia, Exit.DATA),
    (SameFile, Exit.USAGE),
    (SinkRefused, Exit.CANNOT_CREATE),
    (SinkFull, Exit.IO),
    (ReaderGone, Exit.READER_GONE),
    (BrokenPipeError, Exit.READER_GONE),
    (VerificationFailed, Exit.INTERNAL),
    (WrongLimits, Exit.CONFIG),
    (FilterError, Exit.INTERNAL),
    (MediaError, Exit.IO),
    (OSError, Exit.IO),
)


def exit_code_of(error: BaseException) -> int:
    """Return the exit code for an error; 70 for an unexpected one."""
    if isinstance(error, Stopped):
        return 128 + error.signal_number
    if isinstance(error, StartFailed):
        return error.code
    if isinstance(error, KeyboardInterrupt):
        return 130
    if is_out_of_memory(error):
        return Exit.TRY_LATER
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return Exit.INTERNAL


def is_expected(error: BaseException) -> bool:
    """Return whether the message of an error suffices without a traceback."""
    if isinstance(error, Stopped | StartFailed | KeyboardInterrupt) or is_out_of_memory(error):
        return True
    return any(isinstance(error, kind) for kind, _ in _CODES)


def text_of(error: BaseException) -> str:
    """Return the message of an error; if memory was exhausted, with the limit."""
    text = str(error) or type(error).__name__
    if not is_out_of_memory(error) or isinstance(error, TooLarge | TooLargeMedia):
        return text
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    most = "" if limit == resource.RLIM_INFINITY else f" (the limit is {limit >> 20} MiB in all)"
    return f"too large for memory{most}: {text}"

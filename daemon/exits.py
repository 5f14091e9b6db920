"""Exit codes in one table: those of sysexits.h, and the shell's convention for signals."""

from __future__ import annotations

import resource
from collections.abc import Mapping
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
    WrongOption,
)
from .errors import (
    AlreadyRunning,
    BrokerAbsent,
    ClusterAbsent,
    ConfigError,
    Conflict,
    DaemonAbsent,
    Hung,
    IllegalChange,
    StartFailed,
    Stopped,
    StoreBroken,
    UnknownJob,
    UsageError,
    WorkersLost,
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


_CODES: Mapping[type[BaseException], Exit] = {
    kind: code
    for code, kinds in {
        Exit.USAGE: (UsageError, Conflict, IllegalChange, SameFile, WrongOption),
        Exit.DATA: (CheckpointRejected, UnsupportedPixels, TruncatedMedia, UnsupportedMedia),
        Exit.NO_INPUT: (UnknownJob, SourceMissing),
        Exit.UNAVAILABLE: (
            DaemonAbsent, BrokerAbsent, ClusterAbsent, WeightsUnavailable, DeviceUnavailable,
        ),
        Exit.INTERNAL: (VerificationFailed, FilterError, Hung, WorkersLost),
        Exit.CANNOT_CREATE: (SinkRefused,),
        Exit.IO: (StoreBroken, SinkFull, MediaError, OSError),
        Exit.TRY_LATER: (AlreadyRunning, TooLarge, TooLargeMedia),
        Exit.CONFIG: (ConfigError, WrongLimits),
        Exit.READER_GONE: (ReaderGone, BrokenPipeError),
    }.items()
    for kind in kinds
}  # fmt: skip
"""By class; of an error, its nearest base decides."""


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
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), Exit.INTERNAL)


def is_expected(error: BaseException) -> bool:
    """Return whether the message of an error suffices without a traceback."""
    if isinstance(error, Stopped | StartFailed | KeyboardInterrupt) or is_out_of_memory(error):
        return True
    return isinstance(error, tuple(_CODES))


def text_of(error: BaseException) -> str:
    """Return the message of an error; if memory was exhausted, with the limit."""
    text = str(error) or type(error).__name__
    if not is_out_of_memory(error) or isinstance(error, TooLarge | TooLargeMedia):
        return text
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    most = "" if limit == resource.RLIM_INFINITY else f" (the limit is {limit >> 20} MiB in all)"
    return f"too large for memory{most}: {text}"

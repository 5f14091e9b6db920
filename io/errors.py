"""What can go wrong with media, and who acts on it.

MediaError                  base: nothing below it is a bug of ours; PyAV's errors end here
├─ SourceMissing            no such input, or not readable: exit 66
├─ UnsupportedMedia         undecodable, empty, no video, no way to write it: exit 65, do not retry
│  └─ TooLargeMedia         pictures above the limits: exit 75, do not retry
├─ TruncatedMedia           ends too early; whole frames were given: exit 65
├─ SinkRefused              output exists, folder not writable, format unknown: exit 73
│  └─ SameFile              the output is the input: exit 64
├─ SinkFull                 no space, I/O error while writing: exit 74, try again later
├─ ReaderGone               the reader of our stdout closed it: exit 141
├─ WrongLimits              UPFRAME_LIMITS makes no sense: exit 78
├─ InputLost                a live connection was not made, or is over: connect again
├─ OutputLost               the far end of a live output is gone: connect again
└─ VerificationFailed       the written output is not what it should be: exit 70, nothing renamed
"""

from __future__ import annotations

from typing import Literal

Reason = Literal[
    "refused",  # nobody listens at that port
    "unreachable",  # no such host, no way to it
    "not-found",  # the server has no such stream (404), the device is not there
    "unauthorised",  # 401, 403
    "untrusted",  # its certificate is not that of the name, or of nobody we trust
    "timed-out",  # no answer in time
    "stalled",  # connected, but no frames for longer than the stream's own rule allows
    "ended",  # the other end said that it is over
    "format-changed",  # in the middle of a connection, in a way that needs a new one
    "unsupported",  # no video, or none that can be decoded
    "failed",  # anything else; the message tells
]
"""Why a connection was not made, or is lost."""


class MediaError(Exception):
    """Media that cannot be read or written, for a reason the user can act on."""


class SourceMissing(MediaError):
    """The input is not there, or may not be read."""


class UnsupportedMedia(MediaError):
    """The input can be opened, but holds no video that we can decode, or it cannot be written."""


class TooLargeMedia(UnsupportedMedia):
    """The input's pictures are larger than this process may take."""


class TruncatedMedia(MediaError):
    """The input ends in the middle; what was whole has been given."""


class SinkRefused(MediaError):
    """The output cannot be created: it exists, its folder or its format does not do."""


class SameFile(SinkRefused):
    """The output would overwrite the input, by whatever name."""


class SinkFull(MediaError):
    """The output could be created, but not written: no space, or an I/O error."""


class ReaderGone(MediaError):
    """Whoever read our output has closed it."""


class WrongLimits(MediaError):
    """What the environment says of the limits makes no sense."""


class InputLost(MediaError):
    """A live input could not be connected to, or its connection is over."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


class OutputLost(MediaError):
    """A live output could not be connected to, or its connection is over."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


class VerificationFailed(MediaError):
    """The output was written, but is not what it should be."""

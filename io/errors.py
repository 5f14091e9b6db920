"""Errors of media, and who acts on each.

MediaError                  base: never a bug of ours; PyAV's errors are translated to these
├─ SourceMissing            no such input, or not readable: exit 66
├─ UnsupportedMedia         undecodable, empty, no video, no way to write it: exit 65, do not retry
│  ├─ TooLargeMedia         pictures above the limits: exit 75, do not retry
│  └─ NotAsPlanned          other frames than its packets promised: read it without segments
├─ TruncatedMedia           ends too early; whole frames were yielded: exit 65
├─ SinkRefused              output exists, folder not writable, format unknown: exit 73
│  ├─ SameFile              the output is the input: exit 64
│  └─ WrongOption           the encoder or the input's format has no such option: exit 64
├─ SinkFull                 no space, I/O error while writing: exit 74, try again later
├─ ReaderGone               the reader of our stdout closed it: exit 141
├─ WrongLimits              UPFRAME_LIMITS is invalid: exit 78
├─ InputLost                a live connection failed or ended: connect again
├─ OutputLost               the far end of a live output is gone: connect again
└─ VerificationFailed       the written output is not as expected: exit 70, nothing renamed
"""

from __future__ import annotations

from typing import Literal

Reason = Literal[
    "refused",  # nothing listens at that port
    "unreachable",  # no such host, no route to it
    "not-found",  # the server has no such stream (404), the device is not there
    "unauthorised",  # 401, 403
    "untrusted",  # its certificate is for another name, or from an unknown authority
    "timed-out",  # no answer in time
    "stalled",  # connected, but no frames for longer than the stream's own rule allows
    "ended",  # the other end closed it in an orderly way
    "format-changed",  # in the middle of a connection, in a way that needs a new one
    "unsupported",  # no video, or none that can be decoded
    "failed",  # anything else; see the message
]
"""Why a connection could not be made, or was lost."""


class MediaError(Exception):
    """Media that cannot be read or written, for a reason the user can act on."""


class SourceMissing(MediaError):
    """The input does not exist, or may not be read."""


class UnsupportedMedia(MediaError):
    """The input can be opened, but holds no video that we can decode, or it cannot be written."""


class TooLargeMedia(UnsupportedMedia):
    """The input's pictures are larger than this process may accept."""


class NotAsPlanned(UnsupportedMedia):
    """A segment's frames are not those that the packets promised: damage made more or fewer."""


class TruncatedMedia(MediaError):
    """The input ends in the middle; its whole frames have been yielded."""


class SinkRefused(MediaError):
    """The output cannot be created: it exists, or its folder or format is unsuitable."""


class SameFile(SinkRefused):
    """The output would overwrite the input, under whatever name."""


class WrongOption(SinkRefused):
    """The encoder does not have such a quality, preset or option, or the input's format."""


class SinkFull(MediaError):
    """The output could be created, but not written: no space, or an I/O error."""


class ReaderGone(MediaError):
    """The reader of our output has closed it."""


class WrongLimits(MediaError):
    """The limits in the environment are invalid."""


class _ConnectionLost(MediaError):
    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


class InputLost(_ConnectionLost):
    """A live input could not be connected to, or its connection ended."""


class OutputLost(_ConnectionLost):
    """A live output could not be connected to, or its connection ended."""


class VerificationFailed(MediaError):
    """The output was written, but is not as expected."""


def reason_of(error: BaseException) -> str:
    """Return what the system or FFmpeg says about an error, without numbers and file names."""
    return str(getattr(error, "strerror", None) or error)

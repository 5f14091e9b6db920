"""Errors of media: of each, who acts on it or with which code the program ends."""

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
    """Never a bug of ours, but what the user can act on; PyAV's errors are translated to these."""


class SourceMissing(MediaError):
    """The input does not exist, or may not be read: exit 66."""


class UnsupportedMedia(MediaError):
    """The input holds no video that we can decode, or it cannot be written: exit 65, no retry."""


class TooLargeMedia(UnsupportedMedia):
    """The input's pictures are larger than this process may accept: exit 75, no retry."""


class NotAsPlanned(UnsupportedMedia):
    """Damage made other frames than the packets promised: the film is read without segments."""


class TruncatedMedia(MediaError):
    """The input ends in the middle; its whole frames have been yielded: exit 65."""


class SinkRefused(MediaError):
    """The output exists, or its folder or format is unsuitable: exit 73."""


class SameFile(SinkRefused):
    """The output would overwrite the input, under whatever name: exit 64."""


class WrongOption(SinkRefused):
    """The encoder has no such quality, preset or option, or the input's format: exit 64."""


class SinkFull(MediaError):
    """No space, or an I/O error while writing: exit 74, try again later."""


class ReaderGone(MediaError):
    """The reader of our stdout has closed it: exit 141."""


class WrongLimits(MediaError):
    """UPFRAME_LIMITS is invalid: exit 78."""


class _ConnectionLost(MediaError):
    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


class InputLost(_ConnectionLost):
    """A live input could not be connected to, or its connection ended: connect again."""


class OutputLost(_ConnectionLost):
    """The far end of a live output could not be connected to, or is gone: connect again."""


class VerificationFailed(MediaError):
    """The output was written, but is not as expected: exit 70, nothing is renamed."""


def reason_of(error: BaseException) -> str:
    """Return what the system or FFmpeg says about an error, without numbers and file names."""
    return str(getattr(error, "strerror", None) or error)

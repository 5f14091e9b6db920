"""Why a live connection was not made or is lost, told from what FFmpeg raises.

The type of a time-out's error is not reliable (RTSP gives "invalid data", TCP "immediate exit"), so
whether it was one is judged by how long the call took.
"""

from __future__ import annotations

import errno
import socket
from typing import Final
from urllib.parse import urlsplit

import av.error

from ..errors import InputLost, Reason, UnsupportedMedia
from ..redaction import redacted
from ..web import Untrusted, why_untrusted

_NEARLY = 0.9
"""Of the limit: FFmpeg counts its own time-out from a little earlier or later than we do."""

_BY_TYPE: Final[tuple[tuple[type[Exception], Reason], ...]] = (
    (Untrusted, "untrusted"),
    (av.error.HTTPUnauthorizedError, "unauthorised"),
    (av.error.HTTPForbiddenError, "unauthorised"),
    (av.error.HTTPNotFoundError, "not-found"),
    (av.error.ProtocolNotFoundError, "unsupported"),
    (av.error.DemuxerNotFoundError, "unsupported"),
    (av.error.DecoderNotFoundError, "unsupported"),
    (UnsupportedMedia, "unsupported"),  # a playlist that names what it may not
    (av.error.ExitError, "timed-out"),
)
_BY_NUMBER: Final[dict[int, Reason]] = {
    errno.ECONNREFUSED: "refused",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETDOWN: "unreachable",
    errno.EHOSTDOWN: "unreachable",
    errno.EADDRNOTAVAIL: "unreachable",
    errno.ETIMEDOUT: "timed-out",
    errno.ECONNRESET: "ended",
    errno.EPIPE: "ended",
    errno.ENOENT: "not-found",
    errno.ENODEV: "not-found",
    errno.ENXIO: "not-found",
    errno.EACCES: "unauthorised",
    errno.EPERM: "unauthorised",
    errno.EPROTONOSUPPORT: "unsupported",  # RTSP's 461, unsupported transport
}
BY_STATUS: Final[dict[int, Reason]] = {401: "unauthorised", 403: "unauthorised", 404: "not-found"}
"""Of HTTP."""
# What the ffmpeg program says last, and what SRT calls it.
_BY_WORDS: Final[tuple[tuple[str, Reason], ...]] = (
    ("protocol not found", "unsupported"),
    ("connection refused", "refused"),
    ("no such file", "not-found"),
    ("failed to resolve", "unreachable"),
    ("name or service not known", "unreachable"),
    ("no route to host", "unreachable"),
    ("network is unreachable", "unreachable"),
    ("incorrect passphrase", "unauthorised"),
    ("badsecret", "unauthorised"),
    ("password required", "unauthorised"),
    ("connection rejected", "unauthorised"),
    ("401 unauthorized", "unauthorised"),
    ("403 forbidden", "unauthorised"),
    ("404 not found", "not-found"),
    ("dimensions not set", "timed-out"),  # no keyframe in time
    ("timeout", "timed-out"),
    ("timed out", "timed-out"),
    ("connection to srt:", "timed-out"),  # SRT cannot tell a closed port from a silent one
)


def reason_of(error: Exception, *, elapsed_seconds: float, limit_seconds: float) -> Reason:
    """Tell why a call failed.

    Args:
        error: What PyAV or the system raised.
        elapsed_seconds: How long the call took.
        limit_seconds: The time-out that it had.
    """
    for kind, reason in _BY_TYPE:
        if isinstance(error, kind):
            return reason
    if (status := getattr(error, "code", None)) in BY_STATUS:
        return BY_STATUS[status]
    number = error.errno if isinstance(error, OSError) else None
    if number is not None and (known := _BY_NUMBER.get(number)) is not None:
        return known
    return "timed-out" if elapsed_seconds >= _NEARLY * limit_seconds else "failed"


def reason_of_words(text: str) -> Reason:
    """Tell from the last lines of a child process why it failed."""
    lowered = text.lower()
    for words, reason in _BY_WORDS:
        if words in lowered:
            return reason
    return "failed"


def not_connected(
    error: Exception, *, shown: str, url: str, elapsed_seconds: float, limit_seconds: float
) -> InputLost:
    """Say why an address could not be opened; may ask the resolver."""
    reason = reason_of(error, elapsed_seconds=elapsed_seconds, limit_seconds=limit_seconds)
    what = str(getattr(error, "strerror", None) or error)
    if reason == "timed-out":
        what = f"no answer within {elapsed_seconds:.1f} s"
    reason, what = looked_into(reason, what, url)
    return InputLost(reason, redacted(f"{shown}: not connected: {what}"))


def looked_into(reason: Reason, what: str, url: str) -> tuple[Reason, str]:
    """Find out what libavformat calls an input/output error only; may ask the host."""
    if reason != "failed":
        return reason, what
    if fault := why_untrusted(url):
        return "untrusted", fault
    return (reason, what) if resolves(url) else ("unreachable", "no such host")


def cut_off(error: Exception, *, shown: str, elapsed_seconds: float, limit: float) -> InputLost:
    """Say why reading from an open connection failed."""
    reason = reason_of(error, elapsed_seconds=elapsed_seconds, limit_seconds=limit)
    what = str(getattr(error, "strerror", None) or error)
    if reason == "timed-out":
        what = f"nothing came for {elapsed_seconds:.1f} s"
    return InputLost(reason, redacted(f"{shown}: connection lost: {what}"))


def resolves(url: str) -> bool:
    """Tell whether the host of a URL has an address; asks the resolver."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return True  # not a name's fault
    if not host:
        return True
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False
    return True

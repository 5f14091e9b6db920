"""Why a live connection was not made or is lost, by the error that FFmpeg raises.

A timeout is recognised by the duration of the call, since the types of its errors are not reliable
(RTSP raises "invalid data", TCP "immediate exit").
"""

from __future__ import annotations

import errno
import re
import socket
from typing import Final
from urllib.parse import urlsplit

import av.error

from ..errors import InputLost, Reason, UnsupportedMedia
from ..redaction import redacted
from ..web import Untrusted, why_untrusted

_NEARLY = 0.9
"""Share of the limit: FFmpeg's own timeout starts a little earlier or later than ours."""

_Kinds = type[Exception] | tuple[type[Exception], ...]
_BY_TYPE: Final[tuple[tuple[_Kinds, Reason], ...]] = (
    (Untrusted, "untrusted"),
    ((av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError), "unauthorised"),
    (av.error.HTTPNotFoundError, "not-found"),
    ((av.error.ProtocolNotFoundError, av.error.DemuxerNotFoundError), "unsupported"),
    (av.error.DecoderNotFoundError, "unsupported"),
    (UnsupportedMedia, "unsupported"),  # a playlist that names a forbidden URL
    (av.error.ExitError, "timed-out"),
)
_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN)
_BY_NUMBER: Final[tuple[tuple[tuple[int, ...], Reason], ...]] = (
    ((errno.ECONNREFUSED,), "refused"),
    ((*_NO_WAY, errno.EADDRNOTAVAIL), "unreachable"),
    ((errno.ETIMEDOUT,), "timed-out"),
    ((errno.ECONNRESET, errno.EPIPE), "ended"),
    ((errno.ENOENT, errno.ENODEV, errno.ENXIO), "not-found"),
    ((errno.EACCES, errno.EPERM), "unauthorised"),
    ((errno.EPROTONOSUPPORT,), "unsupported"),  # RTSP's 461, unsupported transport
)
BY_STATUS: Final[dict[int, Reason]] = {401: "unauthorised", 403: "unauthorised", 404: "not-found"}
"""Of HTTP."""
_BY_WORDS: Final[tuple[tuple[str, Reason], ...]] = (
    ("protocol not found", "unsupported"),
    ("connection refused", "refused"),
    ("no such file", "not-found"),
    ("failed to resolve|name or service not known|no route to host", "unreachable"),
    ("network is unreachable", "unreachable"),
    ("incorrect passphrase|badsecret|password required|connection rejected", "unauthorised"),
    ("401 unauthorized|403 forbidden", "unauthorised"),
    ("404 not found", "not-found"),
    ("dimensions not set", "timed-out"),  # no keyframe in time
    ("timeout|timed out", "timed-out"),
    ("connection to srt:", "timed-out"),  # for SRT a closed port and a silent one are the same
)
"""Patterns of the last messages of the ffmpeg program and of SRT; the first that fits counts."""


def reason_of(error: Exception, *, elapsed_seconds: float, limit_seconds: float) -> Reason:
    """Return why a call failed with PyAV's or the system's error, by its duration and timeout."""
    for kind, reason in _BY_TYPE:
        if isinstance(error, kind):
            return reason
    if (status := getattr(error, "code", None)) in BY_STATUS:
        return BY_STATUS[status]
    for numbers, reason in _BY_NUMBER:
        if isinstance(error, OSError) and error.errno in numbers:
            return reason
    return "timed-out" if elapsed_seconds >= _NEARLY * limit_seconds else "failed"


def reason_of_words(text: str) -> Reason:
    """Return why a child process failed, by its last lines."""
    for words, reason in _BY_WORDS:
        if re.search(words, text, re.IGNORECASE):
            return reason
    return "failed"


def lost_by(
    error: Exception,
    *,
    display: str,
    elapsed_seconds: float,
    limit_seconds: float,
    url: str | None = None,
) -> InputLost:
    """Make the error of a call that failed, for people at `display`, without secrets.

    The rest is as for `reason_of`. `url` is that of an address that could not be opened, whose host
    may be asked; None: the connection was open.
    """
    reason = reason_of(error, elapsed_seconds=elapsed_seconds, limit_seconds=limit_seconds)
    what = str(getattr(error, "strerror", None) or error)
    if reason == "timed-out":
        waited = "nothing came for" if url is None else "no answer within"
        what = f"{waited} {elapsed_seconds:.1f} s"
    if url is not None:
        reason, what = looked_into(reason, what, url)
    how = "connection lost" if url is None else "not connected"
    return InputLost(reason, redacted(f"{display}: {how}: {what}"))


def looked_into(reason: Reason, what: str, url: str) -> tuple[Reason, str]:
    """Find the reason where libavformat has only an input/output error; may ask the host."""
    if reason != "failed":
        return reason, what
    if fault := why_untrusted(url):
        return "untrusted", fault
    return (reason, what) if resolves(url) else ("unreachable", "no such host")


def resolves(url: str) -> bool:
    """Ask the resolver whether the host of a URL has an address."""
    try:
        if host := urlsplit(url).hostname:
            socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False
    except ValueError:  # the name is not the reason
        pass
    return True

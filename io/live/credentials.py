"""The user and password of a live address: from a file that nobody else can read, into its URL."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from ..errors import SourceMissing, UnsupportedMedia

_MAX_BYTES = 4096
"""Of a credentials file; a password longer than that is a wrong file."""

_KEPT_BY_RTMP = "!$&'()*+,;=:@[]%"
"""FFmpeg's rtmp takes the user information as it stands, the other protocols decode it."""

_WITH_USER = ("rtsp", "rtsps", "rtmp", "rtmps", "rtmpt", "rtmpts", "http", "https")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are at the other end."""

    user: str
    password: str = field(repr=False)


def read_credentials(path: Path) -> Credentials:
    """Read a file of one line ``USER:PASSWORD``; the password may hold anything but a line's end.

    Raises:
        SourceMissing: if it cannot be read, others may read it, or it is of another form.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_MAX_BYTES + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise SourceMissing(f"{path}: the credentials cannot be read: {reason}") from error
    if mode & stat.S_IRWXO:
        raise SourceMissing(f"{path}: mode {mode:04o} lets everybody read it: chmod o= {path}")
    line, _, rest = text.removeprefix("\ufeff").replace("\r\n", "\n").partition("\n")
    user, colon, password = line.partition(":")
    if rest.strip() or not colon or not user or len(content) > _MAX_BYTES:
        got = f"{len(content)} bytes in {text.count(chr(10)) + 1} lines"
        raise SourceMissing(f"{path}: wanted one line USER:PASSWORD, got {got}")
    return Credentials(user, password)


def with_credentials(url: str, credentials: Credentials) -> str:
    """Put credentials into a URL, in place of any that it has, as FFmpeg takes them.

    SRT knows no users: its URL gets the password as passphrase.

    Raises:
        UnsupportedMedia: if the protocol has no place for them.
    """
    scheme, _, rest = url.partition("://")
    protocol = scheme.lower()
    if protocol == "srt":
        joint = "&" if "?" in rest else "?"
        return f"{url}{joint}passphrase={quote(credentials.password, safe='')}"
    if protocol not in _WITH_USER:
        raise UnsupportedMedia(f"{protocol}: knows no user and password; leave the file out")
    safe = _KEPT_BY_RTMP if protocol.startswith("rtmp") else ""
    pair = (quote(part, safe=safe) for part in (credentials.user, credentials.password))
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{':'.join(pair)}@{authority.rpartition('@')[2]}{slash}{path}"

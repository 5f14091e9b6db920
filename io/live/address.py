"""Addresses of live inputs: protocol, demuxer, options, and the credentials in them.

A protocol may open only what belongs to it, whatever a playlist or a server names.
"""

from __future__ import annotations

import http.client
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urljoin, urlsplit

from ..capabilities import has_protocol
from ..decode.access import allowed_for
from ..errors import SourceMissing, UnsupportedMedia
from ..redaction import redacted
from ..web import open_url, tls_options

_MAX_BYTES = 1 << 20
_TIMEOUT_SECONDS = 10.0
_DEEPEST = 3  # a master playlist names media playlists; deeper nesting is illegal


def is_playlist(text: str) -> bool:
    """Return whether an address is by its name an HLS playlist: of http(s), or a file."""
    scheme, found, _ = text.partition("://")
    if not found:
        return text.lower().endswith((".m3u8", ".m3u"))
    if scheme.lower() not in ("http", "https", "file"):
        return False
    return urlsplit(text).path.lower().endswith((".m3u8", ".m3u"))


def hls_is_live(url: str, deepest: int = _DEEPEST) -> bool:
    """Fetch a playlist and return whether it is live; blocks for up to ten seconds.

    It is of http(s), with credentials if needed, or the path of a file; at most `deepest` playlists
    name each other. False also if it is not available, or no playlist.

    Source: RFC 8216, 4.3.3.4 (EXT-X-ENDLIST) and 4.3.4.2 (EXT-X-STREAM-INF).
    """
    try:
        lines = _fetched(url).decode("utf-8", "replace").splitlines()
    except (OSError, ValueError, SourceMissing, http.client.HTTPException):
        return False
    if not lines or not lines[0].removeprefix("\ufeff").startswith("#EXTM3U"):
        return False
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("#EXT-X-STREAM-INF"):
            return _is_named_live(url, after.strip(), deepest - 1)
    ends = ("#EXT-X-ENDLIST", "#EXT-X-PLAYLIST-TYPE:VOD")
    is_video = any(line.startswith("#EXT-X-TARGETDURATION") for line in lines)  # else songs
    return is_video and not any(line.startswith(ends) for line in lines)


def _is_named_live(url: str, reference: str, deepest: int) -> bool:
    """Read what a master playlist names; one from the network may not name a file."""
    named = urljoin(url, reference) if "://" in url else str(Path(url).parent / reference)
    return deepest > 0 and _is_remote(named) == _is_remote(url) and hls_is_live(named, deepest)


def _fetched(url: str) -> bytes:
    if not _is_remote(url):
        with Path(url.removeprefix("file://")).open("rb") as file:
            return file.read(_MAX_BYTES)
    with open_url(url, _TIMEOUT_SECONDS) as response:
        return response.read(_MAX_BYTES)


def _is_remote(url: str) -> bool:
    return "://" in url and not url.startswith("file://")


_CREDENTIALS_MAX_BYTES = 4096
"""Of a credentials file; a longer one is a wrong file."""

_KEPT_BY_RTMP = "!$&'()*+,;=:@[]%"
"""FFmpeg's rtmp uses the user information as it is, the other protocols decode it."""

_WITH_USER = ("rtsp", "rtsps", "rtmp", "rtmps", "rtmpt", "rtmpts", "http", "https")


def read_credentials(path: Path) -> tuple[str, str]:
    """Read user and password, one line ``USER:PASSWORD``; the password may be any text.

    Raises:
        SourceMissing: if it cannot be read, others may read it, or it is of another form.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_CREDENTIALS_MAX_BYTES + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise SourceMissing(f"{path}: the credentials cannot be read: {reason}") from error
    if mode & stat.S_IRWXO:
        raise SourceMissing(f"{path}: mode {mode:04o} lets everybody read it: chmod o= {path}")
    line, _, rest = text.removeprefix("\ufeff").replace("\r\n", "\n").partition("\n")
    user, colon, password = line.partition(":")
    if rest.strip() or not colon or not user or len(content) > _CREDENTIALS_MAX_BYTES:
        got = f"{len(content)} bytes in {text.count(chr(10)) + 1} lines"
        raise SourceMissing(f"{path}: wanted one line USER:PASSWORD, got {got}")
    return user, password


def with_credentials(url: str, path: Path) -> str:
    """Put the credentials of a file into a URL, in place of any that it has, in FFmpeg's form.

    SRT has no users: its URL gets the password as passphrase.

    Raises:
        SourceMissing: as :func:`read_credentials` does.
        UnsupportedMedia: if the protocol has no credentials.
    """
    user, password = read_credentials(path)
    scheme, _, rest = url.partition("://")
    protocol = scheme.lower()
    if protocol == "srt":
        joint = "&" if "?" in rest else "?"
        return f"{url}{joint}passphrase={quote(password, safe='')}"
    if protocol not in _WITH_USER:
        raise UnsupportedMedia(f"{protocol}: has no user and password; remove the credentials file")
    safe = _KEPT_BY_RTMP if protocol.startswith("rtmp") else ""
    pair = f"{quote(user, safe=safe)}:{quote(password, safe=safe)}"
    authority, slash, place = rest.partition("/")
    return f"{scheme}://{pair}@{authority.rpartition('@')[2]}{slash}{place}"


Transport = Literal["tcp", "udp", "auto"]

READ_SECONDS = 5.0
"""Longest wait for a packet before the connection counts as lost; a stop may take as long."""

HLS_READ_SECONDS = 30.0
"""The same for HLS, whose segments come at once: three of the usual lengths."""

_DEVICE = re.compile(r"/dev/video\d+$")
_RTSP = ("rtsp", "rtsps")

_PROTOCOLS = {
    "rtsp": "rtsp,rtp,udp,tcp,http,httpproxy,crypto",
    "rtsps": "rtsps,rtsp,rtp,srtp,udp,tcp,tls,crypto",
    "rtmp": "rtmp,tcp",
    "rtmps": "rtmps,rtmp,tls,tcp",
    "rtmpt": "rtmpt,ffrtmphttp,http,tcp",
    "rtmpts": "rtmpts,ffrtmphttp,https,tls,tcp",
    "udp": "udp",
    "rtp": "rtp,udp",
    "tcp": "tcp",
    "srt": "srt",
}
"""What FFmpeg may open for an address of a protocol."""

_FORMATS = {"udp": "mpegts", "rtmp": "flv", "rtmps": "flv", "v4l2": "v4l2"}

_QUICK = {"analyzeduration": "3000000", "fpsprobesize": "0"}
"""Microseconds of packets that FFmpeg may probe; none for the rate, which we determine."""

_LIVE = {*_PROTOCOLS, "v4l2"}


class AddressMemory:
    """What one connection of an address has learned for the next."""

    def __init__(self) -> None:
        self.transport: Literal["tcp", "udp"] | None = None
        """The one that has worked, or is the only one that can."""
        self.look_seconds = 2.0
        """How long the ffmpeg program has to probe until it has seen a keyframe."""


@dataclass(frozen=True, slots=True)
class LiveAddress:
    """Where a live input comes from, and how FFmpeg opens it."""

    url: str = field(repr=False)
    """With user and password, percent-encoded; must not be shown."""
    display: str
    """The same without secrets, for people."""
    protocol: str
    """``rtsp``, ``http``, ``file``, ``v4l2``, …"""
    format: str | None
    """FFmpeg's name of the demuxer; None: by the data."""
    options: dict[str, str]
    """Of the demuxer and its protocols."""
    needs_ffmpeg: bool
    """Whether PyAV's libraries lack the protocol, so that the ffmpeg program must read it."""
    connect_seconds: float
    """Longest time to connect."""
    read_seconds: float
    """Longest wait for each packet."""
    transport: Transport | None = None
    """Of RTSP; None for other protocols."""
    remembered: AddressMemory = field(default_factory=AddressMemory, repr=False, compare=False)


def is_live(text: str) -> bool:
    """Return whether an input is live: by its protocol, device or playlist.

    A playlist is fetched; one that is not available is not live, so that opening it as a file
    raises the error.
    """
    return _protocol_of(text) in _LIVE or (is_playlist(text) and hls_is_live(text))


def find_address(
    text: str,
    *,
    transport: Transport = "tcp",
    credentials_file: Path | None = None,
    connect_seconds: float = 10.0,
    read_seconds: float | None = None,
    remembered: AddressMemory | None = None,
) -> LiveAddress:
    """Find out how to read a live input.

    Args:
        text: A URL, ``/dev/video0``, ``v4l2:/dev/video0``, or the path of a growing playlist.
        transport: Of RTSP; ``auto`` tries UDP first and remembers what worked.
        credentials_file: Holds one line USER:PASSWORD, which go into the URL.
        connect_seconds: Longest time to connect.
        read_seconds: Longest wait for each packet; None: by the protocol.
        remembered: That of the previous connection.

    Raises:
        SourceMissing: if the credentials file cannot be read, or everybody may read it.
        UnsupportedMedia: if the protocol has no credentials, or is none of a live input.
    """
    protocol, url = _protocol_of(text), text
    if protocol == "v4l2":
        url = text.removeprefix("v4l2:").removeprefix("//")
    elif protocol == "file" and not text.startswith("file:"):
        url = f"file:{text}"
    if credentials_file is not None:
        url = with_credentials(url, credentials_file)
    hls = is_playlist(text)
    seconds = read_seconds or (HLS_READ_SECONDS if hls else READ_SECONDS)
    return LiveAddress(
        url=url,
        display=redacted(text),
        protocol=protocol,
        format="hls" if hls else _FORMATS.get(protocol),
        options=_options_of(protocol, url, seconds, hls=hls),
        needs_ffmpeg=protocol == "srt" and not has_protocol("srt"),
        connect_seconds=connect_seconds,
        read_seconds=seconds,
        transport=transport if protocol in _RTSP else None,
        remembered=remembered or AddressMemory(),
    )


def _protocol_of(text: str) -> str:
    if _DEVICE.match(text) or text.startswith("v4l2:"):
        return "v4l2"
    scheme, found, _ = text.partition("://")
    return scheme.lower() if found else "file"


def _options_of(protocol: str, url: str, read_seconds: float, *, hls: bool) -> dict[str, str]:
    """Return the options; FFmpeg's own timeouts are set in addition to PyAV's."""
    microseconds = str(round(read_seconds * 1e6))
    # LiveClock unwraps timestamps: libavformat unwraps only the first time
    options = {"correct_ts_overflow": "0", **_QUICK}
    if protocol == "v4l2":
        return options
    allowed = allowed_for(url)
    if protocol in _PROTOCOLS:
        allowed = {"protocol_whitelist": _PROTOCOLS[protocol]}
    if not allowed:
        raise UnsupportedMedia(f"{protocol}: is no protocol of a live input")
    options |= {**allowed, **tls_options(url), "rw_timeout": microseconds}
    if protocol in _RTSP:
        # the SDP describes the streams; longer probing would only delay them
        options |= {"timeout": microseconds, "allowed_media_types": "video+audio"}
        options["probesize"] = "2000"
    elif protocol in ("udp", "tcp", "rtp"):
        options["timeout"] = microseconds
    if protocol in ("udp", "rtp"):
        # a burst waits in our buffer; a larger one is lost, but not the connection
        options |= {"fifo_size": "57344", "overrun_nonfatal": "1"}
    elif protocol.startswith("rtmp"):
        options["rtmp_live"] = "live"
    elif hls:
        options["live_start_index"] = "-2"
    return options

"""What a live input's address means: its protocol, demuxer and options, with the secrets in it.

Each protocol may open what belongs to it and nothing else, whatever a playlist or a server says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..capabilities import has_protocol
from ..decode.playlists import check_folder, protocols_of
from ..errors import UnsupportedMedia
from ..redaction import redacted
from .credentials import read_credentials, with_credentials
from .playlist import hls_is_live, is_playlist

Transport = Literal["tcp", "udp", "auto"]

READ_SECONDS = 5.0
"""Longest wait for a packet before the connection is given up; also how long a stop may take."""

HLS_READ_SECONDS = 30.0
"""The same where a segment comes as a whole: three of the usual lengths."""

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

_QUICK = {"analyzeduration": "3000000", "fpsprobesize": "0"}
"""Microseconds of packets that FFmpeg may look at, and none for the rate, which is ours to find."""

_LIVE = {*_PROTOCOLS, "v4l2"}


class Remembered:
    """What one connection of an address has found out for the next."""

    def __init__(self) -> None:
        self.transport: Literal["tcp", "udp"] | None = None
        """Which one has worked, or is the only one that can."""
        self.look_seconds = 2.0
        """How long a child process has to look at packets until it has seen a keyframe."""


@dataclass(frozen=True, slots=True)
class LiveAddress:
    """Where a live input comes from, and how FFmpeg is to open it."""

    url: str = field(repr=False)
    """With user and password, percent-encoded: never to be shown."""
    shown: str
    """The same for people."""
    protocol: str
    """``rtsp``, ``http``, ``file``, ``v4l2``, …"""
    format: str | None
    """FFmpeg's name of the demuxer; None where the data tell."""
    options: dict[str, str]
    """Of the demuxer and its protocols."""
    needs_ffmpeg: bool
    """Whether the protocol is missing here, so that a child process has to read it."""
    connect_seconds: float
    """Longest wait until a connection stands."""
    read_seconds: float
    """Longest wait for each packet."""
    transport: Transport | None = None
    """Of RTSP; None for all others."""
    remembered: Remembered = field(default_factory=Remembered, repr=False, compare=False)


def is_live(text: str) -> bool:
    """Tell whether an input is a live one: by its protocol or device, or by its playlist.

    A playlist is fetched and looked into; one that cannot be had is not live, so that opening it
    as a file says what is wrong.
    """
    return _protocol_of(text) in _LIVE or (is_playlist(text) and hls_is_live(text))


def find_address(
    text: str,
    *,
    transport: Transport = "tcp",
    credentials_file: Path | None = None,
    connect_seconds: float = 10.0,
    read_seconds: float | None = None,
    remembered: Remembered | None = None,
) -> LiveAddress:
    """Make out how to read a live input.

    Args:
        text: A URL, ``/dev/video0``, ``v4l2:/dev/video0``, or the path of a growing playlist.
        transport: Of RTSP; ``auto`` tries UDP first and remembers what worked.
        credentials_file: Holds one line USER:PASSWORD, which go into the URL.
        connect_seconds: Longest wait until a connection stands.
        read_seconds: Longest wait for each packet; by the protocol where None.
        remembered: Of the address before, for one that is made out anew for each connection.

    Raises:
        SourceMissing: if the file of credentials cannot be read, or everybody may read it.
        UnsupportedMedia: if the protocol knows no credentials, or a local playlist names files
            outside of its folder.
    """
    protocol = _protocol_of(text)
    url = _url_of(text, protocol)
    if credentials_file is not None:
        url = with_credentials(url, read_credentials(credentials_file))
    if protocol == "file":
        check_folder(Path(url.removeprefix("file:")))
    hls = is_playlist(text)
    seconds = read_seconds or (HLS_READ_SECONDS if hls else READ_SECONDS)
    return LiveAddress(
        url=url,
        shown=redacted(text),
        protocol=protocol,
        format=_format_of(protocol, hls=hls),
        options=_options_of(protocol, url, seconds, hls=hls),
        needs_ffmpeg=protocol == "srt" and not has_protocol("srt"),
        connect_seconds=connect_seconds,
        read_seconds=seconds,
        transport=transport if protocol in _RTSP else None,
        remembered=remembered or Remembered(),
    )


def _protocol_of(text: str) -> str:
    if _DEVICE.match(text) or text.startswith("v4l2:"):
        return "v4l2"
    scheme, found, _ = text.partition("://")
    return scheme.lower() if found else "file"


def _url_of(text: str, protocol: str) -> str:
    if protocol == "v4l2":
        return text.removeprefix("v4l2:").removeprefix("//")
    return f"file:{text}" if protocol == "file" and not text.startswith("file:") else text


def _format_of(protocol: str, *, hls: bool) -> str | None:
    if hls:
        return "hls"
    return {"udp": "mpegts", "rtmp": "flv", "rtmps": "flv", "v4l2": "v4l2"}.get(protocol)


def _options_of(protocol: str, url: str, read_seconds: float, *, hls: bool) -> dict[str, str]:
    """Both kinds of FFmpeg's own timeouts come on top of PyAV's, which judges by the clock."""
    microseconds = str(round(read_seconds * 1e6))
    # a wrap is the clock's to see: libavformat mends the first one and no other
    options = {"correct_ts_overflow": "0", **_QUICK}
    if protocol == "v4l2":
        return options
    allowed = _PROTOCOLS.get(protocol) or protocols_of(url)
    if allowed is None:
        raise UnsupportedMedia(f"{protocol}: is no protocol of a live input")
    options |= {"protocol_whitelist": allowed, "rw_timeout": microseconds}
    if protocol in _RTSP:
        # the SDP tells what there is; a longer look at the packets would only hold them up
        options |= {"timeout": microseconds, "allowed_media_types": "video+audio"}
        options["probesize"] = "2000"
    elif protocol in ("udp", "tcp", "rtp"):
        options["timeout"] = microseconds
    if protocol in ("udp", "rtp"):
        # a burst waits in our buffer; one that is larger is lost, not the connection
        options |= {"fifo_size": "57344", "overrun_nonfatal": "1"}
    elif protocol.startswith("rtmp"):
        options["rtmp_live"] = "live"
    elif hls:
        options["live_start_index"] = "-2"
    return options

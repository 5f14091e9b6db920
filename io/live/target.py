"""What a live output is: a publication, a playlist, one file, or a sequence of files.

Nothing is connected here. Options are FFmpeg's; those that it accepts only in the URL go there.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from ..capabilities import has_container, has_protocol
from ..encode.containers import container_of
from ..errors import SinkRefused, UnsupportedMedia
from ..files import check_target, is_special
from ..redaction import redacted_target
from ..web import UNVERIFIED, is_insecure
from .address import with_credentials
from .archive import NamePattern, free_path, is_name_pattern

Kind = Literal["url", "hls", "file", "rolling"]

IO_TIMEOUT_SECONDS = 5
"""Longest wait of a socket, where FFmpeg has an option for it; the publisher covers the rest."""
SEGMENT_SECONDS = 2
"""Of HLS; keyframes are this far apart."""

UDP_PACKET_BYTES = 1316  # seven packets of MPEG-TS, below an Ethernet frame
_SCHEMES = {
    "rtsp": "rtsp", "rtsps": "rtsp", "rtmp": "flv", "rtmps": "flv", "srt": "mpegts",
    "udp": "mpegts", "tcp": "mpegts", "rtp": "rtp_mpegts", "whip": "whip", "whips": "whip",
    "http": "hls", "https": "hls",
}  # fmt: skip
_CHOICE = ("udp", "tcp", "srt")
"""Schemes that carry any container."""
_RECORDED = ("mp4", "mov", "matroska", "webm", "mpegts", "flv")
"""Containers that can be read up to where the power was cut."""
_PLAYLISTS = (".m3u8", ".m3u")
CARRIED = {"hls": "mpegts", "rtp_mpegts": "mpegts"}
"""Muxers that carry another container."""
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True, slots=True)
class LiveTarget:
    """Where a live output goes. A plain value, sent to the process that writes it."""

    kind: Kind
    url: str = field(repr=False)
    """With credentials if it has any; the path of a file, or the pattern of its names."""
    display: str
    """The same for people, without secrets."""
    format: str
    """FFmpeg's name of the muxer."""
    options: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    """Of the muxer and its protocol."""
    needs_ffmpeg: bool = False
    """Whether the ffmpeg program must send it, since PyAV's libraries cannot."""
    segment_seconds: float = 600.0
    """Length of rolling files; the next keyframe begins another one."""
    keep_days: float | None = None
    keep_gibibytes: float | None = None
    """Age and size beyond which rolling files are removed; None: never."""
    overwrite: bool = False
    """Whether an existing file may be replaced."""
    tls_insecure: bool = False
    """Whether any certificate is trusted."""
    numbered: bool = False
    """Whether a file may get a number if its name is taken."""

    @property
    def is_file(self) -> bool:
        """Whether it is written to files that are verified and then renamed."""
        return self.kind in ("file", "rolling")


def is_live_target(text: str) -> bool:
    """Return whether an output is live for any input: a URL, or an HLS playlist."""
    scheme = _URL.match(text)
    if scheme:
        return scheme[1].lower() in _SCHEMES
    return Path(text).suffix.lower() in _PLAYLISTS


def find_live_target(
    text: str,
    *,
    format: str | None = None,
    segment_seconds: float = 600.0,
    credentials_file: Path | None = None,
    overwrite: bool = False,
    numbered: bool = False,
) -> LiveTarget:
    """Find out what a live output is.

    Args:
        text: a URL, an ``.m3u8``, a file name, or one with fields of strftime.
        format: container, if the name does not imply it, or that of udp, tcp and srt.
        segment_seconds: length of rolling files.
        credentials_file: holds one line USER:PASSWORD, which go into the URL.
        overwrite: whether an existing file may be replaced.
        numbered: whether a file gets ``-1``, ``-2`` and so on before its extension if its name
            is taken, as rolling files do.

    Raises:
        SinkRefused: if it is known without connecting that it cannot be written.
        SourceMissing: if its credentials cannot be read.
    """
    scheme = _URL.match(text)
    if scheme is None:
        if credentials_file is not None:
            raise SinkRefused(f"{text}: a file takes no credentials; remove the credentials file")
        return _local(text, format, segment_seconds, overwrite=overwrite, numbered=numbered)
    name = scheme[1].lower()
    if name not in _SCHEMES:
        known = ", ".join(f"{one}://" for one in _SCHEMES)
        raise SinkRefused(f"cannot publish to {redacted_target(text)}: wanted {known} or a file")
    target = _published(text, name, format)
    if credentials_file is None:
        return target
    try:
        return replace(target, url=with_credentials(target.url, credentials_file))
    except UnsupportedMedia as error:
        raise SinkRefused(str(error)) from error


def _published(text: str, scheme: str, asked: str | None) -> LiveTarget:
    try:
        parts = urlsplit(text)
        has_host = bool(parts.hostname) and (parts.port is None or True)
    except ValueError as error:  # a port that is no number, an address with one bracket
        raise SinkRefused(f"not a URL: {redacted_target(text)}: {error}") from error
    if not has_host:
        raise SinkRefused(f"no host in {redacted_target(text)}")
    muxer = _muxer(text, scheme, asked)
    if muxer == "whip" and scheme != "http" and not is_insecure():
        raise SinkRefused(UNVERIFIED.format(redacted_target(text)))
    needs_ffmpeg = scheme == "srt" and not has_protocol("srt")
    if needs_ffmpeg and shutil.which("ffmpeg") is None:
        why = "PyAV's libraries have no SRT, and there is no ffmpeg program"
        raise SinkRefused(f"{redacted_target(text)}: {why}")
    return LiveTarget(
        kind="hls" if muxer == "hls" else "url",
        url=_url(text, scheme),
        display=redacted_target(text),
        format=muxer,
        options=_options(scheme, muxer),
        needs_ffmpeg=needs_ffmpeg,
        tls_insecure=is_insecure(),
    )


def _muxer(text: str, scheme: str, asked: str | None) -> str:
    name = _SCHEMES[scheme]
    path = urlsplit(text).path
    if scheme in ("http", "https"):
        if asked == "whip" or (asked is None and path.endswith("/whip")):
            name = "whip"
        elif not path.lower().endswith(_PLAYLISTS):
            raise SinkRefused(f"{redacted_target(text)}: wanted an .m3u8 for HLS, or --format whip")
    if asked not in (None, name):
        if scheme not in _CHOICE:
            raise SinkRefused(f"{scheme}:// carries {name}, not {asked}: {redacted_target(text)}")
        name = container_of("stream", asked).name
    if not has_container(name, "w"):
        raise SinkRefused(f"{redacted_target(text)}: this build cannot write {name}")
    return name


def _url(text: str, scheme: str) -> str:
    """Return the URL for FFmpeg, with timeouts and packet sizes."""
    if scheme in ("whip", "whips"):
        return text.replace("whip", "http", 1)
    if scheme == "tcp":
        return _with_query(text, "timeout", str(IO_TIMEOUT_SECONDS * 1_000_000))
    if scheme == "udp":
        return _with_query(text, "pkt_size", str(UDP_PACKET_BYTES))
    return text


def _with_query(url: str, name: str, value: str) -> str:
    """Add a parameter to a URL, unless the user has set it."""
    query = urlsplit(url).query
    if any(part.split("=")[0] == name for part in query.split("&")):
        return url
    return f"{url}{'&' if query else '?'}{name}={value}"


_HLS = {
    "hls_time": str(SEGMENT_SECONDS),
    "hls_list_size": "6",
    "hls_flags": "delete_segments+append_list+independent_segments",
}


def _options(scheme: str, muxer: str) -> dict[str, str]:
    if muxer == "rtsp":
        return {"rtsp_transport": "tcp"}
    if muxer == "flv" and scheme in ("rtmp", "rtmps"):
        return {"flvflags": "no_duration_filesize"}
    return _HLS | {"method": "PUT"} if muxer == "hls" else {}


def _local(
    text: str, asked: str | None, segment_seconds: float, *, overwrite: bool, numbered: bool
) -> LiveTarget:
    path = Path(os.path.abspath(text))
    if asked == "hls" or (asked is None and path.suffix.lower() in _PLAYLISTS):
        check_target(path, overwrite=True)
        segments = path.with_name(f"{path.stem.replace('%', '%%')}-%08d.ts")
        local = {
            "hls_flags": _HLS["hls_flags"] + "+temp_file",
            "hls_segment_filename": str(segments),
        }
        return LiveTarget("hls", str(path), text, "hls", _HLS | local)
    container = container_of(path, asked)
    if container.name not in _RECORDED:
        why = f"cannot be recorded live, wanted {', '.join(_RECORDED)}"
        raise SinkRefused(f"{text}: {container.name} {why}")
    if is_name_pattern(path):
        NamePattern(path).check()
        kind: Kind = "rolling"
    else:
        kind = "file"
        if numbered and not overwrite and not is_special(path):
            path = free_path(path)
        check_target(path, overwrite=overwrite)
        if container.needs_seek and is_special(path):
            raise SinkRefused(f"{container.name} cannot be written to {path}, which cannot seek")
    return LiveTarget(
        kind=kind,
        url=str(path),
        display=text,
        format=container.name,
        options=recording_options(container.name),
        segment_seconds=segment_seconds,
        overwrite=overwrite,
        numbered=numbered,
    )


def recording_options(container: str) -> dict[str, str]:
    """Return the options that make a file readable up to where its writer was stopped."""
    if container in ("mp4", "mov"):
        # a fragment for every keyframe; a plain file with one index when it is closed
        return {"movflags": "hybrid_fragmented+frag_keyframe", "movie_timescale": "90000"}
    if container in ("matroska", "webm"):
        return {"cluster_time_limit": "1000"}  # milliseconds
    return {}

"""HLS playlists: whether one is live, which only what stands in it tells.

Source: RFC 8216, 4.3.3.4 (EXT-X-ENDLIST) and 4.3.4.2 (EXT-X-STREAM-INF).
"""

from __future__ import annotations

import base64
import http.client
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

_MAX_BYTES = 1 << 20
_TIMEOUT_SECONDS = 10.0
_DEEPEST = 3  # playlists in playlists: a master holds media playlists, nothing more is legal


def is_playlist(text: str) -> bool:
    """Tell by its name whether an address is an HLS playlist: of http(s), or a file."""
    scheme, found, _ = text.partition("://")
    if not found:
        return text.lower().endswith((".m3u8", ".m3u"))
    if scheme.lower() not in ("http", "https", "file"):
        return False
    return urlsplit(text).path.lower().endswith((".m3u8", ".m3u"))


def hls_is_live(url: str) -> bool:
    """Fetch a playlist and tell whether it will go on; blocks for up to ten seconds.

    Args:
        url: Of http(s), with credentials where they are needed, or the path of a file.

    Returns:
        False also for one that cannot be had, or is no playlist.
    """
    return _is_live(url, _DEEPEST)


def _is_live(url: str, deepest: int) -> bool:
    try:
        lines = _fetched(url).decode("utf-8", "replace").splitlines()
    except (OSError, ValueError, http.client.HTTPException):
        return False
    if not lines or not lines[0].removeprefix("\ufeff").startswith("#EXTM3U"):
        return False
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("#EXT-X-STREAM-INF"):
            return _is_named_live(url, after.strip(), deepest - 1)
    if not any(line.startswith("#EXT-X-TARGETDURATION") for line in lines):
        return False  # a list of songs
    return not any(
        line.startswith(("#EXT-X-ENDLIST", "#EXT-X-PLAYLIST-TYPE:VOD")) for line in lines
    )


def _is_named_live(url: str, reference: str, deepest: int) -> bool:
    """Look into what a master playlist names; one of the network leads to no file."""
    named = _joined(url, reference)
    return deepest > 0 and _is_remote(named) == _is_remote(url) and _is_live(named, deepest)


def _fetched(url: str) -> bytes:
    if not _is_remote(url):
        with Path(url.removeprefix("file://")).open("rb") as file:
            return file.read(_MAX_BYTES)
    # only http(s): an opener made by hand knows no file, ftp or data
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPRedirectHandler(),
    ):
        opener.add_handler(handler)
    with opener.open(_request(url), timeout=_TIMEOUT_SECONDS) as response:
        return response.read(_MAX_BYTES)


def _request(url: str) -> urllib.request.Request:
    user, at, _ = urlsplit(url).netloc.rpartition("@")
    if not at:
        return urllib.request.Request(url)
    token = base64.b64encode(unquote(user).encode()).decode()
    bare = url.replace(f"{user}@", "", 1)
    return urllib.request.Request(bare, headers={"Authorization": f"Basic {token}"})


def _is_remote(url: str) -> bool:
    return "://" in url and not url.startswith("file://")


def _joined(url: str, reference: str) -> str:
    if "://" in url:
        return urljoin(url, reference)
    return str(Path(url).parent / reference)

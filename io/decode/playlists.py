"""What a source may open beyond what the user named: nothing outside of it.

A playlist is a file that names others. Whoever may hand us a file shall not make us fetch from
the network, or read the machine's other files, by one that looks like a video.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import UnsupportedMedia

MAGIC = b"#EXTM3U"
"""The first bytes of an HLS playlist (RFC 8216, 4.3.1.1)."""

LOCAL = "file,crypto,data"
"""FFmpeg protocols that a local file may use."""

_EMBEDDED = "data"
"""What a byte stream may use: only what it holds itself."""

_PROTOCOLS = {
    "file": LOCAL,
    "http": "http,https,httpproxy,tls,tcp,crypto,data",
    "https": "http,https,httpproxy,tls,tcp,crypto,data",
}
_MAX_BYTES = 16 << 20
_URI = re.compile(r'URI=(?:"((?:\\.|[^"\\])*)"|([^",\s]+))')  # as FFmpeg's ff_parse_key_value
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def protocols_of(url: str) -> str | None:
    """Name what may be opened for a URL, as FFmpeg's `protocol_whitelist`; None: its default."""
    scheme, found, _ = url.partition(":")
    return _PROTOCOLS.get(scheme.lower()) if found else LOCAL


def allowed_for(file: object) -> dict[str, str]:
    """Give the option that keeps FFmpeg to what belongs to an input: a URL, path or byte stream."""
    if not isinstance(file, str):
        return {"protocol_whitelist": _EMBEDDED}
    allowed = protocols_of(file)
    return {} if allowed is None else {"protocol_whitelist": allowed}


def check_url(url: str) -> None:
    """Look likewise at the file that a URL names, if it names one.

    Raises:
        UnsupportedMedia: as `check_folder`.
    """
    if url.lower().startswith("file://"):
        check_folder(Path(url[len("file://") :]))


def check_folder(path: Path) -> None:
    """Look whether a local playlist, and those it names, keep to the playlist's folder.

    Files that are no playlists pass.

    Raises:
        UnsupportedMedia: if it names something outside.
    """
    folder = path.parent.resolve()
    waiting, seen = [path], set[Path]()
    while waiting:
        playlist = waiting.pop()
        seen.add(playlist)
        for reference in _references(playlist):
            named = _inside(playlist, reference, folder)
            waiting += [other for other in named if other not in seen and other not in waiting]


def _references(path: Path) -> list[str]:
    """List what a playlist names; nothing for any other file, or one that is not there (yet)."""
    try:
        with path.open("rb") as file:
            # FFmpeg looks for it at the very beginning, also behind a byte order mark
            if not file.read(16).removeprefix(b"\xef\xbb\xbf").startswith(MAGIC):
                return []
            file.seek(0)
            text = file.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return []
    named = [quoted or bare for quoted, bare in _URI.findall(text)]
    named = [re.sub(r"\\(.)", r"\1", name) for name in named]
    return named + [line for line in text.splitlines() if line.strip() and line[0] != "#"]


def _inside(playlist: Path, reference: str, folder: Path) -> list[Path]:
    """Give the files that FFmpeg may take a reference for: with its query, and without."""
    if reference.startswith("data:"):
        return []
    names = {reference, reference.partition("?")[0]}
    targets = [(playlist.parent / name).resolve() for name in sorted(names)]
    outside = [target for target in targets if not target.is_relative_to(folder)]
    if _SCHEME.match(reference) or outside:
        raise UnsupportedMedia(
            f"{playlist}: the playlist names {reference!r}, wanted only files in its folder"
        )
    return targets

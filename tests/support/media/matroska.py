"""Matroska files with elements that no muxer here writes."""

from __future__ import annotations

from pathlib import Path

from upframe.io.rawvideo.matroska import element, elements_of

_EBML, _SEGMENT, _SEEK_HEAD, _VOID, _CRC = 0x1A45DFA3, 0x18538067, 0x114D9B74, 0xEC, 0xBF
_TRACKS, _TRACK_ENTRY, _VIDEO = 0x1654AE6B, 0xAE, 0xE0


def add_to_track(path: Path, elements: bytes, *, to_video: bool = False) -> Path:
    """Add elements to the first track of a small file, or to its video settings."""
    (_, ebml), (_, segment) = elements_of(path.read_bytes())
    parts = b""
    for ident, content in elements_of(segment):
        if ident == _SEEK_HEAD:  # its places would be wrong
            parts += element(_VOID, content)
        elif ident == _TRACKS:
            parts += element(_TRACKS, _tracks(content, elements, to_video))
        else:
            parts += element(ident, content)
    path.write_bytes(element(_EBML, ebml) + element(_SEGMENT, parts))
    return path


def _tracks(content: bytes, elements: bytes, to_video: bool) -> bytes:
    tracks = [track for ident, track in elements_of(content) if ident == _TRACK_ENTRY]
    if not to_video:
        tracks[0] += elements
    else:
        children = [
            (i, body + elements if i == _VIDEO else body) for i, body in elements_of(tracks[0])
        ]
        tracks[0] = b"".join(element(ident, body) for ident, body in children if ident != _CRC)
    return b"".join(element(_TRACK_ENTRY, track) for track in tracks)

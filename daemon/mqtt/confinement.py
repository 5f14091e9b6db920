"""What a request may touch: files below the roots, URLs of the allowed schemes, nothing else.

Links are resolved before the comparison, and the resolved name is what is used from there on: a
link that is bent later changes nothing. Encoder options and containers that would write further
files by names of their own are refused as well.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ...io.redaction import redacted

if TYPE_CHECKING:
    from ...filters.options import FilterOptions
    from ..jobs.model import Work
    from ..service.config import JobsConfig

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NUMBERS = re.compile(r"%0?\d*d")
_WILDCARD = re.compile(r"[*?\[]")
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+)?", re.ASCII)
_PATH_MAX_BYTES = 4096

_CONTAINERS = frozenset(
    {
        "3gp", "apng", "asf", "avi", "flv", "gif", "ipod", "m4v", "matroska", "mkv", "mov", "mp4",
        "mpeg", "mpegts", "mxf", "nut", "qt", "ts", "vob", "webm",
    }
)  # fmt: skip
"""Muxers that write the one file they are told to; others (tee, segment, hls, …) name their own."""

_FILE_OPTIONS = re.compile(
    r"(^|[:=,])\s*-*(stats|passlogfile|qpfile|cqmfile|tcfile-?(in|out)|dump-yuv|log-?file\w*|csv"
    r"|recon|zone-?file|scaling-list|lambda-file|analysis-(save|load|reuse-file)|dhdr10-info"
    r"|dolby-vision-rpu|stat-file|input-stat-file|fgs-table|vmaf-model-path|output|o)\s*(=|:|$)",
    re.IGNORECASE,
)
_MODEL_PATHS = ("frame_interpolation_model_path", "upscaling_model_path")


class Refused(Exception):
    """A request names something that it may not touch."""


def confined(path_or_url: str, jobs: JobsConfig) -> str:
    """Check the source or sink of a request, and tell by which name to use it.

    Blocks: links are looked up on the file system, which may be a network's.

    Args:
        path_or_url: an absolute path, a numbered sequence, a glob, a ``file://`` or another URL.
        jobs: the roots and schemes.

    Returns:
        A URL as it is; a path with all links resolved, which is below one of the roots.

    Raises:
        Refused: if it leads elsewhere, also by ``..`` or links, or is no absolute path or URL.
    """
    named = redacted(path_or_url)
    if not path_or_url or _CONTROL.search(path_or_url):
        raise Refused(f"{named!r}: must be a path or URL without control characters")
    match = _SCHEME.match(path_or_url)
    scheme = match[1].lower() if match else "file"
    allowed = tuple(known.lower() for known in jobs.allowed_schemes)
    if scheme not in allowed:
        raise Refused(f"{named}: {scheme} is not among the allowed schemes {', '.join(allowed)}")
    if match is None:
        return _confined_path(path_or_url, jobs)
    if scheme == "file":
        return _confined_path(_path_of_url(path_or_url), jobs)
    return scheme + path_or_url[match.end(1) :]


def confined_work(work: Work, jobs: JobsConfig) -> Work:
    """Check all that a request names, and return the work with the names to use.

    Raises:
        Refused: as :func:`confined` does; also for weights outside of the roots, and for encoder
            options or a container that would write further files.
    """
    _check_container(work.container)
    _check_encoder_options(work.encoder.options)
    return work.model_copy(
        update={
            "source": confined(work.source, jobs),
            "sink": confined(work.sink, jobs),
            "filters": _confined_weights(work.filters, jobs),
        }
    )


def _path_of_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise Refused(f"{redacted(url)}: must be file:///PATH, without a host")
    try:
        path = unquote(parts.path, errors="strict")
    except UnicodeDecodeError as error:
        raise Refused(f"{url}: must be UTF-8 in its escapes") from error
    if _CONTROL.search(path):
        raise Refused(f"{url}: must be a path without control characters")
    return path


def _confined_path(path: str, jobs: JobsConfig) -> str:
    if not jobs.roots:
        raise Refused(f"{path}: no files by requests: [jobs] roots is empty")
    if not os.path.isabs(path) or "://" in path:
        raise Refused(f"{path!r}: must be an absolute path or a URL")
    try:
        if len(os.fsencode(path)) > _PATH_MAX_BYTES:
            raise Refused(f"path of more than {_PATH_MAX_BYTES} bytes: {path[:80]}…")
        resolved = os.path.realpath(path)
        roots = [os.path.realpath(root) for root in jobs.roots]
        _check_below(path, resolved, roots)
        if not os.path.lexists(path) and (_NUMBERS.search(path) or _WILDCARD.search(path)):
            _check_sequence(path, resolved, roots)
    except (OSError, ValueError) as error:  # too long a name, a loop of links, no UTF-8
        raise Refused(f"{path!r}: cannot be resolved: {error}") from error
    return resolved


def _check_below(path: str, resolved: str, roots: Iterable[str]) -> None:
    if not any(os.path.commonpath((resolved, root)) == root for root in roots):
        raise Refused(f"{path}: leads outside of the folders that requests may name")


def _check_sequence(path: str, resolved: str, roots: list[str]) -> None:
    """Check every picture: a pattern would be matched later, and follow links that it meets."""
    folder, name = os.path.split(resolved)
    if _NUMBERS.search(folder) or _WILDCARD.search(folder):
        raise Refused(f"{path}: numbers and wildcards may stand in the file's name only")
    numbered = _NUMBERS.search(name) is not None
    pattern = "*".join(map(glob.escape, _NUMBERS.split(name))) if numbered else name
    if not os.path.isdir(folder):
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink() and fnmatch.fnmatch(entry.name, pattern):
                _check_below(entry.path, os.path.realpath(entry.path), roots)


def _check_container(container: str | None) -> None:
    if container is not None and container not in _CONTAINERS:
        raise Refused(
            f"container {container!r}: requests may ask for {', '.join(sorted(_CONTAINERS))}"
        )


def _check_encoder_options(options: dict[str, str]) -> None:
    """Refuse what makes an encoder read or write files by names that nobody looked at."""
    for key, value in options.items():
        if _FILE_OPTIONS.search(key) or _FILE_OPTIONS.search(value):
            raise Refused(f"encoder option {key!r}: names a file, which requests may not")
        if re.search(r"[/\\](?!\d)", value):
            raise Refused(f"encoder option {key!r}: {value!r} looks like a path")


def _confined_weights(filters: FilterOptions, jobs: JobsConfig) -> FilterOptions:
    paths = {
        name: _confined_model(given, jobs)
        for name in _MODEL_PATHS
        if (given := getattr(filters, name)) is not None
    }
    return filters.model_copy(update=paths) if paths else filters


def _confined_model(name: str, jobs: JobsConfig) -> str:
    """Let hub names through, but no path: a relative one counts from wherever the daemon runs."""
    if name == "builtin" or (_HUB_NAME.fullmatch(name) and not Path(name).exists()):
        return name
    return confined(name, jobs)

"""Fetch files from the model hub through its own client, without its long waits and its noise.

The client retries for half a minute before it reports that there is no network. So the hub is asked
for the file's metadata first, once and with a deadline; only if it answers, the client is used.
``HF_ENDPOINT``, ``HF_HOME``, ``HF_HUB_OFFLINE``, ``HF_TOKEN`` and its other variables hold.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from .errors import WeightsUnavailable

_logger = logging.getLogger("upframe.filters.hub")
_PUBLIC_HUB = "https://huggingface.co"


def sha256_of(path: Path) -> str:
    """Compute a file's SHA-256, again only when its size or modification time differs.

    Returns:
        64 hexadecimal digits.

    Raises:
        OSError: if it cannot be read.
    """
    status = path.stat()
    return _sha256(str(path.resolve()), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: str, _size: int, _mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_ANSWER_SECONDS = 5.0
"""Seconds for the hub to answer, in all; HF_HUB_ETAG_TIMEOUT overrides it."""

_ADDRESS = re.compile(
    r"https?://([^\s/@]+@)?([\w.-]+|\[[\da-fA-F:.]+\])(:\d{1,5})?(/\S*)?", re.ASCII
)

_SHA256 = re.compile(r"[0-9a-f]{64}")


class _HubFailure(Exception):
    """The hub did not deliver a file; the text is the reason."""


class _NoSuchFile(_HubFailure): ...


def fetch_from_hub(
    repo_id: str, filenames: tuple[str, ...], most_bytes: int | None = None, offline: bool = False
) -> tuple[str, Path]:
    """Fetch the first of some files that a repository has; a cached copy serves without network.

    The repository is ``owner/name``; the preferred name comes first. `most_bytes` limits the
    download; `offline` looks only into the cache. Returned are the name that was found, and the
    file in the client's cache.

    Raises:
        WeightsUnavailable: if neither the hub nor the cache has one of them.
    """
    if not offline:
        _check_environment()
    # looked up before the hub is asked: a failed download must not lose the cached copy
    cached = [(name, path) for name in filenames if (path := find_cached(repo_id, name))]
    if offline and not cached:
        where = "is not in the hub's cache; `upframe models pull` fetches it"
        raise WeightsUnavailable(f"{repo_id}: {' or '.join(filenames)} {where}")
    if offline:
        return cached[0]
    failures: list[_HubFailure] = []
    for name in filenames:
        if not cached:
            _logger.info("asking %s for %s:%s", _endpoint(), repo_id, name)
        try:
            return name, _fetch(repo_id, name, most_bytes)
        except _HubFailure as failure:
            failures.append(failure)
            if not isinstance(failure, _NoSuchFile):
                break
    reasons = "; ".join(str(failure) for failure in failures)
    if cached:
        _logger.info("%s: %s; using the cached %s", repo_id, reasons, cached[0][1])
        return cached[0]
    raise WeightsUnavailable(f"cannot get {repo_id} from the hub: {reasons}") from failures[-1]


def find_cached(repo_id: str, filename: str) -> Path | None:
    """Find an undamaged copy of a file in the client's cache, without any network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repo_id, filename)
    except (HFValidationError, OSError):  # no such name can be cached; an unreadable cache has none
        return None
    path = Path(found) if isinstance(found, str) else None
    return path if path is not None and _is_whole(path) else None


def too_large(size: int, most_bytes: int) -> str:
    """Describe a file of weights that is too large."""
    return f"{size} bytes, wanted at most {most_bytes} ([jobs] model_mebibytes)"


def _fetch(repo_id: str, filename: str, most_bytes: int | None) -> Path:
    """Ask the hub, then download or find the file in the cache; raises `_HubFailure` alone."""
    from huggingface_hub import (
        HfFileMetadata,
        get_hf_file_metadata,  # pyright: ignore[reportUnknownVariableType]: a bare dict in there
        hf_hub_download,  # pyright: ignore[reportUnknownVariableType]: the same
        hf_hub_url,
    )

    seconds = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or _ANSWER_SECONDS)
    with _quiet():
        try:
            url = hf_hub_url(repo_id, filename)
            found = list[HfFileMetadata]()
            longer = seconds + 1  # so that the end is ours, with our words
            _within(seconds, lambda: found.append(get_hf_file_metadata(url, timeout=longer)))
            size = found[0].size or 0
            if most_bytes is not None and size > most_bytes:
                raise _HubFailure(f"{filename} has {too_large(size, most_bytes)}")
            for again in (False, True):
                path = Path(hf_hub_download(repo_id, filename, force_download=again))
                if _is_whole(path):
                    return path
        except _client_errors() as error:
            raise _failure(error, filename) from error
    raise _HubFailure(f"{filename} arrives damaged: its SHA-256 is not the one the hub promises")


def _client_errors() -> tuple[type[Exception], ...]:
    """Everything the client raises when the hub, the network or the disk is at fault."""
    from huggingface_hub.errors import HfHubHTTPError

    # it stands on requests, httpx or httpx2, by its version: the bases of its error tell which
    bases = (base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception))
    return (OSError, RuntimeError, ValueError, *bases)


def _is_whole(path: Path) -> bool:
    """Compare a cached file with its name: large files are kept under their SHA-256.

    A link in the snapshot leads to ``blobs/<etag>``; only the first link counts, the client may
    share blobs under other names behind it. Without links, or a small file: nothing to compare.
    """
    blob = Path(os.readlink(path)) if path.is_symlink() else path
    if blob.parent.name != "blobs" or not _SHA256.fullmatch(blob.name):
        return path.is_file()
    try:
        return sha256_of(path) == blob.name
    except OSError:
        return False


def _check_environment() -> None:
    """Refuse what makes the client fail while it is imported, complaining on stdout."""
    if not _ADDRESS.fullmatch(_endpoint()):
        raise WeightsUnavailable(f"HF_ENDPOINT must be an http(s) address, got {_endpoint()!r}")
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        if not (value := os.environ.get(name) or "0").isdecimal():
            raise WeightsUnavailable(f"{name} must be a whole number of seconds, got {value!r}")


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", _PUBLIC_HUB)


def _failure(error: Exception, filename: str) -> _HubFailure:
    from huggingface_hub import errors

    match error:
        case errors.OfflineModeIsEnabled():
            return _HubFailure(f"HF_HUB_OFFLINE is set and {filename} is not in the cache")
        case errors.GatedRepoError():
            return _HubFailure("the repository is gated: set HF_TOKEN of an account with access")
        case errors.RepositoryNotFoundError():
            return _HubFailure("the hub has no such repository, or it is private (set HF_TOKEN)")
        case errors.LocalEntryNotFoundError():
            return _HubFailure(_first_line(error.__cause__ or error))
        case errors.EntryNotFoundError():
            return _NoSuchFile(f"the repository has no file {filename}")
        case errors.HFValidationError():
            return _HubFailure("a hub name must be owner/name or owner/name:file")
        case _:
            return _HubFailure(f"{_endpoint()}: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _within(seconds: float, call: Callable[[], object]) -> None:
    """Make a call, but wait for it no longer than so many seconds.

    The client's own timeouts hold for every connection attempt and every read apart, and do not
    hold for looking up a name, where a machine without network can hang the longest.

    Raises:
        TimeoutError: if it takes longer; what it raises itself is passed on.
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # not handled here: handed over to the thread that waits
            raised.append(error)

    thread = threading.Thread(target=run, name="upframe-hub", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:g} s")
    if raised:
        raise raised[0]


@contextmanager
def _quiet() -> Generator[None]:
    """Keep the client's log lines and warnings off the terminal; our errors report what matters."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def list_cached(suffixes: tuple[str, ...]) -> list[tuple[str, Path]]:
    """List the files in the client's cache that have one of some suffixes, without any network.

    Returns:
        ``owner/name:file``, as `fetch_from_hub` would find it offline, and the file; sorted.

    Raises:
        WeightsUnavailable: if the environment keeps the client from starting.
    """
    _check_environment()
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        with _quiet():
            repositories = scan_cache_dir().repos
    except CacheNotFound:
        return []
    return sorted(
        (f"{repository.repo_id}:{name}", file.file_path)
        for repository in repositories
        if repository.repo_type == "model"
        for revision in repository.revisions
        if "main" in revision.refs
        for file in revision.files
        if (name := file.file_path.relative_to(revision.snapshot_path).as_posix()).endswith(
            suffixes
        )
    )

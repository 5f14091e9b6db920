"""The plan of a film in segments: on what its pixels and packets depend, and what of it is done.

A plan lives in a folder of its own, beside the output: ``plan.sqlite`` and the finished segments.
A process that dies loses the segments in flight and nothing else. Another process continues if its
plan is the same, by the hash of all facts: source, settings, weights, versions and machine.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import sqlite3
import stat
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, Self, cast

import torch
from pydantic import BaseModel, BeforeValidator, TypeAdapter, ValidationError
from pydantic_core import from_json

from ...filters.chain import BuiltFilter
from ...filters.options import Way
from ...io.capabilities import library_versions
from ...io.cuts import Segment
from ...io.errors import MediaError, SinkFull, SinkRefused, SourceMissing
from ...io.files import NAME_MAX_BYTES, discard_partials, sync_folder
from ..specification import ConversionOptions
from .space import size_text

PLAN_NAME = "plan.sqlite"
_LOCK_NAME = "lock"
_SUFFIX = ".upframe"
_WORKER = "worker-"
_OURS = re.compile(r"plan\.sqlite(-journal)?|lock|\.?[0-9a-f]{32}\.mkv(\.[\w-]+\.partial)?")
_WORKERS = re.compile(rf"{_WORKER}\d+")
"""All names in the folder of a plan: of files and of folders."""
OUTPUT_TOKEN = "film"
"""Marks the temporary file of the output, which the holder of the folder alone writes."""
_VERSION = 1
_END_BYTES = 1 << 20
_HELD_SECONDS = 10.0
_DURABLE = "PRAGMA synchronous = FULL"
_NO_MATTER = ("overwrite", "strict_streams", "audio_codec")
"""Settings that change nothing in a segment."""
_PATHS = ("frame_interpolation_model_path", "upscaling_model_path")
"""The weights count, not where they are."""


class SourceFacts(BaseModel, frozen=True):
    """What tells a source from another one, wherever it is."""

    size: int
    mtime_ns: int
    ends: str
    """SHA-256 of the first and the last MiB."""

    @classmethod
    def of(cls, path: Path) -> Self:
        """Look at a file.

        Raises:
            SourceMissing: if it is not there or cannot be read.
        """
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
                digest = hashlib.sha256(file.read(_END_BYTES))
                file.seek(max(found.st_size - _END_BYTES, 0))
                digest.update(file.read(_END_BYTES))
        except OSError as error:
            raise SourceMissing(f"cannot read {path}: {error.strerror}") from error
        return cls(size=found.st_size, mtime_ns=found.st_mtime_ns, ends=digest.hexdigest())

    def check(self, path: Path) -> None:
        """Refuse a source that has changed since.

        Raises:
            SourceMissing: says what is different.
        """
        if (now := SourceFacts.of(path)) != self:
            changes = "; ".join(_changes(self.model_dump(), now.model_dump()))
            raise SourceMissing(f"{path} was changed during the work ({changes})")


class Facts(BaseModel, frozen=True):
    """All on which the pixels, packets and cuts of a film depend."""

    source: SourceFacts
    settings: dict[str, Any]
    versions: dict[str, str]
    weights: dict[str, str] = {}
    """SHA-256 by filter."""
    device: str
    """Its kind: of two models of card the results differ."""
    precision: str
    threads: int
    ways: dict[str, Way] = {}

    @property
    def hash(self) -> str:
        """SHA-256 over canonical JSON: equal for the same plan."""
        values = self.model_dump(mode="json")
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def changes(self, now: Facts) -> list[str]:
        """Say what is different in another plan, for people."""
        return list(_changes(self.model_dump(mode="json"), now.model_dump(mode="json")))

    def with_filters(self, filters: Iterable[BuiltFilter]) -> Self:
        """Add what is only known once weights are loaded."""
        built = list(filters)
        weights = {one.name: one.weights.sha256 for one in built if one.weights is not None}
        ways = {one.name: one.way for one in built if one.way is not None}
        return self.model_copy(update={"weights": weights, "ways": ways})


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    one, other = dict(_flat(before)), dict(_flat(now))
    for name in sorted(one.keys() | other.keys()):
        if one.get(name) != other.get(name):
            yield f"{name} was {_shown(one.get(name))}, is {_shown(other.get(name))}"


def _flat(values: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(cast("Mapping[str, Any]", value), f"{at}{name}.")
        else:
            yield f"{at}{name}", value


def _shown(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) < 32 else f"{text[:12]}…"


def settings_of(options: ConversionOptions, **more: Any) -> dict[str, Any]:
    """Return the settings that change pixels, packets or cuts.

    Args:
        options: of the conversion.
        more: what was chosen by them, such as codec and container.
    """
    values = options.model_dump(mode="json", exclude=set(_NO_MATTER))
    filters: dict[str, Any] = values["filters"]
    values["filters"] = {name: filters[name] for name in filters if name not in _PATHS}
    return values | more


def versions_of(codec: str) -> dict[str, str]:
    """Return the versions of upframe, torch, FFmpeg's libraries and an encoder's library."""
    ours = {"upframe": version("upframe"), "torch": str(torch.__version__)}
    return {**ours, **library_versions(), "encoder": encoder_library(codec)}


def encoder_library(codec: str, maps: Path = Path("/proc/self/maps")) -> str:
    """Identify the shared library of an encoder by its file name and size.

    FFmpeg reports no version of it. Empty where the encoder is FFmpeg's own, built into it, or the
    system does not list the libraries of a process.
    """
    key = codec.removeprefix("lib").partition("-")[0].lower()
    if not codec.startswith("lib") or not sys.platform.startswith("linux"):
        return ""
    with suppress(OSError):
        for line in maps.read_text().splitlines():
            path = Path(line.partition("/")[2] and f"/{line.partition('/')[2]}")
            if path.name.lower().startswith(f"lib{key}"):
                return f"{path.name} {path.stat().st_size}"
    return ""


# ------------------------------------------------------------------------------------ the journal

State = Literal["waiting", "running", "done"]
_Json = Annotated[dict[str, Any], BeforeValidator(from_json)]


@dataclass(frozen=True, slots=True)
class Entry:
    """What the journal says of a segment."""

    segment: Annotated[Segment, BeforeValidator(from_json)]
    state: State = "waiting"
    attempts: int = 0
    size: int | None = None
    """Bytes of its file."""
    sha256: str | None = None
    result: _Json | None = None
    """Counters and warnings, for the report."""


_ENTRIES = TypeAdapter(list[Entry]).validate_python
_ARGUMENTS = TypeAdapter(dict[str, Any]).validate_json


class Plan:
    """The plan of a film and its journal. Every change is one transaction, on the disk at once.

    Use `opened` or `begun`, while the folder is held.
    """

    def __init__(
        self, folder: Path, connection: sqlite3.Connection, facts: Facts, arguments: dict[str, Any]
    ) -> None:
        self.folder = folder
        self.facts = facts
        self.arguments = arguments
        """What the user asked for, for `upframe resume`."""
        self.hash = facts.hash
        self._connection = connection

    @classmethod
    def begun(
        cls, folder: Path, facts: Facts, arguments: Mapping[str, Any], segments: Sequence[Segment]
    ) -> Self:
        """Begin a plan in a folder; whatever an earlier one has left there is removed.

        Raises:
            SinkFull: if it cannot be written.
            SinkRefused: if the folder has gone.
        """
        with _writing(folder):
            _remove_all(folder, keep=(_LOCK_NAME,))
            connection = _connect(folder)
            connection.execute(_DURABLE)
            connection.executescript(
                "BEGIN; CREATE TABLE plan (facts TEXT NOT NULL, arguments TEXT NOT NULL);"
                "CREATE TABLE segment (number INTEGER PRIMARY KEY, first INTEGER NOT NULL, "
                "last INTEGER NOT NULL, bounds TEXT NOT NULL, state TEXT NOT NULL, "
                "attempts INTEGER NOT NULL, size INTEGER, sha256 TEXT, result TEXT);"
                f"PRAGMA user_version = {_VERSION}"
            )
            written = facts.model_dump_json(), json.dumps(dict(arguments))
            connection.execute("INSERT INTO plan VALUES (?, ?)", written)
            rows = [(one.number, one.first, one.last, json.dumps(asdict(one))) for one in segments]
            connection.executemany(
                "INSERT INTO segment (number, first, last, bounds, state, attempts) "
                "VALUES (?, ?, ?, ?, 'waiting', 0)",
                rows,
            )
            connection.execute("COMMIT")
            sync_folder(folder.parent)  # which knows it since it was held
        return cls(folder, connection, facts, dict(arguments))

    @classmethod
    def opened(cls, folder: Path) -> Self | None:
        """Open the plan in a folder that is held; None where this version can read none."""
        if not (folder / PLAN_NAME).is_file():
            return None
        connection = _connect(folder)
        try:
            connection.execute(_DURABLE)
            number = connection.execute("PRAGMA user_version").fetchone()[0]
            # no view, which may be endless, and no trigger
            found = connection.execute("SELECT type || ' ' || name FROM sqlite_master")
            if number == _VERSION and {row[0] for row in found} == {"table plan", "table segment"}:
                row = connection.execute("SELECT facts, arguments FROM plan").fetchone()
                facts, arguments = Facts.model_validate_json(row[0]), _ARGUMENTS(row[1])
                plan = cls(folder, connection, facts, arguments)
                if plan.entries():
                    return plan
        except (sqlite3.Error, TypeError, ValueError, ValidationError, RecursionError, MediaError):
            pass  # damaged: as good as none
        connection.close()
        return None

    def entries(self) -> list[Entry]:
        """Return all segments in order."""
        with _writing(self.folder):
            rows = self._connection.execute(
                "SELECT bounds AS segment, state, attempts, size, sha256, result "
                "FROM segment ORDER BY number"
            )
            return _ENTRIES([dict(row) for row in rows])

    def path_of(self, segment: Segment) -> Path:
        """Return the file of a segment; it is there once the segment is done.

        It is named by the hash of the plan and its first and last frame.
        """
        text = f"{self.hash} {segment.first} {segment.last}"
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.mkv"

    def start(self, number: int) -> None:
        """Record that work on a segment begins, once more."""
        self._change(
            "state = 'running', attempts = attempts + 1, size = NULL, sha256 = NULL, result = NULL",
            number,
        )

    def finish(self, number: int, size: int, sha256: str, result: Mapping[str, Any]) -> None:
        """Record a segment whose file is complete, verified and on the disk."""
        text = "state = 'done', size = ?, sha256 = ?, result = ?"
        self._change(text, number, size, sha256, json.dumps(dict(result)))

    def discard(self, segment: Segment) -> None:
        """Have a segment made again, and remove its file.

        Raises:
            SinkFull: if it cannot be recorded.
        """
        self._change("state = 'waiting', size = NULL, sha256 = NULL, result = NULL", segment.number)
        with _writing(self.folder):
            self.path_of(segment).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the journal."""
        self._connection.close()

    def _change(self, assignments: str, number: int, *values: Any) -> None:
        with _writing(self.folder):
            query = f"UPDATE segment SET {assignments} WHERE number = ?"
            self._connection.execute(query, (*values, number))


def _connect(folder: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        folder / PLAN_NAME, isolation_level=None, timeout=_HELD_SECONDS, check_same_thread=False
    )
    connection.row_factory = sqlite3.Row
    return connection


@contextmanager
def _writing(folder: Path) -> Generator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if not folder.is_dir():  # as the output itself is refused
            raise SinkRefused(f"output folder does not exist any more: {folder}") from error
        is_full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        why = os.strerror(errno.ENOSPC) if is_full else error  # as of any other file
        raise SinkFull(f"cannot write the plan in {folder}: {why}") from error


# ------------------------------------------------------------------------------------- the folder


def plan_folder(target: Path) -> Path:
    """Return the folder of an output's plan: ``.NAME.upframe`` beside it.

    Of a name that would be too long, the end is a digest.
    """
    name, most = target.name, NAME_MAX_BYTES - len(_SUFFIX) - 1
    if len(encoded := os.fsencode(name)) > most:
        digest = hashlib.sha256(encoded).hexdigest()[:8]
        name = f"{encoded[: most - 9].decode(errors='ignore')}-{digest}"
    return target.with_name(f".{name}{_SUFFIX}")


@contextmanager
def held(folder: Path, target: Path) -> Generator[None]:
    """Hold the folder of a plan, made if it is missing, so that only one process works on it.

    Args:
        folder: of the plan.
        target: the output, for messages.

    Raises:
        SinkRefused: if another process holds it, it cannot be made, or it is another user's, who
            decides what is in it.
    """
    try:
        lock = _take(folder)
    except BlockingIOError as error:
        raise SinkRefused(f"another run is writing {target}: it holds {folder}") from error
    except OSError as error:
        raise SinkRefused(f"cannot use {folder}: {error.strerror or error}") from error
    with lock:
        yield


def _take(folder: Path) -> BinaryIO:
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)  # sources may be named by URLs with passwords
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "wanted a folder of this user; remove it")
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        lock = os.fdopen(os.open(folder / _LOCK_NAME, flags, 0o600), "r+b", buffering=0)
        try:
            _check_kinds(folder)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):  # who held it may have removed the folder meanwhile
                if os.path.samestat(os.fstat(lock.fileno()), (folder / _LOCK_NAME).stat()):
                    return lock
        except BaseException:
            lock.close()
            raise
        lock.close()


def _check_kinds(folder: Path) -> None:
    """Refuse links, FIFOs and the like under names of ours: whoever put them there means harm."""
    for path in folder.iterdir():
        mode = path.lstat().st_mode
        is_worker = _WORKERS.fullmatch(path.name) is not None
        wrong = not (stat.S_ISDIR(mode) if is_worker else stat.S_ISREG(mode))
        if wrong and (is_worker or _OURS.fullmatch(path.name)):
            raise PermissionError(errno.EPERM, f"{path.name} in it is no plain file; remove it")


def remove_folder(folder: Path) -> int:
    """Remove the folder of a plan, while it is held; what is not ours stays, and so it does.

    Returns:
        How many files are left.

    Raises:
        OSError: if something of it cannot be removed.
    """
    _remove_all(folder)
    try:
        folder.rmdir()
    except OSError:
        return len(list(folder.iterdir()))
    return 0


def worker_folder(folder: Path, slot: int) -> Path:
    """Return where a worker writes segments, of which only finished ones get into the plan's."""
    return folder / f"{_WORKER}{slot}"


def _remove_all(folder: Path, keep: Sequence[str] = ()) -> None:
    _check_kinds(folder)
    for path in folder.iterdir():
        if _WORKERS.fullmatch(path.name):
            shutil.rmtree(path)
        elif path.name not in keep and _OURS.fullmatch(path.name):
            path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Abandoned:
    """A plan that no process works on."""

    folder: Path
    age_seconds: float
    """Since its last change."""
    num_bytes: int
    done: int
    total: int
    """Segments."""

    @property
    def text(self) -> str:
        """The same in one line."""
        age = timedelta(seconds=round(self.age_seconds))
        size = size_text(self.num_bytes)
        return f"{self.folder}: {self.done} of {self.total} segments, {size}, {age} old"


def abandoned_plans(
    folder: Path, now: Callable[[], float] = time.time
) -> list[tuple[Abandoned | SinkRefused, Callable[[], int]]]:
    """Find the plans in a folder that no process works on, each with what removes it.

    An error is in place of a plan that cannot be looked at. Removing returns how many files of
    others are left; it fails with SinkRefused or OSError.
    """
    found: list[tuple[Abandoned | SinkRefused, Callable[[], int]]] = []
    for path in sorted(folder.glob(f".*{_SUFFIX}")):
        if not any(os.path.lexists(path / name) for name in (PLAN_NAME, _LOCK_NAME)):
            continue  # not ours
        remove = partial(_clean, path)
        try:
            with held(path, path):
                found.append((_looked_at(path, now()), remove))
        except SinkRefused as error:
            if not isinstance(error.__cause__, BlockingIOError):  # else one works on it
                found.append((error, remove))
    return found


def _looked_at(path: Path, now: float) -> Abandoned:
    states = [each.lstat() for each in path.iterdir()]
    plan = Plan.opened(path)
    entries = [] if plan is None else plan.entries()
    if plan is not None:
        plan.close()
    return Abandoned(
        path,
        max(0.0, now - max(state.st_mtime for state in states)),
        sum(state.st_size for state in states),
        sum(entry.state == "done" for entry in entries),
        len(entries),
    )


def _clean(path: Path) -> int:
    with held(path, path):
        discard_partials(path.with_name(path.name[1 : -len(_SUFFIX)]), OUTPUT_TOKEN)
        return remove_folder(path)

"""What to make of the files in a watched folder: the blocking half of a watcher.

From cheap to dear: name, our own output, seen before, placed, still, readable. Only what passes
all of it is given out to be probed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Event
from typing import NamedTuple

from ...io.root import Identity, Root, keeps_inodes
from ..config import WatchConfig
from ..fence import Fence
from ..jobs.model import Job, StoreBroken, UnknownJob
from .records import Records, file_key, settings_digest
from .scan import (
    NameRules,
    Reach,
    Reason,
    Scan,
    Signature,
    Skip,
    SkipLog,
    Stability,
    Tree,
    opened_status,
    shown,
)

# Where the output of a watched file goes, and what happens where something is there already.


class Placement(NamedTuple):
    """Where an output goes."""

    sink: Path
    overwrite: bool


def mirrored(source: Path, root: Path, target: Path) -> Path:
    """Move a path from below one folder to the same place below another."""
    return target / source.relative_to(root)


class Placing:
    """Finds the output's path for the inputs of one watched folder.

    An output of ours that nobody has touched since is replaced by that of a newer version of the
    same source, whatever `on_existing` says about files of others.
    """

    def __init__(self, watch: WatchConfig, records: Records) -> None:
        self._watch = watch
        self._records = records

    def sink_of(self, source: Path) -> Path:
        """Mirror a source's path below the output folder, with the container's extension."""
        sink = mirrored(source, self._watch.input, self._watch.output)
        container = self._watch.container
        return sink if container is None else sink.with_suffix("." + container.lstrip("."))

    def place(self, source: Path) -> Placement | Skip:
        """Choose where the output of a source goes, or say why it is passed over."""
        sink = self.sink_of(source)
        if self._watch.on_existing == "suffix":
            return Placement(self._free(sink, source), overwrite=False)
        if is_same_file(source, sink):
            detail = "its output would replace it: give another output folder, or a container"
            return Skip(source, "collision", detail)
        if (other := self._other_source(sink, source)) is not None:
            detail = f"{shown(sink)} is already the output of {shown(other)}"
            return Skip(source, "collision", detail)
        return self._beside_existing(source, sink)

    def _beside_existing(self, source: Path, sink: Path) -> Placement | Skip:
        present = _signature(sink)
        if present is None:
            return Placement(sink, overwrite=False)
        maker = self._records.maker(sink)
        if maker is not None and maker.source == str(source) and maker.made_it(present):
            return Placement(sink, overwrite=True)
        if self._watch.on_existing == "overwrite":
            return Placement(sink, overwrite=True)
        if self._watch.on_existing == "if-newer":
            return self._if_newer(source, sink, present)
        return Skip(source, "exists", f"{shown(sink)} is there already (on_existing = skip)")

    def _if_newer(self, source: Path, sink: Path, present: Signature) -> Placement | Skip:
        mine = _signature(source)
        if mine is not None and mine.mtime_ns > present.mtime_ns:
            return Placement(sink, overwrite=True)
        detail = f"{shown(sink)} is not older (on_existing = if-newer)"
        return Skip(source, "exists", detail)

    def _other_source(self, sink: Path, source: Path) -> Path | None:
        """Name another input that is still there and has this output: a.avi beside a.mov."""
        maker = self._records.maker(sink)
        if maker is None or maker.source == str(source) or not os.path.lexists(maker.source):
            return None
        return Path(maker.source)

    def _free(self, sink: Path, source: Path) -> Path:
        names = (sink.with_name(f"{sink.stem}-{number}{sink.suffix}") for number in count(1))
        for candidate in (sink, *()) if self._is_free(sink, source) else names:
            if self._is_free(candidate, source):
                return candidate
        raise AssertionError("there are always more numbers")

    def _is_free(self, sink: Path, source: Path) -> bool:
        if os.path.lexists(sink):
            return False
        maker = self._records.maker(sink)
        return maker is None or maker.source == str(source)


def _signature(path: Path) -> Signature | None:
    try:
        return Signature.of(path.lstat())
    except FileNotFoundError:
        return None


def is_same_file(one: Path, other: Path) -> bool:
    """Tell whether two paths lead to one file, or are the same where there is none."""
    try:
        return one.samefile(other)
    except OSError:
        return one == other


_SEEN: dict[str, tuple[Reason, str]] = {
    "done": ("already_done", "done by job {id}"),
    "failed": ("failed_before", "failed as job {id}; to try again: upframe jobs retry {id}"),
    "cancelled": ("cancelled_before", "cancelled as job {id}; again: upframe jobs retry {id}"),
}
_EXIT_NO_INPUT = 66


@dataclass(frozen=True, slots=True)
class Candidate:
    """One version of a file that is ready to be probed."""

    path: Path
    signature: Signature
    key: str
    root: Root
    """Beneath which it is opened."""
    file: Path
    """By which name; not `path` where that is a link."""
    accepted: Identity


@dataclass(slots=True)
class Looked:
    """What a look brings to be done."""

    ready: list[Candidate] = field(default_factory=list[Candidate])
    """The oldest first."""
    outdated: list[str] = field(default_factory=list[str])
    """Jobs of versions that are no more."""
    returned: list[str] = field(default_factory=list[str])
    """Jobs that failed because their file was away; it is back."""
    num_folders: int = 0
    """Walked through."""


class Look:
    """Sorts the files of one watched folder. Every method blocks; call them one at a time.

    Args:
        watch: What is watched.
        records: What is remembered.
        reach: What may be opened.
        filesystem: The type of the input's file system.
        reserved: Folders that are not looked into, with the reason.
        stop: Ends a scan early.
    """

    def __init__(
        self,
        watch: WatchConfig,
        records: Records,
        reach: Reach,
        *,
        filesystem: str,
        reserved: dict[Path, str],
        stop: Event,
    ) -> None:
        self.stability = Stability(watch.stable_seconds)
        self.skips = SkipLog()
        self.placing = Placing(watch, records)
        rules = NameRules(watch.include, watch.exclude)
        self._tree = Tree(reach, rules, recursive=watch.recursive, reserved=reserved, stop=stop)
        self._records = records
        self._reach = reach
        self._filesystem = filesystem
        self._settings = settings_digest(watch)
        self._stable_seconds = watch.stable_seconds
        self._decided: dict[Path, Signature] = {}
        self._unplaced: dict[Path, Signature] = {}
        """Ready, but there is no place for their output; asked about again at every full scan."""

    def everything(self, now: float) -> Looked:
        """Look at every file.

        Raises:
            OSError: if the folder cannot be read; nothing is forgotten then.
        """
        scan = self._tree.scan()
        looked = self._sort(scan, now)
        present = scan.found.keys() | {skip.path for skip in scan.skipped}
        self.stability.keep(present)
        self.skips.keep(present)
        for memory in (self._decided, self._unplaced):
            for path in memory.keys() - present:
                del memory[path]
        return looked

    def some(self, paths: Iterable[Path], now: float, *, also_due: bool = True) -> Looked:
        """Look at the files that are said to have changed, and at those that are due."""
        wanted = {*paths, *(self.stability.due(now) if also_due else ())}
        scan = self._tree.look_at(wanted)
        for path in wanted - scan.found.keys():  # gone: else it would be due for ever
            self.stability.forget(path)
        return self._sort(scan, now)

    def _sort(self, scan: Scan, now: float) -> Looked:
        for skip in scan.skipped:
            self.stability.forget(skip.path)
            self.skips.say(skip)
        looked = Looked(num_folders=scan.num_folders)
        for path, signature in scan.found.items():
            if self._decided.get(path) == signature:
                continue
            with Fence("file", shown(path), let=(StoreBroken,)) as fenced:
                try:
                    self._consider(path, signature, now, looked)
                except OSError as error:  # of this file or its output, not of the folder
                    self.skips.say(Skip(path, "unreadable", error.strerror or str(error)))
            if fenced.error is not None:
                self._decided[path] = signature
        looked.ready.sort(key=lambda candidate: candidate.signature.mtime_ns)
        return looked

    def _consider(self, path: Path, signature: Signature, now: float, looked: Looked) -> None:
        key = file_key(path, signature, self._settings, self._filesystem)
        if self._is_dealt_with(path, signature, key, looked):
            self.stability.forget(path)
            return
        if self._unplaced.get(path) == signature and self._has_no_place(path, signature):
            return
        if not self.stability.observe(path, signature, now):
            self._say_waiting(path)
        elif self._has_no_place(path, signature):
            self.stability.forget(path)
        elif (candidate := self._opened(path, signature, key, now)) is not None:
            looked.ready.append(candidate)

    def _is_dealt_with(self, path: Path, signature: Signature, key: str, looked: Looked) -> bool:
        """Tell whether a version of a file is ours or was taken before."""
        if self._records.store.is_known_sink(str(path)):
            against = Skip(path, "output", "it is an output of ours")
        else:
            job = self._records.store.find(key)
            taken = self._records.taken(key, path)
            if job is None and taken is None:
                self._find_outdated(path, looked)
                return False
            against = taken if job is None else self._seen(path, job, looked)
        self._decided[path] = signature
        if against is not None:
            self.skips.say(against, signature)
        return True

    def _has_no_place(self, path: Path, signature: Signature) -> bool:
        placement = self.placing.place(path)
        if isinstance(placement, Skip):
            self._unplaced[path] = signature
            self.skips.say(placement, signature)
            return True
        self._unplaced.pop(path, None)
        return False

    def _seen(self, path: Path, job: Job, looked: Looked) -> Skip | None:
        if job.state not in _SEEN:
            return None
        if job.state == "failed" and job.error and job.error.code == _EXIT_NO_INPUT:
            looked.returned.append(job.id)  # once: the file is decided, and not looked at again
            return None
        reason, detail = _SEEN[job.state]
        return Skip(path, reason, detail.format(id=job.id))

    def _find_outdated(self, path: Path, looked: Looked) -> None:
        latest = self._records.latest(path)
        if latest is None:
            return
        try:
            job = self._records.store.get(latest)
        except UnknownJob:
            return
        if job.state in ("queued", "running"):
            looked.outdated.append(job.id)

    def _say_waiting(self, path: Path) -> None:
        if self.skips.reason_of(path) != "unfinished":
            detail = f"taken when it has held still for {self._stable_seconds:g} s"
            self.skips.say(Skip(path, "unstable", detail))

    def _opened(self, path: Path, signature: Signature, key: str, now: float) -> Candidate | None:
        """Look once more, through the file itself: cached attributes may be old."""
        try:
            root, file = self._reach.find(path)
            status = opened_status(root, file)
        except FileNotFoundError:
            self.stability.forget(path)
            return None
        except OSError as error:
            self.stability.postpone(path, now)
            self.skips.say(Skip(path, "unreadable", error.strerror or str(error)), signature)
            return None
        if (opened := Signature.of(status)) != signature:
            self.stability.observe(path, opened, now)
            return None
        accepted = Identity.of(status, lasting=keeps_inodes(self._filesystem))
        return Candidate(path, signature, key, root, file, accepted)

    def is_same(self, candidate: Candidate, now: float) -> bool:
        """Tell whether a file is still the version that was found ready."""
        found = self._opened(candidate.path, candidate.signature, candidate.key, now)
        return found == candidate

    def decide(self, candidate: Candidate) -> None:
        """Note that a version of a file needs no further look."""
        self._decided[candidate.path] = candidate.signature
        self.stability.forget(candidate.path)

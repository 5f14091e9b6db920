"""Which files of a watched folder become jobs: the blocking half of a watcher.

Checks are ordered by cost: name, own output, known version, place for the output, stable, readable.
Only files that pass all of them are probed.

This is also the one place that decides what a probed file becomes: a job, a failed job or a skip.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import NamedTuple

from ...io.files import numbered
from ...io.root import Identity, Root, keeps_inodes, open_folder
from ..config import WatchConfig
from ..errors import Conflict, IllegalChange, StoreBroken, UnknownJob
from ..exits import Exit
from ..fence import Fence
from ..jobs.model import Confinement, Job, JobError, ProbeVerdict, job_of
from ..jobs.queue import JobQueue
from ..logfields import about_job
from ..specification import ConversionSpec, MediaOptions, part_of
from .records import Records, file_key, job_id, settings_digest
from .scan import (
    COMPANIONS,
    AllowedFiles,
    NameRules,
    Reason,
    Scan,
    Signature,
    Skip,
    SkipLog,
    Stability,
    Tree,
    is_companion,
    opened_status,
    printable_path,
)

log = logging.getLogger("upframe.watch")


class OutputPlacement(NamedTuple):
    """Path of an output."""

    sink: Path
    overwrite: bool


def mirrored(source: Path, root: Path, target: Path) -> Path:
    """Map a path below one folder to the same place below another."""
    return target / source.relative_to(root)


@dataclass(frozen=True, slots=True)
class OutputPlacer:
    """Choose the output's path for the inputs of one watched folder.

    An unchanged output of ours is replaced by that of a newer version of the same source,
    regardless of `on_existing`, which is about other files.
    """

    watch: WatchConfig
    records: Records

    def sink_of(self, source: Path) -> Path:
        """Mirror a source's path below the output folder, with the container's extension."""
        sink = mirrored(source, self.watch.input, self.watch.output)
        extension = self.watch.extension
        return sink if extension is None else sink.with_suffix(extension)

    def place(self, source: Path) -> OutputPlacement | Skip:
        """Choose where the output of a source goes, or return why it is skipped."""
        sink = self.sink_of(source)
        if self.watch.on_existing == "suffix":
            free = next(name for name in numbered(sink) if self._is_free(name, source))
            return OutputPlacement(free, overwrite=False)
        if is_same_file(source, sink):
            detail = "its output would replace it: configure another output folder or a container"
            return Skip(source, "collision", detail)
        maker = self.records.maker(sink)
        is_mine = maker is not None and maker.source == str(source)
        if maker and not is_mine and os.path.lexists(maker.source):  # a.avi next to a.mov
            other = printable_path(maker.source)
            detail = f"{printable_path(sink)} is already the output of {other}"
            return Skip(source, "collision", detail)
        present = _signature(sink)
        if present is None:
            return OutputPlacement(sink, overwrite=False)
        is_ours = maker is not None and is_mine and maker.made == present
        asked, mine = self.watch.on_existing, _signature(source)
        is_newer = mine is not None and mine.mtime_ns > present.mtime_ns
        if is_ours or asked == "overwrite" or (asked == "if-newer" and is_newer):
            return OutputPlacement(sink, overwrite=True)
        what = "is not older" if asked == "if-newer" else "exists already"
        return Skip(source, "exists", f"{printable_path(sink)} {what} (on_existing = {asked})")

    def _is_free(self, sink: Path, source: Path) -> bool:
        if os.path.lexists(sink):
            return False
        maker = self.records.maker(sink)
        return maker is None or maker.source == str(source)


def _signature(path: Path) -> Signature | None:
    try:
        return Signature.of(path.lstat())
    except FileNotFoundError:
        return None


def is_same_file(one: Path, other: Path) -> bool:
    """Return whether two paths lead to one file, or are equal if there is none."""
    try:
        return one.samefile(other)
    except OSError:
        return one == other


_SEEN: dict[str, tuple[Reason, str]] = {
    "done": ("already_done", "done by job {id}"),
    "failed": ("failed_before", "failed as job {id}; to try again: upframe jobs retry {id}"),
    "cancelled": ("cancelled_before", "cancelled as job {id}; again: upframe jobs retry {id}"),
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One version of a file that is ready to be probed."""

    path: Path
    signature: Signature
    key: str
    root: Root
    """The root beneath which it is opened."""
    file: Path
    """The path by which it is opened; the target if `path` is a link."""
    accepted: Identity


@dataclass(slots=True)
class FolderInspection:
    """Result of an inspection: what is to be done."""

    ready: list[Candidate] = field(default_factory=list[Candidate])
    """The oldest first."""
    outdated: list[str] = field(default_factory=list[str])
    """Jobs of versions that no longer exist."""
    returned: list[str] = field(default_factory=list[str])
    """Jobs that failed because their file was missing, which is back."""
    num_folders: int = 0
    """Number of folders scanned."""


class Inspector:
    """Classify the files of one watched folder. Every method blocks; call one at a time.

    `reserved` are folders to skip, with the reason; `stop` interrupts a scan.
    """

    def __init__(
        self,
        watch: WatchConfig,
        records: Records,
        allowed: AllowedFiles,
        filesystem: str,
        reserved: dict[Path, str],
        stop: Event,
    ) -> None:
        self.stability = Stability(watch.stable_seconds)
        self.skips = SkipLog()
        self.placer = OutputPlacer(watch, records)
        rules = NameRules(watch.include, watch.exclude)
        self._brought = NameRules(("*",), watch.exclude)
        self._videos: set[Path] = set()  # without their extensions
        self._tree = Tree(allowed, rules, recursive=watch.recursive, reserved=reserved, stop=stop)
        self._records = records
        self._allowed = allowed
        self._filesystem = filesystem
        self._settings = settings_digest(watch)
        self._stable_seconds = watch.stable_seconds
        self._is_first_look = True
        self._decided: dict[Path, Signature] = {}
        self._unplaced: dict[Path, Signature] = {}
        """Ready files without a place for their output; checked again at every full scan."""

    def inspect_all(self) -> FolderInspection:
        """Inspect every file.

        Raises:
            OSError: if the folder cannot be read; no record is dropped then.
        """
        scan = self._tree.scan()
        self._videos.clear()
        inspection = self._sort(scan)
        present = scan.found.keys() | {skip.path for skip in scan.skipped}
        self.stability.keep(present)
        self.skips.keep(present)
        self._is_first_look = False
        for memory in (self._decided, self._unplaced):
            for path in memory.keys() - present:
                del memory[path]
        return inspection

    def inspect_paths(self, paths: Iterable[Path], also_due: bool) -> FolderInspection:
        """Inspect files that were reported as changed, and those that are due."""
        wanted = {*paths, *(self.stability.due(time.monotonic()) if also_due else ())}
        scan = self._tree.look_at(wanted)
        for path in wanted - scan.found.keys():  # gone: else it would be due forever
            self.stability.forget(path)
        return self._sort(scan)

    def _sort(self, scan: Scan) -> FolderInspection:
        self._videos.update(path.with_suffix("") for path in scan.found)
        for skip in scan.skipped:
            self.stability.forget(skip.path)
            if self._goes_along(skip.path):
                self.skips.clear(skip.path)
            else:
                self.skips.log(skip)
        inspection = FolderInspection(num_folders=scan.num_folders)
        for path, signature in scan.found.items():
            if self._decided.get(path) == signature:
                continue
            with Fence("file", printable_path(path), let=(StoreBroken,)) as fenced:
                try:
                    self._consider(path, signature, inspection)
                except OSError as error:  # of this file or its output, not of the folder
                    self.skips.log(Skip(path, "unreadable", error.strerror or str(error)))
            if fenced.error is not None:
                self._decided[path] = signature
        inspection.ready.sort(key=lambda candidate: candidate.signature.mtime_ns)
        return inspection

    def _goes_along(self, path: Path) -> bool:
        """Return whether a file goes with a video's output, or has gone before the video went."""
        watch, is_one = self.placer.watch, path.suffix.lower() in COMPANIONS
        relative = path.relative_to(watch.input)
        if not (watch.sidecars and is_one) or self._brought.against_file(relative):
            return False
        copy = watch.output / relative
        return is_companion(path, self._videos) or (copy != path and os.path.lexists(copy))

    def _consider(self, path: Path, signature: Signature, inspection: FolderInspection) -> None:
        key = file_key(path, signature, self._settings, self._filesystem)
        if self._is_dealt_with(path, signature, key, inspection):
            self.stability.forget(path)
            return
        if self._unplaced.get(path) == signature and self._has_no_place(path, signature):
            return
        if not self.stability.observe(path, signature, time.monotonic()):
            if self.skips.reason_of(path) != "unfinished":
                detail = f"will be processed when it is unchanged for {self._stable_seconds:g} s"
                self.skips.log(Skip(path, "unstable", detail))
        elif self._has_no_place(path, signature):
            self.stability.forget(path)
        elif (candidate := self._opened(path, signature)) is not None:
            inspection.ready.append(candidate)

    def _is_dealt_with(
        self, path: Path, signature: Signature, key: str, inspection: FolderInspection
    ) -> bool:
        """Return whether a version of a file is an output of ours or is known already."""
        if self._records.store.is_known_sink(str(path)):
            against = Skip(path, "output", "it is an output of ours")
        else:
            job = self._records.store.find(key)
            taken = self._records.taken(key, path)
            if job is None and taken is None:
                latest = self._records.latest(path)
                with suppress(UnknownJob):
                    if latest and self._records.store.get(latest).state in ("queued", "running"):
                        inspection.outdated.append(latest)
                return False
            against = taken if job is None else self._seen(path, job, inspection)
        self._decided[path] = signature
        if against is not None:
            self.skips.log(against, signature, known=self._is_first_look)
        return True

    def _has_no_place(self, path: Path, signature: Signature) -> bool:
        placement = self.placer.place(path)
        if isinstance(placement, Skip):
            self._unplaced[path] = signature
            self.skips.log(placement, signature)
            return True
        self._unplaced.pop(path, None)
        return False

    def _seen(self, path: Path, job: Job, inspection: FolderInspection) -> Skip | None:
        if job.state not in _SEEN:
            return None
        if job.state == "failed" and job.error and job.error.code == Exit.NO_INPUT:
            inspection.returned.append(job.id)  # once: the file is decided, and not inspected again
            return None
        reason, detail = _SEEN[job.state]
        return Skip(path, reason, detail.format(id=job.id))

    def _opened(self, path: Path, signature: Signature) -> Candidate | None:
        """Compare the signature of the opened file: cached attributes may be outdated."""
        try:
            found = self.candidate(path)
        except FileNotFoundError:
            self.stability.forget(path)
            return None
        except OSError as error:
            self.stability.postpone(path, time.monotonic())
            self.skips.log(Skip(path, "unreadable", error.strerror or str(error)), signature)
            return None
        if found.signature != signature:
            self.stability.observe(path, found.signature, time.monotonic())
            return None
        return found

    def is_same(self, candidate: Candidate) -> bool:
        """Return whether a file is still the version that was found ready."""
        return self._opened(candidate.path, candidate.signature) == candidate

    def candidate(self, path: Path) -> Candidate:
        """Open a file as it is now, whether it is stable or not.

        Raises:
            OSError: if it cannot be read.
        """
        root, file = self._allowed.find(path)
        status = opened_status(root, file)
        signature = Signature.of(status)
        key = file_key(path, signature, self._settings, self._filesystem)
        accepted = Identity.of(status, lasting=keeps_inodes(self._filesystem))
        return Candidate(path, signature, key, root, file, accepted)

    def decide(self, candidate: Candidate) -> None:
        """Record that a version of a file needs no further inspection."""
        self._decided[candidate.path] = candidate.signature
        self.stability.forget(candidate.path)


_SET_ASIDE = timedelta(seconds=60)
"""Delay that keeps the scheduler from starting a job which is recorded only to fail."""


Probe = Callable[[Path, Root], Awaitable[ProbeVerdict]]
"""Probe a file by its path, opened beneath a root."""


@dataclass(eq=False)
class FileAdmission:
    """Submit jobs for the ready files of one watched folder."""

    watch: WatchConfig
    inspector: Inspector
    records: Records
    queue: JobQueue
    num_taken: int = 0

    def __post_init__(self) -> None:
        self._output = self.watch.root(self.watch.output, self.records.state_dir)

    def prepare(self, candidate: Candidate) -> Job | None:
        """Lock the output of a video file and return its job; None if it must wait. Blocks."""
        placement = self.inspector.placer.place(candidate.path)
        if isinstance(placement, Skip):
            against, job = placement, None
        else:
            job = self._job(candidate, placement)
            other = self.records.store.writer_of(job.sink, job.id)
            text = f"job {other}, which has not ended, writes the same output"
            against = self._reserve(job) if other is None else Skip(candidate.path, "locked", text)
        if against is not None:
            self.put_off(candidate, against)
            return None
        return job

    def _reserve(self, job: Job) -> Skip | None:
        """Lock the output of a job, its source's latest from now on; or return why it must wait."""
        path, sink = Path(job.source), Path(job.sink)
        try:
            holder = self.records.locks(self.watch).take(sink, job.id)
            if holder is None:
                os.close(open_folder(self._output, sink.parent, create=True))
        except OSError as error:
            return Skip(path, "unwritable", f"{printable_path(sink)}: {error.strerror or error}")
        if holder is not None:
            return Skip(path, "locked", holder)
        self.records.set_latest(job)
        return None

    async def submit(self, candidate: Candidate, job: Job) -> Job:
        """Queue the job of a file; a job that exists is not queued again."""
        stored, new = await self._submit(candidate, job)
        if new:
            self.num_taken += 1
            paths = printable_path(candidate.path), printable_path(stored.sink)
            with about_job(stored.id):
                log.info("%s: taken as job %s, output %s", paths[0], stored.id, paths[1])
        return stored

    async def _submit(self, candidate: Candidate, job: Job) -> tuple[Job, bool]:
        try:
            return await self.queue.submit(job)
        except Conflict:  # it ran before with another output, and its record was deleted
            log.info("%s: done before, as job %s", printable_path(candidate.path), job.id)
            return job, False

    def taken(self, candidate: Candidate, job: Job) -> None:
        """Record that a file has a job. Blocks."""
        self.records.set_taken(candidate.key, "already_done", f"processed as job {job.id}")
        self.records.note_latest(job)
        self.inspector.skips.clear(candidate.path)
        self.inspector.decide(candidate)

    def postpone(self, candidate: Candidate, message: str) -> bool:
        """Postpone an unfinished file; return whether it has waited too long. Blocks."""
        now, path, stability = time.monotonic(), candidate.path, self.inspector.stability
        if stability.is_given_up(path, now):
            return True
        seconds = stability.postpone(path, now)
        detail = f"{message}; probed again in {seconds:g} s"
        self.inspector.skips.log(Skip(path, "unfinished", detail), candidate.signature)
        return False

    def pass_over(self, candidate: Candidate, message: str) -> None:
        """Record that a file is no video. Blocks."""
        self.records.set_taken(candidate.key, "not_video", message)
        self.inspector.skips.log(Skip(candidate.path, "not_video", message), candidate.signature)
        self.inspector.decide(candidate)

    async def fail(self, candidate: Candidate, message: str) -> Job:
        """Record a file that cannot be processed as a failed job, as if a worker had tried."""
        sink = self.inspector.placer.sink_of(candidate.path)
        job = self._job(candidate, OutputPlacement(sink, overwrite=False))
        aside = job.model_copy(update={"not_before": datetime.now(UTC) + _SET_ASIDE})
        stored, new = await self._submit(candidate, aside)
        if new:
            error = JobError(code=Exit.DATA, message=message, retryable=False)
            stored = await self.queue.change(stored.id, "failed", error=error)
        log.warning("%s: failed as job %s: %s", printable_path(candidate.path), stored.id, message)
        return stored

    def _job(self, candidate: Candidate, placement: OutputPlacement) -> Job:
        sink, overwrite = placement
        own = {"source": str(candidate.path), "sink": str(sink), "overwrite": overwrite}
        options = dict(part_of(self.watch, MediaOptions)) | {"container": None}  # the sink has it
        work = ConversionSpec.model_validate(options | own)
        confined = Confinement(
            source=candidate.root,
            path=None if candidate.file == candidate.path else candidate.file,
            accepted=candidate.accepted,
            sink=self._output,
        )
        return job_of(
            work,
            confined=confined,
            id=job_id(candidate.path, candidate.key),
            origin="watch",
            idempotency_key=candidate.key,
            priority=self.watch.priority,
        )

    def renew(self, job: Job) -> dict[str, object]:
        """Return what an ended job would be if its file came today: options, output, key. Blocks.

        Raises:
            IllegalChange: if its file would be no job today.
            OSError: if it cannot be read.
        """
        candidate = self.inspector.candidate(Path(job.source))
        other = self.records.store.find(candidate.key)
        if other is not None and other.id != job.id:
            raise IllegalChange(f"job {job.id}: its file is that of job {other.id} by now")
        placement = self.inspector.placer.place(candidate.path)
        if isinstance(placement, Skip):
            raise IllegalChange(f"job {job.id}: {placement.detail}")
        new = self._job(candidate, placement)
        if against := self._reserve(new.model_copy(update={"id": job.id})):
            raise IllegalChange(f"job {job.id}: {against.detail}")
        self.inspector.skips.clear(candidate.path)
        kept = ("idempotency_key", "confined", "priority")
        return dict(new.work) | {name: getattr(new, name) for name in kept}

    def put_off(self, candidate: Candidate, skip: Skip) -> None:
        """Postpone a file that cannot be processed now."""
        self.inspector.stability.postpone(candidate.path, time.monotonic())
        self.inspector.skips.log(skip, candidate.signature)

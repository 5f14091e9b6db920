"""Watched folders: scan each at intervals and after changes, and submit jobs for its files.

All access to a folder is on one thread of its watcher, one call at a time: a network share that
hangs blocks this watcher, but neither the event loop nor other folders.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import json
import logging
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any, Literal, NamedTuple, TypeVar

from watchfiles import awatch  # pyright: ignore[reportUnknownVariableType]  # anyio may be absent

from ...io.root import Root, filesystem_type
from ..config import Config, WatchConfig
from ..errors import IllegalChange, StoreBroken, UnknownJob
from ..fence import Fence
from ..jobs.model import Job
from ..jobs.queue import JobQueue
from ..jobs.store import JobStore
from ..tasks import within
from .inspection import Candidate, FileAdmission, FolderInspection, Inspector, Probe
from .outcome import InputDisposer, bring_back
from .records import Records, Roots
from .scan import MEDIA_EXTENSIONS, WAITING, AllowedFiles, Skip, printable_path

# Detection of changes in a folder: inotify events where available, else polling.


# Exhausted inotify limits.
#
# watchfiles 1.3 ignores ENOSPC (seen with strace): a partly watched tree looks complete. So a watch
# of our own tests whether the kernel has any left.

_IN_DELETE_SELF = 0x400
_LIMITS = Path("/proc/sys/fs/inotify")
_ENOUGH = {"watches": 524288, "instances": 1024}
_EXHAUSTED = (errno.ENOSPC, errno.EMFILE, errno.ENFILE)
"""Here ENOSPC is about watches, not the disk."""
_DEBOUNCE_MS = 1600
_STEP_MS = 100
_LISTED_BY_JOB = ("already_done", "failed_before", "cancelled_before")


def exhaustion(folder: Path) -> str | None:
    """Return which inotify limit is exhausted and what to do; None if a watch is available."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if descriptor < 0:
        return _advice("instances") if ctypes.get_errno() in _EXHAUSTED else None
    try:
        added = libc.inotify_add_watch(descriptor, os.fsencode(folder), _IN_DELETE_SELF)
        return _advice("watches") if added < 0 and ctypes.get_errno() in _EXHAUSTED else None
    finally:
        os.close(descriptor)


def _advice(what: str) -> str:
    key, limit = f"max_user_{what}", 0
    with suppress(OSError, ValueError):
        limit = int((_LIMITS / key).read_text())
    enough = max(_ENOUGH[what], 2 * limit)
    return (
        f"inotify {what} have run out (fs.inotify.{key} is {limit or 'unknown'}; the disk is not "
        f"full); to get events back: sysctl fs.inotify.{key}={enough}, keep it in /etc/sysctl.d, "
        "then reload"
    )


# Inotify reports only changes made through this kernel. On a network share or with FUSE a file may
# change without an event, so such folders are polled.

_SILENT = {
    "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "davfs2", "drvfs", "fuse",
    "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs",
    "prl_fs", "pvfs2", "smb2", "smb3", "smbfs", "sshfs", "vboxsf", "virtiofs", "vmhgfs", "wekafs",
}  # fmt: skip
_MANY_FOLDERS = 2000
"""Larger trees are polled: watchfiles holds the GIL while it starts (19 µs per folder, 380 ms for
20,000), and the event loop must not be delayed by more than 50 ms."""


class Mode(NamedTuple):
    """How a folder is watched, and the reason."""

    name: Literal["events", "poll"]
    why: str


def choose_mode(asked: Literal["auto", "events", "poll"], kind: str, num_folders: int = 0) -> Mode:
    """Choose how to watch a tree of so many folders on a file system of some type."""
    if asked != "auto":
        return Mode(asked, "as configured")
    if kind in _SILENT or kind.startswith("fuse."):
        return Mode("poll", f"{kind} does not report changes made elsewhere")
    if num_folders > _MANY_FOLDERS:
        why = f"{num_folders} folders: starting events would block the daemon"
        return Mode("poll", f'{why}; mode = "events" overrides this')
    return Mode("events", f"on {kind}")


# Events are hints: they only start the next inspection earlier. The full scan finds what they miss.

_MANY_CHANGES = 1000  # from here on a full scan is cheaper, and the kernel may have dropped events
_SILENCE_MS = 500  # after which watchfiles yields without changes, at first once it is watching

# It would log every batch of changes at INFO.
logging.getLogger("watchfiles").setLevel(logging.WARNING)


class ChangeListener:
    """Collect changed paths until they are taken; call `wake` whenever there are changes."""

    def __init__(self, watch: WatchConfig, wake: Callable[[], None]) -> None:
        self._watch = watch
        self._wake = wake
        self._stop = asyncio.Event()
        self._events: asyncio.Task[None] | None = None
        self._changed: set[Path] = set()
        self._rescan = True
        self._begun = False
        self._armed = False
        """Whether watchfiles has added its watches."""
        self.mode = Mode("poll", "not begun")

    async def begin(self, filesystem: str, num_folders: int) -> None:
        """Start, unless started already, to watch a folder that exists (again).

        The first scan has counted `num_folders`; watchfiles walks the tree many times faster after
        it.
        """
        if self._begun:
            return
        self._begun = True
        self.mode = name, why = choose_mode(self._watch.mode, filesystem, num_folders)
        text = "%s: watched by %s (%s), scanned every %g s"
        log.info(text, printable_path(self._watch.input), name, why, self._watch.scan_seconds)
        if name == "events":
            self._stop, self._armed = asyncio.Event(), False
            self._events = asyncio.create_task(self._listen(), name=f"events {self._watch.input}")

    async def end(self) -> None:
        """Stop watching; the next start begins with a full scan."""
        self._begun = False
        self._rescan = True
        await self._drop_events()

    async def _drop_events(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            self._stop.set()
            await events

    async def check(self) -> None:
        """Check that events are complete: watchfiles does not report exhausted limits.

        Not before it has added all of its watches: the one that tests the limit would take one of
        theirs, and when it is removed again nothing would seem to be missing.
        """
        if self._events is None or not self._armed:
            return
        out = await asyncio.to_thread(exhaustion, self._watch.input)
        if out is not None:
            await self._drop_events()
            self._poll(out)

    def take(self) -> set[Path] | None:
        """Return and clear the changed paths; None: a full scan is needed."""
        changed, self._changed = self._changed, set()
        rescan, self._rescan = self._rescan, False
        return None if rescan or len(changed) >= _MANY_CHANGES else changed

    def ask_for_scan(self) -> None:
        """Request a full scan."""
        self._rescan = True

    async def _listen(self) -> None:
        """Collect changes until stopped; switch to polling if that fails."""
        stop, reason = self._stop, None
        with Fence("event", printable_path(self._watch.input)) as fenced:
            try:
                await self._collect(stop)
            except (OSError, RuntimeError) as error:  # watchfiles has no type of its own for all
                reason = await asyncio.to_thread(exhaustion, self._watch.input) or str(error)
        if fenced.error is not None:
            reason = f"an internal error, {type(fenced.error).__name__}"
        if reason is not None and not stop.is_set():
            self._events = None
            self._poll(reason)

    async def _collect(self, stop: asyncio.Event) -> None:
        async for changes in awatch(
            self._watch.input,
            watch_filter=None,
            debounce=_DEBOUNCE_MS,
            step=_STEP_MS,
            rust_timeout=_SILENCE_MS,
            yield_on_timeout=True,
            stop_event=stop,
            force_polling=False,
            recursive=self._watch.recursive,
            ignore_permission_denied=True,
        ):
            if self._armed and not changes:
                continue
            # changes between the first scan and now were not reported
            self._rescan |= not self._armed
            self._armed = True
            if len(self._changed) < _MANY_CHANGES:
                self._changed |= {Path(path) for _, path in changes}
            self._wake()

    def _poll(self, reason: str) -> None:
        if self.mode.name == "poll":  # also reported by `check`
            return
        self.mode = Mode("poll", reason)
        self._rescan = True
        self._wake()
        text = "%s: events are lost: %s; until then it is scanned every %g s"
        log.warning(text, printable_path(self._watch.input), reason, self._watch.scan_seconds)


log = logging.getLogger("upframe.watch")


Result = TypeVar("Result")

_STATES = ("waiting", "failed", "skipped")
_JITTER = 0.25  # share of the interval between scans, so that watchers do not scan simultaneously
_FILES_AT_ONCE = 16  # submitted before changes are processed again
_ABSENT_SECONDS = 10.0  # between checks of a missing folder, and after an error
_RENEWAL_SECONDS = 60.0  # for a file to come back from another disk; a share may hang
_BREATH_SECONDS = 0.05  # between two rounds, so that a stream of events cannot keep a core busy


class Watcher:
    """Watches one folder, by its place in the configuration, until it is cancelled.

    `probe` returns whether a file is a video, `filesystem` the type of a path's file system.
    """

    def __init__(
        self,
        config: Config,
        index: int,
        queue: JobQueue,
        store: JobStore,
        probe: Probe,
        filesystem: Callable[[Path], str],
    ) -> None:
        self.watch = watch = config.watch[index]
        self._config = config
        self._queue = queue
        self._records = Records(store)
        self._probe = probe
        self._filesystem = filesystem
        self._roots = Roots({"input": watch.input, "output": watch.output})
        self._identity: tuple[int, int] | None = None
        self._kind = "unknown"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"watch-{index}")
        self._stop = Event()
        self._wake = asyncio.Event()
        self._listener = ChangeListener(watch, self._wake.set)
        self._next_scan = 0.0
        self._admission: FileAdmission | None = None
        self._ready: dict[Path, Candidate] = {}
        """Ready files that are not submitted yet; they are not inspected again meanwhile."""
        self._paused: str | None = None
        self._num_scans = 0
        self._num_errors = 0
        self._last_scan_seconds: float | None = None
        self.looked = asyncio.Event()
        """Set after the first scan, or when the folder was found missing."""

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            while True:
                delay = await self._survive_round()
                self.looked.set()
                await within(max(delay, _BREATH_SECONDS), self._wake.wait())
                self._wake.clear()
                await asyncio.sleep(_BREATH_SECONDS)
        finally:
            self._stop.set()
            await self._listener.end()
            # not waited for: a thread that hangs in a dead share would block the exit
            self._thread.shutdown(wait=False, cancel_futures=True)

    def status(self) -> dict[str, Any]:
        """Return the state for the status page and metrics."""
        admission = self._admission
        skips = admission.inspector.skips.skips() if admission else []
        return {
            "name": self.watch.label,
            "input": str(self.watch.input),
            "output": str(self.watch.output),
            "state": "paused" if self._paused else "watching" if admission else "starting",
            "paused": self._paused,
            "mode": self._listener.mode.name,
            "mode_reason": self._listener.mode.why,
            "taken": admission.num_taken if admission else 0,
            "waiting": len(admission.inspector.stability) if admission else 0,
            "skipped": dict(Counter(skip.reason for skip in skips)),
            "scans": self._num_scans,
            "errors": self._num_errors,
            "last_scan_seconds": self._last_scan_seconds,
        }

    async def renew(self, job: Job) -> dict[str, object]:
        """Bring its file back; return what a job would be today: :meth:`FileAdmission.renew`.

        Raises:
            IllegalChange: if it would be none.
        """
        if self._admission is None or self._paused is not None:
            raise IllegalChange(f"job {job.id}: {self._paused or 'its folder is not scanned yet'}")
        try:
            await self._off(bring_back, job, self.watch, self._records.state_dir)
            return await self._off(self._admission.renew, job)
        except OSError as error:
            text = f"job {job.id}: {printable_path(job.source)}: {error.strerror or error}"
            raise IllegalChange(text) from error

    def files(self, ended: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """List the files that wait, failed or were skipped, with the reason, in this order.

        Blocks, but only for the job store. `ended` are the failed and cancelled jobs of all
        folders, as JSON values.
        """
        found = [each for job in ended if (each := self._ended_file(job)) is not None]
        for skip in self._admission.inspector.skips.skips() if self._admission else ():
            if skip.reason not in _LISTED_BY_JOB:
                state = "waiting" if skip.reason in WAITING else "skipped"
                found.append(_file(skip.path, state, skip.reason, skip.detail))
        return sorted(found, key=lambda file: (_STATES.index(file["state"]), file["path"]))

    def _ended_file(self, job: Mapping[str, Any]) -> dict[str, Any] | None:
        source = Path(job["source"])
        inside = source.is_relative_to(self.watch.input)
        if not inside or self._records.latest(source) != job["id"]:
            return None
        again = f"to try again: upframe jobs retry {job['id']}"
        if job["state"] == "cancelled":
            return _file(source, "skipped", "cancelled_before", f"cancelled; {again}")
        message = str(job["error"]["message"] if job["error"] else "") or "failed"
        return _file(source, "failed", "failed_before", f"{message.splitlines()[0]}; {again}")

    async def _off(self, call: Callable[..., Result], *arguments: object) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, call, *arguments)

    async def _survive_round(self) -> float:
        with Fence("file", printable_path(self.watch.input)):
            try:
                return await self._round()
            except (OSError, StoreBroken) as error:
                log.warning("%s: cannot be scanned: %s", printable_path(self.watch.input), error)
        self._num_errors += 1
        self._listener.ask_for_scan()
        await asyncio.sleep(min(self.watch.scan_seconds, _ABSENT_SECONDS))
        return 0.0

    async def _round(self) -> float:
        """Inspect and act once; return the seconds until the next round."""
        missing = await self._off(self._roots.missing)
        if missing is not None:
            if self._paused is None:
                log.warning("%s; watching is paused", missing)
            self._paused, self._identity = missing, None
            self._ready.clear()
            await self._listener.end()
            return min(self.watch.scan_seconds, _ABSENT_SECONDS)
        admission = await self._arrive()
        inspection = await self._inspect(admission.inspector)
        await self._act(inspection, admission)
        if self._ready:
            return 0.0
        wanted = admission.inspector.stability.next_due()
        due = self._next_scan if wanted is None else min(wanted, self._next_scan)
        return due - time.monotonic()

    async def _arrive(self) -> FileAdmission:
        """Start, or restart, if the folder was missing or has been replaced."""
        if self._paused is not None:
            text = "%s: available again, watching is resumed"
            log.warning(text, printable_path(self.watch.input))
        self._paused = None
        identity = self._roots.identity(self.watch.input)
        if identity == self._identity and self._admission is not None:
            return self._admission
        kind = await self._off(self._filesystem, self.watch.input)
        if self._admission is None:
            await self._off(self._records.locks(self.watch).clear, self._is_active)
        inspector = await self._off(self._inspector, kind)
        admission = FileAdmission(self.watch, inspector, self._records, self._queue)
        admission.num_taken = self._admission.num_taken if self._admission else 0
        self._admission, self._kind = admission, kind
        await self._listener.end()
        self._identity = identity
        return admission

    def _inspector(self, kind: str) -> Inspector:
        state_dir, watch = self._records.state_dir, self.watch
        linked = (watch.input, *self._config.jobs.roots) if watch.follow_links else ()
        roots = tuple(Root(Path(os.path.realpath(path)), state_dir) for path in linked)
        allowed = AllowedFiles(Root(watch.input, state_dir), roots)
        reserved = reserved_folders(watch, self._config)
        return Inspector(watch, self._records, allowed, kind, reserved, self._stop)

    def _is_active(self, job: str) -> bool:
        try:
            return not self._records.store.get(job).ended_for_good
        except UnknownJob:
            return False

    async def _inspect(self, inspector: Inspector) -> FolderInspection:
        if time.monotonic() >= self._next_scan:
            self._listener.ask_for_scan()
        changed = self._listener.take()
        if changed is not None:
            return await self._off(inspector.inspect_paths, changed, not self._ready)
        self._ready.clear()
        begun = time.monotonic()
        inspection = await self._off(inspector.inspect_all)
        await self._off(self._records.locks(self.watch).beat)
        await self._listener.begin(self._kind, inspection.num_folders)
        await self._listener.check()
        self._num_scans += 1
        self._last_scan_seconds = time.monotonic() - begun
        jitter = random.uniform(1 - _JITTER, 1 + _JITTER)
        self._next_scan = time.monotonic() + jitter * self.watch.scan_seconds
        return inspection

    async def _act(self, inspection: FolderInspection, admission: FileAdmission) -> None:
        for job in inspection.outdated:
            try:
                await self._queue.cancel(job)
                log.info("job %s: cancelled, its file has changed", job)
            except (IllegalChange, UnknownJob, TimeoutError) as error:
                log.info("job %s: its file has changed, but it cannot be cancelled: %s", job, error)
        for job in inspection.returned:
            with suppress(IllegalChange, UnknownJob):  # changed concurrently
                await self._queue.retry(job)
                log.info("job %s: retried, its file was missing and is back", job)
        self._ready |= {candidate.path: candidate for candidate in inspection.ready}
        for path in list(self._ready)[:_FILES_AT_ONCE]:
            candidate = self._ready.pop(path)
            with Fence("file", printable_path(path), let=(StoreBroken,)) as fenced:
                try:
                    await self._take(candidate, admission)
                except OSError as error:
                    skip = Skip(candidate.path, "unwritable", error.strerror or str(error))
                    await self._off(admission.put_off, candidate, skip)
            if fenced.error is not None:
                await self._off(admission.inspector.decide, candidate)

    async def _take(self, candidate: Candidate, admission: FileAdmission) -> None:
        verdict = await self._probe(candidate.file, candidate.root)
        if not await self._off(admission.inspector.is_same, candidate):
            return  # changed while it was probed: found again when it is stable
        if verdict.kind == "video":
            job = await self._off(admission.prepare, candidate)
            if job is not None:
                stored = await admission.submit(candidate, job)
                await self._off(admission.taken, candidate, stored)
        elif verdict.kind == "refused" and candidate.path.suffix.lower() not in MEDIA_EXTENSIONS:
            await self._off(admission.pass_over, candidate, verdict.message)  # else it is damaged
        elif verdict.kind == "refused" or await self._off(
            admission.postpone, candidate, verdict.message
        ):
            stored = await admission.fail(candidate, verdict.message)
            await self._off(admission.taken, candidate, stored)


def _file(path: Path, state: str, reason: str, detail: str) -> dict[str, Any]:
    return {"path": printable_path(path), "state": state, "reason": reason, "detail": detail}


class Watches:
    """Run a watcher for each `[[watch]]`, and move or delete inputs of ended jobs."""

    def __init__(
        self,
        config: Config,
        queue: JobQueue,
        store: JobStore,
        probe: Probe,
        *,
        filesystem: Callable[[Path], str] = filesystem_type,
    ) -> None:
        self._watchers = [
            Watcher(config, index, queue, store, probe, filesystem)
            for index in range(len(config.watch))
        ]
        self.disposer = InputDisposer(config.watch, queue, store)
        self._queue = queue

    async def run(self) -> None:
        """Watch until cancelled."""
        self._queue.renew = self._renew
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.disposer.run(), name="settle")
                for index, watcher in enumerate(self._watchers):
                    tasks.create_task(watcher.run(), name=f"watch {index}")
        finally:
            self._queue.renew = None

    async def _renew(self, job: Job) -> dict[str, object]:
        """Return what a job would be today, by the folder that its file is in."""
        source = Path(job.source)
        owners = [each for each in self._watchers if source.is_relative_to(each.watch.input)]
        if not owners:
            return {}
        owner = max(owners, key=lambda each: len(each.watch.input.parts))
        async with asyncio.timeout(_RENEWAL_SECONDS):
            return await owner.renew(job)

    async def files(self) -> list[list[dict[str, Any]]]:
        """List the files of each folder that wait, failed or were skipped, with the reason."""

        def listed(bodies: list[str]) -> list[list[dict[str, Any]]]:
            jobs = [job for body in bodies if (job := json.loads(body))["origin"] == "watch"]
            return [watcher.files(jobs) for watcher in self._watchers]

        try:
            bodies = await self._queue.bodies(("failed", "cancelled"))
            return await asyncio.to_thread(listed, bodies)
        except StoreBroken:  # `/status` says so
            return [[] for _ in self._watchers]

    async def looked(self) -> None:
        """Wait until every folder has been scanned once, or was found missing."""
        for watcher in self._watchers:
            await watcher.looked.wait()

    def status(self) -> list[dict[str, Any]]:
        """Return the state of each folder, in the order of the configuration."""
        return [watcher.status() for watcher in self._watchers]


def reserved_folders(watch: WatchConfig, config: Config) -> dict[Path, str]:
    """List the folders inside a watched one that are skipped, with the reason.

    A folder with its own `[[watch]]` belongs to that one only. Outputs and the folders of done and
    failed inputs of any watch contain no inputs.
    """
    found = {config.state_dir: "the daemon's own state"}
    for other in config.watch:
        found[other.input] = "watched by itself"
        found[other.output] = "output of a watch"
        if other.done_dir is not None:
            found[other.done_dir] = "done inputs"
        if other.failed_dir is not None:
            found[other.failed_dir] = "failed inputs"
    return {
        folder: why
        for folder, why in found.items()
        if folder != watch.input and folder.is_relative_to(watch.input)
    }

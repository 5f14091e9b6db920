"""One watched folder: looks when the time has come or something has changed, and takes files.

Everything that touches the folder runs on one thread of the watcher's own, one call at a time: a
share that hangs holds up this watch, and neither the event loop nor anybody else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Protocol, TypeVar

from ...io.root import Root, filesystem_type
from ..config import Config, WatchConfig
from ..fence import Fence
from ..jobs.model import IllegalChange, StoreBroken, UnknownJob
from ..jobs.queue import JobQueue
from ..jobs.store import JobStore
from .changes import Listening
from .inspection import Candidate, Look, Looked
from .intake import Intake, Probe, Verdict
from .outcome import Settler
from .records import Records, Roots
from .scan import Reach, Skip, shown

log = logging.getLogger("upframe.watch")


Result = TypeVar("Result")

_JITTER = 0.25  # of the time between two scans: many watches shall not scan in step
_FILES_AT_ONCE = 16  # taken before changes are heard again
_ABSENT_SECONDS = 10.0  # between two looks for a folder that is missing, and after an error
_BREATH_SECONDS = 0.05  # between two rounds: a stream of events is no reason to spin


class Watcher:
    """Watches one folder until it is cancelled.

    Args:
        watch: What to watch, and what to make of it.
        index: Its place in the configuration, for names.
        queue: Takes the jobs.
        store: Remembers what was seen.
        probe: Tells whether a file is a video.
        linked: Folders in which the targets of links may lie, beside the watched one.
        reserved: Folders that are not looked into, with the reason.
        clock: Seconds, never going back.
        filesystem: Names the type of the file system that a path is on.
    """

    def __init__(
        self,
        watch: WatchConfig,
        index: int,
        queue: JobQueue,
        store: JobStore,
        probe: Probe,
        *,
        linked: tuple[Path, ...] = (),
        reserved: dict[Path, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        filesystem: Callable[[Path], str] = filesystem_type,
    ) -> None:
        self._watch = watch
        self._queue = queue
        self._records = Records(store)
        self._probe = probe
        self._linked = linked
        self._reserved = reserved or {}
        self._clock = clock
        self._filesystem = filesystem
        self._roots = Roots({"input": watch.input, "output": watch.output})
        self._identity: tuple[int, int] | None = None
        self._kind = "unknown"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"watch-{index}")
        self._stop = Event()
        self._wake = asyncio.Event()
        self._listening = Listening(watch, self._wake.set)
        self._next_scan = 0.0
        self._look: Look | None = None
        self._intake: Intake | None = None
        self._ready: dict[Path, Candidate] = {}
        """Found ready, and not taken yet: they are not looked at again and again meanwhile."""
        self._paused: str | None = None
        self._num_scans = 0
        self._num_errors = 0
        self._last_scan_seconds: float | None = None
        self.looked = asyncio.Event()
        """Set after the first look at the folder, or when it was found missing."""

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            while True:
                delay = await self._survive_round()
                self.looked.set()
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(delay, _BREATH_SECONDS)):
                        await self._wake.wait()
                self._wake.clear()
                await asyncio.sleep(_BREATH_SECONDS)
        finally:
            self._stop.set()
            await self._listening.end()
            # not waited for: a thread that hangs in a dead share would hold up the whole exit
            self._thread.shutdown(wait=False, cancel_futures=True)

    def status(self) -> dict[str, Any]:
        """Tell how it stands, for people and for metrics."""
        look = self._look
        return {
            "input": str(self._watch.input),
            "output": str(self._watch.output),
            "state": "paused" if self._paused else "watching" if look else "starting",
            "paused": self._paused,
            "mode": self._listening.mode.name,
            "mode_reason": self._listening.mode.why,
            "taken": self._intake.num_taken if self._intake else 0,
            "waiting": len(look.stability) if look else 0,
            "skipped": look.skips.counts() if look else {},
            "scans": self._num_scans,
            "errors": self._num_errors,
            "last_scan_seconds": self._last_scan_seconds,
        }

    async def _off(self, call: Callable[..., Result], *arguments: object) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, call, *arguments)

    async def _survive_round(self) -> float:
        with Fence("file", shown(self._watch.input)):
            try:
                return await self._round()
            except (OSError, StoreBroken) as error:
                log.warning("%s: cannot be scanned: %s", shown(self._watch.input), error)
        self._num_errors += 1
        self._listening.ask_for_scan()
        await asyncio.sleep(min(self._watch.scan_seconds, _ABSENT_SECONDS))
        return 0.0

    async def _round(self) -> float:
        """Look and act once; returns the seconds until the next look."""
        missing = await self._off(self._roots.missing)
        if missing is not None:
            await self._pause(missing)
            return min(self._watch.scan_seconds, _ABSENT_SECONDS)
        await self._arrive()
        if self._look is None or self._intake is None:
            raise AssertionError("a folder that is there is looked at")
        looked = await self._look_now(self._look)
        await self._act(looked, self._intake)
        if self._ready:
            return 0.0
        wanted = self._look.stability.next_due()
        due = self._next_scan if wanted is None else min(wanted, self._next_scan)
        return due - self._clock()

    async def _pause(self, missing: str) -> None:
        if self._paused is None:
            log.warning("%s; the watch pauses", missing)
        self._paused = missing
        self._identity = None
        self._ready.clear()
        await self._listening.end()

    async def _arrive(self) -> None:
        """Begin, or begin anew, where the folder was not there or is another one now."""
        if self._paused is not None:
            log.warning("%s: all is there again, the watch goes on", shown(self._watch.input))
        self._paused = None
        identity = self._roots.identity(self._watch.input)
        if identity == self._identity:
            return
        kind = await self._off(self._filesystem, self._watch.input)
        if self._look is None:
            await self._off(self._clear_locks)
        self._look = look = Look(
            self._watch,
            self._records,
            self._reach(),
            filesystem=kind,
            reserved=self._reserved,
            stop=self._stop,
        )
        taken = self._intake.num_taken if self._intake else 0
        self._intake = Intake(self._watch, look, self._records, self._queue, self._clock)
        self._intake.num_taken = taken
        self._kind = kind
        await self._listening.end()
        self._identity = identity

    def _reach(self) -> Reach:
        def root(path: Path) -> Root:
            return Root(Path(os.path.realpath(path)), self._records.state_dir)

        inside = Root(self._watch.input, self._records.state_dir)
        if not self._watch.follow_links:
            return Reach(inside)
        return Reach(inside, tuple(root(path) for path in (self._watch.input, *self._linked)))

    def _clear_locks(self) -> None:
        def is_active(job: str) -> bool:
            try:
                return not self._records.store.get(job).ended_for_good
            except UnknownJob:
                return False

        self._records.locks(self._watch).clear(is_active)

    async def _look_now(self, look: Look) -> Looked:
        if self._clock() >= self._next_scan:
            self._listening.ask_for_scan()
        changed = self._listening.take()
        if changed is not None:
            some = partial(look.some, changed, self._clock(), also_due=not self._ready)
            return await self._off(some)
        self._ready.clear()
        begun = self._clock()
        looked = await self._off(look.everything, begun)
        await self._off(self._records.locks(self._watch).beat)
        await self._listening.begin(self._kind, looked.num_folders)
        await self._listening.check()
        self._num_scans += 1
        self._last_scan_seconds = self._clock() - begun
        jitter = random.uniform(1 - _JITTER, 1 + _JITTER)
        self._next_scan = self._clock() + jitter * self._watch.scan_seconds
        return looked

    async def _act(self, looked: Looked, intake: Intake) -> None:
        for job in looked.outdated:
            await self._cancel(job)
        for job in looked.returned:
            with suppress(IllegalChange, UnknownJob):  # somebody else was faster
                await self._queue.retry(job)
                log.info("job %s: its file was missing and is back, tried again", job)
        self._ready |= {candidate.path: candidate for candidate in looked.ready}
        for path in list(self._ready)[:_FILES_AT_ONCE]:
            candidate = self._ready.pop(path)
            with Fence("file", shown(path), let=(StoreBroken,)) as fenced:
                try:
                    await self._take(candidate, intake)
                except OSError as error:
                    skip = Skip(candidate.path, "unwritable", error.strerror or str(error))
                    await self._off(intake.put_off, candidate, skip)
            if fenced.error is not None and self._look is not None:
                await self._off(self._look.decide, candidate)

    async def _cancel(self, job: str) -> None:
        try:
            await self._queue.cancel(job)
        except (IllegalChange, UnknownJob, TimeoutError) as error:
            log.info("job %s: its file has changed, but: %s", job, error)
        else:
            log.info("job %s: cancelled, its file has changed", job)

    async def _take(self, candidate: Candidate, intake: Intake) -> None:
        verdict = await self._probe(candidate.file, candidate.root)
        if not await self._off(intake.is_same, candidate):
            return  # it has moved while it was probed: it is seen again when it holds still
        if verdict.kind == "video":
            job = await self._off(intake.prepare, candidate)
            if job is not None:
                stored = await intake.submit(candidate, job)
                await self._off(intake.taken, candidate, stored)
        elif verdict.kind == "refused" and not intake.is_failure(candidate):
            await self._off(intake.pass_over, candidate, verdict.message)
        elif verdict.kind == "refused" or await self._off(
            intake.postpone, candidate, verdict.message
        ):
            stored = await intake.fail(candidate, verdict.message)
            await self._off(intake.taken, candidate, stored)


# All watched folders of a configuration, and what becomes of their files in the end.


class Prober(Protocol):
    """Tells what a file is, without ever taking the daemon down with it."""

    def probe(self, path: Path, root: Root) -> Awaitable[Verdict]:
        """Look into a file, opened beneath a root."""
        ...


class Watches:
    """Runs a watcher for each `[[watch]]`, and deals with the files of ended jobs.

    Args:
        config: The whole configuration.
        queue: Takes the jobs, and tells when they end.
        store: Remembers what was seen.
        prober: Tells whether a file is a video.
        filesystem: Names the type of the file system that a path is on.
    """

    def __init__(
        self,
        config: Config,
        queue: JobQueue,
        store: JobStore,
        prober: Prober,
        *,
        filesystem: Callable[[Path], str] = filesystem_type,
    ) -> None:
        self._watchers = [
            Watcher(
                watch,
                index,
                queue,
                store,
                prober.probe,
                linked=config.jobs.roots,
                reserved=reserved_folders(watch, config),
                filesystem=filesystem,
            )
            for index, watch in enumerate(config.watch)
        ]
        self._settler = Settler(config.watch, queue, store)

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._settler.run(), name="settle")
            for index, watcher in enumerate(self._watchers):
                tasks.create_task(watcher.run(), name=f"watch {index}")

    async def looked(self) -> None:
        """Wait until every folder has been looked at once, or was found missing."""
        for watcher in self._watchers:
            await watcher.looked.wait()

    def status(self) -> list[dict[str, Any]]:
        """Tell how each folder stands, in the order of the configuration."""
        return [watcher.status() for watcher in self._watchers]

    def pending(self) -> dict[str, str]:
        """Tell by job which inputs could not be moved or deleted yet, and why."""
        return self._settler.pending()


def reserved_folders(watch: WatchConfig, config: Config) -> dict[Path, str]:
    """List the folders inside a watched one that are not looked into, with the reason.

    A folder that is watched by itself belongs to that watch alone. Outputs and the folders of
    done and failed inputs are nobody's inputs, whichever watch they are of.
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

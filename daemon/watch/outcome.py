"""Move, delete or keep the input of an ended job. Functions block.

An input is moved or deleted only if it is still the file that was processed, and the input of a
done job only if its output exists.
"""

from __future__ import annotations

import asyncio
import errno
import filecmp
import json
import logging
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from ...io import files
from ...io.errors import MediaError
from ...io.root import Root, by_descriptor, opened_folder, opened_place, read_entry
from ..config import WatchConfig
from ..errors import StoreBroken, UnknownJob
from ..fence import Fence
from ..jobs.model import Job, partial_token
from ..jobs.queue import JobQueue, Subscription
from ..jobs.store import ENDED, JobStore
from ..logfields import about_job
from .inspection import is_same_file, mirrored
from .records import Records, Roots, key_fits
from .scan import SIDECAR_SUFFIX, NameRules, Signature, companions, printable_path

log = logging.getLogger("upframe.watch")


# Moving an input: it always exists completely at one place, and nothing is replaced.
#
# On one file system: a link and an unlink. Across two: a hidden copy that is synced to the disk,
# compared with the original, renamed, and only then is the original removed.


def move(source: Path, target: Path, before_removal: Callable[[Path], None]) -> Path:
    """Move a file to `target`, or to a free name next to it.

    ``film.mkv`` becomes ``film-1.mkv`` if it exists. `before_removal` is called with the new path,
    which is returned, while the file exists at both; if it raises, the file stays at `source` only.

    Raises:
        OSError: if that fails; the file is still at `source`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for name in files.numbered(target):
        if not _is_finished(source, name):
            try:
                _put(source, name)
            except FileExistsError:
                continue
        files.sync_folder(name.parent)
        try:
            before_removal(name)
            source.unlink()
        except BaseException:
            name.unlink()
            raise
        files.sync_folder(source.parent)
        return name
    raise AssertionError("there are always more numbers")


def _is_finished(source: Path, name: Path) -> bool:
    """Return whether the file has that name already: a move was interrupted between its steps."""
    try:
        one, other = source.lstat(), name.lstat()
    except OSError:
        return False
    if (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino):
        return source != name
    same = one.st_mtime_ns == other.st_mtime_ns
    return same and _is_copy(source, name)


def _is_copy(source: Path, name: Path) -> bool:
    return stat.S_ISREG(name.lstat().st_mode) and filecmp.cmp(source, name, shallow=False)


def _put(source: Path, name: Path) -> None:
    """Link a file to a second name, or copy it there; a FileExistsError if that is taken."""
    try:
        os.link(source, name, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.EXDEV or error.errno in files.CANNOT_LINK:
            _copy(source, name)
        else:
            raise


def _copy(source: Path, name: Path, token: str | None = None) -> None:
    partial = files.partial_path(name, token)
    if token is not None:  # what a killed process has left
        partial.unlink(missing_ok=True)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        # by descriptors: the names may have become links
        with (
            open(source, "rb", opener=lambda name, _: os.open(name, flags)) as original,
            partial.open("xb") as copy,
        ):
            held = [by_descriptor(file.fileno()) for file in (original, copy)]
            shutil.copyfileobj(original, copy)
            copy.flush()
            shutil.copystat(*held)
            os.fsync(copy.fileno())
            if not filecmp.cmp(*held, shallow=False):
                raise OSError(errno.EIO, f"the copy differs from the original: {source}")
        files.rename_without_replacing(partial, name)
    finally:
        partial.unlink(missing_ok=True)


SIDECAR_SCHEMA = "upframe.error/1"
_MOST_MOVED = 100
"""Numbered names among which a moved input is searched."""


def output_signature(job: Job, output: Root) -> Signature | None:
    """Return the signature of a job's output; None if it is not a file or empty."""
    try:
        with opened_place(output, Path(job.sink)) as place:
            status = place.lstat()
    except OSError:
        return None
    return Signature.of(status) if stat.S_ISREG(status.st_mode) and status.st_size else None


def dispose_done(job: Job, watch: WatchConfig, state_dir: Path | None = None) -> None:
    """Keep, move or delete the input of a done job.

    Raises:
        OSError: if that fails; the input is unchanged.
    """
    source, shown = Path(job.source), printable_path(job.source)
    with opened_place(Root(watch.input, state_dir), source) as here:
        remove_sidecar(here)
        if watch.on_done == "keep":
            return
        if (why := _against(job, here, watch.root(watch.output, state_dir))) is not None:
            log.warning("%s: kept, %s", shown, why)
        elif watch.on_done == "delete":
            here.unlink()
            log.info("%s: deleted, its output is %s", shown, printable_path(job.sink))
        elif watch.done_dir is not None:
            place = _move_away(here, job, watch, (watch.done_dir, state_dir), lambda _: None)
            log.info("%s: done, moved to %s", shown, printable_path(place))


def _move_away(
    here: Path,
    job: Job,
    watch: WatchConfig,
    to: tuple[Path, Path | None],
    explain: Callable[[Path], None],
) -> Path:
    """Move an input to the same place below another folder; return its new path."""

    def check(place: Path) -> None:
        if not is_unchanged(job, here):  # copying to another device may take long
            raise OSError(f"{printable_path(job.source)} has changed while it was moved")
        explain(place)

    target, root = mirrored(Path(job.source), watch.input, to[0]), watch.root(*to)
    root.path.mkdir(parents=True, exist_ok=True)
    with opened_folder(root, target.parent, create=True) as there:
        return target.with_name(move(here, there / target.name, check).name)


def _against(job: Job, source: Path, output: Root) -> str | None:
    """Return why a done job's input must not be touched, or None."""
    if source.is_symlink():
        return "it is a link"
    if output_signature(job, output) is None:
        return f"its output {printable_path(job.sink)} does not exist"
    if job.report is None:
        return "its output was not verified"
    if is_same_file(source, Path(job.sink)):
        return "it is its own output"
    return None if is_unchanged(job, source) else "it has changed or disappeared since it was read"


def dispose_failed(job: Job, watch: WatchConfig, state_dir: Path | None = None) -> None:
    """Leave or move the input of a failed job, and write the reason next to it.

    Raises:
        OSError: if that fails; the input is unchanged.
    """
    source, shown = Path(job.source), printable_path(job.source)
    with opened_place(Root(watch.input, state_dir), source) as here:
        if not is_unchanged(job, here):
            log.info("%s: has changed or disappeared since job %s failed", shown, job.id)
            return
        if watch.on_failed == "leave" or watch.failed_dir is None:
            write_sidecar(here, job)
            return
        to = watch.failed_dir, state_dir
        place = _move_away(here, job, watch, to, lambda moved: write_sidecar(moved, job))
        remove_sidecar(here)
        log.info("%s: failed, moved to %s", shown, printable_path(place))


def bring_back(job: Job, watch: WatchConfig, state_dir: Path | None = None) -> None:
    """Move the input of a failed job back to its place, unless there is a file.

    What was moved is known by the account beside it.

    Raises:
        OSError: if that fails; the input is where it was.
    """
    source, folder = Path(job.source), watch.failed_dir
    with opened_place(Root(watch.input, state_dir), source) as here:
        if folder is None or os.path.lexists(here):
            return
    target = mirrored(source, watch.input, folder)
    with opened_place(watch.root(folder, state_dir), target) as there:
        for place in islice(files.numbered(there), _MOST_MOVED):
            if _account_beside(place).get("job") != job.id or not os.path.lexists(place):
                continue
            with opened_folder(Root(watch.input, state_dir), source.parent, create=True) as home:
                move(place, home / source.name, lambda _: None)
            remove_sidecar(place)
            log.info("%s: moved back from %s", printable_path(source), printable_path(folder))
            return


def is_unchanged(job: Job, source: Path) -> bool:
    """Return whether a job's input is still the version that the job was made for."""
    try:
        status = source.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and key_fits(job.idempotency_key, Signature.of(status))


def sidecar_of(path: Path) -> Path:
    """Return the path of the file with the reason why `path` failed."""
    room = files.NAME_MAX_BYTES - len(SIDECAR_SUFFIX)
    name = os.fsencode(path.name)[:room].decode(errors="ignore")
    return path.with_name(f"{name}{SIDECAR_SUFFIX}")


def write_sidecar(place: Path, job: Job) -> None:
    """Write the reason why a job failed next to its input.

    Raises:
        OSError: if it cannot be written.
    """
    sidecar = sidecar_of(place)
    partial = files.partial_path(sidecar)
    try:
        with partial.open("x") as file:
            file.write(json.dumps(_account(job), indent=2, ensure_ascii=False) + "\n")
        partial.replace(sidecar)
    finally:
        partial.unlink(missing_ok=True)


def remove_sidecar(source: Path) -> None:
    """Remove the sidecar of an earlier attempt next to an input, if it is ours."""
    if _account_beside(source):
        with suppress(OSError):
            sidecar_of(source).unlink()


def _account_beside(source: Path) -> dict[str, Any]:
    """Read the sidecar of an input; empty if it is missing, or not ours."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        account = from_json(read_entry(sidecar_of(source)))
        if account["schema"] == SIDECAR_SCHEMA:
            return account
    return {}


def _account(job: Job) -> dict[str, Any]:
    times = {"created": job.created, "started": job.started, "ended": job.ended}
    return {
        "schema": SIDECAR_SCHEMA,
        "version": version("upframe"),
        "job": job.id,
        "source": job.source,
        "sink": job.sink,
        "error": None if job.error is None else job.error.model_dump(mode="json"),
        "attempts": job.attempts,
        **{name: at and at.isoformat(timespec="seconds") for name, at in times.items()},
        "filters": job.filters.model_dump(mode="json", exclude_defaults=True),
        "encoder": job.encoder.model_dump(mode="json", exclude_defaults=True),
        "again": f"upframe jobs retry {job.id}",
    }


# Companions of an input go with its output where `sidecars` asks for it. To copy them again, as
# after a kill, changes nothing.


def bring_companions(job: Job, watch: WatchConfig, state_dir: Path | None = None) -> None:
    """Copy the companions of an input beside its output, under the output's name.

    Nothing is replaced; what is excluded, or an input by itself, is left out.

    Raises:
        OSError: if one cannot be copied.
    """
    source, sink = Path(job.source), Path(job.sink)
    inputs, others = (NameRules(names, watch.exclude) for names in (watch.include, ("*",)))
    with (
        suppress(FileNotFoundError),  # gone meanwhile
        opened_folder(Root(watch.input, state_dir), source.parent) as here,
        opened_folder(watch.root(watch.output, state_dir), sink.parent) as there,
    ):
        for name in companions(source.name, os.listdir(here)):
            relative = source.with_name(name).relative_to(watch.input)
            if others.against_file(relative) is None and inputs.against_file(relative) is not None:
                target = sink.with_name(sink.stem + name.removeprefix(source.stem))
                _bring(here / name, there / target.name, target, partial_token(job.id))
        files.sync_folder(there)


def _bring(source: Path, place: Path, target: Path, token: str) -> None:
    if not stat.S_ISREG(source.lstat().st_mode):
        return
    if not os.path.lexists(place):
        _copy(source, place, token)
        log.info("%s: brought along", printable_path(target))
    elif not _is_copy(source, place):
        log.warning("%s: exists already, not replaced", printable_path(target))


_RETRY_SECONDS = 60.0  # between attempts to move an input


class InputDisposer:
    """Dispose of the inputs of ended jobs, one after the other; a failure is tried again.

    Also of jobs that ended while the daemon was not running. Jobs of other folders are ignored.
    """

    def __init__(self, watches: Sequence[WatchConfig], queue: JobQueue, store: JobStore) -> None:
        self._watches = watches
        self._queue = queue
        self._records = Records(store)
        self.pending: dict[str, str] = {}
        """By job, why its input could not be disposed of yet."""
        self._roots = {id(watch): Roots({"input": watch.input}) for watch in watches}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="settle")

    async def run(self) -> None:
        """Dispose of inputs until cancelled."""
        try:
            with self._queue.subscribe() as changes:  # before the backlog: nothing is missed
                loop = asyncio.get_running_loop()
                await self._settle_all(await loop.run_in_executor(self._thread, self._backlog))
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._follow(changes), name="settle ended jobs")
                    tasks.create_task(self._try_again(), name="settle pending jobs")
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _follow(self, changes: Subscription) -> None:
        async for change in changes:
            if change.kind == "state" and change.job.ended_for_good:
                await self._settle_all([change.job])

    async def _try_again(self) -> None:
        while True:
            await asyncio.sleep(_RETRY_SECONDS)
            for job_id in list(self.pending):
                try:
                    job = await self._queue.get(job_id)
                except UnknownJob:
                    del self.pending[job_id]
                except StoreBroken as error:  # a full disk may have space in a minute
                    log.warning("job %s: cannot be looked up: %s", job_id, error)
                else:
                    await self._settle_all([job])

    def _backlog(self) -> list[Job]:
        jobs = self._records.store.jobs(ENDED)
        return [job for job in reversed(jobs) if not self._records.is_settled(job)]

    async def _settle_all(self, jobs: Iterable[Job]) -> None:
        loop = asyncio.get_running_loop()
        for job in jobs:
            watch = self._watch_of(job)
            if watch is None or not job.ended_for_good:
                self.pending.pop(job.id, None)
                continue
            why = await loop.run_in_executor(self._thread, self._try, job, watch)
            if why is None:
                self.pending.pop(job.id, None)
                continue
            if self.pending.get(job.id) != why:
                text = "%s: job %s is %s, but its input is not moved yet: %s"
                with about_job(job.id):
                    log.warning(text, printable_path(job.source), job.id, job.state, why)
            self.pending[job.id] = why

    def _try(self, job: Job, watch: WatchConfig) -> str | None:
        """Settle one end of a job; return why it must be tried again, or None. Blocks."""
        with about_job(job.id), Fence("file", f"input of job {job.id}"):
            try:
                if self._records.is_settled(job) or not self._is_latest(job):
                    return None
                if missing := self._roots[id(watch)].missing():
                    return missing
                self._settle(job, watch)
            except (OSError, MediaError, StoreBroken) as error:
                return str(error)
        return None

    def _is_latest(self, job: Job) -> bool:
        """Return whether the job has not been retried since this end."""
        try:
            return self._records.store.get(job.id).ended == job.ended
        except UnknownJob:
            return False

    def _settle(self, job: Job, watch: WatchConfig) -> None:
        if job.state == "done":
            root = watch.root(watch.output, self._records.state_dir)
            made = output_signature(job, root)
            if made is not None:
                self._records.set_made(job, made)
                if watch.sidecars:
                    bring_companions(job, watch, self._records.state_dir)
            dispose_done(job, watch, self._records.state_dir)
        else:
            self._records.drop_claim(job)
            if job.state == "failed":
                dispose_failed(job, watch, self._records.state_dir)
        self._records.locks(watch).release(Path(job.sink), job.id)
        self._records.set_settled(job)

    def _watch_of(self, job: Job) -> WatchConfig | None:
        """Find the watched folder of a job, also after a change of the configuration."""
        if job.origin != "watch":
            return None
        fitting = [
            watch
            for watch in self._watches
            if Path(job.source).is_relative_to(watch.input)
            and Path(job.sink).is_relative_to(watch.output)
        ]
        return max(fitting, key=lambda watch: len(watch.input.parts), default=None)

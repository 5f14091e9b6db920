"""Detection of changes in a folder: inotify events where available, else polling."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from watchfiles import watch

from ..config import WatchConfig
from ..fence import Fence
from .scan import printable_path

log = logging.getLogger("upframe.watch")


# Exhausted inotify limits.
#
# watchfiles 1.3 ignores ENOSPC (seen with strace): a partly watched tree looks complete. So a watch
# of our own tests whether the kernel has any left.

_IN_DELETE_SELF = 0x400
_LIMITS = Path("/proc/sys/fs/inotify")
_ENOUGH = {"max_user_watches": 524288, "max_user_instances": 1024}


def exhaustion(folder: Path) -> str | None:
    """Return which inotify limit is exhausted and what to do; None if a watch is available."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if descriptor < 0:
        return _advice("instances", "max_user_instances") if _out_of(ctypes.get_errno()) else None
    try:
        added = libc.inotify_add_watch(descriptor, os.fsencode(folder), _IN_DELETE_SELF)
        out = added < 0 and _out_of(ctypes.get_errno())
        return _advice("watches", "max_user_watches") if out else None
    finally:
        os.close(descriptor)


def _out_of(number: int) -> bool:
    """Return whether a limit is exhausted; here ENOSPC is about watches, not the disk."""
    return number in (errno.ENOSPC, errno.EMFILE, errno.ENFILE)


def _advice(what: str, key: str) -> str:
    limit = _limit(key)
    enough = max(_ENOUGH[key], 2 * (limit or 0))
    return (
        f"inotify {what} have run out (fs.inotify.{key} is {limit or 'unknown'}; the disk is not "
        f"full); to get events back: sysctl fs.inotify.{key}={enough}, keep it in /etc/sysctl.d, "
        "then reload"
    )


def _limit(key: str) -> int | None:
    try:
        return int((_LIMITS / key).read_text())
    except (OSError, ValueError):
        return None


# Events are hints, received by a thread: they only start the next inspection earlier. The full scan
# finds what they miss.

_DEBOUNCE_MS = 1600
_STEP_MS = 100
_SILENCE_MS = (
    500  # interval in which watchfiles yields without changes; the first means that it is watching
)

# It would log every batch of changes at INFO.
logging.getLogger("watchfiles").setLevel(logging.WARNING)


class FolderEvents:
    """A thread that reports changed paths to the event loop.

    Args:
        root: The folder.
        recursive: Whether subfolders are watched too.
        on_armed: Called in the loop once changes are being watched.
        on_change: Called in the loop with the paths that have changed.
        on_failure: Called in the loop, at most once, with the reason why events have stopped.
    """

    def __init__(
        self,
        root: Path,
        *,
        recursive: bool,
        on_armed: Callable[[], None],
        on_change: Callable[[set[str]], None],
        on_failure: Callable[[str], None],
    ) -> None:
        self._root = root
        self._recursive = recursive
        self._on_armed = on_armed
        self._on_change = on_change
        self._on_failure = on_failure
        self._stop = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name=f"events {root}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def stop(self) -> None:
        """End the thread and wait for it."""
        self._stop.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        with Fence("event", printable_path(self._root)) as fenced:
            try:
                self._watch_folder()
            except (OSError, RuntimeError) as error:  # watchfiles has no type of its own for all
                self._call(self._on_failure, exhaustion(self._root) or f"{error}")
        if fenced.error is not None:
            self._call(self._on_failure, f"an internal error, {type(fenced.error).__name__}")

    def _watch_folder(self) -> None:
        armed = False
        for changes in watch(
            self._root,
            watch_filter=None,
            debounce=_DEBOUNCE_MS,
            step=_STEP_MS,
            rust_timeout=_SILENCE_MS,
            yield_on_timeout=True,
            stop_event=self._stop,
            raise_interrupt=False,
            force_polling=False,
            recursive=self._recursive,
            ignore_permission_denied=True,
        ):
            if not armed:
                armed = True
                self._call(self._on_armed)
            if changes:
                self._call(self._on_change, {path for _, path in changes})

    def _call(self, call: Callable[..., None], *arguments: object) -> None:
        if self._stop.is_set():
            return
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(call, *arguments)


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


_MANY_CHANGES = 1000  # from here on a full scan is cheaper, and the kernel may have dropped events


class ChangeListener:
    """Collect changed paths until they are taken.

    Args:
        watch: The watched folder.
        wake: Called whenever there are changes.
    """

    def __init__(self, watch: WatchConfig, wake: Callable[[], None]) -> None:
        self._watch = watch
        self._wake = wake
        self._events: FolderEvents | None = None
        self._changed: set[Path] = set()
        self._rescan = True
        self._begun = False
        self.mode = Mode("poll", "not begun")

    async def begin(self, filesystem: str, num_folders: int) -> None:
        """Start, unless started already, to watch a folder that exists (again).

        Args:
            filesystem: Its type.
            num_folders: In the tree, as counted by the first scan; watchfiles walks the tree many
                times faster after it.
        """
        if self._begun:
            return
        self._begun = True
        self.mode = choose_mode(self._watch.mode, filesystem, num_folders)
        self._log_mode()
        if self.mode.name == "events":
            self._events = FolderEvents(
                self._watch.input,
                recursive=self._watch.recursive,
                on_armed=self._on_armed,
                on_change=self._on_change,
                on_failure=self._on_failure,
            )
            self._events.start()

    async def end(self) -> None:
        """Stop watching; the next start begins with a full scan."""
        self._begun = False
        self._rescan = True
        await self._drop_events()

    async def _drop_events(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            await events.stop()

    async def check(self) -> None:
        """Check that events are complete: watchfiles does not report exhausted limits."""
        if self._events is None:
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

    def _on_armed(self) -> None:
        self._rescan = True  # changes between the first scan and now were not reported
        self._wake()

    def _on_change(self, paths: set[str]) -> None:
        with Fence("event", printable_path(self._watch.input)) as fenced:
            if len(self._changed) < _MANY_CHANGES:
                self._changed |= {Path(path) for path in paths}
        self._rescan |= fenced.error is not None
        self._wake()

    def _on_failure(self, reason: str) -> None:
        """Switch to polling: the thread has ended by itself, or is about to."""
        self._events = None
        self._poll(reason)

    def _poll(self, reason: str) -> None:
        if self.mode.name == "poll":  # reported by the thread and by `check` at once
            return
        self.mode = Mode("poll", reason)
        self._rescan = True
        self._wake()
        text = "%s: events are lost: %s; until then it is scanned every %g s"
        log.warning(text, printable_path(self._watch.input), reason, self._watch.scan_seconds)

    def _log_mode(self) -> None:
        text = "%s: watched by %s (%s), scanned every %g s"
        name, why = self.mode
        log.info(text, printable_path(self._watch.input), name, why, self._watch.scan_seconds)

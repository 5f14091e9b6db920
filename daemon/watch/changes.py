"""Detection of changes in a folder: inotify events where available, else polling."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from watchfiles import awatch  # pyright: ignore[reportUnknownVariableType]  # anyio may be absent

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
_ENOUGH = {"watches": 524288, "instances": 1024}
_EXHAUSTED = (errno.ENOSPC, errno.EMFILE, errno.ENFILE)
"""Here ENOSPC is about watches, not the disk."""


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
_DEBOUNCE_MS = 1600
_STEP_MS = 100
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

        Args:
            filesystem: Its type.
            num_folders: In the tree, as counted by the first scan; watchfiles walks the tree many
                times faster after it.
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

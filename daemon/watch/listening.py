"""How a watcher learns that something has changed: by events where there are any, else by time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from ..service.config import WatchConfig
from .events import FolderEvents
from .filesystems import Mode, choose_mode
from .inotify import exhaustion
from .names import shown

log = logging.getLogger("upframe.watch")

_MANY_CHANGES = 1000  # from which a full scan is cheaper, and the kernel may have dropped some


class Listening:
    """Gathers hints until they are taken.

    Args:
        watch: What is watched.
        wake: Called whenever there is something to take.
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
        """Listen, unless that is done already, to a folder that has come or come back.

        Args:
            filesystem: Its type.
            num_folders: In the tree, as the first scan has found: the walk of watchfiles is many
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
        """Stop listening; all is to be looked at when it begins again."""
        self._begun = False
        self._rescan = True
        await self._drop_events()

    async def _drop_events(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            await events.stop()

    async def check(self) -> None:
        """Make sure that events can be trusted: watches run out without a word."""
        if self._events is None:
            return
        out = await asyncio.to_thread(exhaustion, self._watch.input)
        if out is not None:
            await self._drop_events()
            self._poll(out)

    def take(self) -> set[Path] | None:
        """Take the paths that have changed; None: look at everything."""
        changed, self._changed = self._changed, set()
        rescan, self._rescan = self._rescan, False
        return None if rescan or len(changed) >= _MANY_CHANGES else changed

    def ask_for_scan(self) -> None:
        """Have everything looked at next."""
        self._rescan = True

    def _on_armed(self) -> None:
        self._rescan = True  # what changed between the first scan and now was not heard
        self._wake()

    def _on_change(self, paths: set[str]) -> None:
        if len(self._changed) < _MANY_CHANGES:
            self._changed |= {Path(path) for path in paths}
        self._wake()

    def _on_failure(self, reason: str) -> None:
        """The thread has ended by itself, or is about to."""
        self._events = None
        self._poll(reason)

    def _poll(self, reason: str) -> None:
        if self.mode.name == "poll":  # told by the thread and by our own look at once
            return
        self.mode = Mode("poll", reason)
        self._rescan = True
        self._wake()
        text = "%s: events are lost: %s; until then it is scanned every %g s"
        log.warning(text, shown(self._watch.input), reason, self._watch.scan_seconds)

    def _log_mode(self) -> None:
        text = "%s: watched by %s (%s), scanned every %g s"
        name, why = self.mode
        log.info(text, shown(self._watch.input), name, why, self._watch.scan_seconds)

"""What the kernel says of changes in a folder: hints, heard by a thread of their own.

Nothing rests on them. They only bring the next look forward; the full scan finds what they miss.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from watchfiles import watch

from .inotify import exhaustion

_DEBOUNCE_MS = 1600
_STEP_MS = 100
_SILENCE_MS = 500  # after which the thread says that it still listens: at first that it has begun

# It would log every batch of changes at INFO.
logging.getLogger("watchfiles").setLevel(logging.WARNING)


class FolderEvents:
    """A thread that tells the event loop which paths have changed.

    Args:
        root: The folder.
        recursive: Whether folders in it are watched too.
        on_armed: Called in the loop once changes are heard.
        on_change: Called in the loop with the paths that have changed.
        on_failure: Called in the loop, at most once, with the reason why nothing is heard.
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
        self._thread = threading.Thread(target=self._listen, name=f"events {root}", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    async def stop(self) -> None:
        """End the thread and wait for it."""
        self._stop.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _listen(self) -> None:
        try:
            self._hear()
        except (OSError, RuntimeError) as error:  # watchfiles has no error type of its own for all
            self._say(self._on_failure, exhaustion(self._root) or f"{error}")

    def _hear(self) -> None:
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
                self._say(self._on_armed)
            if changes:
                self._say(self._on_change, {path for _, path in changes})

    def _say(self, call: Callable[..., None], *arguments: object) -> None:
        if self._stop.is_set():
            return
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(call, *arguments)

"""All watched folders of a configuration, and what becomes of their files in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from ..jobs.queue import JobQueue
from ..jobs.store import JobStore
from ..service.config import Config, WatchConfig
from .filesystems import filesystem_type
from .intake import Verdict
from .settle import Settler
from .watcher import Watcher


class Prober(Protocol):
    """Tells what a file is, without ever taking the daemon down with it."""

    def probe(self, path: Path) -> Awaitable[Verdict]:
        """Look into a file."""
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

"""All live streams of the daemon: a keeper for each entry, which follows its configuration."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...io.live.backoff import Backoff
from .board import LiveBoard
from .keeper import Backoffs, Keeper, Limits
from .process import Command, command_of

if TYPE_CHECKING:
    from ..service.config import Config

log = logging.getLogger("upframe.live")

SILENT_SECONDS = 30.0
"""Without a status, after which a worker counts as hung."""
_REAP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class _Kept:
    keeper: Keeper
    task: asyncio.Task[None]


class LiveSupervisor:
    """Keeps all `[[live]]` entries up, each by a worker process of its own.

    Args:
        command: gives the words that start a worker.
        backoff: makes the pauses of a stream between its workers.
        silent_seconds: without a status, after which a worker counts as hung.
    """

    def __init__(
        self,
        *,
        command: Command = command_of,
        backoff: Backoffs = Backoff,
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        self.board = LiveBoard()
        """Where every stream stands."""
        self._command = command
        self._backoff = backoff
        self._silent_seconds = silent_seconds
        self._kept: dict[str, _Kept] = {}

    def configure(self, config: Config) -> None:
        """Begin, change or end streams as a configuration says; equal entries are left alone."""
        limits = self._limits(config)
        entries = {entry.name: entry for entry in config.live}
        self._kept = {name: kept for name, kept in self._kept.items() if not kept.task.done()}
        for name in dict.fromkeys([*entries, *self._kept]):
            kept = self._kept.get(name)
            keeper = (
                kept.keeper if kept else Keeper(name, self.board, self._command, self._backoff())
            )
            keeper.want(entries.get(name), limits)
            if kept is None:
                task = asyncio.create_task(keeper.run(), name=f"live {name}")
                self._kept[name] = _Kept(keeper, task)

    async def drain(self, seconds: float) -> None:
        """Have every stream end well within a time; what does not is killed."""
        for kept in self._kept.values():
            kept.keeper.leave(seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds + _REAP_SECONDS):
                await self._all_ended()
        await self.end()

    async def end(self) -> None:
        """Kill what runs, and wait until nothing of it is left. Safe to call twice."""
        for kept in self._kept.values():
            kept.task.cancel()
        await self._all_ended()

    def told(self) -> list[dict[str, Any]]:
        """Every stream, as `/status` shows it."""
        restarts = {name: kept.keeper.num_restarts for name, kept in self._kept.items()}
        pids = {name: kept.keeper.pid for name, kept in self._kept.items()}
        return [
            {**status.to_json(), "pid": pids.get(name), "worker_restarts": restarts.get(name, 0)}
            for name, status in self.board.statuses.items()
        ]

    async def _all_ended(self) -> None:
        tasks = {kept.task for kept in self._kept.values()}
        if tasks:
            await asyncio.wait(tasks)

    def _limits(self, config: Config) -> Limits:
        jobs = config.jobs
        running = sum(entry.enabled for entry in config.live)
        return Limits(
            state_dir=config.state_dir,
            weights=config.weights,
            finish_seconds=jobs.drain_seconds,
            most_mebibytes=jobs.recycle_mebibytes,
            loading_seconds=jobs.stage_seconds["loading"],
            silent_seconds=self._silent_seconds,
            threads=_threads(running),
        )


def _threads(num_streams: int) -> int | None:
    """Share the cores among several streams; a single one has them all."""
    if num_streams < 2 or "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, len(os.sched_getaffinity(0)) // num_streams)

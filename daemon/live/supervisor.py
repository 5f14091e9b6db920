"""All live streams of the daemon: a keeper for each entry, which follows its configuration."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...io.live.backoff import Backoff
from .board import LiveBoard
from .keeper import Backoffs, Keeper, Limits
from .levels import parse_levels
from .process import Command, command_of

if TYPE_CHECKING:
    from ..service.config import Config, LiveConfig

log = logging.getLogger("upframe.live")

SILENT_SECONDS, STILL_SECONDS = 30.0, 60.0
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
        still_seconds: in which frames come in and no picture goes out, the same.
    """

    def __init__(
        self,
        *,
        command: Command = command_of,
        backoff: Backoffs = Backoff,
        silent_seconds: float = SILENT_SECONDS,
        still_seconds: float = STILL_SECONDS,
    ) -> None:
        self.board = LiveBoard()
        """Where every stream stands."""
        self._command = command
        self._backoff = backoff
        self._silent_seconds = silent_seconds
        self._still_seconds = still_seconds
        self._kept: dict[str, _Kept] = {}
        self._levels: dict[str, tuple[str, ...]] = {}

    def configure(self, config: Config) -> None:
        """Begin, change or end streams as a configuration says; equal entries are left alone."""
        limits = self._limits(config)
        entries = {entry.name: entry for entry in config.live}
        self._levels = {name: _levels_of(entry) for name, entry in entries.items()}
        self._kept = {name: kept for name, kept in self._kept.items() if not kept.task.done()}
        for name in dict.fromkeys([*entries, *self._kept]):
            kept = self._kept.get(name)
            keeper = kept.keeper if kept else self._keeper(name)
            keeper.want(entries.get(name), limits)
            if kept is None:
                task = asyncio.create_task(keeper.run(), name=f"live {name}")
                self._kept[name] = _Kept(keeper, task)

    def _keeper(self, name: str) -> Keeper:
        return Keeper(name, self.board, self._command, self._backoff())

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
        pids = {name: kept.keeper.pid for name, kept in self._kept.items()}
        return [
            {**status.to_json(), "pid": pids.get(name), "restarts": self.num_restarts(name)}
            for name, status in self.board.statuses.items()
        ]

    def num_restarts(self, name: str) -> int:
        """Count the workers of a stream that had to be begun again."""
        kept = self._kept.get(name)
        return 0 if kept is None else kept.keeper.num_restarts

    def levels(self, name: str) -> Sequence[str]:
        """Name what a stream may give up under load, in this order."""
        return self._levels.get(name, ())

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
            still_seconds=self._still_seconds,
            threads=_threads(running),
        )


def _levels_of(entry: LiveConfig) -> tuple[str, ...]:
    return tuple(level.name for level in parse_levels(entry.levels, entry.filters))


def _threads(num_streams: int) -> int | None:
    """Share the cores among several streams; a single one has them all."""
    if num_streams < 2 or "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, len(os.sched_getaffinity(0)) // num_streams)

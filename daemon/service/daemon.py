"""The daemon: its parts, in the order in which they begin and end.

    recovery → control socket, HTTP → warm-up → watches, MQTT → READY=1 … drain → stopped

The store is the truth and belongs to the caller. Whatever dies here, also all of it at once, loses
nothing: what ran is queued again by the next start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any, cast

from ..errors import ConfigError, StartFailed, Stopped
from ..jobs.place import place_in
from ..jobs.queue import JobQueue
from ..jobs.retention import keep_tidy
from ..jobs.store import JobStore
from ..live.supervisor import LiveSupervisor
from ..live.telling import LiveMetrics
from ..work.prober import Prober
from ..work.recovery import recover
from ..work.scheduler import Scheduler, WarmUpFailed
from .checking import examine_at_start
from .chronicle import Chronicle
from .config import Config
from .control import ControlSocket
from .lifecycle import Signals, finished_before
from .loading import load_config, refusal
from .logs import Logs
from .loop_lag import LoopLag
from .metrics import Metrics
from .notify import Notifier
from .outside import Outside
from .reload import reload_of
from .status import Phase, Status
from .watchdog import Watchdog
from .workforce import collect, facts_of, told_of

log = logging.getLogger("upframe.daemon")

_BEAT_SECONDS = 1.0
_EXTENSION_SECONDS = 30.0
"""Asked for at each beat while starting or draining: a beat that stops ends it."""
_AFTER_DRAIN_SECONDS = 4.0
"""From the end of the drain's time to that of the process; giving jobs back takes part of it."""
_SHORTEST_FAREWELL_SECONDS, _LONGEST_FAREWELL_SECONDS = 0.5, 3.0
"""For telling the broker."""
_LATE_SECONDS = 5.0
"""Of the event loop, from which on it counts as hung."""


class Daemon:
    """One run of the daemon.

    Args:
        config: The configuration as it was read.
        path: Of its file, for reloads.
        store: The jobs; its owner closes it afterwards.
        notifier: The way to systemd.
        logs: Configured anew by a reload.
    """

    def __init__(
        self, config: Config, path: Path, store: JobStore, notifier: Notifier, logs: Logs
    ) -> None:
        self._config = config
        self._path = path
        self._notifier = notifier
        self._logs = logs
        self._queue = JobQueue(store)
        self._metrics = Metrics()
        self._lag = LoopLag(self._metrics.lateness.observe)
        self._status = Status(self._queue, self._metrics, self._lag)
        self._scheduler = Scheduler(self._queue, config)
        self._prober = Prober(config)
        self._streams = LiveSupervisor()
        self._outside = Outside(
            self._queue, store, self._prober, self._status, self._metrics, self._streams.board
        )
        self._last_line = ""
        self._end_by = 0.0
        self._status.parts["workers"] = partial(told_of, self._scheduler)
        self._status.collect.append(partial(collect, self._scheduler))
        self._status.parts["live"] = self._streams.told
        self._status.collect.append(LiveMetrics(self._streams))

    async def run(self) -> int:
        """Live until a signal ends it.

        Raises:
            Stopped: if a second signal came.
        """
        async with Signals() as signals:
            life = asyncio.create_task(self._live(signals), name="daemon")
            at_once = asyncio.create_task(signals.at_once.wait(), name="second signal")
            await asyncio.wait({life, at_once}, return_when=asyncio.FIRST_COMPLETED)
            in_order = life.done()
            for task in (life, at_once):
                task.cancel()
            await asyncio.wait({life, at_once})
            if not in_order:
                raise Stopped(signals.number)
            life.result()
        log.info("stopped")
        return 0

    async def _live(self, signals: Signals) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                owned = [
                    tasks.create_task(work, name=name) for name, work in self._always().items()
                ]
                try:
                    await self._work(signals, tasks)
                finally:
                    for task in owned:
                        task.cancel()
        except BaseExceptionGroup as group:
            raise _first_of(group) from group
        finally:
            await self._queue.close()

    def _always(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What runs from the first to the last moment."""
        return {
            "loop lag": self._lag.run(),
            "beat": self._beat(),
            "follow jobs": self._follow(),
            "watchdog": Watchdog(self._notifier, self._trouble).run(),
            "retention": keep_tidy(self._queue, self._config.jobs.keep_days),
        }

    async def _work(self, signals: Signals, tasks: asyncio.TaskGroup) -> None:
        """Begin everything, serve, end everything."""
        state_dir = self._config.state_dir
        if not await finished_before(signals.drain, recover(self._queue, state_dir)):
            return
        control = ControlSocket(place_in(state_dir).socket, self._queue, self._status.summary)
        async with self._prober, control:
            self._outside.begin_http(self._config)
            scheduling: asyncio.Task[None] | None = None
            try:
                if await finished_before(signals.drain, self._warm_up()):
                    scheduling = tasks.create_task(self._scheduler.run(), name="scheduler")
                    self._streams.configure(self._config)
                    if await finished_before(signals.drain, self._outside.begin_work(self._config)):
                        await self._serve(signals)
                    await self._drain()
            finally:
                if scheduling is not None:
                    scheduling.cancel()  # after a drain it has ended; else workers go at once
                    await asyncio.wait({scheduling})
                await self._streams.end()
                self._enter("stopped", "stopping")
                await self._outside.end(self._farewell_seconds())

    async def _warm_up(self) -> None:
        """Have every worker run its models once.

        Raises:
            StartFailed: if one cannot.
        """
        try:
            await self._scheduler.warm_up(self._say)
        except WarmUpFailed as failed:
            raise StartFailed(str(failed), failed.error.code) from failed
        self._status.facts |= facts_of(self._config, self._scheduler)

    async def _serve(self, signals: Signals) -> None:
        """Until told to stop, do what signals say."""
        self._enter("ready", "ready")
        await self._status.refresh()
        self._last_line = self._status.line()
        self._notifier.ready(self._last_line)
        log.info("ready: %s", self._last_line)
        while await finished_before(signals.drain, signals.reload.wait()):
            signals.reload.clear()
            await self._reload()

    async def _drain(self) -> None:
        seconds = self._config.jobs.drain_seconds
        self._end_by = asyncio.get_running_loop().time() + seconds + _AFTER_DRAIN_SECONDS
        self._enter("draining", f"draining for at most {seconds:g} s")
        self._notifier.stopping(self._status.doing)
        self._queue.paused = True
        log.info(
            "%s; what does not end in time is begun anew by the next start", self._status.doing
        )
        await self._outside.draining()
        async with asyncio.TaskGroup() as ending:
            ending.create_task(self._streams.drain(seconds), name="drain live")
            ending.create_task(self._scheduler.drain(seconds), name="drain jobs")

    def _farewell_seconds(self) -> float:
        left = self._end_by - asyncio.get_running_loop().time()
        return min(max(left, _SHORTEST_FAREWELL_SECONDS), _LONGEST_FAREWELL_SECONDS)

    async def _reload(self) -> None:
        """Take over a changed file; a wrong one changes nothing."""
        self._notifier.reloading()
        try:
            new = await asyncio.to_thread(self._read_again)
        except ConfigError as error:
            self._metrics.count_reload("refused")
            log.error("configuration not changed, the new file is wrong: %s", error)
        else:
            reload = reload_of(self._config, new)
            self._config = reload.config
            if "log" in reload.parts:
                await asyncio.to_thread(self._logs.configure, reload.config.log)
            if "jobs" in reload.parts:
                self._scheduler.configure(reload.config.jobs)
            if reload.parts & {"jobs", "live"}:
                self._streams.configure(reload.config)
            await self._outside.change(reload.config, reload.parts)
            self._metrics.count_reload("changed")
            log.log(logging.WARNING if reload.waiting else logging.INFO, "%s", reload)
        self._notifier.ready(self._last_line)

    def _read_again(self) -> Config:
        config = load_config(self._path)
        faults = examine_at_start(config)
        if faults:
            raise refusal(self._path, faults)
        return config

    async def _beat(self) -> None:
        """What is done every second."""
        while True:
            self._logs.sum_up()
            await self._status.refresh()
            line = self._status.line()
            if line != self._last_line and self._notifier.status(line):
                self._last_line = line
            if self._status.phase != "ready":
                self._notifier.extend(_EXTENSION_SECONDS)
            await asyncio.sleep(_BEAT_SECONDS)

    async def _follow(self) -> None:
        """Count and tell what happens to jobs."""
        chronicle = Chronicle()
        async with self._queue.subscribe() as changes:
            async for change in changes:
                self._metrics.follow(change.job)
                chronicle.note(change)

    def _trouble(self) -> str | None:
        """What hangs, for the watchdog."""
        if self._lag.recent_seconds > _LATE_SECONDS:
            return f"the event loop was {self._lag.recent_seconds:.1f} s late"
        return self._scheduler.trouble()

    def _enter(self, phase: Phase, doing: str) -> None:
        self._status.phase = phase
        self._status.doing = doing

    def _say(self, text: str) -> None:
        self._status.doing = text


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended it all: the others are its consequences."""
    first = group.exceptions[0]
    if isinstance(first, BaseExceptionGroup):
        return _first_of(cast("BaseExceptionGroup[BaseException]", first))
    return first

"""The daemon: its parts, in the order in which they begin and end.

    recovery → control socket, HTTP → warm-up → watches, MQTT → READY=1 … drain → stopped

The store is the truth and belongs to the caller. Whatever dies here, also all of it at once, loses
nothing: what ran is queued again by the next start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine, Mapping
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..config import Config, load_config, refusal
from ..errors import ConfigError, StartFailed, Stopped
from ..fence import Fence
from ..jobs.client import place_in
from ..jobs.queue import JobQueue
from ..jobs.retention import keep_tidy
from ..jobs.store import JobStore
from ..live.status import LiveBoard
from ..live.supervisor import LiveSupervisor
from ..watch.inspection import Probe
from ..watch.watcher import Watches
from ..workers.outcomes import recover
from ..workers.prober import FileProber
from ..workers.scheduler import Scheduler, WarmUpFailed
from .checks import examine_at_start
from .http import ControlSocket, serve_tcp
from .lifecycle import Part, Signals, finished_before
from .live_metrics import LiveMetrics
from .logs import Logs
from .metrics import Metrics
from .routes import JobRoutes, application, status_routes
from .status import Chronicle, LoopLag, Phase, Status
from .systemd import Notifier, Watchdog

if TYPE_CHECKING:
    from ..mqtt.bridge import MqttBridge

log = logging.getLogger("upframe.daemon")


# What the daemon tells of its workers: to people, to Prometheus, to those who send work.


def told_of(scheduler: Scheduler) -> list[dict[str, Any]]:
    """Every worker, as `/status` shows it."""
    return [asdict(worker) for worker in scheduler.workers()]


def collect(scheduler: Scheduler, metrics: Metrics) -> None:
    """Set the metrics of workers and of what happened to attempts."""
    for worker in scheduler.workers():
        text = "Memory of a worker process."
        metrics.set_gauge("worker_resident_bytes", text, worker.rss_bytes, slot=worker.slot)
    for name, number in scheduler.statistics().items():
        metrics.set_total("work_events", "What happened to attempts.", number, event=name)


def facts_of(config: Config, scheduler: Scheduler) -> dict[str, Any]:
    """What those who want to send work should know, beside what may be asked."""
    workers = scheduler.workers()
    return {
        "devices": sorted({worker.device for worker in workers if worker.device}),
        "slots": len(workers),
        "weights": config.weights,
        "models": ["RIFE 4.22.lite", "Real-ESRGAN"],
        "attempts": config.jobs.attempts,
    }


# What a changed configuration file means for a daemon that runs: what begins anew, what waits.

_FIXED = ("state_dir", "weights", "limits")
_FIXED_OF_JOBS = ("slots", "devices", "precision")
"""Workers are started with these, and the state directory is locked."""


@dataclass(frozen=True, slots=True)
class Reload:
    """The consequences of a new file."""

    config: Config
    """What holds from now on: the new file, but for what waits for a restart."""
    waiting: tuple[str, ...]
    """Keys that are changed and keep their old value until the daemon is started again."""
    parts: frozenset[str]
    """What has to begin anew: `log`, `jobs`, `watch`, `live`, `mqtt`, `http`."""

    def __str__(self) -> str:
        changed = ", ".join(sorted(self.parts)) or "nothing"
        text = f"configuration read again: {changed} changed"
        return f"{text}; {', '.join(self.waiting)} after a restart" if self.waiting else text


def reload_of(old: Config, new: Config) -> Reload:
    """Compare two configurations."""
    waiting = [key for key in _FIXED if getattr(old, key) != getattr(new, key)]
    of_jobs = [key for key in _FIXED_OF_JOBS if getattr(old.jobs, key) != getattr(new.jobs, key)]
    waiting += [f"jobs.{key}" for key in of_jobs]
    jobs = new.jobs.model_copy(update={key: getattr(old.jobs, key) for key in _FIXED_OF_JOBS})
    kept = {key: getattr(old, key) for key in _FIXED}
    config = new.model_copy(update={**kept, "jobs": jobs})
    parts = {
        name
        for name in ("log", "jobs", "watch", "live", "mqtt", "http")
        if getattr(old, name) != getattr(config, name)
    }
    if "jobs" in parts and config.mqtt is not None:
        parts.add("mqtt")  # requests are confined to its roots and schemes
    return Reload(config, tuple(waiting), frozenset(parts))


# The parts through which work arrives and is told of: watched folders, MQTT and HTTP.
#
# None of them may take the daemon with it, and each begins anew when its configuration changes.

_LOOK_SECONDS = 10.0
"""For the first look at all folders: a share that hangs must not keep the daemon from starting."""
_FAREWELL_SECONDS = 3.0
"""For telling a broker something on the way out."""


class Outside:
    """Begins and ends the parts.

    Args:
        queue: Of the jobs.
        store: Remembers what was seen and received.
        probe: Returns whether a file is a video.
        status: Is told whom to ask.
        metrics: Counts failures.
        live: Where live streams stand, for the broker.
    """

    def __init__(
        self,
        queue: JobQueue,
        store: JobStore,
        probe: Probe,
        status: Status,
        metrics: Metrics,
        live: LiveBoard,
    ) -> None:
        self._queue = queue
        self._store = store
        self._probe = probe
        self._status = status
        self._live = live
        self._watches: Watches | None = None
        self._bridge: MqttBridge | None = None
        self._parts = {
            name: Part(name, metrics.count_failure) for name in ("watch", "mqtt", "http")
        }
        status.collect.append(self._collect)

    def begin_http(self, config: Config) -> None:
        """Answer probes, from the start on."""
        http = config.http
        if http is not None:
            app = application(status_routes(self._status), "http", http)
            self._parts["http"].start(lambda: serve_tcp(app, http))

    async def begin_work(self, config: Config) -> None:
        """Take work, and wait until every folder was looked at once."""
        self._begin_watch(config)
        self._begin_mqtt(config)
        await asyncio.sleep(0)  # lets the watch begin
        if self._watches is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._watches.looked()

    async def change(self, config: Config, parts: Collection[str]) -> None:
        """Begin some parts anew, with another configuration."""
        for name in ("watch", "mqtt", "http"):
            if name in parts:
                if name == "mqtt":  # also since it may go on under another name
                    await self._take_leave()
                await self._parts[name].stop()
        if "watch" in parts:
            self._begin_watch(config)
        if "mqtt" in parts:
            self._begin_mqtt(config)
        if "http" in parts:
            self.begin_http(config)

    async def draining(self) -> None:
        """Tell the broker that no work is begun any more."""
        if self._bridge is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL_SECONDS):
                    await self._bridge.draining()

    async def end(self, seconds: float = _FAREWELL_SECONDS) -> None:
        """End all parts; the broker hears that it was on purpose, if it listens within a time."""
        await self._parts["watch"].stop()
        await self._take_leave(seconds)
        await self._parts["mqtt"].stop()
        await self._parts["http"].stop()

    async def _take_leave(self, seconds: float = _FAREWELL_SECONDS) -> None:
        if self._bridge is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._bridge.stopped()

    def _begin_watch(self, config: Config) -> None:
        # without any folder too: inputs of earlier jobs may wait for being moved

        async def watch() -> None:
            self._watches = Watches(config, self._queue, self._store, self._probe)
            await self._watches.run()

        self._status.parts["watch"] = self._watch_status
        self._parts["watch"].start(watch)

    def _begin_mqtt(self, config: Config) -> None:
        self._bridge = None
        self._status.parts.pop("mqtt", None)
        if config.mqtt is None:
            return

        async def speak() -> None:
            """Run a new bridge until it ends."""
            from ..mqtt.bridge import MqttBridge  # who has no broker need not load its library

            self._bridge = MqttBridge(
                config,
                self._queue,
                self._store,
                self._status.info,
                self._status.counters,
                live=self._live,
            )
            await self._bridge.run()

        self._status.parts["mqtt"] = self._mqtt_status
        self._parts["mqtt"].start(speak)

    def _watch_status(self) -> list[dict[str, Any]]:
        return [] if self._watches is None else self._watches.status()

    def _mqtt_status(self) -> dict[str, Any]:
        return {} if self._bridge is None else self._bridge.health()

    def _collect(self, metrics: Metrics) -> None:
        for index, watch in enumerate(self._watch_status()):
            labels = {"watch": str(index)}
            text = "Files of a watched folder by what became of them."
            for state in ("waiting", "taken"):
                metrics.set_gauge("watch_files", text, watch[state], state=state, **labels)
            skipped = sum(watch["skipped"].values())
            metrics.set_gauge("watch_files", text, skipped, state="skipped", **labels)
            seconds = watch["last_scan_seconds"]
            if seconds is not None:
                text = "Time that the last scan took."
                metrics.set_gauge("watch_scan_seconds", text, seconds, **labels)
            paused = float(watch["paused"] is not None)
            metrics.set_gauge("watch_paused", "Whether a folder is missing.", paused, **labels)
        if self._bridge is not None:
            _collect_mqtt(self._bridge.health(), metrics)


def _collect_mqtt(health: Mapping[str, Any], metrics: Metrics) -> None:
    connected = bool(health["connected"])
    metrics.set_gauge("mqtt_connected", "Whether the broker is there.", connected)
    messages: dict[tuple[str, str], int] = {
        ("in", name): n for name, n in health["requests"].items()
    }
    messages |= {("out", "sent"): health["published"], ("out", "dropped"): health["dropped"]}
    for (way, result), number in messages.items():
        text = "Messages by direction and what became of them."
        metrics.set_total("mqtt_messages", text, number, dir=way, result=result)


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
        self._prober = FileProber(config)
        self._streams = LiveSupervisor()
        self._outside = Outside(
            self._queue, store, self._prober.probe, self._status, self._metrics, self._streams.board
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
        jobs = JobRoutes(self._queue)
        app = application([*jobs.routes(), *status_routes(self._status)], "control")
        control = ControlSocket(place_in(state_dir).socket, app, jobs.end_streams)
        async with aclosing(self._prober), control:
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
            with Fence("job", "status line"):
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
        with self._queue.subscribe() as changes:
            async for change in changes:
                with Fence("job", change.job.id):
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

"""The daemon: its parts, in the order in which they start and stop.

    recovery → control socket, HTTP → warm-up → watches, MQTT → READY=1 … drain → stopped

The store is the truth and belongs to the caller. The death of any part, or of the process, loses
nothing: jobs that ran are queued again by the next start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine
from contextlib import aclosing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..config import Config, load_config, refusal
from ..errors import ConfigError, StartFailed, Stopped
from ..fence import Fence
from ..jobs.client import place_in
from ..jobs.queue import JobQueue, forget_regularly
from ..jobs.store import JobStore
from ..live.status import LiveBoard
from ..live.supervisor import LiveSupervisor
from ..tasks import finished_before, within
from ..watch.inspection import Probe
from ..watch.watcher import Watches
from ..workers.admission import EarlyChecks
from ..workers.outcomes import recover
from ..workers.process import FileProber, WorkerLost
from ..workers.ray import SOCKET, keep_driver
from ..workers.scheduler import Scheduler
from .checks import examine_at_start
from .http import JobRoutes, application, control_socket, serve_tcp, status_routes
from .lifecycle import Notifier, Signals, SupervisedTask, Watchdog
from .logs import Logs
from .status import JobEventLog, LoopLag, Metrics, Phase, Status, set_live_metrics

if TYPE_CHECKING:
    from ..mqtt.bridge import MqttBridge

log = logging.getLogger("upframe.daemon")


_FIXED = ("state_dir", "weights", "limits", "executor")
_FIXED_OF_JOBS = ("slots", "devices", "precision")
"""Workers are started with these, and the state directory is locked."""
_FIRST_SCAN_SECONDS = 10.0
"""For the first scan of all folders: a share that hangs must not keep the daemon from starting."""
_SHORTEST_FAREWELL_SECONDS, _LONGEST_FAREWELL_SECONDS = 0.5, 3.0
"""For reporting the end to the broker."""
_EXTENSION_SECONDS = 30.0
"""Asked of systemd at each beat while starting or draining: without a beat its patience ends."""
_AFTER_DRAIN_SECONDS = 4.0
"""From the end of the drain's time to that of the process; queueing jobs again takes part of it."""
_LATE_SECONDS = 5.0
"""From which on the event loop counts as hung."""
_BEAT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Reload:
    """The consequences of a changed configuration file."""

    config: Config
    """The new file, but with the old values of keys that need a restart."""
    waiting: tuple[str, ...]
    """Changed keys that keep their old value until the daemon is restarted."""
    parts: frozenset[str]
    """The parts to restart: `log`, `jobs`, `watch`, `live`, `mqtt`, `http`."""

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


class Frontends:
    """Starts, restarts and stops the parts through which work arrives: watches, MQTT and HTTP.

    None of them may end the daemon, and each is restarted when its configuration changes.
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
        self._tasks = {
            name: SupervisedTask(name, lambda part: metrics.count("part_restarts", part=part))
            for name in ("watch", "mqtt", "http")
        }
        status.collect.append(self._collect)

    def start_http(self, config: Config) -> None:
        """Answer health probes, from the start on."""
        http = config.http
        if http is not None:
            app = application(status_routes(self._status), "http", http)
            self._tasks["http"].start(lambda: serve_tcp(app, http))

    async def start_work(self, config: Config) -> None:
        """Accept work, and wait until every folder was scanned once."""
        self._start_watch(config)
        self._start_mqtt(config)
        await asyncio.sleep(0)  # the watch starts
        if self._watches is not None:
            await within(_FIRST_SCAN_SECONDS, self._watches.looked())

    async def change(self, config: Config, parts: Collection[str]) -> None:
        """Restart some parts with another configuration."""
        changed = [name for name in self._tasks if name in parts]
        for name in changed:
            if name == "mqtt":  # its node may have another name from now on
                await self._report_stopped(_LONGEST_FAREWELL_SECONDS)
            await self._tasks[name].stop()
        starts = {"watch": self._start_watch, "mqtt": self._start_mqtt, "http": self.start_http}
        for name in changed:
            starts[name](config)

    async def draining(self) -> None:
        """Report to the broker that no job is started any more."""
        if self._bridge is not None:
            await within(_LONGEST_FAREWELL_SECONDS, self._bridge.draining())

    async def stop(self, seconds: float = _LONGEST_FAREWELL_SECONDS) -> None:
        """Stop all parts; within a time, report to the broker that it is on purpose."""
        await self._tasks["watch"].stop()
        await self._report_stopped(seconds)
        await self._tasks["mqtt"].stop()
        await self._tasks["http"].stop()

    async def _report_stopped(self, seconds: float) -> None:
        if self._bridge is not None:
            await within(seconds, self._bridge.stopped())

    def _start_watch(self, config: Config) -> None:
        # also without any folder: inputs of earlier jobs may have to be moved

        async def watch() -> None:
            self._watches = Watches(config, self._queue, self._store, self._probe)
            await self._watches.run()

        self._status.parts["watch"] = self._watch_status
        self._status.files = self._watch_files
        self._tasks["watch"].start(watch)

    def _start_mqtt(self, config: Config) -> None:
        self._bridge = None
        self._status.parts.pop("mqtt", None)
        if config.mqtt is None:
            return

        async def connect() -> None:
            from ..mqtt.bridge import MqttBridge  # its library is loaded only for a broker

            known, live, status = (config, self._queue, self._store), self._live, self._status
            self._bridge = MqttBridge(
                *known, status.info, status.counters, live=live, troubles=status.troubles
            )
            await self._bridge.run()

        self._status.parts["mqtt"] = lambda: self._bridge.health() if self._bridge else {}
        self._tasks["mqtt"].start(connect)

    def _watch_status(self) -> list[dict[str, Any]]:
        return [] if self._watches is None else self._watches.status()

    async def _watch_files(self) -> list[list[dict[str, Any]]]:
        return [] if self._watches is None else await self._watches.files()

    def _collect(self, metrics: Metrics) -> None:
        for index, watch in enumerate(self._watch_status()):
            labels = {"watch": str(index), "folder": watch["name"]}
            files = {state: watch[state] for state in ("waiting", "taken")}
            files["skipped"] = sum(watch["skipped"].values())
            for state, number in files.items():
                metrics.set_gauge("watch_files", number, state=state, **labels)
            if (seconds := watch["last_scan_seconds"]) is not None:
                metrics.set_gauge("watch_scan_seconds", seconds, **labels)
            metrics.set_gauge("watch_paused", watch["paused"] is not None, **labels)
        if self._bridge is None:
            return
        health = self._bridge.health()
        metrics.set_gauge("mqtt_connected", bool(health["connected"]))
        counts: list[tuple[str, str, int]] = [("in", *each) for each in health["requests"].items()]
        counts += [("out", "sent", health["published"]), ("out", "dropped", health["dropped"])]
        for direction, result, number in counts:
            metrics.set_total("mqtt_messages", number, dir=direction, result=result)


class Daemon:
    """One run of the daemon; the file at `path` is read on reloads, the store's owner closes it."""

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
        self._checks = EarlyChecks(self._queue, self._prober.check, lambda: self._config.jobs)
        self._streams = LiveSupervisor()
        self._frontends = Frontends(
            self._queue, store, self._prober.probe, self._status, self._metrics, self._streams.board
        )
        self._last_line = ""
        self._end_by = 0.0
        self._status.parts["workers"] = lambda: list(map(asdict, self._scheduler.workers()))
        self._status.collect.append(self._collect)
        self._status.parts["live"] = self._streams.public_statuses
        self._status.collect.append(partial(set_live_metrics, self._streams))

    async def run(self) -> int:
        """Run until a signal ends it.

        Raises:
            Stopped: if a second signal came.
        """
        async with Signals() as signals:
            if not await finished_before(signals.at_once, self._live(signals)):
                raise Stopped(signals.number)
        log.info("stopped")
        return 0

    async def _live(self, signals: Signals) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                always = self._always().items()
                owned = [tasks.create_task(work, name=name) for name, work in always]
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
        """Return what runs from the first to the last moment."""
        return {
            "loop lag": self._lag.run(),
            "beat": self._beat(),
            "follow jobs": self._follow(),
            "watchdog": Watchdog(self._notifier, self._trouble).run(),
            "retention": forget_regularly(self._queue, self._config.jobs.keep_days),
        }

    async def _work(self, signals: Signals, tasks: asyncio.TaskGroup) -> None:
        state_dir = self._config.state_dir
        if not await finished_before(signals.drain, recover(self._queue, state_dir)):
            return
        jobs = JobRoutes(self._queue, self._prober.check)
        app = application([*jobs.routes(), *status_routes(self._status)], "control")
        control = control_socket(place_in(state_dir).socket, app, jobs.end_streams)
        async with aclosing(self._prober), control:
            self._frontends.start_http(self._config)
            working = list[asyncio.Task[None]]()
            try:
                if await finished_before(signals.drain, self._warm_up()):
                    parts = {"scheduler": self._scheduler.run(), "early checks": self._checks.run()}
                    if self._config.executor.kind == "ray":
                        address = self._config.executor.address
                        parts["cluster"] = keep_driver(address, state_dir / SOCKET)
                    working = [tasks.create_task(work, name=name) for name, work in parts.items()]
                    self._streams.configure(self._config)
                    starting = self._frontends.start_work(self._config)
                    if await finished_before(signals.drain, starting):
                        await self._serve(signals)
                    await self._drain()
            finally:
                for task in working:
                    task.cancel()  # after a drain the scheduler has ended; else workers are killed
                await asyncio.gather(*working, return_exceptions=True)
                await self._streams.end()
                self._enter("stopped", "stopping")
                left = self._end_by - asyncio.get_running_loop().time()
                seconds = min(max(left, _SHORTEST_FAREWELL_SECONDS), _LONGEST_FAREWELL_SECONDS)
                await self._frontends.stop(seconds)

    async def _warm_up(self) -> None:
        """Run the models once in every worker; a StartFailed if one cannot."""
        try:
            await self._scheduler.warm_up(partial(setattr, self._status, "doing"))
        except WorkerLost as failed:
            raise StartFailed(str(failed), failed.error.code) from failed
        workers = self._scheduler.workers()
        self._status.facts |= {
            "devices": sorted({worker.device for worker in workers if worker.device}),
            "slots": len(workers),
            "weights": self._config.weights,
            "models": ["RIFE 4.22.lite", "Real-ESRGAN"],
            "attempts": self._config.jobs.attempts,
        }

    def _collect(self, metrics: Metrics) -> None:
        for worker in self._scheduler.workers():
            metrics.set_gauge("worker_resident_bytes", worker.rss_bytes, slot=worker.slot)
        for name, number in self._scheduler.statistics().items():
            metrics.set_total("work_events", number, event=name)

    async def _serve(self, signals: Signals) -> None:
        """Serve, and reload on SIGHUP, until the daemon is asked to stop."""
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
        text = "%s; jobs that do not end in time are started again by the next start"
        log.info(text, self._status.doing)
        await self._frontends.draining()
        async with asyncio.TaskGroup() as ending:
            ending.create_task(self._streams.drain(seconds), name="drain live")
            ending.create_task(self._scheduler.drain(seconds), name="drain jobs")

    async def _reload(self) -> None:
        """Apply a changed file; a wrong one changes nothing."""
        self._notifier.reloading()
        try:
            new = await asyncio.to_thread(self._read_again)
        except ConfigError as error:
            self._metrics.count("config_reloads", result="refused")
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
            await self._frontends.change(reload.config, reload.parts)
            self._metrics.count("config_reloads", result="changed")
            log.log(logging.WARNING if reload.waiting else logging.INFO, "%s", reload)
        self._notifier.ready(self._last_line)

    def _read_again(self) -> Config:
        config = load_config(self._path)
        faults = examine_at_start(config)
        if faults:
            raise refusal(self._path, faults)
        return config

    async def _beat(self) -> None:
        """Sum up the log and report to systemd, every second."""
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
        """Count and log what happens to jobs."""
        events = JobEventLog()
        with self._queue.subscribe() as changes:
            async for change in changes:
                with Fence("job", change.job.id):
                    self._metrics.follow(change.job)
                    events.note(change)

    def _trouble(self) -> str | None:
        """Return what hangs, for the watchdog."""
        if self._lag.recent_seconds > _LATE_SECONDS:
            return f"the event loop was {self._lag.recent_seconds:.1f} s late"
        return self._scheduler.trouble()

    def _enter(self, phase: Phase, doing: str) -> None:
        self._status.phase = phase
        self._status.doing = doing


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error: the others are its consequences."""
    first = group.exceptions[0]
    if isinstance(first, BaseExceptionGroup):
        return _first_of(cast("BaseExceptionGroup[BaseException]", first))
    return first

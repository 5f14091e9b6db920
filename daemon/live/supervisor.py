"""All live streams of the daemon: a supervisor for each entry, which follows its configuration."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...io.errors import Reason
from ...io.live.values import InputState
from ...io.redaction import redacted, redacted_target
from ..backoff import Backoff
from ..exits import Exit
from ..fence import Fence
from ..specification import StreamSpec, part_of
from ..tasks import within
from ..workers.messages import Event, ExitMessage, RunStream, StreamReported
from ..workers.process import WorkerChild, worker_command
from .levels import parse_levels
from .status import (
    STILL_SECONDS,
    LiveBoard,
    LiveStatus,
    StallDetector,
    accumulate_counters,
    status_of,
)

if TYPE_CHECKING:
    from ..config import Config, LiveConfig

log = logging.getLogger("upframe.live")


Command = Callable[[str, Path], Sequence[str]]
"""Returns the command line of a worker, by the stream's name and the state directory."""
SILENT_SECONDS = 30.0


def command_of(name: str, state_dir: Path) -> list[str]:
    """Return the command line of a stream's worker."""
    return worker_command("upframe.daemon.live.worker", state_dir, f"live-{name}")


_LOOK_SECONDS = 1.0
_STEADY_SECONDS = 60.0
"""Life of a worker after which its end counts as a first failure again."""
_MEBI = 1 << 20
_LASTING = (
    *(Exit.USAGE, Exit.DATA, Exit.NO_INPUT, Exit.UNAVAILABLE),
    *(Exit.CANNOT_CREATE, Exit.CONFIG),
)
"""Ends that need an operator: retrying soon is useless."""


@dataclass(eq=False)
class StreamSupervisor:
    """Keeps a worker running for one `[[live]]` entry: `run`, and calls to change it meanwhile.

    A worker reconnects its input and its output by itself. So every end of a worker is a failure,
    and the next one starts after a pause of the back-off.
    """

    name: str
    entry: LiveConfig | None
    """Of the stream; None once it is gone."""
    config: Config
    """Of the daemon."""
    board: LiveBoard
    """Receives its status."""
    command: Command
    """Returns the command line of a worker."""
    backoff: Backoff
    """Of the pauses between workers."""
    silent_seconds: float
    """From one status to the next, at most."""
    still_seconds: float
    """At most, while frames come in and no new picture goes out."""

    def __post_init__(self) -> None:
        self.num_restarts = 0
        """Workers that had to be replaced."""
        self.pid: int | None = None
        """Of its worker."""
        self._about = {"source": self.name}
        self._finish_seconds = self.config.jobs.drain_seconds
        """For a worker to complete its output."""
        self._is_ending = False
        self._news = asyncio.Event()
        self._past: LiveStatus | None = None
        self._latest: LiveStatus | None = None
        self._detector = StallDetector()
        self._exit_message: ExitMessage | None = None
        """Why the worker ended; None for one that died."""
        self._silent_seconds = self._still_seconds = 0.0
        """Since the worker's last status, and of its present stall."""

    def configure(self, entry: LiveConfig | None, config: Config) -> None:
        """Change the entry of the stream; None ends it."""
        if entry != self.entry:
            self.backoff.held(_STEADY_SECONDS)  # the new entry may have fixed the error
            self.entry = entry  # an equal one stays the same object, by which it is known below
            self._news.set()
        self.config, self._finish_seconds = config, config.jobs.drain_seconds

    def end(self, finish_seconds: float) -> None:
        """Let the worker complete its output; then `run` returns."""
        self._finish_seconds = finish_seconds
        self._is_ending = True
        self._news.set()

    async def run(self) -> None:
        """Run workers until the entry is gone or `end` is called; if cancelled, kill the worker."""
        while (entry := self.entry) is not None and not self._is_ending:
            self._news.clear()
            if not entry.enabled:
                self._publish(entry, "disabled", "switched off by its entry")
                await self._news.wait()
                continue
            pause = await self._run_worker(entry)
            if self._is_wanted(entry):
                await within(pause, self._changed(entry))
        if self.entry is None:
            self.board.forget(self.name)
        else:
            self._publish(self.entry, "disabled", "the daemon stops")

    def _is_wanted(self, entry: LiveConfig) -> bool:
        return entry is self.entry and not self._is_ending

    async def _changed(self, entry: LiveConfig) -> None:
        while self._is_wanted(entry):
            self._news.clear()
            await self._news.wait()

    async def _run_worker(self, entry: LiveConfig) -> float:
        """Run a worker once; return the seconds until the next one, whatever fails."""
        with Fence("live", f"stream {self.name}"):
            return await self._once(entry)
        return self._pause(entry, "its supervisor failed", lasting=True)

    async def _once(self, entry: LiveConfig) -> float:
        config = self.config
        clock = asyncio.get_running_loop().time
        began = clock()
        command = self.command(self.name, config.state_dir)
        process = WorkerChild(f"live {self.name}", command, self._receive, self._news.set)
        process.subject = self._about
        self._latest, self._exit_message, self._detector = None, None, StallDetector()
        self._silent_seconds = self._still_seconds = 0.0
        self._publish(entry, "connecting", "its worker starts")
        try:
            try:
                process.spawn()
            except OSError as error:
                return self._pause(entry, f"no worker can be started: {error}", lasting=True)
            spec, threads = part_of(entry, StreamSpec), _threads(config)
            process.send(RunStream(spec=spec, weights=config.weights, threads=threads))
            self.pid = process.pid
            again_at_once = await self._watch(process, entry)
        finally:
            await process.kill()
            self.pid = None
            if self._latest is not None:
                self._past, self._latest = accumulate_counters(self._past, self._latest), None
        if again_at_once or not self._is_wanted(entry):
            return 0.0
        if clock() - began >= _STEADY_SECONDS:
            self.backoff.held(clock() - began)
        if (message := self._exit_message) is None:
            text, lasting = f"its worker {process.end}", False
            if process.tail.text is not None:
                lines = " | ".join(process.tail.text.splitlines())
                log.warning("its worker said last: %s", lines, extra=self._about)
        else:
            text, lasting = message.message, message.code in _LASTING
        return self._pause(entry, text, lasting=lasting)

    async def _watch(self, process: WorkerChild, entry: LiveConfig) -> bool:
        """Follow a worker to its end; return whether the next one is to start at once."""
        while not process.has_ended:
            if not self._is_wanted(entry) or self._is_too_large():
                seconds = self._finish_seconds
                process.close_stdin()
                await process.end_within(seconds, f"it did not end within {seconds:g} s")
                return True
            self._news.clear()
            if not await within(_LOOK_SECONDS, self._news.wait()):
                self._silent_seconds += _LOOK_SECONDS  # not what passed: we may have been stopped
            if (why := self._hangs()) is not None:
                await process.kill(why)
        await process.end_within(_REAP_SECONDS, "it closed its pipe and went on")
        return False

    def _hangs(self) -> str | None:
        """Return why a worker counts as hung; None if it does not."""
        loading = self.config.jobs.stage_seconds["loading"]
        patience = loading if self._latest is None else self.silent_seconds
        if self._silent_seconds >= patience:
            return f"it said nothing for {patience:g} s"
        patience = self.still_seconds if self._detector.began else loading
        if self._still_seconds >= patience:
            return f"it made nothing of the frames that came for {patience:g} s"
        return None

    def _is_too_large(self) -> bool:
        size = 0 if self._latest is None else self._latest.rss_bytes
        if size < self.config.jobs.recycle_mebibytes * _MEBI:
            return False
        mebibytes = size // _MEBI
        log.warning("its worker has %d MiB, and is replaced", mebibytes, extra=self._about)
        self.num_restarts += 1
        return True

    def _pause(self, entry: LiveConfig, text: str, *, lasting: bool) -> float:
        """Report why there is no worker, and for how long."""
        backoff = self.backoff
        seconds = backoff.longest_seconds() if lasting else backoff.next_seconds()
        self.num_restarts += 1
        about = self._about | {"event": "live-worker-ended"}
        level = logging.ERROR if lasting else logging.WARNING
        log.log(level, "%s; again in %.1f s", redacted(text), seconds, extra=about)
        self._publish(entry, "reconnecting", text, "failed")
        return seconds

    def _receive(self, event: Event) -> None:
        match event:
            case StreamReported():
                status = status_of(event.status)
                with Fence("live", f"status of live {self.name}"):
                    self._note(status)
                self._silent_seconds = 0.0
                self._news.set()
            case ExitMessage():
                self._exit_message = event
            case _:
                raise ValueError(f"got {event.kind!r}, wanted status, log or exit")

    def _note(self, status: LiveStatus) -> None:
        self._latest = replace(status, name=self.name)
        now = asyncio.get_running_loop().time()
        self._still_seconds = self._detector.seconds(status, now)
        self.board.update(accumulate_counters(self._past, self._latest))

    def _publish(
        self, entry: LiveConfig, state: InputState, message: str, reason: Reason | None = None
    ) -> None:
        """Publish a status in place of a worker."""
        status = LiveStatus(
            name=self.name,
            state=state,
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            reason=reason,
            message=redacted(message),
            input={"url": redacted(entry.input)},
            output={"url": redacted_target(entry.output)},
            showing="nothing",
        )
        self.board.update(accumulate_counters(self._past, status))


_REAP_SECONDS = 2.0


@dataclass(eq=False, kw_only=True)
class LiveSupervisor:
    """Keeps all `[[live]]` entries running, each in a worker process of its own."""

    command: Command = command_of
    """Returns the command line of a worker."""
    backoff: Callable[[], Backoff] = Backoff
    """Makes the back-off of a stream between its workers."""
    silent_seconds: float = SILENT_SECONDS
    """Time without a status after which a worker counts as hung."""
    still_seconds: float = STILL_SECONDS
    """The same for time in which frames come in and no picture goes out."""

    def __post_init__(self) -> None:
        self.board = LiveBoard()
        """The status of every stream."""
        self._streams: dict[str, StreamSupervisor] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._levels: dict[str, tuple[str, ...]] = {}

    def configure(self, config: Config) -> None:
        """Start, change or end streams as configured; unchanged entries run on."""
        entries = {entry.name: entry for entry in config.live}
        self._levels = {
            entry.name: tuple(level.name for level in parse_levels(entry.levels, entry.filters))
            for entry in config.live
        }
        self._tasks = {name: task for name, task in self._tasks.items() if not task.done()}
        self._streams = {name: self._streams[name] for name in self._tasks}
        for name, stream in self._streams.items():
            stream.configure(entries.get(name), config)
        patience = self.silent_seconds, self.still_seconds
        for name in [each for each in entries if each not in self._streams]:
            self._streams[name] = stream = StreamSupervisor(
                name, entries[name], config, self.board, self.command, self.backoff(), *patience
            )
            self._tasks[name] = asyncio.create_task(stream.run(), name=f"live {name}")

    async def drain(self, seconds: float) -> None:
        """Let every stream complete its output within a time; kill the rest."""
        for stream in self._streams.values():
            stream.end(seconds)
        await within(seconds + _REAP_SECONDS, self._all_ended())
        await self.end()

    async def end(self) -> None:
        """Kill all workers and wait for them. May be called twice."""
        for task in self._tasks.values():
            task.cancel()
        await self._all_ended()

    def public_statuses(self) -> list[dict[str, Any]]:
        """Return every stream as `/status` shows it."""
        pids = {name: stream.pid for name, stream in self._streams.items()}
        return [
            {**status.to_json(), "pid": pids.get(name), "restarts": self.num_restarts(name)}
            for name, status in self.board.statuses.items()
        ]

    def num_restarts(self, name: str) -> int:
        """Return how many workers of a stream had to be replaced."""
        stream = self._streams.get(name)
        return 0 if stream is None else stream.num_restarts

    def levels(self, name: str) -> Sequence[str]:
        """Return the names of a stream's levels, in the order in which they are entered."""
        return self._levels.get(name, ())

    async def _all_ended(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks.values())


def _threads(config: Config) -> int | None:
    """Share the cores among several streams; a single one gets all."""
    num_streams = sum(entry.enabled for entry in config.live)
    if num_streams < 2 or "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, len(os.sched_getaffinity(0)) // num_streams)

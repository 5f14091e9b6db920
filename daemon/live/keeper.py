"""One `[[live]]` entry, kept up: its worker is begun again whenever it ends, hangs or outgrows.

What the worker does about its camera and its receiver is its own affair and no reason to end it.
So each end of a worker is one too many, and is followed by the pauses that lost connections have.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ...filters.policy import Policy
from ...io.errors import Reason
from ...io.live.backoff import Backoff
from ...io.live.values import InputState
from ...io.redaction import redacted
from ..exits import Exit
from .board import LiveBoard
from .carried import carried_on
from .order import order_of
from .process import Command, LiveProcess
from .status import LiveStatus
from .stillness import Stillness

if TYPE_CHECKING:
    from ..service.config import LiveConfig

log = logging.getLogger("upframe.live")

_LOOK_SECONDS = 1.0
_STEADY_SECONDS = 60.0
"""That a worker must have lived for its end to count as the first one again."""
_MEBI = 1 << 20
_LASTING = (
    *(Exit.USAGE, Exit.DATA, Exit.NO_INPUT, Exit.UNAVAILABLE),
    *(Exit.CANNOT_CREATE, Exit.CONFIG),
)
"""Ends that somebody has to do something about; trying soon is of no use."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What workers of live streams are given."""

    state_dir: Path
    weights: Policy
    finish_seconds: float
    """For ending well."""
    most_mebibytes: int
    """Of resident memory, from which a worker is replaced."""
    loading_seconds: float
    """From a worker's start to its first status."""
    silent_seconds: float
    """From one status to the next."""
    still_seconds: float
    """In which frames come in, and no new picture goes out."""
    threads: int | None = None
    """For computing on the CPU."""


class Keeper:
    """Keeps one stream up; `run` is its life, everything else may be called meanwhile.

    Args:
        name: of the stream.
        board: is told where it stands.
        command: gives the words that start a worker.
        backoff: of the pauses between workers.
    """

    def __init__(self, name: str, board: LiveBoard, command: Command, backoff: Backoff) -> None:
        self.name = name
        self.num_restarts = 0
        """Workers that had to be begun again."""
        self.pid: int | None = None
        """Of its worker."""
        self._board = board
        self._command = command
        self._backoff = backoff
        self._entry: LiveConfig | None = None
        self._limits: Limits | None = None
        self._leaving = False
        self._news = asyncio.Event()
        self._past: LiveStatus | None = None
        self._latest: LiveStatus | None = None
        self._work = Stillness()
        self._still = 0.0

    def want(self, entry: LiveConfig | None, limits: Limits) -> None:
        """Have the stream be as an entry says from now on; None: not at all."""
        if entry != self._entry:
            self._backoff.held(_STEADY_SECONDS)  # what was wrong may be right now
            self._entry = entry  # an equal one stays the same object, by which it is known below
            self._news.set()
        self._limits = limits

    def leave(self, finish_seconds: float) -> None:
        """Have the worker end well, and `run` return."""
        if self._limits is not None:
            self._limits = replace(self._limits, finish_seconds=finish_seconds)
        self._leaving = True
        self._news.set()

    async def run(self) -> None:
        """Keep the stream up until it is not wanted; if cancelled, its worker is killed."""
        while (entry := self._entry) is not None and not self._leaving:
            self._news.clear()
            if not entry.enabled:
                self._tell(entry, "disabled", "switched off by its entry")
                await self._news.wait()
                continue
            pause = await self._survived(entry)
            if self._is_wanted(entry):
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._changed(entry)
        if self._entry is None:
            self._board.forget(self.name)
        else:
            self._tell(self._entry, "disabled", "the daemon stops")

    def _is_wanted(self, entry: LiveConfig) -> bool:
        return entry is self._entry and not self._leaving

    async def _changed(self, entry: LiveConfig) -> None:
        while self._is_wanted(entry):
            self._news.clear()
            await self._news.wait()

    async def _survived(self, entry: LiveConfig) -> float:
        """Run a worker once; give the seconds until the next one, whatever went wrong."""
        try:
            return await self._once(entry)
        except Exception:  # one stream's trouble, also a bug of ours, must not end it for months
            log.exception("its keeper failed", extra=self._about)
            return self._pause(entry, "its keeper failed", lasting=True)

    async def _once(self, entry: LiveConfig) -> float:
        limits = self._given
        clock = asyncio.get_running_loop().time
        began = clock()
        words = self._command(self.name, limits.state_dir)
        process = LiveProcess(self.name, words, self._hear, self._news)
        self._latest, self._work, self._still = None, Stillness(), 0.0
        self._tell(entry, "connecting", "its worker starts")
        try:
            try:
                await process.begin(order_of(entry, limits.weights, limits.threads))
            except OSError as error:
                return self._pause(entry, f"no worker can be started: {error}", lasting=True)
            self.pid = process.pid
            again_at_once = await self._watch(process, entry)
        finally:
            await process.kill("nobody needs it any more")
            self.pid = None
            self._carry()
        if again_at_once or not self._is_wanted(entry):
            return 0.0
        if clock() - began >= _STEADY_SECONDS:
            self._backoff.held(clock() - began)
        return self._judge(process, entry)

    async def _watch(self, process: LiveProcess, entry: LiveConfig) -> bool:
        """Follow a worker to its end; whether the next one is to begin at once."""
        silent, heard = 0.0, 0
        while not process.is_over:
            if not self._is_wanted(entry) or self._outgrown():
                await process.finish(self._given.finish_seconds)
                return True
            self._news.clear()
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                silent += _LOOK_SECONDS  # what we waited, not what passed: we may have been stopped
            if process.num_statuses != heard:
                silent, heard = 0.0, process.num_statuses
            if (why := self._hangs(silent, spoke=heard > 0)) is not None:
                await process.kill(why)
        await process.gone()
        return False

    def _hangs(self, silent_seconds: float, *, spoke: bool) -> str | None:
        """Say why a worker counts as hung; None while it does not."""
        limits = self._given
        patience = limits.silent_seconds if spoke else limits.loading_seconds
        if silent_seconds >= patience:
            return f"it said nothing for {patience:g} s"
        patience = limits.still_seconds if self._work.began else limits.loading_seconds
        if self._still >= patience:
            return f"it made nothing of the frames that came for {patience:g} s"
        return None

    def _outgrown(self) -> bool:
        size = 0 if self._latest is None else self._latest.rss_bytes
        if size < self._given.most_mebibytes * _MEBI:
            return False
        mebibytes = size // _MEBI
        log.warning("its worker has %d MiB, and is replaced", mebibytes, extra=self._about)
        self.num_restarts += 1
        return True

    def _judge(self, process: LiveProcess, entry: LiveConfig) -> float:
        """Say how a worker ended that nobody had asked to."""
        said = process.farewell
        if said is None:
            text, lasting = f"its worker {process.end}", False
            if process.tail.text is not None:
                log.warning("its worker said last:\n%s", process.tail.text, extra=self._about)
        else:
            text, lasting = said.message, said.code in _LASTING
        return self._pause(entry, text, lasting=lasting)

    def _pause(self, entry: LiveConfig, text: str, *, lasting: bool) -> float:
        """Tell why there is no worker, and how long there will be none."""
        backoff = self._backoff
        seconds = backoff.longest_seconds() if lasting else backoff.next_seconds()
        self.num_restarts += 1
        about = self._about | {"event": "live-worker-ended"}
        level = logging.ERROR if lasting else logging.WARNING
        log.log(level, "%s; again in %.1f s", redacted(text), seconds, extra=about)
        self._tell(entry, "reconnecting", text, "failed")
        return seconds

    def _hear(self, status: LiveStatus) -> None:
        self._latest = replace(status, name=self.name)
        self._still = self._work.seconds(status, asyncio.get_running_loop().time())
        self._board.tell(carried_on(self._past, self._latest))

    def _carry(self) -> None:
        """Keep what a worker has counted, now that it is gone."""
        if self._latest is not None:
            self._past = carried_on(self._past, self._latest)
        self._latest = None

    def _tell(
        self, entry: LiveConfig, state: InputState, message: str, reason: Reason | None = None
    ) -> None:
        """Say it in a worker's place."""
        status = LiveStatus(
            name=self.name,
            state=state,
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            reason=reason,
            message=redacted(message),
            input={"url": redacted(entry.input)},
            output={"url": redacted(entry.output)},
            showing="nothing",
        )
        self._board.tell(carried_on(self._past, status))

    @property
    def _given(self) -> Limits:
        assert self._limits is not None  # else nothing was ever wanted
        return self._limits

    @property
    def _about(self) -> dict[str, str]:
        return {"source": self.name}


Backoffs = Callable[[], Backoff]
"""Makes the pauses of one stream."""

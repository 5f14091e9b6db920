"""A worker process: takes requests on stdin, keeps its models, and dies with its daemon.

Started as `python -m upframe.daemon.workers.worker` by :mod:`upframe.daemon.workers.process`. It
binds itself to its parent before it imports anything large, so that there is no moment in which the
daemon can die and leave it behind.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from ...filters.errors import FilterError
from ...io.limits import limits
from ..errors import Stopped
from ..exits import Exit, exit_code_of
from ..hang import HangLimits, HangWatch, say_on_stderr
from ..jobs.model import JobError
from ..startup import collector_resting
from . import messages
from .channel import WorkerChannel, run_worker

_STOPPED_STATUS = 128 + signal.SIGTERM


def main() -> NoReturn:
    """Run the worker until its daemon no longer needs it."""
    parser = argparse.ArgumentParser(prog="upframe-worker")
    parser.add_argument("--results", type=Path, help="None: a worker that only probes")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--threads", type=int, help="for computing on the CPU (all)")
    parser.add_argument("--cluster", type=Path, help="socket of its driver")
    run_worker(parser, _serve)


def _serve(arguments: argparse.Namespace) -> int:
    channel = JobChannel()
    channel.take_log()
    # imported here: they load PyAV and torch, which takes longer than a daemon may live
    with collector_resting():
        from ...filters.device import allow_memory
        from .attempt import AttemptSettings, JobRunner, answer_probe

    if arguments.results is None:

        def answer(request: messages.Request) -> messages.Event:
            share = (
                1 if isinstance(request, messages.CheckJob) else 4
            )  # for an encoder, or a few frames
            allow_memory(limits().memory_mebibytes, share=share)
            return answer_probe(request)

        channel.send(messages.Ready())
        return serve(channel, answer)
    chosen = {name: getattr(arguments, name) for name in AttemptSettings.__slots__}
    try:
        runner = JobRunner(channel, AttemptSettings(**chosen))
    except (FilterError, OSError) as error:  # no such device; no space for the ledger
        channel.send(messages.RequestFailed(error=messages.error_of(error)))
        return exit_code_of(error)
    if runner.runtime.device.type == "cpu":
        allow_memory(limits().memory_mebibytes)
    channel.send(messages.Ready(device=runner.device_name))
    return serve(channel, runner)


class JobChannel(WorkerChannel):
    """The channel of a worker that takes one request at a time, and cancellations in between.

    A thread reads, so that a running job can be cancelled, and so that the end of the pipe, when no
    daemon needs us any more, is noticed at once.
    """

    def __init__(self) -> None:
        super().__init__(_STOPPED_STATUS)
        self._waiting: queue.SimpleQueue[messages.Request | None] = queue.SimpleQueue()
        self._job: str | None = None
        self._cancelled: str | None = None
        signal.signal(signal.SIGTERM, self._on_signal)
        threading.Thread(target=self._read, name="upframe-requests", daemon=True).start()

    def next_request(self) -> messages.Request | None:
        """Wait for the next request; None when there will be no more."""
        return self._waiting.get()

    def end_job(self) -> None:
        """Ignore cancellations of the job from now on: they come too late."""
        self._job = None

    def give_up(self, why: str) -> None:
        """Report that a call hangs: the next attempt may succeed, in another process."""
        say_on_stderr(why)
        if self._job is not None:
            error = JobError(code=int(Exit.INTERNAL), message=why, retryable=True)
            self.send(messages.RequestFailed(error=error))

    def was_cancelled(self, job_id: str) -> bool:
        """Whether a job was to be cancelled."""
        return self._cancelled == job_id

    def _read(self) -> None:
        try:
            for request in self.requests():
                if not isinstance(request, messages.CancelJob):
                    if isinstance(request, messages.RunJob):
                        self._job = request.id
                    self._waiting.put(request)
                elif request.id == self._job:
                    self._cancelled = request.id
                    os.kill(os.getpid(), signal.SIGTERM)
        except ValidationError:  # raised in this thread, it would leave the daemon waiting
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(Exit.INTERNAL)
        if self._job is not None:  # its result is not needed; the daemon's next start cleans up
            os._exit(_STOPPED_STATUS)
        self._waiting.put(None)

    def _on_signal(self, number: int, _: object) -> None:
        """End at once, unless it is a cancellation that came too late.

        While pictures flow, the pipeline handles the signal and stops in order. Before that, there
        is nothing worth keeping, and no safe way out of a library in the middle of loading.
        """
        if self._cancelled is not None and self._cancelled != self._job:
            self._cancelled = None
            return
        os._exit(128 + number)


def serve(
    channel: JobChannel,
    answer: Callable[[messages.Request], messages.Event],
    limits: HangLimits | None = None,
) -> int:
    """Answer requests until there are no more; return the exit status of the process."""
    with HangWatch(channel.give_up, limits):
        while (request := channel.next_request()) is not None:
            try:
                event = answer(request)
            except Stopped as stopped:
                if not (isinstance(request, messages.RunJob) and channel.was_cancelled(request.id)):
                    return 128 + stopped.signal_number  # of a signal that was sent to the process
                event = messages.JobStopped()
            except Exception as error:  # reported to the daemon; the next request may succeed
                event = messages.RequestFailed(error=messages.error_of(error))
            channel.end_job()
            channel.send(event)
    return Exit.OK


if __name__ == "__main__":
    main()

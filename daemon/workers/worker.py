"""A worker process: takes requests on stdin, keeps its models, and dies with its daemon.

Started as `python -m upframe.daemon.workers.worker` by :mod:`upframe.daemon.workers.process`. It
ties itself to its parent before it imports anything large, so that no moment is left in which the
daemon can die and leave it behind.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ...filters.errors import FilterError
from ...io.limits import limits
from ..errors import Stopped
from ..exits import Exit, exit_code_of
from ..startup import collector_resting
from . import worker_lock
from .messages import Event, Failed, Ready, Request, RunJob, Stop
from .messages import Stopped as WasStopped
from .retry import error_of

if TYPE_CHECKING:
    from .channel import Wire


def main() -> NoReturn:
    """Run the worker until nobody wants it any more."""
    arguments = _arguments()
    lock = worker_lock.tie(arguments.parent, arguments.lock)
    status = _serve(arguments)
    sys.stderr.flush()
    del lock
    # not sys.exit: a thread of a library may hang in a read, or free tensors too late
    os._exit(status)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="upframe-worker")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--lock", type=Path, required=True)
    parser.add_argument("--results", type=Path, help="None: a worker that only probes")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--threads", type=int, help="for computing on the CPU (all)")
    return parser.parse_args()


def _serve(arguments: argparse.Namespace) -> int:
    # imported here: they load PyAV and torch, which takes longer than a daemon may live
    with collector_resting():
        from ...filters.device import allow_memory
        from .channel import Wire, WireLog

    wire = Wire()
    logger = logging.getLogger("upframe")
    logger.handlers[:] = [WireLog(wire)]
    logger.setLevel(logging.INFO)
    if arguments.results is None:
        with collector_resting():
            from .attempt import judge_request
        allow_memory(limits().memory_mebibytes, share=4)  # for a few frames
        wire.send(Ready())
        return serve(wire, judge_request)
    with collector_resting():
        from .attempt import Attempts, AttemptSettings
    chosen = {name: getattr(arguments, name) for name in AttemptSettings.__slots__}
    try:
        attempts = Attempts(wire, AttemptSettings(**chosen))
    except (FilterError, OSError) as error:  # no such device; no room for the ledger
        wire.send(Failed(error=error_of(error)))
        return exit_code_of(error)
    if attempts.runtime.device.type == "cpu":
        allow_memory(limits().memory_mebibytes)
    wire.send(Ready(device=attempts.device_name))
    return serve(wire, attempts)


def serve(wire: Wire, answer: Callable[[Request], Event]) -> int:
    """Answer requests until there are no more.

    Returns:
        The exit status of the process.
    """
    while (request := wire.next_request()) is not None and not isinstance(request, Stop):
        try:
            event = answer(request)
        except Stopped as stopped:
            if not (isinstance(request, RunJob) and wire.was_cancelled(request.id)):
                return 128 + stopped.signal_number  # somebody else's signal: he means the process
            event = WasStopped()
        except Exception as error:  # the next request may fare better; this one's fate is told
            event = Failed(error=error_of(error))
        wire.end_job()
        wire.send(event)
    return Exit.OK


if __name__ == "__main__":
    main()

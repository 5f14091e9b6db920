"""The process of one live stream: receives an order on stdin, and keeps the stream up.

Started as `python -m upframe.daemon.live.worker` by :mod:`upframe.daemon.live.supervisor`. It binds
itself to its parent before it imports anything large, so that there is no moment in which the
daemon can die and leave it behind. The stream ends well when stdin ends, or by SIGTERM.
"""

from __future__ import annotations

import argparse
import logging
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

from ...io.limits import limits
from ...io.web import NetworkRules, network_rules
from ..exits import Exit, exit_code_of, is_expected
from ..startup import collector_resting, share_cores
from ..workers.channel import WorkerChannel, run_worker
from ..workers.messages import ExitMessage, Request, RunStream, StreamReported
from .status import LiveStatus

_UNHEARD_STATUS = 141
"""Of a process whose daemon is gone."""


def main() -> NoReturn:
    """Run one stream until its daemon no longer needs it."""
    run_worker(argparse.ArgumentParser(prog="upframe-live-worker"), _serve)


def _serve(_: argparse.Namespace) -> int:
    share_cores()
    channel = WorkerChannel(_UNHEARD_STATUS)
    channel.take_log()
    code, message = int(Exit.OK), ""
    try:
        requests = channel.requests()
        request = next(requests, None)
        if isinstance(request, RunStream):
            message = _run(request, channel, requests)
    except Exception as error:  # whatever ends the stream, the daemon decides what comes next
        if not is_expected(error):
            logging.getLogger("upframe.live").exception("the stream failed")
        code, message = int(exit_code_of(error)), str(error) or type(error).__name__
    channel.send(ExitMessage(code=code, message=message))
    return code


def _run(order: RunStream, channel: WorkerChannel, requests: Iterator[Request]) -> str:
    """Run the stream to its end; return why it ended, or raise MediaError or FilterError."""
    # imported here: they load PyAV and torch, which takes longer than a daemon may live
    with collector_resting():
        import torch

        from ...filters.device import allow_memory
        from .live_pipeline import request_of
        from .session import LiveSession

    def report(status: LiveStatus) -> None:
        channel.send(StreamReported(status=status.to_json()))

    def stop_at_end() -> None:
        for _ in requests:
            pass  # one order is all that is accepted
        session.stop(None)

    if order.threads is not None:
        torch.set_num_threads(order.threads)
    with network_rules(NetworkRules(tls_insecure=order.spec.tls_insecure)):
        request = request_of(order.spec, order.weights)
        if request.runtime.device.type == "cpu":
            allow_memory(limits().memory_mebibytes)
        session = LiveSession(request, on_status=report)

        def on_signal(number: int, _: object) -> None:  # ends well once, at once the second time
            signal.signal(number, signal.SIG_DFL)
            session.stop(number)

        signal.signal(signal.SIGTERM, on_signal)
        report(session.status())
        threading.Thread(target=stop_at_end, name="upframe-orders", daemon=True).start()
        return session.run().ended_by


if __name__ == "__main__":
    main()

"""The process of one live stream: takes an order on stdin, and keeps the stream up until told.

Started as `python -m upframe.daemon.live.worker` by :mod:`upframe.daemon.live.process`. It ties
itself to its parent before it imports anything large, so that no moment is left in which the daemon
can die and leave it behind. It ends well when its stdin ends, or by SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ...io.limits import limits
from ...io.redaction import redacted_values
from ...io.web import NetworkRules, network_rules
from ..exits import Exit, exit_code_of, is_expected
from ..fence import Fence
from ..logfields import told
from ..startup import collector_resting, share_cores
from ..workers import worker_lock
from ..workers.standard_streams import StandardStreams
from .order import LiveOrder
from .status import LiveStatus


def main() -> NoReturn:
    """Run one stream until nobody wants it any more."""
    arguments = _arguments()
    lock = worker_lock.tie(arguments.parent, arguments.lock)
    share_cores()
    code = _serve()
    sys.stderr.flush()
    del lock
    # not sys.exit: a thread of a library may hang in a read, or free tensors too late
    os._exit(code)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="upframe-live-worker")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--lock", type=Path, required=True)
    return parser.parse_args()


def _serve() -> int:

    linkage = Linkage()
    logger = logging.getLogger("upframe")
    logger.handlers[:] = [LinkLog(linkage)]
    logger.setLevel(logging.INFO)
    try:
        order = linkage.order()
        message = "" if order is None else _run(order, linkage)
    except Exception as error:  # whatever ends the stream, the daemon is told, and decides
        if not is_expected(error):
            logging.getLogger("upframe.live").exception("the stream failed")
        linkage.tell_end(code := int(exit_code_of(error)), str(error) or type(error).__name__)
        return code
    linkage.tell_end(Exit.OK, message)
    return Exit.OK


def _run(order: LiveOrder, linkage: Linkage) -> str:
    """Run the stream to its end; give what there is to say of it.

    Raises:
        MediaError, FilterError: if it cannot go on.
    """
    # imported here: they load PyAV and torch, which takes longer than a daemon may live
    with collector_resting():
        import torch

        from ...filters.device import allow_memory
        from .order import request_of
        from .session import LiveSession

    if order.threads is not None:
        torch.set_num_threads(order.threads)
    with network_rules(NetworkRules(tls_insecure=order.options.tls_insecure)):
        request = request_of(order)
        if request.runtime.device.type == "cpu":
            allow_memory(limits().memory_mebibytes)
        session = LiveSession(request, on_status=linkage.tell_status)
        _stop_by_signal(session.stop)
        linkage.tell_status(session.status())
        linkage.on_end(lambda: session.stop(None))
        return session.run().ended_by


def _stop_by_signal(stop: Callable[[int | None], None]) -> None:
    """End well by the first SIGTERM, at once by the second."""

    def on_signal(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop(number)

    signal.signal(signal.SIGTERM, on_signal)


# A worker's end of the pipe to the daemon: one order comes in, lines go out, its end is ours.

_NOBODY_STATUS = 141
"""Of a process whose lines nobody reads any more."""


class Linkage:
    """There is one in a process: it takes stdin and stdout for itself."""

    def __init__(self) -> None:
        self._streams = StandardStreams(_NOBODY_STATUS)

    def order(self) -> LiveOrder | None:
        """Wait for the order; None if nobody wants us any more.

        Raises:
            ValidationError: if what came is none.
        """
        text = b""
        while b"\n" not in text:
            data = self._streams.read()
            if not data:
                return None
            text += data
        return LiveOrder.model_validate_json(text)

    def on_end(self, act: Callable[[], None]) -> None:
        """Have something done, in a thread of its own, once the daemon has closed its end."""
        reading = threading.Thread(target=self._await_end, args=(act,), name="upframe-orders")
        reading.daemon = True  # it may read for as long as the process lives
        reading.start()

    def tell_status(self, status: LiveStatus) -> None:
        """Send where the stream stands, from any thread."""
        self._send({"event": "status", **status.to_json()})

    def tell_log(self, level: int, logger: str, message: str) -> None:
        """Send a line for the log, from any thread."""
        self._send({"event": "log", "level": level, "logger": logger, "message": message})

    def tell_end(self, code: int, message: str) -> None:
        """Send how it ended; the last line."""
        self._send({"event": "ended", "code": code, "message": message})

    def _send(self, document: Mapping[str, Any]) -> None:
        text = json.dumps(redacted_values(document), default=str)
        self._streams.write(text.encode() + b"\n")

    def _await_end(self, act: Callable[[], None]) -> None:
        while self._streams.read():
            pass  # one order is all that we take
        act()


class LinkLog(logging.Handler):
    """Sends every line of the log to the daemon."""

    def __init__(self, linkage: Linkage) -> None:
        super().__init__()
        self._linkage = linkage

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line."""
        with Fence("log"):
            self._linkage.tell_log(record.levelno, record.name, told(record))


if __name__ == "__main__":
    main()

"""The process of one live stream: takes an order on stdin, and keeps the stream up until told.

Started as `python -m upframe.daemon.live.worker` by :mod:`upframe.daemon.live.process`. It ties
itself to its parent before it imports anything large, so that no moment is left in which the daemon
can die and leave it behind. It ends well when its stdin ends, or by SIGTERM.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ..exits import Exit, exit_code_of, is_expected
from ..importing import collector_resting
from ..work import tether
from .cores import share_cores

if TYPE_CHECKING:
    from .linkage import Linkage
    from .order import LiveOrder


def main() -> NoReturn:
    """Run one stream until nobody wants it any more."""
    arguments = _arguments()
    lock = tether.tie(arguments.parent, arguments.lock)
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
    from .linkage import Linkage, LinkLog

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

        from .order import request_of
        from .session import LiveSession

    if order.threads is not None:
        torch.set_num_threads(order.threads)
    session = LiveSession(request_of(order), on_status=linkage.tell_status)
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


if __name__ == "__main__":
    main()

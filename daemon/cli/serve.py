"""`upframe serve`: the daemon, with jobs from folders, MQTT and the command line."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import logging
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import cast

from ...io.limits import VARIABLE
from ...io.redaction import one_line
from ..config import Config, load_config, refusal
from ..exits import exit_code_of
from ..jobs.client import place_in
from ..jobs.store import JobStore
from ..service.checks import broker_faults, cautions, examine, examine_at_start
from ..service.daemon import Daemon
from ..service.lifecycle import Notifier, leave_within, state_lock
from ..service.logs import Logs
from ..workers.ray import check_cluster

log = logging.getLogger("upframe.serve")

_LEAVE_SECONDS = 2.0
"""Longest time from the end of all work to the end of the process."""


def command(arguments: argparse.Namespace) -> int:
    """Do what the command line asks, and return the exit code."""
    path = cast("Path", arguments.config).absolute()
    config = load_config(path)
    if arguments.debug:
        config = config.model_copy(update={"log": config.log.model_copy(update={"level": "debug"})})
    return check(config, path) if arguments.check else serve(config, path)


def check(config: Config, path: Path) -> int:
    """Check a configuration against this machine, and log in to its broker.

    Raises:
        ConfigError: names every key that would not work.
        BrokerAbsent, ClusterAbsent: if nothing is wrong but that there is no broker or cluster.
    """
    faults = list(examine(config))
    if not faults and config.mqtt is not None:
        faults = list(broker_faults(config.mqtt))
    if faults:
        raise refusal(path, faults)
    _check_executor(config)
    for text in cautions(config):
        sys.stderr.write(f"upframe: warning: {one_line(text)}\n")
    sys.stderr.write(f"upframe: {one_line(path)} is fine: {_extent(config)}\n")
    return 0


def serve(config: Config, path: Path) -> int:
    """Run the daemon until it is stopped.

    Raises:
        ConfigError: if it cannot work as configured.
        AlreadyRunning: if another daemon has the state directory.
        ClusterAbsent: if there is no cluster where the films are to be made.
        StoreBroken: if the jobs cannot be read.
        Stopped: if a second signal ended it at once.
    """
    os.environ[VARIABLE] = config.limits.model_dump_json()  # to all children
    faulthandler.enable()  # SIGABRT, with which systemd ends what hangs, then shows where
    notifier = Notifier.from_environment()
    faults = examine_at_start(config)
    if faults:
        raise refusal(path, faults)
    _check_executor(config)
    with (
        closing(Logs(config.log)) as logs,
        state_lock(config.state_dir),
        JobStore(place_in(config.state_dir).store) as store,
    ):
        log.info("%s read: %s", path, _extent(config))
        for text in cautions(config):
            log.warning("%s", text)
        return _run(Daemon(config, path, store, notifier, logs))


def _check_executor(config: Config) -> None:
    if config.executor.kind == "ray":
        check_cluster(config.executor.address)


def _run(daemon: Daemon) -> int:
    with asyncio.Runner() as runner:
        try:
            code = runner.run(daemon.run())
        except BaseException as error:
            leave_within(_LEAVE_SECONDS, exit_code_of(error))
            raise
        leave_within(_LEAVE_SECONDS, code)
        return code


def _extent(config: Config) -> str:
    parts = [f"{len(config.watch)} watched folder{'' if len(config.watch) == 1 else 's'}"]
    if config.live:
        parts.append(f"{len(config.live)} live stream{'' if len(config.live) == 1 else 's'}")
    if config.mqtt is not None:
        parts.append(f"MQTT at {config.mqtt.host}")
    if config.http is not None:
        parts.append(f"HTTP at {config.http.listen}")
    return ", ".join([*parts, f"state in {config.state_dir}"])

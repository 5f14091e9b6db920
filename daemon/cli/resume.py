"""`upframe resume`: continue a run that was broken off, as it was asked for."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from ...io.errors import SinkRefused, SourceMissing
from ...io.web import NetworkRules, network_rules
from ..convert.plan import Plan, held, plan_folder
from ..parser import make_parser
from . import run


def command(arguments: argparse.Namespace) -> int:
    """Do what the command line asks, and return the exit code."""
    output = Path(arguments.output)
    folder = plan_folder(output)
    if not folder.is_dir():
        raise SourceMissing(f"nothing to resume: no run has left {folder} behind")
    with held(folder, output):
        plan = Plan.opened(folder)
        if plan is None:
            raise SourceMissing(f"nothing to resume: {folder} holds no plan of this version")
        asked = plan.arguments
        plan.close()
    words = cast("Sequence[str] | None", asked.get("words"))
    if not words:
        raise SinkRefused(f"{folder} is of a job of the daemon, which resumes it")
    os.chdir(cast("str", asked["folder"]))
    given = make_parser(["run"]).parse_args([*words, "--progress", arguments.progress])
    given.words = words
    with network_rules(NetworkRules(tls_insecure=bool(given.tls_insecure))):
        return run.command(given)

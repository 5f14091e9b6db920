"""`upframe resume`: continue a run that was broken off, as it was asked for."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError

from ...io.errors import SinkRefused, SourceMissing
from ...io.redaction import redacted
from ..convert.plan import PLAN_NAME, Plan, held, plan_folder
from ..errors import UsageError
from ..mqtt.requests import Refused, check_encoder_options
from ..parser import make_parser
from . import run

log = logging.getLogger("upframe.run")


class _Asked(BaseModel):
    words: Sequence[str]
    folder: str


def command(arguments: argparse.Namespace) -> int:
    """Do what the command line asks, and return the exit code.

    The folder of a run may come from somebody else, in an archive or with a disk. So its words are
    taken for this output alone, without what reaches other files: those are asked for anew.
    """
    output = Path(arguments.output)
    folder = plan_folder(output)
    asked = _asked(folder, output)
    try:
        given = make_parser(["run"]).parse_args(asked.words)
        check_encoder_options(dict(given.options or ()))
    except (UsageError, Refused) as error:
        text = f"{folder} cannot be continued so, but by its own command: {error}"
        raise SinkRefused(text) from error
    target = Path(asked.folder, getattr(given, "output", ""))
    if given.command != "run" or _real(target) != _real(output):
        text = f"{folder} is of {target}: to continue there, give the command of that run"
        raise SinkRefused(text)
    log.info("upframe %s", redacted(shlex.join(asked.words)))
    os.chdir(asked.folder)
    given.words, given.progress = asked.words, arguments.progress
    given.report, given.overwrite = arguments.report, arguments.overwrite or None
    given.tls_insecure = given.credentials_file = given.output_credentials_file = None
    given.live = False
    return run.command(given)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path.parent), path.name)


def _asked(folder: Path, output: Path) -> _Asked:
    if not folder.is_dir():
        raise SourceMissing(f"nothing to resume: no run has left {folder} behind")
    with held(folder, output):
        plan = Plan.opened(folder)
        if plan is None:
            what = "a plan of another version, or a damaged one"
            what = what if (folder / PLAN_NAME).exists() else "no plan: the run had not begun"
            raise SourceMissing(f"nothing to resume: {folder} holds {what}")
        plan.close()
    try:
        return _Asked.model_validate(plan.arguments)
    except ValidationError as error:
        text = f"nothing to resume: {folder} does not tell by which command it was made"
        raise SourceMissing(text) from error

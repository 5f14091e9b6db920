"""What becomes of a watched input when its job has ended. Blocks.

An input is moved or deleted only if it is still the very file that was worked on, and a done one
only if its output is there.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from contextlib import suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from ...io.files import partial_path
from ..jobs.model import Job
from ..service.config import WatchConfig
from .identity import key_fits
from .moving import move
from .names import SIDECAR_SUFFIX, shown
from .placing import mirrored
from .stability import Signature

log = logging.getLogger("upframe.watch")

_NAME_MAX_BYTES = 255  # of one path component on every file system in common use

SIDECAR_SCHEMA = "upframe.error/1"


class _Sidecar(BaseModel):
    """As much of one as tells that it is ours."""

    schema_name: str = Field(alias="schema")


def output_signature(job: Job) -> Signature | None:
    """Tell how a job's output looks; None where it is no file with something in it."""
    try:
        status = Path(job.sink).stat()
    except OSError:
        return None
    return Signature.of(status) if stat.S_ISREG(status.st_mode) and status.st_size else None


def dispose_done(job: Job, watch: WatchConfig) -> None:
    """Keep, move or delete the input of a done job.

    Raises:
        OSError: if that fails; the input is where it was then.
    """
    source = Path(job.source)
    remove_sidecar(source)
    if watch.on_done == "keep":
        return
    if (why := _against(job, source)) is not None:
        log.warning("%s: kept, %s", shown(source), why)
        return
    if watch.on_done == "delete":
        source.unlink()
        log.info("%s: deleted, its output is %s", shown(source), shown(job.sink))
    elif watch.done_dir is not None:
        target = mirrored(source, watch.input, watch.done_dir)
        place = move(source, target, lambda _: _require_unchanged(job))
        log.info("%s: done, moved to %s", shown(source), shown(place))


def _against(job: Job, source: Path) -> str | None:
    """Say why a done job's input must not be touched."""
    if output_signature(job) is None:
        return f"its output {shown(job.sink)} is not there"
    if job.report is None:
        return "its output was not verified"
    if _is_same_file(source, Path(job.sink)):
        return "it is its own output"
    return None if is_unchanged(job) else "it has changed or gone since it was read"


def dispose_failed(job: Job, watch: WatchConfig) -> None:
    """Leave or move the input of a failed job, and write beside it what went wrong.

    Raises:
        OSError: if that fails; the input is where it was then.
    """
    source = Path(job.source)
    if not is_unchanged(job):
        log.info("%s: has changed or gone since job %s failed", shown(source), job.id)
        return
    if watch.on_failed == "leave" or watch.failed_dir is None:
        write_sidecar(source, job)
        return

    def explain(place: Path) -> None:
        _require_unchanged(job)
        write_sidecar(place, job)

    place = move(source, mirrored(source, watch.input, watch.failed_dir), explain)
    remove_sidecar(source)
    log.info("%s: failed, moved to %s", shown(source), shown(place))


def _require_unchanged(job: Job) -> None:
    if not is_unchanged(job):  # it may take long to copy a file to another device
        raise OSError(f"{shown(job.source)} has changed while it was moved")


def is_unchanged(job: Job) -> bool:
    """Tell whether a job's input is there, and still the version that the job was made for."""
    try:
        status = os.lstat(job.source)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and key_fits(job.idempotency_key, Signature.of(status))


def sidecar_of(path: Path) -> Path:
    """Name the file that says why `path` failed."""
    room = _NAME_MAX_BYTES - len(SIDECAR_SUFFIX)
    name = os.fsencode(path.name)[:room].decode(errors="ignore")
    return path.with_name(f"{name}{SIDECAR_SUFFIX}")


def write_sidecar(place: Path, job: Job) -> None:
    """Write why a job failed beside its input.

    Raises:
        OSError: if it cannot be written.
    """
    sidecar = sidecar_of(place)
    partial = partial_path(sidecar)
    try:
        partial.write_text(json.dumps(_account(job), indent=2, ensure_ascii=False) + "\n")
        partial.replace(sidecar)
    finally:
        partial.unlink(missing_ok=True)


def remove_sidecar(source: Path) -> None:
    """Remove what an earlier attempt has left beside an input, if it is ours."""
    sidecar = sidecar_of(source)
    with suppress(OSError, ValueError):  # not there, or not ours
        if _Sidecar.model_validate_json(sidecar.read_bytes()).schema_name == SIDECAR_SCHEMA:
            sidecar.unlink()


def _account(job: Job) -> dict[str, Any]:
    return {
        "schema": SIDECAR_SCHEMA,
        "version": version("upframe"),
        "job": job.id,
        "source": job.source,
        "sink": job.sink,
        "error": None if job.error is None else job.error.model_dump(mode="json"),
        "attempts": job.attempts,
        "created": _time(job.created),
        "started": _time(job.started),
        "ended": _time(job.ended),
        "filters": job.filters.model_dump(mode="json", exclude_defaults=True),
        "encoder": job.encoder.model_dump(mode="json", exclude_defaults=True),
        "again": f"put the file back where it was, then: upframe jobs retry {job.id}",
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False

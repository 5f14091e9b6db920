"""What the watched folders remember in the store, beside the jobs: one small text per key.

taken     by a file's idempotency key: why it need not be looked at again
latest    by a source's path: the job of its latest version
maker     by an output's path: whose output it is, and how it looked when it was made
settled   by a job's id: the end that has been dealt with
instance  who we are to other daemons on the same share
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pydantic import BaseModel

from ..jobs.model import Job
from ..jobs.store import JobStore
from .locks import Locks
from .names import Reason, Skip
from .stability import Signature


class Maker(BaseModel, frozen=True):
    """Whose output a file is."""

    job: str
    source: str
    made: tuple[int, int, int] | None = None
    """Size, time of change and inode when it was made; None: it is not made yet."""

    def made_it(self, signature: Signature) -> bool:
        """Tell whether a file is still what was made."""
        return self.made == (signature.size, signature.mtime_ns, signature.inode)


@dataclass(frozen=True, slots=True)
class Records:
    """The memory of the watched folders. Every method blocks."""

    store: JobStore

    def taken(self, key: str, path: Path) -> Skip | None:
        """Tell why a version of a file is not looked at again; None: it is new."""
        verdict = self.store.seen_verdict(f"taken {key}")
        if verdict is None:
            return None
        reason, _, detail = verdict.partition(" ")
        return Skip(path, cast("Reason", reason), detail)

    def set_taken(self, key: str, reason: Reason, detail: str) -> None:
        """Remember that a version of a file needs no second look, also without its job."""
        self.store.set_verdict(f"taken {key}", f"{reason} {detail}")

    def latest(self, source: Path) -> str | None:
        """Name the job of a source's latest version."""
        return self.store.seen_verdict(f"latest {source}")

    def set_latest(self, job: Job) -> None:
        """Remember the job of a source's latest version, and that the output will be its."""
        maker = Maker(job=job.id, source=job.source)
        old = self.maker(Path(job.sink))
        if old is not None and old.source == job.source:  # its earlier output may still lie there
            maker = maker.model_copy(update={"made": old.made})
        self.store.set_verdict(f"latest {job.source}", job.id)
        self._set_maker(Path(job.sink), maker)

    def maker(self, sink: Path) -> Maker | None:
        """Tell whose output a path is."""
        text = self.store.seen_verdict(f"maker {sink}")
        return Maker.model_validate_json(text) if text else None

    def set_made(self, job: Job, signature: Signature) -> None:
        """Remember how an output looks that a job has made."""
        made = (signature.size, signature.mtime_ns, signature.inode)
        self._set_maker(Path(job.sink), Maker(job=job.id, source=job.source, made=made))

    def drop_claim(self, job: Job) -> None:
        """Give up a path that a job has made nothing of."""
        maker = self.maker(Path(job.sink))
        if maker is not None and maker.job == job.id and maker.made is None:
            self.store.drop_verdict(f"maker {job.sink}")

    def _set_maker(self, sink: Path, maker: Maker) -> None:
        self.store.set_verdict(f"maker {sink}", maker.model_dump_json())

    def is_settled(self, job: Job) -> bool:
        """Tell whether this end of a job has been dealt with; a retried job may end again."""
        return self.store.seen_verdict(f"settled {job.id}") == _end_of(job)

    def set_settled(self, job: Job) -> None:
        """Remember that this end of a job has been dealt with."""
        self.store.set_verdict(f"settled {job.id}", _end_of(job))

    def locks(self, output: Path) -> Locks:
        """Open the claims on the files below an output folder."""
        return Locks(output, self._instance())

    def _instance(self) -> str:
        """Name this daemon among those that share a folder: as long as its state lasts."""
        known = self.store.seen_verdict("instance")
        if known is None:
            known = secrets.token_hex(8)
            self.store.set_verdict("instance", known)
        return known


def _end_of(job: Job) -> str:
    return f"{job.state} {job.ended.isoformat() if job.ended else ''}"

"""The ledger of results: what a worker is about to publish, on the disk before it does.

A worker writes a job's entry when the output is complete, checked and on the disk, before the first
file gets its name. After a crash there is either no entry, and nothing was published; or an entry,
by which each published file is recognised by inode, size and time.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError

from ...io.files import sync_folder

log = logging.getLogger("upframe.work")

FOLDER = "results"
"""Below the state directory."""
_SEGMENTS = "segments"
"""Beside it."""

_MTIME_SLACK_NS = 2_000_000_000  # FAT counts in steps of 2 s


class PublishedFile(BaseModel, frozen=True):
    """One file of an output, and what it is recognised by."""

    partial: str
    final: str
    inode: int
    num_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, partial: Path, final: Path) -> Self:
        """Describe a complete file that still has its temporary name.

        Raises:
            OSError: if it cannot be accessed.
        """
        found = partial.stat()
        return cls(
            partial=str(partial),
            final=str(final),
            inode=found.st_ino,
            num_bytes=found.st_size,
            mtime_ns=found.st_mtime_ns,
        )

    @property
    def is_waiting(self) -> bool:
        """Whether it still has its temporary name, unchanged."""
        found = _stat(self.partial)
        return found is not None and self._is(found)

    @property
    def is_published(self) -> bool:
        """Whether it has its final name."""
        found = _stat(self.final)
        if found is None:
            return False
        # some network shares and FAT give a file another inode and a coarser time now and then
        alike = found.st_size == self.num_bytes and (
            abs(found.st_mtime_ns - self.mtime_ns) <= _MTIME_SLACK_NS
        )
        return self._is(found) or (alike and _stat(self.partial) is None)

    def _is(self, found: os.stat_result) -> bool:
        ours = (self.inode, self.num_bytes, self.mtime_ns)
        return (found.st_ino, found.st_size, found.st_mtime_ns) == ours


class Result(BaseModel, frozen=True):
    """One entry: the output of a job."""

    schema_name: Literal["upframe.result/1"] = Field("upframe.result/1", alias="schema")
    job_id: str
    digest: str
    """Of the job's work."""
    files: tuple[PublishedFile, ...]
    report: dict[str, Any]

    @classmethod
    def of(
        cls, job_id: str, digest: str, renames: Sequence[tuple[Path, Path]], report: dict[str, Any]
    ) -> Self:
        """Describe an output whose files still have their temporary names.

        Raises:
            OSError: if one of them cannot be accessed.
        """
        files = tuple(PublishedFile.of(partial, final) for partial, final in renames)
        return cls(
            schema="upframe.result/1", job_id=job_id, digest=digest, files=files, report=report
        )

    def moved(self, folder: Path, to: Path) -> Self:
        """Return the entry with another name for the folder of the files."""

        def by(name: str) -> str:
            return str(to / Path(name).relative_to(folder))

        files = [
            file.model_copy(update={"partial": by(file.partial), "final": by(file.final)})
            for file in self.files
        ]
        return self.model_copy(update={"files": tuple(files)})


class Results:
    """The entries of all jobs that are being published, one file each, and their segments.

    Every method blocks. The folder is created if it is missing.

    Raises:
        OSError: from every method, if the disk fails.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._segments = folder, folder.with_name(_SEGMENTS)
        for one in (folder, self._segments):
            one.mkdir(mode=0o700, parents=True, exist_ok=True)
            one.chmod(0o700)

    def write(self, result: Result) -> None:
        """Write an entry; once this returns, it survives a power cut."""
        path = self._path(result.job_id)
        new = path.with_name(f".{path.name}.new")
        with new.open("w") as file:
            file.write(result.model_dump_json(by_alias=True))
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        sync_folder(self._folder)

    def read(self, job_id: str) -> Result | None:
        """Return the entry of a job; None if it did not get that far."""
        try:
            text = self._path(job_id).read_bytes()
        except FileNotFoundError:
            return None
        try:
            return Result.model_validate_json(text)
        except ValidationError as error:  # of another version, or of a dying disk
            log.warning("%s is no entry of the ledger: %s", self._path(job_id), error)
            return None

    def segments_of(self, job_id: str) -> Path:
        """Return the folder where attempts of a job keep its film's segments."""
        return self._segments / job_id

    def forget(self, job_id: str, *, keep_segments: bool = False) -> None:
        """Remove what there is of a job: its entry and, unless they are to be kept, segments."""
        self._path(job_id).unlink(missing_ok=True)
        if not keep_segments:
            with suppress(FileNotFoundError):
                shutil.rmtree(self.segments_of(job_id))

    def job_ids(self) -> Iterator[str]:
        """Return the jobs of which there is something; remove what a crash left half written."""
        found = {path.name for path in self._segments.iterdir()}
        for path in self._folder.iterdir():
            if path.name.endswith(".new"):
                path.unlink(missing_ok=True)
            elif path.suffix == ".json":
                found.add(path.name.removesuffix(".json"))
        yield from sorted(found)

    def _path(self, job_id: str) -> Path:
        return self._folder / f"{job_id}.json"


def _stat(path: str) -> os.stat_result | None:
    """Return the status of a path, without following a link; None if there is nothing.

    Raises:
        OSError: if that is not known, as when a network share is away.
    """
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None

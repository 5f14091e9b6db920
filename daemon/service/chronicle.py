"""One line of the log for each thing that happens to a job: begun, done, cancelled.

Failures are told where they are judged, with what becomes of the job.
"""

from __future__ import annotations

import logging

from ...io.redaction import redacted
from ..jobs.model import Job
from ..jobs.subscription import JobChange

log = logging.getLogger("upframe.jobs")


class Chronicle:
    """Writes the lines; remembers which attempts were told of."""

    def __init__(self) -> None:
        self._begun: dict[str, int] = {}

    def note(self, change: JobChange) -> None:
        """Log a change if it is one that people want to read of."""
        job = change.job
        if change.kind != "state":
            return
        if job.state == "running":
            if self._begun.get(job.id) != job.attempts:
                self._begun[job.id] = job.attempts
                _tell(job, "job-begun", f"begun: {job.source} → {job.sink}")
            return
        self._begun.pop(job.id, None)
        if job.state == "done":
            _tell(job, "job-done", f"done: {job.sink}{_figures(job)}")
        elif job.state == "cancelled":
            _tell(job, "job-cancelled", "cancelled")


def _tell(job: Job, event: str, text: str) -> None:
    fields = {"job_id": job.id, "event": event, "source": redacted(job.source)}
    log.info("%s", redacted(text), extra=fields)


def _figures(job: Job) -> str:
    report = job.report or {}
    frames, seconds = report.get("frames_out"), report.get("seconds")
    if frames is None or not seconds:
        return ""
    return f", {frames} frames in {seconds:.1f} s"

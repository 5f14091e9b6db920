"""What daemon and worker say to each other."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from support.jobs.work import work_of

from upframe.daemon.jobs.model import JobError
from upframe.daemon.workers.messages import (
    CancelJob,
    Event,
    JobDone,
    JobStopped,
    Logged,
    ProbeFile,
    Progressed,
    Ready,
    Request,
    RequestFailed,
    RunJob,
    Warm,
    read_event,
    read_request,
)

WORK = work_of("/in/a.mp4", "/out/a.mp4")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "request_",
    [
        RunJob(id="a", work=WORK),
        Warm(filters=WORK.filters),
        ProbeFile(path="/in/a\nb.mp4"),
        CancelJob(id="a"),
    ],
    ids=lambda request: request.kind,
)
def test_a_request_is_one_line_and_comes_as_it_was_sent(request_: Request) -> None:
    assert request_.line.count(b"\n") == 1
    assert read_request(request_.line) == request_


@pytest.mark.parametrize(
    "event",
    [
        Ready(device="cpu"),
        Progressed(stage="loading"),
        Progressed(stage="streaming", frames_in=2, frames_out=3, total=9, fps=1.5, eta_seconds=4),
        Logged(level=30, logger="upframe.io", message="two\nlines, ünïcode"),
        JobDone(report={"frames_out": 3}),
        RequestFailed(error=JobError(code=74, message="no space", retryable=True)),
        JobStopped(),
    ],
    ids=lambda event: event.kind,
)
def test_an_event_is_one_line_and_comes_as_it_was_sent(event: Event) -> None:
    assert event.line.count(b"\n") == 1
    assert read_event(event.line) == event


@pytest.mark.parametrize("line", [b"", b"hello\n", b"{}\n", b'{"kind": "stop"}\n', b"[1]\n"])
def test_what_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises(ValidationError):
        read_event(line)


def test_work_keeps_its_digest_on_the_way() -> None:
    request = read_request(RunJob(id="a", work=WORK).line)
    assert isinstance(request, RunJob)
    assert request.work.digest == WORK.digest

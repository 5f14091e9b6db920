"""What a request may reach is looked at again by the worker, whatever was accepted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support.jobs.work import INTERPOLATE, config_of, running, work_of
from support.media.clips import make_clip

from upframe.daemon.jobs.model import Job, job_of
from upframe.daemon.specification import ConversionSpec, Origin


class Server(SimpleHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""


@pytest.fixture
def port(tmp_path: Path) -> Generator[int]:
    """Of a server on this machine, whose files are no business of strangers."""
    (tmp_path / "web").mkdir()
    make_clip(tmp_path / "web" / "a.mp4", frames=3)
    Server.asked.clear()
    handler = partial(Server, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def ended(tmp_path: Path, work: ConversionSpec, origin: Origin, **jobs: Any) -> Job:
    async def main() -> Job:
        async with running(config_of(tmp_path / "state", **jobs)) as at_work:
            await at_work.queue.submit(job_of(work, id="a", origin=origin))
            return await at_work.ended("a")

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("origin", "hosts", "done"),
    [
        ("mqtt", (), False),
        ("mqtt", ("10.0.0.0/8",), False),
        ("mqtt", ("127.0.0.1",), True),
        ("cli", (), True),
    ],
)
def test_a_worker_connects_for_requests_to_hosts_that_are_allowed(
    tmp_path: Path, port: int, origin: Origin, hosts: tuple[str, ...], done: bool
) -> None:
    work = work_of(f"http://127.0.0.1:{port}/a.mp4", tmp_path / "out.mp4")
    job = ended(tmp_path, work, origin, allowed_hosts=hosts)
    if done:
        assert job.state == "done", job.error
    else:
        assert job.state == "failed"
        assert job.error is not None
        assert "allowed_hosts" in job.error.message
        assert not job.error.retryable
        assert Server.asked == []


@pytest.mark.parametrize(("origin", "done"), [("mqtt", False), ("cli", True)])
def test_a_worker_loads_for_requests_no_model_that_is_too_large(
    tmp_path: Path, origin: Origin, done: bool
) -> None:
    from upframe.filters.weights import RIFE

    model = tmp_path / "model.safetensors"
    model.write_bytes(RIFE.builtin_path.read_bytes())
    filters = INTERPOLATE | {"frame_interpolation_model_path": str(model)}
    clip = make_clip(tmp_path / "a.mp4", frames=3)
    work = work_of(clip, tmp_path / "out.mp4", filters=filters)
    job = ended(tmp_path, work, origin, model_mebibytes=1)
    assert model.stat().st_size > 1 << 20
    if done:
        assert job.state == "done", job.error
    else:
        assert job.error is not None
        assert "wanted at most 1048576 ([jobs] model_mebibytes)" in job.error.message

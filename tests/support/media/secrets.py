"""Texts with secrets, what of them may be seen, and every place that shows foreign text."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from rich.console import Console
from support.jobs.queues import a_job

from upframe.daemon.__main__ import main
from upframe.daemon.cli.jobs import print_details, print_jobs
from upframe.daemon.cli.run import status_text
from upframe.daemon.convert.report import WrittenReport
from upframe.daemon.errors import StoreBroken
from upframe.daemon.jobs.api import to_public_dict, to_public_json
from upframe.daemon.jobs.model import Job
from upframe.daemon.live.status import LiveStatus
from upframe.daemon.logfields import record_text
from upframe.daemon.mqtt.bridge import state_payload
from upframe.daemon.mqtt.requests import job_answer
from upframe.daemon.service.logs import JournalHandler, JsonFormatter, PlainFormatter
from upframe.daemon.service.status import LoopLag, Metrics, Status
from upframe.daemon.workers.channel import ChannelLogHandler, WorkerChannel
from upframe.daemon.workers.messages import Logged, error_of
from upframe.io.child import Tail
from upframe.io.errors import SourceMissing
from upframe.io.redaction import excerpt, one_line, redacted_values

SECRETS = ("geheim", "98765")
"""Parts of all secrets below: none of them may be seen anywhere."""

TEXTS: tuple[tuple[str, str], ...] = (
    # user and password
    ("rtsp://admin:geheim@cam/1", "rtsp://***@cam/1"),
    ("rtsp://admin:geheim@cam:554/1?mode=live", "rtsp://***@cam:554/1?mode=live"),
    ("rtsp://:geheim@cam", "rtsp://***@cam"),
    ("rtsp://admin:p@geheim@cam/1", "rtsp://***@cam/1"),
    ("rtsp://admin:geheim%40geheim@cam/1", "rtsp://***@cam/1"),
    ("rtsp://admin%3Ageheim@cam/1", "rtsp://***@cam/1"),
    ("rtsp://admin%3Ageheim%40cam/1", "rtsp://***@cam/1"),
    ("rtsp://admin:geheim@[::1]:554/1", "rtsp://***@[::1]:554/1"),
    ("rtsp://geheim@cam/1", "rtsp://***@cam/1"),
    ("https://ghp_geheim@host/x.m3u8", "https://***@host/x.m3u8"),
    ("HTTPS://A:geheim@B/", "HTTPS://***@B/"),
    # typed wrongly
    ("rtsp://admin:98765/x@cam/1", "rtsp://***@cam/1"),
    ("rtsp://admin:98765?x@cam/1", "rtsp://***@cam/1"),
    ("rtsp://admin:98765#x@cam/1", "rtsp://***@cam/1"),
    ("rtsp://admin:geheim/geheim@cam/1", "rtsp://***@cam/1"),
    ("rtsp://geheim/geheim@cam/1", "rtsp://***@cam/1"),
    ("rtsp://admin:mein geheim@cam/1", "rtsp://***@cam/1"),
    ("rtsp://admin:p@ ge geheim@cam/1 failed", "rtsp://***@cam/1 failed"),
    ("rtsp://admin:geheim://geheim@cam/1 failed", "rtsp://admin:*** failed"),
    ("rtsp://admin:geheim", "rtsp://admin:***"),
    ("://admin:geheim@cam/1", "://***@cam/1"),
    ("at http:/u:geheim@cam/1", "at http:/***@cam/1"),  # as Path writes it
    ("at rtmp:/h/app/geheim", "at rtmp:/h/***"),
    (r'{"url":"http:\/\/u:geheim@cam\/1"}', r'{"url":"http:\/\/***@cam\/1"}'),
    # within other text, as FFmpeg and Python write it
    ("'rtsp://a:geheim@cam/1': Connection refused", "'rtsp://***@cam/1': Connection refused"),
    ("from http://a:geheim@b/c to udp://d:geheim@e", "from http://***@b/c to udp://***@e"),
    ("concat:http://a:geheim@b|http://c:geheim@d", "concat:http://***@b|http://***@d"),
    ("http://proxy:80/http://a:geheim@b/", "http://proxy:80/http://***@b/"),
    # of a query all but what is known to be harmless
    ("http://cam/v?user=geheim&fps=5&n=geheim", "http://cam/v?user=***&fps=5&n=***"),
    ("http://cam/v?access_token=geheim#top", "http://cam/v?access_token=***"),
    ("http://cam/v?geheim", "http://cam/v?***"),
    ("http://cam/v?fps=5&geheim", "http://cam/v?fps=5&***"),
    ("http://cam/v?mode=live?geheim", "http://cam/v?mode=***"),
    ("http://cam/#access=geheim", "http://cam/#access=***"),
    ("http://cam/v;session=geheim", "http://cam/v;session=***"),
    ("http://cam/v?u=http://a:geheim@b/&fps=5", "http://cam/v?u=***"),
    ("http://cam/v?u=geheim://geheim fails", "http://cam/v?u=*** fails"),
    ("odd+scheme.1://h/?x=geheim", "odd+scheme.1://h/?x=***"),
    ("srt://h:9000?mode=caller&streamid=geheim", "srt://h:9000?mode=caller&streamid=***"),
    ("srt://h:9000?passphrase=geheim", "srt://h:9000?passphrase=***"),
    ("rtsp://cam/user=a_password=geheim_channel=1", "rtsp://cam/user=a_password=***"),
    ("no answer to GET '/v?u=geheim://geheim&fps=5'", "no answer to GET '/v?u=***&fps=5'"),
    # values by their names, in whatever text
    ("option key=geheim", "option key=***"),
    ("auth_key=geheim access_key=geheim", "auth_key=*** access_key=***"),
    ("pw=geheim, jwt=geheim", "pw=*** jwt=***"),
    ("authorization=geheim", "authorization=***"),
    ("token[]=geheim&token%5B0%5D=geheim", "token[]=***&token%5B0%5D=***"),
    ("GET /live?stream_key=geheim&x=y", "GET /live?stream_key=***&x=***"),
    ("passphrase='ge geheim' said", "passphrase=*** said"),
    ("streamid=geheim", "streamid=***"),
    # the path of RTMP is a password, wherever it is seen
    ("rtmp://h:1935/app/geheim", "rtmp://h:1935/***"),
    ("rtmps://u:geheim@h/app/geheim?x=geheim", "rtmps://***@h/***"),
    ("[flv @ 0x55] 'rtmp://h/a/geheim': End of file", "[flv @ 0x55] 'rtmp://h/***': End of file"),
    ("rtmp://h/a/geheim: not connected", "rtmp://h/***: not connected"),
    ("whip://h/geheim", "whip://h/***"),
)
"""Texts, and how they are shown."""

READABLE: tuple[str, ...] = (
    "", "film.mp4", "/srv/video/in:put@home.mkv", "/srv/key=1/token=2.mkv", "in_%05d.png",
    "rtsp://cam:554/stream", "rtsp://cam:554: Connection refused", "http://[::1]:8080/a@b",
    "rtsp://cam/1: no answer within 5.0 s", "'rtsp://cam:554/1': timed out", "127.0.0.1:9310",
    "srt://h:9000?mode=listener&latency=200", "srt://:9000?mode=listener",
    "srt://h:9000: not connected: [srt @ 0x5581] Connection refused",
    "tee: http://a:80,http://b:81", "rtmp://h:1935", "rtmp://h/", "r2 ://", "://x",
    "frame 3: expected 8 bytes, mail me@home: now", "at 12:34:56.789, 100 %", "frames=12 fps=5.0",
    "crf=20, keyint=250, bypass=1", "https://github.com/owner/name",
    "udp://@239.0.0.1:5000?fifo_size=1000: timed out", "'srt://h:9000?mode=caller': refused",
    "'udp://@[ff02::1]:5000'",
)  # fmt: skip
"""Texts without a secret: shown as they are."""

TARGETS: tuple[tuple[str, str], ...] = (
    ("rtsp://server:554/live/geheim", "rtsp://server:554/***"),
    ("rtsp://u:geheim@server/x", "rtsp://***@server/***"),
    ("rtmp://h/app/geheim", "rtmp://h/***"),
    ("srt://h:9000?streamid=geheim", "srt://h:9000/***"),
    ("https://cdn/geheim/live.m3u8?x=geheim", "https://cdn/***"),
    ("http://h/geheim/whip", "http://h/***"),
    ("rtsp://server/my geheim", "rtsp://server/***"),
    ("udp://239.0.0.1:5000", "udp://239.0.0.1:5000"),
    ("rtsp://u:geheim", "rtsp://u:***"),
    ("/srv/live/%Y.mp4", "/srv/live/%Y.mp4"),
    ("file:///srv/a.m3u8", "file:///srv/a.m3u8"),
)
"""Where something is published, and how that is shown."""


def record_of(text: str) -> logging.LogRecord:
    return logging.LogRecord("upframe.test", logging.WARNING, "", 0, "%s", (text,), None)


def job_with(text: str) -> Job:
    """A job that has failed over a text, which is also its source and sink and in its report."""
    error = error_of(SourceMissing(text))
    return a_job().model_copy(
        update={
            "source": text[:4096], "sink": text[:4096], "state": "failed", "attempts": 1,
            "waits_for": text[:4096],
            "error": error.model_copy(update={"detail": text[:8192]}),
            "report": {"source": text[:4096], "streams": [excerpt(text)],
                       "warnings": [one_line(text, 1000)]},
        }
    )  # fmt: skip


class _Report(WrittenReport, frozen=True):
    source: str
    warnings: list[str]


def _written_report(text: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        _Report(source=text[:4096], warnings=[text]).write(path)
        return path.read_text()


def _command_line_error(text: str) -> str:
    with redirect_stderr(io.StringIO()) as err:
        main(["verify", text.replace("\0", "") or "-"])
        main(["jobs", "show", f"--socket={text}", "x"])
    return err.getvalue()


def _status(text: str) -> str:
    store = SimpleNamespace(paused=False, counts=_no_counts)
    status = Status(cast("Any", store), Metrics(), LoopLag())
    status.parts["live"] = lambda: [{"name": "x", "state": "running", "url": text[:4096]}]
    status.running = [job_with(text)]
    line = status.line()
    return json.dumps(asyncio.run(status.whole())) + line


async def _no_counts() -> dict[str, int]:
    raise StoreBroken("no store")


def _jobs_list(text: str) -> str:
    out = Console(file=io.StringIO(), width=100_000, force_terminal=False)
    print_jobs([to_public_dict(job_with(text))], out)
    return cast("io.StringIO", out.file).getvalue()


def _jobs_list_on_terminal(text: str) -> str:
    out = Console(file=io.StringIO(), width=5000, force_terminal=True, color_system=None)
    print_jobs([to_public_dict(job_with(text))], out)
    return cast("io.StringIO", out.file).getvalue()


def _jobs_show(text: str) -> str:
    out = Console(file=io.StringIO(), width=100_000, force_terminal=False)
    print_details(to_public_dict(job_with(text)), out)
    return cast("io.StringIO", out.file).getvalue()


def _journal(text: str) -> str:
    sent: list[bytes] = []
    handler = JournalHandler(logging.NullHandler())
    handler._send = sent.append  # pyright: ignore[reportPrivateUsage]
    handler.emit(record_of(text))
    handler.close()
    return sent[0].decode(errors="surrogateescape")


def _worker_log(text: str) -> str:
    sent: list[Logged] = []
    ChannelLogHandler(cast("WorkerChannel", SimpleNamespace(send=sent.append))).emit(
        record_of(text)
    )
    return sent[0].line.decode()


def _tail(text: str) -> str:
    tail = Tail()
    tail.feed(text.encode(errors="surrogateescape" if text.isascii() else "replace"))
    return tail.text or ""


PLACES: Mapping[str, Callable[[str], str]] = {
    "log, plain": lambda text: PlainFormatter().format(record_of(text)),
    "log, JSON": lambda text: JsonFormatter().format(record_of(text)),
    "log, journal": _journal,
    "log of the command line": lambda text: record_text(record_of(text)),
    "log of a worker": _worker_log,
    "last lines of a worker": _tail,
    "error on the command line": _command_line_error,
    "error of a job": lambda text: error_of(SourceMissing(text)).model_dump_json(),
    "/status": _status,
    "MQTT state of a job": lambda text: state_payload(job_with(text)).decode(),
    "MQTT answer": lambda text: job_answer(job_with(text)).decode(),
    "MQTT state of a stream": lambda text: json.dumps(
        redacted_values(LiveStatus("x", message=text, input={"url": text[:4096]}).to_json())
    ),
    "status of run": lambda text: status_text(LiveStatus("x", "reconnecting", message=text), 0.0),
    "report": _written_report,
    "stored job": lambda text: to_public_json(json.dumps(job_with(text).model_dump(mode="json"))),
    "jobs list": _jobs_list,
    "jobs list on a terminal": _jobs_list_on_terminal,
    "jobs show": _jobs_show,
}
"""Every place that shows foreign text."""

"""Lines of the log: their forms, the job on each, and nothing that waits or is lost."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest

from upframe.daemon.config import LogConfig
from upframe.daemon.fence import internal_errors
from upframe.daemon.logfields import about_job
from upframe.daemon.service.logs import Logs, ThreadedHandler, make_handler

log = logging.getLogger("upframe.test")


def lines_of(config: LogConfig, work: Callable[[], None]) -> list[str]:
    stream = io.StringIO()
    with closing(Logs(config, stream)):
        work()
    return stream.getvalue().splitlines()


def test_a_plain_line_has_time_level_origin_and_text() -> None:
    (line,) = lines_of(LogConfig(format="plain"), lambda: log.info("hello %s", "you"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO    test: hello you", line)


def test_a_message_is_one_line_and_each_line_of_a_trace_stands_on_its_own() -> None:
    trace = {"trace": "two\nthree"}
    lines = lines_of(LogConfig(format="plain"), lambda: log.error("o\nne", extra=trace))
    told = [line.partition(" ERROR")[2] for line in lines]
    assert told == [r"   test: o\nne", "   test: two", "   test: three"]


def test_where_an_exception_was_raised_is_on_lines_below() -> None:
    def work() -> None:
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("died of %s", "it")

    first, *trace = lines_of(LogConfig(format="plain"), work)
    assert first.endswith("test: died of it")
    assert trace[-1].endswith("test: ValueError: why")
    assert all(" ERROR   test: " in line for line in trace)


def test_every_line_of_a_job_has_its_id_in_threads_and_tasks_too() -> None:
    async def converse() -> None:
        with about_job("film-1"):
            log.info("in the coroutine")
            await asyncio.to_thread(log.info, "in a thread")
            await asyncio.create_task(nested())
        log.info("outside")

    async def nested() -> None:
        log.warning("in a task")

    lines = lines_of(LogConfig(format="json"), lambda: asyncio.run(converse()))
    assert [json.loads(line).get("job_id") for line in lines] == ["film-1"] * 3 + [None]
    plain = lines_of(LogConfig(format="plain"), lambda: asyncio.run(converse()))
    assert [" test [film-1]: " in line for line in plain] == [True] * 3 + [False]


def test_a_line_about_a_stream_names_it() -> None:
    def speak() -> None:
        log.warning("input lost", extra={"source": "gate"})

    (line,) = lines_of(LogConfig(format="plain"), speak)
    assert " test [gate]: input lost" in line


def test_two_jobs_at_once_keep_their_ids() -> None:
    async def job(name: str) -> None:
        with about_job(name):
            for _ in range(20):
                log.info("of %s", name)
                await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(job("a"), job("b"))

    for line in lines_of(LogConfig(format="json"), lambda: asyncio.run(both())):
        entry = json.loads(line)
        assert entry["message"] == f"of {entry['job_id']}"


def test_json_lines_hold_what_is_there_to_know() -> None:
    def work() -> None:
        log.warning(
            "bad\ninput", extra={"job_id": "a", "event": "job-failed", "stage": "streaming"}
        )
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("died")

    first, second = map(json.loads, lines_of(LogConfig(format="json"), work))
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "warning",
        "logger": "upframe.test",
        "message": r"bad\ninput",
        "job_id": "a",
        "event": "job-failed",
        "stage": "streaming",
    }
    assert "ValueError: why" in second["message"]


def test_the_level_can_be_changed_while_it_runs() -> None:
    stream = io.StringIO()
    with closing(Logs(LogConfig(format="plain"), stream)) as logs:
        log.debug("hidden")
        logs.configure(LogConfig(format="json", level="debug"))
        log.debug("shown")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["message"] == "shown"


def test_other_libraries_warn_but_do_not_chat() -> None:
    def work() -> None:
        logging.getLogger("somebody").info("chat")
        logging.getLogger("somebody").warning("warning")

    (line,) = lines_of(LogConfig(format="plain"), work)
    assert line.endswith("somebody: warning")


def test_repeated_warnings_are_summed_when_the_log_ends() -> None:
    def work() -> None:
        for _ in range(500):
            log.warning("late packet")

    first, last = lines_of(LogConfig(format="plain"), work)
    assert first.endswith("late packet")
    assert re.search(r"late packet \(repeated 499 times within \d s\)$", last)


def test_logging_is_left_as_it_was_found() -> None:
    root = logging.getLogger()
    before = (root.handlers[:], logging.getLogger("upframe").level, threading.active_count())
    lines_of(LogConfig(level="error"), lambda: None)
    after = (root.handlers[:], logging.getLogger("upframe").level, threading.active_count())
    assert after == before


def test_a_reader_that_sleeps_holds_up_nobody_and_is_told_what_it_missed() -> None:
    """A pipe that nobody reads blocks its writer: the thread, not those who log."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, closing(Logs(LogConfig(format="plain"), stream)):
        for number in range(12_000):
            log.info("%d %s", number, "x" * 90)
        text: list[bytes] = []
        reader = threading.Thread(target=lambda: text.extend(chunks(reading)))
        reader.start()
        for _ in range(200):  # the loss is said as soon as there is room
            log.info("more")
            time.sleep(0.001)
    reader.join()
    os.close(reading)
    lines = b"".join(text).decode().splitlines()
    lost = [int(match[1]) for line in lines if (match := re.search(r": (\d+) lines of the", line))]
    assert lost
    assert len(lines) - len(lost) + sum(lost) == 12_200


def chunks(end: int) -> Iterator[bytes]:
    while chunk := os.read(end, 2**16):
        yield chunk


def test_a_reader_that_never_wakes_does_not_keep_the_log_from_ending() -> None:
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "w")
    began = time.monotonic()
    with closing(Logs(LogConfig(format="plain"), stream)):
        for _ in range(11_000):
            log.info("x" * 90)
    assert time.monotonic() - began < 10
    text = threading.Thread(target=lambda: list(chunks(reading)))  # lets the thread end at last
    text.start()
    for thread in threading.enumerate():
        if thread.name == "log":
            thread.join(5)
            assert not thread.is_alive()
    stream.close()
    text.join()
    os.close(reading)


@pytest.mark.parametrize("config", [LogConfig(), LogConfig(format="plain")])
def test_where_stderr_is_the_journal_the_level_is_a_prefix_and_no_time_is_said(
    config: LogConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "stream").open("w+") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        handler = make_handler(config, stream)
        record = logging.LogRecord("upframe.x", logging.WARNING, "", 0, "one", (), None)
        record.exc_text = "two"
        handler.handle(record)  # "auto" finds no journal socket here, and falls back to this
        handler.close()
        stream.seek(0)
        assert stream.read() == "<4>x: one\n<4>x: two\n"


@pytest.mark.parametrize("form", ["plain", "json"])
@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
def test_a_record_that_cannot_be_written_costs_no_other_and_is_counted(
    form: Literal["plain", "json"], level: int
) -> None:
    class Unspeakable:
        def __str__(self) -> str:
            raise ZeroDivisionError

    def work() -> None:
        log.log(level, "%d frames", "many")
        log.log(level, "about", extra={"source": Unspeakable()})
        log.log(level, "and on")

    before = internal_errors["log"]
    (line,) = lines_of(LogConfig(format=form), work)
    assert "and on" in line
    assert internal_errors["log"] == before + 2


def test_the_thread_that_writes_outlives_what_cannot_be_written() -> None:
    class Tripping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "poison":
                raise ZeroDivisionError("a bug")
            written.append(record.getMessage())

    written: list[str] = []
    handler = ThreadedHandler(Tripping())
    for text in ("one", "poison", "two"):
        handler.handle(logging.LogRecord("upframe.test", logging.INFO, "", 0, text, None, None))
    handler.close()
    assert written == ["one", "two"]

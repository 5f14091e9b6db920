"""Warnings that repeat are said once and then counted; nothing else is touched."""

from __future__ import annotations

import logging

import pytest

from upframe.daemon.service.logs import SummingHandler


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


class Bench:
    """A handler whose clock is turned by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.kept = Kept()
        self.handler = SummingHandler(self.kept, 60.0, lambda: self.now)

    def warn(self, text: str, *args: object, level: int = logging.WARNING, job: str = "") -> None:
        record = logging.LogRecord("upframe.x", level, "", 0, text, args, None)
        record.job_id = job or None
        self.handler.handle(record)

    @property
    def texts(self) -> list[str]:
        return self.kept.texts


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_repeated_warning_is_said_once_and_then_counted(bench: Bench) -> None:
    for _ in range(1000):
        bench.warn("late")
    assert bench.texts == ["late"]
    bench.now = 61
    bench.handler.sum_up()
    assert bench.texts == ["late", "late (repeated 999 times within 61 s)"]
    bench.warn("late")
    assert bench.texts[2:] == ["late"]


def test_a_single_warning_is_followed_by_no_count(bench: Bench) -> None:
    bench.warn("late")
    bench.now = 61
    bench.handler.sum_up()
    assert bench.texts == ["late"]


def test_texts_that_differ_each_time_are_bounded_too(bench: Bench) -> None:
    for number in range(1000):
        bench.warn("packet %d is late", number)
    assert len(bench.texts) == 20
    bench.now = 61
    bench.handler.sum_up()
    assert bench.texts[20:] == ["packet 999 is late (repeated 980 times within 61 s)"]


def test_each_job_speaks_for_itself(bench: Bench) -> None:
    for job in ("a", "b", "c"):
        bench.warn("sound was converted", job=job)
    assert len(bench.texts) == 3


def test_each_stream_speaks_for_itself(bench: Bench) -> None:
    for name in ("gate", "yard", "gate"):
        record = logging.LogRecord("upframe.x", logging.WARNING, "", 0, "input lost", (), None)
        record.source = name
        bench.handler.handle(record)
    assert len(bench.texts) == 2


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
def test_what_is_no_warning_is_said_each_time(bench: Bench, level: int) -> None:
    for _ in range(30):
        bench.warn("same", level=level)
    assert len(bench.texts) == 30


def test_an_error_is_not_hidden_by_a_warning_of_the_same_text(bench: Bench) -> None:
    bench.warn("same")
    bench.warn("same", level=logging.ERROR)
    assert len(bench.texts) == 2


def test_nothing_is_held_back_at_the_end(bench: Bench) -> None:
    bench.warn("late")
    bench.warn("late")
    bench.handler.close()
    assert bench.texts == ["late", "late (repeated once within 0 s)"]


def test_the_memory_of_texts_is_bounded_and_loses_no_count(bench: Bench) -> None:
    bench.warn("first")
    bench.warn("first")
    for number in range(3000):
        bench.warn(f"text {number}")
    assert "first (repeated once within 0 s)" in bench.texts
    assert len(bench.texts) == 3002


def test_zero_seconds_say_everything() -> None:
    kept = Kept()
    handler = SummingHandler(kept, 0)
    for _ in range(5):
        handler.handle(logging.LogRecord("x", logging.WARNING, "", 0, "same", (), None))
    assert len(kept.texts) == 5

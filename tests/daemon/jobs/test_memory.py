from __future__ import annotations

import sqlite3
import time
from datetime import timedelta
from pathlib import Path

from support.jobs.queues import FAILURE, NOON, a_job, opened

from upframe.daemon.jobs.store import STORE_NAME


def test_an_output_is_known_from_the_request_on_and_for_ever(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        assert not store.is_known_sink("/out/film.mp4")
        store.add(a_job("film"))
        assert store.is_known_sink("/out/film.mp4")
        store.change("film", "running")
        assert store.is_known_sink("/out/film.mp4")
        store.change("film", "done", ended=NOON)
        assert store.is_known_sink("/out/film.mp4")
        store.forget(NOON + timedelta(days=1))
    with opened(tmp_path) as store:
        assert store.is_known_sink("/out/film.mp4")
        assert not store.is_known_sink("/in/film.mp4")


def test_what_was_never_made_is_no_output(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.add(a_job("film"))
        store.change("film", "failed", error=FAILURE)
        assert not store.is_known_sink("/out/film.mp4")


def test_a_path_is_known_however_it_is_spelled(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.add(a_job("film", sink="/out/./sub/../film.mp4"))
        assert store.is_known_sink("/out//film.mp4")
        assert store.is_known_sink("/out/x/../film.mp4")


def test_messages_are_kept_in_order_until_they_are_dealt_with(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        numbers = [store.journal(f"t/{n}", bytes([n, 0, 255]), b"\x00p") for n in range(3)]
        store.unjournal(numbers[1])
    with opened(tmp_path) as store:
        left = store.journaled()
        assert [(m.number, m.topic, m.payload, m.properties) for m in left] == [
            (numbers[0], "t/0", b"\x00\x00\xff", b"\x00p"),
            (numbers[2], "t/2", b"\x02\x00\xff", b"\x00p"),
        ]
        assert abs(left[0].received - time.time()) < 60
        store.unjournal(numbers[1])  # twice does no harm
        for number in numbers:
            store.unjournal(number)
        assert store.journal("t", b"", b"") > numbers[2]  # a number never means two messages


def test_verdicts_are_remembered_and_overwritten(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        assert store.seen_verdict("a") is None
        for number in range(1000):
            store.set_verdict(f"file{number}", "skipped")
        store.set_verdict("a", "unfinished")
        store.set_verdict("a", "job film")
    with opened(tmp_path) as store:
        assert store.seen_verdict("a") == "job film"
        assert store.seen_verdict("file999") == "skipped"
        store.drop_verdict("a")
        assert store.seen_verdict("a") is None


def test_another_process_that_holds_the_store_is_waited_for(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        other = sqlite3.connect(tmp_path / STORE_NAME, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert store.journaled() == []  # reading goes on meanwhile
        other.execute("COMMIT")
        other.close()
        store.journal("t", b"", b"")

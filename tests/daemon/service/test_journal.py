"""What reaches the journal, read as the journal reads it."""

from __future__ import annotations

import array
import logging
import os
import socket
import struct
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from upframe.daemon.service.logs import JournalHandler, stream_is_journal


@contextmanager
def journal(path: Path) -> Generator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(path))
        end.settimeout(5)
        yield end


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def received(end: socket.socket) -> dict[str, str]:
    """Read a datagram, or the sealed file that came in its place, as the protocol says."""
    data, passed, _, _ = end.recvmsg(2**20, 1024)
    for _, _, descriptors in passed:
        numbers = array.array("i")
        numbers.frombytes(descriptors[: numbers.itemsize])
        with os.fdopen(numbers[0], "rb") as file:
            file.seek(0)
            data = file.read()
    fields: dict[str, str] = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", data[:8])
            value, data = data[8 : 8 + length], data[9 + length :]
        fields[name.decode()] = value.decode()
    return fields


def sent(folder: Path, record: logging.LogRecord) -> dict[str, str]:
    with journal(folder / "socket") as end:
        handler = JournalHandler(Kept(), str(folder / "socket"))
        handler.handle(record)
        handler.close()
        return received(end)


def record_of(text: str, level: int = logging.INFO, **fields: str) -> logging.LogRecord:
    record = logging.LogRecord("upframe.work", level, "/x/y.py", 7, text, (), None, "begin")
    record.__dict__.update(fields)
    return record


def test_a_line_has_its_fields(tmp_path: Path) -> None:
    fields = sent(tmp_path, record_of("begun", job_id="film-1", stage="loading", source="/in/a"))
    assert fields == {
        "MESSAGE": "begun",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "upframe",
        "LOGGER": "upframe.work",
        "CODE_FILE": "/x/y.py",
        "CODE_LINE": "7",
        "CODE_FUNC": "begin",
        "JOB_ID": "film-1",
        "STAGE": "loading",
        "SOURCE": "/in/a",
    }


def test_levels_are_syslogs(tmp_path: Path) -> None:
    levels = {
        logging.DEBUG: "7",
        logging.INFO: "6",
        logging.WARNING: "4",
        logging.ERROR: "3",
        logging.CRITICAL: "2",
    }
    for level, wanted in levels.items():
        folder = tmp_path / wanted
        folder.mkdir()
        assert sent(folder, record_of("x", level))["PRIORITY"] == wanted


def test_several_lines_stay_one_message(tmp_path: Path) -> None:
    record = record_of("one\nPRIORITY=0")
    record.exc_text = "two\nPRIORITY=0"
    assert sent(tmp_path, record)["MESSAGE"] == "one\\nPRIORITY=0\ntwo\nPRIORITY=0"


def test_a_kind_of_event_has_one_message_id(tmp_path: Path) -> None:
    ids: list[str] = []
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        event = "job-failed" if name != "c" else "job-done"
        ids.append(sent(tmp_path / name, record_of(name, event=event))["MESSAGE_ID"])
    assert ids[0] == ids[1] != ids[2]
    assert len(ids[0]) == 32


def test_what_is_too_large_for_a_datagram_comes_as_a_file(tmp_path: Path) -> None:
    record = record_of("x")
    record.exc_text = "\n".join(["x" * 1000] * 1000)
    assert sent(tmp_path, record)["MESSAGE"] == f"x\n{record.exc_text}"


def test_without_a_journal_no_line_is_lost(tmp_path: Path) -> None:
    kept = Kept()
    handler = JournalHandler(kept, str(tmp_path / "nobody"))
    handler.handle(record_of("said all the same"))
    handler.close()
    assert kept.texts == ["said all the same"]


def test_the_journal_is_known_by_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as stream:
        found = os.fstat(stream.fileno())
        assert stream_is_journal(stream, f"{found.st_dev}:{found.st_ino}")
        assert not stream_is_journal(stream, f"{found.st_dev}:{found.st_ino + 1}")
        assert not stream_is_journal(stream, "")

"""What is told to systemd, on a real socket, by path and by abstract name."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from upframe.daemon.service.lifecycle import Notifier


@contextmanager
def service_manager(address: str) -> Generator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind("\0" + address[1:] if address[0] == "@" else address)
        end.settimeout(5)
        yield end


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "path":
        return str(tmp_path / "notify")
    return f"@upframe-test-{os.getpid()}-{time.monotonic_ns()}"


def told(end: socket.socket) -> list[str]:
    return end.recv(4096).decode().split("\n")


def test_ready_comes_with_a_status(address: str) -> None:
    with service_manager(address) as end:
        Notifier(address).ready("idle")
        assert told(end) == ["READY=1", "STATUS=idle"]


def test_a_status_is_one_line(address: str) -> None:
    with service_manager(address) as end:
        Notifier(address).status("two\nlines\tof  text")
        assert told(end) == ["STATUS=two lines of text"]


def test_reloading_carries_the_monotonic_time_in_microseconds(address: str) -> None:
    """Without it, systemd waits for the reload until it gives up."""
    before = time.monotonic_ns() // 1000
    with service_manager(address) as end:
        Notifier(address).reloading()
        first, second = told(end)
    assert first == "RELOADING=1"
    name, _, usec = second.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(usec) <= time.monotonic_ns() // 1000


def test_the_other_words_are_systemds(address: str) -> None:
    with service_manager(address) as end:
        notifier = Notifier(address)
        for call, wanted in (
            (lambda: notifier.stopping("draining"), ["STOPPING=1", "STATUS=draining"]),
            (lambda: notifier.extend(1.5), ["EXTEND_TIMEOUT_USEC=1500000"]),
            (notifier.ping, ["WATCHDOG=1"]),
            (notifier.trigger, ["WATCHDOG=trigger"]),
        ):
            call()
            assert told(end) == wanted


def test_variables_are_hidden_from_children() -> None:
    environment = {
        "NOTIFY_SOCKET": "/x",
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": "1",
        "A": "b",
    }
    Notifier.from_environment(environment)
    assert environment == {"A": "b"}


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_ours_only_with_our_process_id(
    variables: dict[str, str], wanted: float | None
) -> None:
    assert Notifier.from_environment(dict(variables)).watchdog_seconds == wanted


def test_without_systemd_nothing_happens() -> None:
    Notifier.from_environment({}).ready("idle")


def test_a_deaf_service_manager_fails_nothing_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(str(tmp_path / "nobody"))
    notifier.ping()
    notifier.ping()
    assert [record.getMessage() for record in caplog.records] == [
        "cannot report WATCHDOG=1 to systemd: [Errno 2] No such file or directory"
    ]


def test_what_must_arrive_waits_for_a_reader(address: str) -> None:
    with service_manager(address) as end:
        notifier = Notifier(address)
        while notifier.status("busy"):  # until nothing fits any more
            pass
        reader = threading.Timer(0.1, lambda: [told(end) for _ in range(5)])
        reader.start()
        notifier.ready("idle")
        reader.join()
        end.setblocking(False)
        left: list[str] = []
        with suppress(BlockingIOError):
            while True:
                left += told(end)
        assert "READY=1" in left


def test_a_full_socket_does_not_hold_up_the_loop(address: str) -> None:
    with service_manager(address):
        notifier = Notifier(address)
        began = time.monotonic()
        for _ in range(2000):  # nobody reads
            notifier.ping()
        assert time.monotonic() - began < 5

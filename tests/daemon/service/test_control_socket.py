from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from pathlib import Path

import pytest
from support.jobs.control import Served, served
from support.jobs.queues import SECRET, Turns, a_job, a_queue, control_socket, fill

from upframe.daemon.errors import DaemonAbsent
from upframe.daemon.jobs.client import SOCKET_NAME, DaemonClient
from upframe.daemon.jobs.queue import JobQueue
from upframe.daemon.service import http


def test_only_owner_and_group_may_speak(tmp_path: Path) -> None:
    modes: dict[str, int] = {}

    def look() -> None:
        modes.update({path.name: path.stat().st_mode for path in tmp_path.iterdir()})

    async def use(_: Served) -> None:
        await asyncio.to_thread(look)

    served(tmp_path, use)
    assert modes[SOCKET_NAME] & 0o7777 == 0o660
    assert not [name for name in modes if name.endswith(".new")]


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    """As a killed daemon leaves one, or dies before it could rename it."""
    for name in (SOCKET_NAME, f".{SOCKET_NAME}.new"):
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(tmp_path / name))

    async def use(to: Served) -> None:
        assert await to.serves()
        assert not (tmp_path / f".{SOCKET_NAME}.new").exists()

    served(tmp_path, use)


def test_a_socket_on_which_somebody_listens_is_left_alone(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        with pytest.raises(OSError, match="another daemon listens on"):
            await control_socket(to.path, to.queue).__aenter__()
        assert await to.serves()

    served(tmp_path, use)


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / SOCKET_NAME).write_text("precious")

    async def use(queue: JobQueue) -> None:
        with pytest.raises(OSError, match="is in the way: wanted a socket or nothing"):
            await control_socket(tmp_path / SOCKET_NAME, queue).__aenter__()
        await queue.close()

    with a_queue(tmp_path) as queue:
        asyncio.run(use(queue))
    assert (tmp_path / SOCKET_NAME).read_text() == "precious"


def test_the_socket_of_a_later_daemon_is_not_removed(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        to.path.unlink()
        async with control_socket(to.path, to.queue):
            await to.control.aclose()
            assert await to.serves()

    served(tmp_path, use)


def test_a_path_too_long_for_the_kernel_works(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()

    async def use(to: Served) -> None:
        assert await to.serves()

    served(folder, use)


def test_more_callers_than_can_be_served_are_told(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        for _ in range(64):
            await to.following()
        with pytest.raises(DaemonAbsent, match="busy with 64 clients: try again later"):
            await asyncio.to_thread(DaemonClient(to.path).status)
        await to.hang_up()
        async with asyncio.timeout(5):
            while True:
                with suppress(DaemonAbsent):
                    await asyncio.to_thread(DaemonClient(to.path).status)
                    break

    served(tmp_path, use)


def test_one_who_asks_nothing_makes_room_for_one_who_does(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        for _ in range(100):
            await to.call()
        assert await to.serves()

    served(tmp_path, use)


def test_the_head_of_a_request_has_limits_of_time_and_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "CONTROL_LIMITS", http.HttpLimits(connections=64, seconds=0.2))

    async def use(to: Served) -> None:
        following = await to.following()
        slow = await to.call()
        slow.writer.write(b"GET /status HTTP/1.0\r\nA: b")
        async with asyncio.timeout(5):
            assert await slow.reader.read() == b""
        code, problem = await to.ask("GET", "/jobs/" + "x" * 10_000)
        assert (code, problem["code"]) == (400, "too_large")
        assert problem["detail"].startswith("got a head of more than 8192 bytes")
        await to.queue.submit(a_job())
        assert (await following.line())["job"]["id"] == "film"  # an answer may last

    served(tmp_path, use)


def test_a_long_list_comes_whole_and_leaves_the_loop_free(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        fill(to.queue.store.path, (a_job(f"job{n}", source=SECRET) for n in range(5000)))
        caller = await to.call()
        async with Turns() as turns:
            caller.say("GET", "/jobs")
            assert await caller.status() == 200
            text = await caller.reader.read()
        assert len(json.loads(text)["jobs"]) == 5000
        assert turns.num > 10

    served(tmp_path, use)

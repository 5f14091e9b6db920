from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from support.jobs.control import Served, served
from support.jobs.queues import SECRET, Turns, a_job, a_queue, fill

from upframe.daemon.jobs.control import ControlSocket
from upframe.daemon.jobs.protocol import SOCKET_NAME, List
from upframe.daemon.jobs.queue import JobQueue


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
        assert "end" in (await to.ask({"op": "status"}))[0]
        assert not (tmp_path / f".{SOCKET_NAME}.new").exists()

    served(tmp_path, use)


def test_a_socket_on_which_somebody_listens_is_left_alone(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        second = ControlSocket(to.path, to.queue)
        with pytest.raises(OSError, match="another daemon listens on"):
            await second.start()
        await second.close()
        assert "end" in (await to.ask({"op": "status"}))[0]

    served(tmp_path, use)


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / SOCKET_NAME).write_text("precious")

    async def use(queue: JobQueue) -> None:
        with pytest.raises(OSError, match="is in the way: wanted a socket or nothing"):
            await ControlSocket(tmp_path / SOCKET_NAME, queue).start()
        await queue.close()

    with a_queue(tmp_path) as queue:
        asyncio.run(use(queue))
    assert (tmp_path / SOCKET_NAME).read_text() == "precious"


def test_the_socket_of_a_later_daemon_is_not_removed(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        to.path.unlink()
        async with ControlSocket(to.path, to.queue):
            await to.control.close()
            assert "end" in (await to.ask({"op": "status"}))[0]

    served(tmp_path, use)


def test_a_path_too_long_for_the_kernel_works(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()

    async def use(to: Served) -> None:
        assert "end" in (await to.ask({"op": "status"}))[0]

    served(folder, use)


def test_more_callers_than_can_be_served_are_told(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        for _ in range(64):
            await (await to.call()).ask({"op": "status"})
        late = await to.call()
        assert "busy with 64 clients" in (await late.hear())["error"]["message"]
        await to.hang_up()
        async with asyncio.timeout(5):
            while "error" in (await to.ask({"op": "status"}))[0]:  # noqa: ASYNC110  (as above)
                await asyncio.sleep(0.01)

    served(tmp_path, use)


def test_a_long_list_comes_whole_and_leaves_the_loop_free(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        fill(to.queue.store.path, (a_job(f"job{n}", source=SECRET) for n in range(5000)))
        caller = await to.call()
        num_lines = 0
        async with Turns() as turns:
            caller.say(List().model_dump(mode="json"))
            while not (await caller.reader.readline()).startswith(b'{"end"'):
                num_lines += 1
        assert num_lines == 5000
        assert turns.num > 10

    served(tmp_path, use)

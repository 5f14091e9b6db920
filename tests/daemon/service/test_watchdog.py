"""The watchdog is fed while all is well, starves when something hangs, and is told in the end."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from upframe.daemon.service.lifecycle import Notifier, Watchdog

ALLOWED = 0.6


def pings_of(trouble: Callable[[], str | None], folder: Path, until: str, most: int) -> list[str]:
    """Run the watchdog until a message has come that often, and give all that came."""
    address = str(folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(address)
        end.setblocking(False)

        async def collect() -> list[str]:
            watchdog = Watchdog(Notifier(address, ALLOWED), trouble)
            beating = asyncio.create_task(watchdog.run())
            got: list[str] = []
            async with asyncio.timeout(20):
                while got.count(until) < most:
                    message = await asyncio.get_running_loop().sock_recv(end, 4096)
                    got.append(message.decode())
            beating.cancel()
            await asyncio.wait({beating})
            return got

        return asyncio.run(collect())


def test_pings_while_all_is_well(tmp_path: Path) -> None:
    assert pings_of(lambda: None, tmp_path, "WATCHDOG=1", 4) == ["WATCHDOG=1"] * 4


def test_trouble_that_passes_costs_pings_only(tmp_path: Path) -> None:
    answers = iter([None, "slot 1 stands still", None, None, None])
    got = pings_of(lambda: next(answers, None), tmp_path, "WATCHDOG=1", 3)
    assert got == ["WATCHDOG=1"] * 3


def test_trouble_that_lasts_triggers_the_watchdog_with_all_stacks(tmp_path: Path) -> None:
    program = (
        "import asyncio, socket, sys\n"
        "from upframe.daemon.service.lifecycle import Notifier\n"
        "from upframe.daemon.service.lifecycle import Watchdog\n"
        "def standing_still(): return 'slot 1 stands still'\n"
        "watchdog = Watchdog(Notifier(sys.argv[1], 0.6), standing_still)\n"
        "asyncio.run(asyncio.wait_for(watchdog.run(), 2))"
    )
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(address)
        end.settimeout(10)
        child = subprocess.Popen(
            [sys.executable, "-c", program, address], stderr=subprocess.PIPE, text=True
        )
        assert end.recv(100) == b"WATCHDOG=trigger"
        _, stderr = child.communicate(timeout=20)
    assert "hung, let the watchdog act: slot 1 stands still" in stderr
    assert "in beat" in stderr  # the stack of the thread that found it
    assert "in run_forever" in stderr


def test_a_loop_that_hangs_leaves_its_stack_before_systemd_acts(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys, time\n"
        "from upframe.daemon.service.lifecycle import Notifier\n"
        "from upframe.daemon.service.lifecycle import Watchdog\n"
        "def stuck_here(): time.sleep(1.5)\n"
        "async def main():\n"
        "    beating = asyncio.create_task(Watchdog(Notifier(None, 0.6), lambda: None).run())\n"
        "    await asyncio.sleep(0.1)\n"
        "    stuck_here()\n"
        "    beating.cancel()\n"
        "    await asyncio.wait({beating})\n"
        "asyncio.run(main())"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True
    )
    assert "in stuck_here" in result.stderr


def test_without_a_watchdog_it_ends_at_once() -> None:
    asyncio.run(Watchdog(Notifier(None), lambda: "never asked").run())

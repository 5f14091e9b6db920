"""Links that are bent while jobs by MQTT wait lead nowhere; the user's own jobs follow theirs."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

from support.jobs.daemon import HEAVY, SMALL, RunningDaemon, a_clip, daemon_in, until, verified
from support.servers.mqtt import Broker, broker, observer_of

__all__ = ["broker"]

BASE = "upframe/node1"


class Case:
    """A job with folders of its own below the root, and what is bent while it waits."""

    def __init__(
        self, name: str, code: int, text: str, bend: Callable[[Case], None], outside: Path
    ) -> None:
        self.name, self.code, self.text, self.bend, self.outside = name, code, text, bend, outside
        base = outside.parent / "root" / name
        self.source, self.sink = base / "in" / "clip.mp4", base / "out" / "out.mp4"
        self.sink.parent.mkdir(parents=True)
        a_clip(self.source)

    def put_link(self, path: Path, leads: Path | str) -> None:
        if os.path.lexists(path):
            path.rename(path.with_name(f".{path.name}.aside"))
        path.symlink_to(leads)

    def say(self) -> bytes:
        names = {"source": str(self.source), "sink": str(self.sink), "filters": SMALL}
        request = {"schema": "upframe.job/1", "id": self.name, **names, "overwrite": True}
        return json.dumps(request).encode()


def seen(folder: Path) -> dict[str, tuple[int, int, int]]:
    """All below a folder; a file that was read shows it by its time of access."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        read = 0 if path.is_dir() else status.st_atime_ns
        found[str(path)] = (status.st_ino, status.st_mtime_ns, read)
    return found


def replace_source(case: Case) -> None:
    case.source.unlink()
    a_clip(case.source, frames=4)


CASES: dict[str, tuple[int, str, Callable[[Case], None]]] = {
    "source": (66, "leads outside of", lambda c: c.put_link(c.source, c.outside / "clip.mp4")),
    "source-by-dots": (
        66,
        "leads outside of",
        lambda c: c.put_link(c.source, "../../../outside/clip.mp4"),
    ),
    "source-folder": (66, "leads outside of", lambda c: c.put_link(c.source.parent, c.outside)),
    "other-source": (66, "is not the file that was accepted: ", replace_source),
    "into-state": (66, "is closed", lambda c: c.put_link(c.source, "../../state/jobs.sqlite")),
    "sink-folder": (74, "leads outside of", lambda c: c.put_link(c.sink.parent, c.outside)),
    "sink-into-state": (74, "is closed", lambda c: c.put_link(c.sink.parent, "../state")),
}


async def ask(daemon: RunningDaemon, broker: Broker, cases: list[Case]) -> None:
    """Have all jobs wait behind one that runs, bend what is theirs, and let them run."""
    async with observer_of(broker) as observer:
        await observer.on(f"{BASE}/status", b"online")
        for case in cases:
            await observer.say(f"{BASE}/job/submit", case.say())
        for case in cases:
            daemon.until_state(case.name, "queued")
            case.bend(case)
        daemon.command("cancel", "heavy")


def test_what_is_bent_while_a_job_waits_is_neither_read_nor_written(
    tmp_path: Path, broker: Broker
) -> None:
    outside = tmp_path / "outside"
    a_clip(outside / "clip.mp4")
    (outside / "out.mp4").write_text("precious")
    cases = [Case(name, code, text, bend, outside) for name, (code, text, bend) in CASES.items()]
    cases.append(Case("undisturbed", 0, "", lambda _: None, outside))
    for path in outside.iterdir():
        os.utime(path, ns=(0, path.stat().st_mtime_ns))
    before = seen(outside)
    mqtt = {"host": "127.0.0.1", "port": broker.port, "node_id": "node1"}
    root = tmp_path / "root"  # with the service's own folder in it
    with daemon_in(root, mqtt=mqtt, jobs={"roots": [root]}) as daemon:
        heavy = a_clip(root / "heavy.mp4", frames=30)
        daemon.submit(heavy, root / "heavy-out.mp4", HEAVY, "heavy")
        daemon.until_state("heavy", "running")
        asyncio.run(ask(daemon, broker, cases))
        until(
            lambda: all(daemon.jobs()[c.name].ended_for_good for c in cases),
            "all have ended",
            seconds=240,  # there are many, and other tests run beside them
        )
        jobs = daemon.jobs()
        assert daemon.stop() == 0
    assert seen(outside) == before
    for case in cases:
        error = jobs[case.name].error
        assert (error.code if error else 0) == case.code, (case.name, error)
        assert case.text in (error.message if error else ""), case.name
    assert verified(cases[-1].sink) == 3
    assert not [path for path in tmp_path.rglob("*.partial") if not path.is_symlink()]


def test_jobs_of_the_user_follow_his_links_by_socket_and_by_command(tmp_path: Path) -> None:
    clip = a_clip(tmp_path / "elsewhere" / "clip.mp4")
    (tmp_path / "link.mp4").symlink_to(clip)
    (tmp_path / "folder").symlink_to(tmp_path / "elsewhere")
    source, sinks = tmp_path / "link.mp4", tmp_path / "folder"
    with daemon_in(tmp_path) as daemon:
        daemon.submit(source, sinks / "a.mp4", SMALL, "socket")
        words = ("submit", str(source), str(sinks / "b.mp4"), "--upscale", "2", "--id=command")
        said = daemon.command(*words)
        assert said.returncode == 0, said.stderr
        for name in ("socket", "command"):
            daemon.until_state(name, "done")
        assert daemon.stop() == 0
    assert [verified(clip.with_name(name)) for name in ("a.mp4", "b.mp4")] == [3, 3]

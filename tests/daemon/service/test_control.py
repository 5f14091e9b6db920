from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from support.jobs.control import Served, served
from support.jobs.queues import FAILURE, SECRET, a_job, a_queue, a_work

from upframe.daemon.fence import internal_errors
from upframe.daemon.jobs.control import ControlSocket
from upframe.daemon.jobs.model import JobProgress
from upframe.daemon.jobs.protocol import REQUEST_BYTES, SOCKET_NAME, Submit
from upframe.daemon.jobs.queue import JobQueue


def submission(name: str = "film", **fields: Any) -> dict[str, Any]:
    request = Submit(id=name, work=a_work(name, **fields), priority=2)
    return request.model_dump(mode="json")


def test_takes_a_job_once(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        (first,) = await to.ask(submission())
        (again,) = await to.ask(submission())
        assert (first["end"]["new"], again["end"]["new"]) == (True, False)
        assert first["end"]["job"]["state"] == "queued"
        job = await to.queue.get("film")
        assert (job.origin, job.priority, job.work) == ("cli", 2, a_work())
        (conflict,) = await to.ask(submission(overwrite=True))
        assert conflict["error"]["kind"] == "conflict"

    served(tmp_path, use)


def test_lists_and_shows_what_is_there_with_its_progress(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        for name in ("a", "b", "c"):
            await to.queue.submit(a_job(name))
        await to.queue.claim()
        to.queue.report_progress("a", JobProgress(stage="streaming", frames=9))
        *items, last = await to.ask({"op": "list"})
        assert [item["item"]["id"] for item in items] == ["a", "b", "c"]
        assert items[0]["item"]["progress"]["frames"] == 9
        assert (last["end"]["running"], last["end"]["queued"]) == (1, 2)
        *items, _ = await to.ask({"op": "list", "states": ["queued"], "limit": 1})
        assert [item["item"]["id"] for item in items] == ["b"]
        (shown,) = await to.ask({"op": "show", "id": "a"})
        assert shown["end"]["progress"]["frames"] == 9
        assert shown["end"]["filters"] == a_job("a").filters.model_dump()

    served(tmp_path, use)


def test_cancels_and_tries_again(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        for name in ("a", "b", "c"):
            await to.queue.submit(a_job(name))
        (cancelled,) = await to.ask({"op": "cancel", "id": "a"})
        assert cancelled["end"]["state"] == "cancelled"
        (item, end) = await to.ask({"op": "retry", "id": "a"})
        assert (item["item"]["state"], end["end"]) == ("queued", 1)
        for name in ("b", "c"):
            await to.queue.change(name, "failed", error=FAILURE)
        *items, _ = await to.ask({"op": "retry"})
        assert sorted(item["item"]["id"] for item in items) == ["b", "c"]
        assert (await to.queue.counts())["queued"] == 3

    served(tmp_path, use)


def test_says_how_it_is(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        await to.queue.submit(a_job())
        to.queue.paused = True
        (answer,) = await to.ask({"op": "status"})
        assert answer["end"]["version"] == "1.2"
        assert answer["end"]["paused"] is True
        assert answer["end"]["jobs"]["queued"] == 1

    served(tmp_path, use)


@pytest.mark.parametrize(
    ("request_line", "kind", "text"),
    [
        (b"{", "usage", "Invalid JSON"),
        (b"[]", "usage", "Input should be"),
        (b"\xff\xfe", "usage", "Invalid JSON"),
        (b'{"op": "reboot"}', "usage", "'reboot'"),
        (b'{"op": "show"}', "usage", "show.id: Field required"),
        (b'{"op": "list", "limit": -1}', "usage", "list.limit"),
        (b'{"op": "list", "limit": 99999999999999999999}', "usage", "list.limit"),
        (b'{"op": "show", "id": ' + b"[" * 5000 + b"}", "usage", "recursion limit"),
        (b'{"op": "show", "id": "\\ud800"}', "usage", "Invalid JSON"),
        (b'{"op": "list", "depth": 1}', "usage", "list.depth: Extra inputs"),
        (b'{"op": "submit", "id": "../a", "work": {}}', "usage", "submit.id"),
        (b'{"op": "show", "id": "nobody"}', "unknown_job", "no job has the id 'nobody'"),
        (b'{"op": "cancel", "id": "done"}', "illegal_change", "job done is done"),
        (b'{"op": "watch", "ids": ["nobody"]}', "unknown_job", "no job has the id"),
    ],
)
def test_a_wrong_request_is_answered_and_the_next_one_too(
    request_line: bytes, kind: str, text: str, tmp_path: Path
) -> None:
    async def use(to: Served) -> None:
        await to.queue.submit(a_job("done"))
        await to.queue.claim()
        await to.queue.change("done", "done")
        caller = await to.call()
        (answer,) = await caller.ask(request_line)
        assert answer["error"]["kind"] == kind
        assert text in answer["error"]["message"]
        assert "end" in (await caller.ask({"op": "status"}))[0]

    served(tmp_path, use)


def test_a_bug_in_answering_is_told_as_internal_and_the_next_request_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def stop() -> None:
        raise ZeroDivisionError("a bug")

    async def use(to: Served) -> None:
        await to.queue.submit(a_job("running"))
        await to.queue.claim()
        to.queue.attach("running", stop)
        before = internal_errors["control"]
        caller = await to.call()
        (answer,) = await caller.ask({"op": "cancel", "id": "running"})
        assert answer["error"]["kind"] == "internal"
        assert "ZeroDivisionError" in answer["error"]["message"]
        assert internal_errors["control"] == before + 1
        assert "end" in (await caller.ask({"op": "status"}))[0]

    served(tmp_path, use)
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_a_request_without_end_is_cut_off(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        caller = await to.call()
        caller.writer.write(b"x" * (2 * REQUEST_BYTES))
        answer = await caller.hear()
        assert answer["error"]["message"] == f"a request has more than {REQUEST_BYTES} bytes"
        assert "end" in (await to.ask({"op": "status"}))[0]

    served(tmp_path, use)


def test_a_watcher_hears_what_happens(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        await to.queue.submit(a_job("first"))
        await to.queue.claim()
        caller = await to.call()
        caller.say({"op": "watch"})
        assert (await caller.hear())["item"]["job"]["id"] == "first"
        await to.queue.submit(a_job("second"))
        item = (await caller.hear())["item"]
        assert (item["kind"], item["job"]["id"], item["counts"]["queued"]) == ("state", "second", 1)
        to.queue.report_progress("first", JobProgress(stage="streaming", frames=3))
        item = (await caller.hear())["item"]
        assert (item["kind"], item["job"]["progress"]["frames"]) == ("progress", 3)

    served(tmp_path, use)


def test_watching_some_jobs_ends_with_the_last_of_them(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        for name in ("a", "b", "other"):
            await to.queue.submit(a_job(name))
        await to.queue.cancel("a")
        caller = await to.call()
        caller.say({"op": "watch", "ids": ["a", "b"]})
        assert [(await caller.hear())["item"]["job"]["id"] for _ in "ab"] == ["a", "b"]
        await to.queue.cancel("other")
        await to.queue.cancel("b")
        assert (await caller.hear())["item"]["job"]["state"] == "cancelled"
        assert await caller.hear() == {"end": None}

    served(tmp_path, use)


def test_a_watcher_that_hangs_up_is_let_go(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        before = len(asyncio.all_tasks())
        for _ in range(5):
            caller = await to.call()
            caller.say({"op": "watch"})
            await to.queue.submit(a_job("film"))
        await to.hang_up()
        async with asyncio.timeout(5):
            while len(asyncio.all_tasks()) > before:  # noqa: ASYNC110  (nothing else tells)
                await asyncio.sleep(0.01)

    served(tmp_path, use)


def test_a_watcher_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        await to.queue.submit(a_job())
        await to.queue.claim()
        deaf = await to.call()
        deaf.say({"op": "watch"})
        await deaf.hear()
        for frames in range(20_000):
            to.queue.report_progress("film", JobProgress(stage="streaming", frames=frames))
            if frames % 100 == 0:
                await asyncio.sleep(0)
        async with asyncio.timeout(2):
            assert "end" in (await to.ask({"op": "status"}))[0]

    served(tmp_path, use)


def test_everybody_is_hung_up_on_at_the_end(tmp_path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        control = ControlSocket(tmp_path / SOCKET_NAME, queue)
        await control.start()
        to = Served(tmp_path / SOCKET_NAME, queue)
        idle, watching = await to.call(), await to.call()
        watching.say({"op": "watch"})
        await to.ask({"op": "status"})
        async with asyncio.timeout(5):
            await control.close()
            await control.close()
            assert await idle.reader.read() == await watching.reader.read() == b""
        assert not to.path.exists()
        await to.hang_up()
        await queue.close()

    with a_queue(tmp_path) as queue:
        asyncio.run(use(queue))


def test_passwords_in_urls_are_not_told(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        caller = await to.call()
        answers = await caller.ask(submission(source=SECRET))
        error = FAILURE.model_copy(update={"message": f"cannot open {SECRET}", "detail": SECRET})
        await to.queue.change("film", "failed", error=error, report={"source": SECRET})
        for request in (
            {"op": "list"},
            {"op": "show", "id": "film"},
            {"op": "watch", "ids": ["film"]},
            {"op": "retry"},
        ):
            answers += await caller.ask(request)
        assert "geheim" not in json.dumps(answers)
        assert json.dumps(answers).count("rtsp://***@camera/1") >= 6
        assert (await to.queue.get("film")).source == SECRET

    served(tmp_path, use)

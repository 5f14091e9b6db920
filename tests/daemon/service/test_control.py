"""The requests of the control socket and their answers."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.jobs.control import Served, served
from support.jobs.queues import FAILURE, SECRET, Turns, a_job, a_work

from upframe.daemon.fence import internal_errors
from upframe.daemon.jobs.api import NewJob
from upframe.daemon.jobs.model import JobProgress
from upframe.daemon.service.http import REQUEST_BYTES


def submission(name: str = "film", **fields: Any) -> dict[str, Any]:
    request = NewJob(id=name, work=a_work(name, **fields), priority=2)
    return request.model_dump(mode="json")


def test_takes_a_job_once(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        code, first = await to.ask("POST", "/jobs", submission())
        again_code, again = await to.ask("POST", "/jobs", submission())
        assert (code, again_code) == (201, 200)
        assert (first["new"], again["new"]) == (True, False)
        assert first["job"]["state"] == "queued"
        job = await to.queue.get("film")
        assert (job.origin, job.priority, job.work) == ("cli", 2, a_work())
        code, conflict = await to.ask("POST", "/jobs", submission(overwrite=True))
        assert (code, conflict["code"]) == (409, "conflict")

    served(tmp_path, use)


def test_lists_and_shows_what_is_there_with_its_progress(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        for name in ("a", "b", "c"):
            await to.queue.submit(a_job(name))
        await to.queue.claim()
        to.queue.report_progress("a", JobProgress(stage="streaming", frames=9))
        code, listed = await to.ask("GET", "/jobs")
        assert code == 200
        assert [job["id"] for job in listed["jobs"]] == ["a", "b", "c"]
        assert listed["jobs"][0]["progress"]["frames"] == 9
        assert (listed["counts"]["running"], listed["counts"]["queued"]) == (1, 2)
        _, listed = await to.ask("GET", "/jobs?state=queued&state=done&limit=1")
        assert [job["id"] for job in listed["jobs"]] == ["b"]
        _, shown = await to.ask("GET", "/jobs/a")
        assert shown["progress"]["frames"] == 9
        assert shown["filters"] == a_job("a").filters.model_dump()

    served(tmp_path, use)


def test_cancels_and_tries_again(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        for name in ("a", "b", "c"):
            await to.queue.submit(a_job(name))
        _, cancelled = await to.ask("POST", "/jobs/a/cancel")
        assert cancelled["state"] == "cancelled"
        _, retried = await to.ask("POST", "/jobs/a/retry")
        assert [job["state"] for job in retried["jobs"]] == ["queued"]
        for name in ("b", "c"):
            await to.queue.change(name, "failed", error=FAILURE)
        _, retried = await to.ask("POST", "/jobs/retry")
        assert sorted(job["id"] for job in retried["jobs"]) == ["b", "c"]
        assert (await to.queue.counts())["queued"] == 3

    served(tmp_path, use)


def test_says_how_it_is(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        await to.queue.submit(a_job())
        to.queue.paused = True
        _, answer = await to.ask("GET", "/status")
        assert answer["phase"] == "starting"
        assert answer["paused"] is True
        assert answer["jobs"]["queued"] == 1

    served(tmp_path, use)


SHOWING, LISTING, SUBMITTING, FOLLOWING = (
    ("GET", "/jobs/"),
    ("GET", "/jobs?"),
    ("POST", "/jobs"),
    ("POST", "/jobs/follow"),
)


@pytest.mark.parametrize(
    ("request_line", "body", "status", "code", "text"),
    [
        (SUBMITTING, b"{", 400, "invalid", "Invalid JSON"),
        (SUBMITTING, b"[]", 400, "invalid", "Input should be"),
        (SUBMITTING, b"", 400, "invalid", "Invalid JSON"),
        (SUBMITTING, b"\xff\xfe", 400, "invalid", "Invalid JSON"),
        (FOLLOWING, b'{"ids": [' + b"[" * 5000 + b"}", 400, "invalid", "recursion limit"),
        (FOLLOWING, b'{"ids": ["\\ud800"]}', 400, "invalid", "Invalid JSON"),
        (SUBMITTING, b'{"work": {}}', 400, "invalid", "id: Field required"),
        (SUBMITTING, b'{"id": "../a", "work": {}}', 400, "invalid", "id: String should match"),
        (SUBMITTING, b'{"depth": 1}', 400, "invalid", "depth: Extra inputs"),
        (("GET", "/jobs?limit=-1"), b"", 400, "invalid", "limit: Input should be greater"),
        (("GET", "/jobs?limit=" + "9" * 20), b"", 400, "invalid", "limit"),
        (("GET", "/jobs?state=gone"), b"", 400, "invalid", "state.0: Input should be 'queued'"),
        (("GET", "/jobs?depth=1"), b"", 400, "invalid", "depth: Extra inputs"),
        (("GET", "/jobs/nobody"), b"", 404, "unknown_job", "no job has the id 'nobody'"),
        (("GET", "/jobs/a%2Fb"), b"", 404, "unknown_job", "no job has the id 'a/b'"),
        (("POST", "/jobs/done/cancel"), b"", 409, "illegal_change", "job done is done"),
        (FOLLOWING, b'{"ids": ["nobody"]}', 404, "unknown_job", "no job has the id"),
        (("GET", "/reboot"), b"", 404, "not_found", "Not Found"),
        (("DELETE", "/jobs/done"), b"", 405, "method_not_allowed", "Method Not Allowed"),
    ],
)
def test_a_wrong_request_is_answered_and_the_next_one_too(
    request_line: tuple[str, str],
    body: bytes,
    status: int,
    code: str,
    text: str,
    tmp_path: Path,
) -> None:
    async def use(to: Served) -> None:
        await to.queue.submit(a_job("done"))
        await to.queue.claim()
        await to.queue.change("done", "done")
        answered, problem = await to.ask(*request_line, body)
        assert (answered, problem["status"], problem["code"]) == (status, status, code)
        assert text in problem["detail"]
        assert problem["title"]
        assert await to.serves()

    served(tmp_path, use)


def test_a_refusal_says_of_each_field_what_was_got_and_wanted(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        caller = await to.call()
        caller.say("POST", "/jobs", {"id": "rtsp://u:geheim@c/1", "work": 5})
        head = await caller.reader.readuntil(b"\r\n\r\n")
        assert b"application/problem+json" in head
        first, second = json.loads(await caller.reader.read())["errors"]
        assert (first["field"], first["got"]) == ("id", "'rtsp://***@c/1'")
        assert first["wanted"].startswith("String should match")
        assert (second["field"], second["got"]) == ("work", "5")

    served(tmp_path, use)


def test_a_refusal_of_very_many_fields_describes_the_first(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        async with Turns() as turns:
            code, problem = await to.ask("POST", "/jobs", {f"key{n}": n for n in range(20_000)})
        assert code == 400
        assert len(problem["errors"]) == 5
        assert problem["errors"][0] == {"field": "id", "got": "nothing", "wanted": "Field required"}
        assert problem["detail"].endswith("and 19997 more")
        assert turns.num > 0

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
        code, problem = await to.ask("POST", "/jobs/running/cancel")
        assert (code, problem["code"]) == (500, "internal")
        assert "ZeroDivisionError" in problem["detail"]
        assert internal_errors["control"] == before + 1
        assert await to.serves()

    served(tmp_path, use)
    assert [record.exc_info is not None for record in caplog.records] == [True]


def submitted_without_end(path: Path, chunked: bool) -> bytes:
    """The answer to a submission of two mebibytes, as a blocking client reads it."""
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 99999999"
    part = b"x" * REQUEST_BYTES
    portion = b"%x\r\n%b\r\n" % (len(part), part) if chunked else part
    answer = b""
    with socket.socket(socket.AF_UNIX) as end:
        end.connect(str(path))
        with suppress(ConnectionError):
            end.sendall(b"POST /jobs HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % length + portion * 2)
        with suppress(ConnectionError):
            while data := end.recv(1 << 16):
                answer += data
    return answer


@pytest.mark.parametrize("chunked", [False, True])
def test_a_request_without_end_is_cut_off(chunked: bool, tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        answer = await asyncio.to_thread(submitted_without_end, to.path, chunked)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert f"a request has more than {REQUEST_BYTES} bytes" in answer.decode()
        assert await to.serves()

    served(tmp_path, use)


def test_a_request_that_stops_in_its_middle_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upframe.daemon.service.http._BODY_SECONDS", 0.1)

    async def use(to: Served) -> None:
        caller = await to.call()
        caller.writer.write(b"POST /jobs HTTP/1.0\r\nContent-Length: 100\r\n\r\n{")
        assert await caller.status() == 504
        problem = json.loads(await caller.reader.read())
        assert problem["detail"] == "got no complete request within 0.1 s"
        assert await to.serves()

    served(tmp_path, use)


def test_a_client_that_goes_away_in_the_middle_of_a_request_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def use(to: Served) -> None:
        before = internal_errors["control"]
        for content in (b"POST /jobs HTTP/1.0\r\nContent-Length: 100\r\n\r\n{", b"GET /jo"):
            caller = await to.call()
            caller.writer.write(content)
            await caller.writer.drain()
            await asyncio.sleep(0.02)
        await to.hang_up()
        assert await to.serves()
        assert internal_errors["control"] == before

    served(tmp_path, use)
    assert not caplog.records


def test_a_watcher_hears_what_happens(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        await to.queue.submit(a_job("first"))
        await to.queue.claim()
        caller = await to.following()
        assert (await caller.line())["job"]["id"] == "first"
        await to.queue.submit(a_job("second"))
        event = await caller.line()
        assert (event["kind"], event["job"]["id"]) == ("state", "second")
        assert event["counts"]["queued"] == 1
        to.queue.report_progress("first", JobProgress(stage="streaming", frames=3))
        event = await caller.line()
        assert (event["kind"], event["job"]["progress"]["frames"]) == ("progress", 3)
        assert event["job"].keys() == event["job"].keys() - {"report", "confined"}
        assert "counts" not in event

    served(tmp_path, use)


def test_watching_some_jobs_ends_with_the_last_of_them(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        for name in ("a", "b", "other"):
            await to.queue.submit(a_job(name))
        await to.queue.cancel("a")
        caller = await to.following(["a", "b"])
        assert [(await caller.line())["job"]["id"] for _ in "ab"] == ["a", "b"]
        await to.queue.cancel("other")
        await to.queue.cancel("b")
        assert (await caller.line())["job"]["state"] == "cancelled"
        assert await caller.reader.read() == b""

    served(tmp_path, use)


def test_watching_takes_as_many_ids_as_fit_into_a_request(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        await to.queue.submit(a_job())
        caller = await to.following(["film"] * 2000)
        assert (await caller.line())["job"]["id"] == "film"

    served(tmp_path, use)


def test_a_watcher_that_hangs_up_is_let_go(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        before = len(asyncio.all_tasks())
        for _ in range(5):
            await to.following()
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
        deaf = await to.following()
        await deaf.line()
        for frames in range(20_000):
            to.queue.report_progress("film", JobProgress(stage="streaming", frames=frames))
            if frames % 100 == 0:
                await asyncio.sleep(0)
        async with asyncio.timeout(2):
            assert await to.serves()

    served(tmp_path, use)


def test_everybody_is_hung_up_on_at_the_end(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        idle, watching = await to.call(), await to.following()
        assert await to.serves()
        async with asyncio.timeout(5):
            await to.control.aclose()
            assert await idle.reader.read() == b""
            assert (await watching.line())["problem"]["detail"] == "the daemon stops"
            assert await watching.reader.read() == b""
        assert not to.path.exists()

    served(tmp_path, use)


def test_one_who_does_not_read_does_not_hold_up_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def use(to: Served) -> None:
        for index in range(300):
            await to.queue.submit(a_job(f"job{index}", source=f"/in/{'long' * 500}.mp4"))
        deaf = await to.call()
        deaf.say("POST", "/jobs/follow", {"ids": [f"job{index}" for index in range(300)] * 10})
        await asyncio.sleep(0.3)
        async with asyncio.timeout(5):
            await to.control.aclose()

    served(tmp_path, use)
    assert not caplog.records


def test_passwords_in_urls_are_not_told(tmp_path: Path) -> None:
    async def use(to: Served) -> None:
        answers = [await to.ask("POST", "/jobs", submission(source=SECRET))]
        error = FAILURE.model_copy(update={"message": f"cannot open {SECRET}", "detail": SECRET})
        await to.queue.change("film", "failed", error=error, report={"source": SECRET})
        answers += [await to.ask("GET", path) for path in ("/jobs", "/jobs/film")]
        watching = await to.following(["film"])
        answers.append((200, await watching.line()))
        answers.append(await to.ask("POST", "/jobs/retry"))
        assert "geheim" not in json.dumps(answers)
        assert json.dumps(answers).count("rtsp://***@camera/1") >= 6
        assert (await to.queue.get("film")).source == SECRET

    served(tmp_path, use)

"""HLS as a live output: a playlist that is whole at every moment, here and on a server."""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import pytest
from support.live.publishing_child import RATE, Child, encoded, later
from support.servers.camera import free_port

from upframe.io.live.publisher_protocol import Event, Finished, PublishFailed, Written
from upframe.io.live.target import find_live_target

SEGMENT_SECONDS = 2


def segments(playlist: str) -> list[str]:
    return [line for line in playlist.splitlines() if line and not line.startswith("#")]


def sequence(playlist: str) -> int:
    found = re.search(r"#EXT-X-MEDIA-SEQUENCE:(\d+)", playlist)
    assert found, playlist
    return int(found[1])


def published(path: Path, seconds: int) -> str:
    primer, pictures = encoded(seconds * RATE)
    with Child(find_live_target(str(path)), primer) as child:
        child.give(pictures)
        assert child.finish() == 0, (child.events[-1], child.stderr)
    return path.read_text()


def test_a_playlist_lists_what_is_there_and_ends_with_the_stream(tmp_path: Path) -> None:
    playlist = published(tmp_path / "live.m3u8", 7)
    assert segments(playlist) == [f"live-{number:08d}.ts" for number in range(4)]
    assert "DISCONTINUITY" not in playlist
    assert playlist.rstrip().endswith("#EXT-X-ENDLIST")
    with av.open(str(tmp_path / "live.m3u8")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 7 * RATE


def test_old_segments_go_away(tmp_path: Path) -> None:
    playlist = published(tmp_path / "live.m3u8", 40)
    assert sequence(playlist) > 10
    kept = {path.name for path in tmp_path.glob("*.ts")}
    assert set(segments(playlist)) <= kept
    assert len(kept) < 10
    assert not list(tmp_path.glob("*.tmp"))


def test_a_playlist_goes_on_after_its_process_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "live.m3u8"
    primer, pictures = encoded(7 * RATE)
    with Child(find_live_target(str(path)), primer) as child:
        child.give(pictures)
        child.until(Written, 7 * RATE)
        child.process.kill()
        child.wait()
    before = path.read_text()
    assert "#EXT-X-ENDLIST" not in before
    after = published(path, 4)
    assert sequence(after) == sequence(before)
    assert segments(after)[: len(segments(before))] == segments(before)
    assert len(segments(after)) == len(segments(before)) + 2
    assert after.index("#EXT-X-DISCONTINUITY") > after.index(segments(before)[-1])
    assert len(set(segments(after))) == len(segments(after))


def test_whoever_reads_the_playlist_finds_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "live.m3u8"
    primer, pictures = encoded(60 * RATE)
    looks = 0
    with Child(find_live_target(str(path)), primer) as child:
        feeding = threading.Thread(target=child.give, args=(pictures,))
        feeding.start()
        while feeding.is_alive() or not looks:
            if not path.exists():
                continue
            text = path.read_text()
            assert text.startswith("#EXTM3U")
            assert text.endswith("\n")
            assert segments(text)
            looks += 1
        feeding.join()
        assert child.finish() == 0
    assert looks > 10


class Store(BaseHTTPRequestHandler):
    """Keeps what is put, as a web server in front of players does."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self._kept[self.path] = self._body()
        self._answer(201)

    def do_GET(self) -> None:
        data = self._kept.get(self.path)
        self._answer(404 if data is None else 200, data or b"")

    def do_DELETE(self) -> None:
        self._answer(404 if self._kept.pop(self.path, None) is None else 204)

    @property
    def _kept(self) -> dict[str, bytes]:
        return self.server.kept  # type: ignore[attr-defined]

    def _answer(self, status: int, data: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def log_message(self, *_: object) -> None:
        pass


class Refusing(Store):
    def do_PUT(self) -> None:
        self._body()
        self._answer(403)


class Locked(Store):
    def do_GET(self) -> None:
        login = base64.b64encode(b"user:s3cret").decode()
        if self.headers["Authorization"] == f"Basic {login}":
            super().do_GET()
        else:
            self._answer(401)


class Hasty(Store):
    """Closes the connection after every answer, without having said so."""

    def do_PUT(self) -> None:
        super().do_PUT()
        self.close_connection = True


@contextmanager
def web(handler: type[Store]) -> Generator[tuple[str, dict[str, bytes]]]:
    kept: dict[str, bytes] = {}
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.kept = kept  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/live/a.m3u8", kept
        finally:
            server.shutdown()
            thread.join()


def put(url: str, seconds: int = 7) -> list[Event]:
    """Publish to a web server; gives what the process said."""
    primer, pictures = encoded(seconds * RATE)
    with Child(find_live_target(url), primer) as child:
        child.give(later(pictures, 100))
        code = child.finish()
        assert (code == 0) == bool(child.told(Finished)), (child.events[-1], child.stderr)
        return child.events


@pytest.mark.parametrize("handler", [Store, Hasty])
def test_a_playlist_is_put_on_a_web_server(handler: type[Store]) -> None:
    with web(handler) as (url, kept):
        assert isinstance(put(url)[-1], Finished)
    text = kept["/live/a.m3u8"].decode()
    assert text.endswith("#EXT-X-ENDLIST\n")
    assert "DISCONTINUITY" not in text
    assert len(segments(text)) == 4
    assert {f"/live/{name}" for name in segments(text)} == kept.keys() - {"/live/a.m3u8"}
    assert all(kept[f"/live/{name}"][:1] == b"\x47" for name in segments(text))


def test_a_playlist_on_a_web_server_goes_on_and_old_segments_go_away() -> None:
    with web(Store) as (url, kept):
        put(url)
        before = kept["/live/a.m3u8"].decode()
        put(url, 20)
    after = kept["/live/a.m3u8"].decode()
    assert sequence(after) > sequence(before)
    assert set(segments(after)) <= {name.rpartition("/")[2] for name in kept}
    assert len(kept) < 12


@pytest.mark.parametrize(
    ("handler", "reason"), [(Refusing, "unauthorised"), (Locked, "unauthorised")]
)
def test_a_web_server_that_refuses_is_told(handler: type[Store], reason: str) -> None:
    with web(handler) as (url, kept):
        failed = put(url)[-1]
    assert isinstance(failed, PublishFailed)
    assert failed.reason == reason
    assert not kept


def test_a_key_in_the_query_goes_with_every_request_and_into_no_file() -> None:
    with web(Store) as (url, kept):
        assert isinstance(put(f"{url}?token=s3cret")[-1], Finished)
    names = {"a.m3u8", *(f"a{number}.ts" for number in range(4))}
    assert kept.keys() == {f"/live/{name}?token=s3cret" for name in names}
    assert not any(b"s3cret" in data for data in kept.values())


def test_a_web_server_is_given_the_password_and_nobody_else() -> None:
    with web(Locked) as (url, kept):
        told = put(url.replace("://", "://user:s3cret@"))
    assert isinstance(told[-1], Finished)
    assert kept
    assert not any(b"s3cret" in data for data in kept.values())
    failed = put(f"http://user:s3cret@127.0.0.1:{free_port()}/a.m3u8")[-1]
    assert isinstance(failed, PublishFailed)
    assert failed.reason == "refused"
    assert "s3cret" not in failed.message

"""Certificates are verified on every way that media come and go, before anything is said."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from support.live.publishing_child import Child, encoded, later
from support.media.clips import make_clip
from support.servers.receivers import Protocol, Receiver, rises
from support.servers.tls import Authority, make_authority, tls_server

from upframe.io.errors import InputLost, MediaError
from upframe.io.live.address import find_address, hls_is_live
from upframe.io.live.live_input import LiveInput
from upframe.io.live.publisher_protocol import PublishFailed
from upframe.io.live.target import find_live_target
from upframe.io.source import open_source
from upframe.io.web import NetworkRules, network_rules

FAULTS = ("wrong", "expired", "unknown")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(autouse=True)
def _trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", authority.path)


def read(url: str) -> str:
    """Open it as `run` and `probe` do; what is said where that does not work."""
    try:
        open_source(url).close()
    except MediaError as error:
        return str(error)
    return ""


def receive(url: str) -> str:
    """Connect as a live input."""
    live = LiveInput(find_address(url, connect_seconds=5.0, read_seconds=5.0))
    with closing(live):
        try:
            live.connect()
        except InputLost as error:
            return f"{error.reason}: {error}"
    return ""


def publish(url: str) -> str:
    primer, packets = encoded(5)
    with Child(find_live_target(url), primer) as child:
        child.give(packets)
        child.finish()
        failed = child.told(PublishFailed)
        return f"{failed[0].reason}: {failed[0].message}" if failed else ""


WAYS = [
    pytest.param(read, "https://{}/film.mp4", id="read-https"),
    pytest.param(read, "rtsps://{}/stream", id="read-rtsps"),
    pytest.param(receive, "https://{}/live.m3u8", id="live-hls"),
    pytest.param(receive, "https://{}/motion.mjpg", id="live-https"),
    pytest.param(receive, "rtsps://{}/stream", id="live-rtsps"),
    pytest.param(receive, "rtmps://{}/app/stream", id="live-rtmps"),
    pytest.param(publish, "rtsps://{}/stream", id="publish-rtsps"),
    pytest.param(publish, "rtmps://{}/app/stream", id="publish-rtmps"),
    pytest.param(publish, "https://{}/live.m3u8", id="publish-hls"),
]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("use", "url"), WAYS)
def test_nothing_is_said_to_a_server_whose_certificate_is_not_trusted(
    use: Callable[[str], str], url: str, fault: str, authority: Authority
) -> None:
    with tls_server(authority, fault) as server:
        said = use(url.format(f"user:s3cret@localhost:{server.port}"))
        assert server.stop() == b""
    assert "certificate not trusted: " in said
    assert said.startswith("untrusted") or use is read
    assert "s3cret" not in said


@pytest.mark.parametrize(("use", "url"), WAYS)
def test_a_trusted_server_is_spoken_to(
    use: Callable[[str], str], url: str, authority: Authority
) -> None:
    with tls_server(authority, "good") as server:
        said = use(url.format(f"localhost:{server.port}"))
        assert server.stop() != b""
    assert "not trusted" not in said


@pytest.mark.parametrize(("use", "url"), WAYS)
def test_an_authority_that_is_not_there_is_an_error_and_no_trust(
    use: Callable[[str], str],
    url: str,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with tls_server(authority, "good") as server:
        try:
            said = use(url.format(f"localhost:{server.port}"))
        except MediaError as error:
            said = str(error)
        assert server.stop() == b""
    assert "no certificate can be verified" in said
    assert "none.pem" in said


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("use", "url"), WAYS)
def test_any_certificate_is_trusted_where_that_is_asked_for_by_name(
    use: Callable[[str], str], url: str, fault: str, authority: Authority
) -> None:
    with tls_server(authority, fault) as server, network_rules(NetworkRules(tls_insecure=True)):
        said = use(url.format(f"localhost:{server.port}"))
        assert server.stop() != b""
    assert "not trusted" not in said


def test_what_ffmpeg_cannot_verify_is_refused(authority: Authority) -> None:
    with tls_server(authority, "good") as server:
        with pytest.raises(MediaError, match="rtmpts: FFmpeg cannot verify"):
            receive(f"rtmpts://user:s3cret@localhost:{server.port}/app/stream")
        assert server.stop() == b""


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize("fault", [*FAULTS, "good"])
def test_what_a_playlist_names_is_verified_too(
    fault: str, authority: Authority, tmp_path: Path
) -> None:
    make_clip(tmp_path / "clip.ts", frames=6)
    with tls_server(authority, fault, tmp_path) as second:
        named = f"https://localhost:{second.port}/clip.ts"
        (tmp_path / "list.m3u8").write_text(PLAYLIST.format(named))
        with tls_server(authority, "good", tmp_path) as first:
            url = f"https://localhost:{first.port}/list.m3u8"
            if fault == "good":
                with closing(open_source(url)) as source:
                    assert len(list(source)) == 6
                return
            assert "certificate not trusted" in read(url)
            assert receive(url).startswith("untrusted")
        assert second.stop() == b""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_playlist_is_not_looked_into_where_its_server_is_not_trusted(
    fault: str, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "list.m3u8").write_text(PLAYLIST.format("a.ts").replace("#EXT-X-ENDLIST\n", ""))
    with tls_server(authority, fault, tmp_path) as server:
        assert not hls_is_live(f"https://user:s3cret@localhost:{server.port}/list.m3u8")
        assert server.stop() == b""
    with tls_server(authority, "good", tmp_path) as server:
        assert hls_is_live(f"https://localhost:{server.port}/list.m3u8")


@contextmanager
def behind_tls(authority: Authority, port: int) -> Generator[int]:
    """Give a port whose TLS is taken off before a server that has none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.folder / "good.pem", authority.folder / "good.key")
    listening = socket.create_server(("127.0.0.1", 0))

    def carry(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with (
            suppress(OSError),
            context.wrap_socket(listening.accept()[0], server_side=True) as client,
            socket.create_connection(("127.0.0.1", port)) as server,
        ):
            back = threading.Thread(target=carry, args=(server, client))
            back.start()
            carry(client, server)
            back.join(10)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        thread.join(20)
        listening.close()


@pytest.mark.parametrize("protocol", ["rtmp", "rtsp"])
def test_what_is_published_by_tls_arrives(
    protocol: Protocol, authority: Authority, tmp_path: Path
) -> None:
    primer, pictures = encoded(50)
    with (
        Receiver(tmp_path, protocol) as receiver,
        behind_tls(authority, receiver.port) as port,
    ):
        url = f"{protocol}s://localhost:{port}/live/stream"
        with Child(find_live_target(url), primer) as child:
            child.connected()
            child.give(later(pictures, 1000))
            assert child.finish() == 0, (child.events[-1], child.stderr)
            assert child.written == list(range(1, 51))
        assert receiver.wait() == 0, receiver.log
        got = receiver.got()
        assert len(got) >= 49, receiver.log
        assert (got[0].is_keyframe, got[0].pts < 3) == (True, True)
        assert rises(got)

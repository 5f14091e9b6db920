"""Certificates are verified on every way that media come and go, before anything is said."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from media_samples import make_clip
from publishing_child import Child, encoded
from tls_server import Authority, make_authority, tls_server

from upframe.io.errors import InputLost, MediaError
from upframe.io.live.address import find_address, hls_is_live
from upframe.io.live.input import LiveInput
from upframe.io.live.publisher_protocol import Failed
from upframe.io.live.target import find_live_target
from upframe.io.network import Rules, using
from upframe.io.source import open_source

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
        failed = child.told(Failed)
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
    with tls_server(authority, fault) as server, using(Rules(tls_insecure=True)):
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

"""What the address of a live input means."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from upframe.io.capabilities import has_protocol
from upframe.io.errors import SourceMissing, UnsupportedMedia
from upframe.io.live.address import find_address, is_live

PASSWORD = "p:w@/?#%é s"


@pytest.fixture
def login(tmp_path: Path) -> Path:
    path = tmp_path / "login"
    path.write_text(f"jörg:{PASSWORD}\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://host/stream",
        "RTSPS://host/stream",
        "rtmp://host/app/key",
        "rtmps://host/app/key",
        "srt://host:1",
        "udp://239.0.0.1:1",
        "tcp://host:1",
        "rtp://host:1",
        "/dev/video0",
        "v4l2:/dev/v4l/by-id/camera",
    ],
)
def test_a_protocol_or_a_device_is_live(text: str) -> None:
    assert is_live(text)


@pytest.mark.parametrize(
    "text", ["clip.mp4", "/dev/videos/clip.mp4", "-", "http://host/clip.mp4", "file:///clip.mp4"]
)
def test_everything_else_is_not(text: str) -> None:
    assert not is_live(text)


@pytest.mark.parametrize("protocol", ["rtsp", "rtsps", "http", "https"])
def test_credentials_go_into_the_url_percent_encoded(protocol: str, login: Path) -> None:
    address = find_address(f"{protocol}://host:99/a/b.m3u8?x=1", credentials_file=login)
    parts = urlsplit(address.url)
    assert (unquote(parts.username or ""), unquote(parts.password or "")) == ("jörg", PASSWORD)
    assert (parts.hostname, parts.port, parts.path) == ("host", 99, "/a/b.m3u8")


def test_rtmp_takes_them_as_they_are_where_a_url_can_hold_them(tmp_path: Path) -> None:
    path = tmp_path / "login"
    path.write_text("me:p@ss:w%rd")
    path.chmod(0o600)
    assert find_address("rtmp://h/a", credentials_file=path).url == "rtmp://me:p@ss:w%rd@h/a"


def test_they_take_the_place_of_those_in_the_url(login: Path) -> None:
    url = find_address("rtsp://old:word@host/x", credentials_file=login).url
    assert "old" not in url
    assert urlsplit(url).hostname == "host"


@pytest.mark.parametrize(("url", "joint"), [("srt://h:1", "?"), ("srt://h:1?mode=caller", "&")])
def test_srt_has_a_passphrase_and_no_user(url: str, joint: str, login: Path) -> None:
    found = find_address(url, credentials_file=login).url
    start, _, phrase = found.partition(f"{joint}passphrase=")
    assert start == url
    assert unquote(phrase) == PASSWORD


def test_no_secret_shows(login: Path) -> None:
    for url in ("rtsp://me:hidden@h/x", "srt://h:1?passphrase=hidden"):
        for address in (find_address(url), find_address(url, credentials_file=login)):
            shown = f"{address} {address!r} {address.display}"
            assert "hidden" not in shown
            assert PASSWORD not in unquote(shown)


@pytest.mark.parametrize("url", ["udp://h:1", "tcp://h:1", "rtp://h:1", "/dev/video0"])
def test_a_protocol_without_users_refuses_credentials(url: str, login: Path) -> None:
    with pytest.raises(UnsupportedMedia, match="no user"):
        find_address(url, credentials_file=login)


def test_credentials_that_everybody_can_read_are_refused(login: Path) -> None:
    login.chmod(0o644)
    with pytest.raises(SourceMissing, match=r"mode 0644 lets everybody read it: chmod o= "):
        find_address("rtsp://h/x", credentials_file=login)


@pytest.mark.parametrize("text", ["", "user", ":word", "a:b\nc:d\n", "u:" + "x" * 5000])
def test_credentials_of_another_form_are_refused_without_being_shown(
    text: str, tmp_path: Path
) -> None:
    path = tmp_path / "login"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(SourceMissing, match="wanted one line USER:PASSWORD, got") as caught:
        find_address("rtsp://h/x", credentials_file=path)
    assert not text or text not in str(caught.value)


def test_credentials_that_are_not_there_are_missing(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="cannot be read: No such file"):
        find_address("rtsp://h/x", credentials_file=tmp_path / "none")


@pytest.mark.parametrize("url", ["rtsp://h/x", "tcp://h:1", "udp://h:1", "rtp://h:1"])
def test_the_demuxers_own_timeout_is_set_too(url: str) -> None:
    assert find_address(url, read_seconds=2.5).options["timeout"] == "2500000"


def test_rtmp_gets_no_timeout_of_its_own_since_that_makes_it_a_server() -> None:
    options = find_address("rtmp://h/x", read_seconds=2.5).options
    assert "timeout" not in options
    assert options["rw_timeout"] == "2500000"


@pytest.mark.parametrize(
    "url", ["rtsp://h/x", "rtmp://h/x", "udp://h:1", "tcp://h:1", "https://h/x.m3u8"]
)
def test_nothing_from_the_network_may_open_a_file(url: str) -> None:
    allowed = find_address(url).options["protocol_whitelist"].split(",")
    assert allowed
    assert not {"file", "concat", "subfile", "pipe", "fd"} & set(allowed)


def test_for_a_growing_playlist_ffmpeg_opens_nothing_by_itself(tmp_path: Path) -> None:
    address = find_address(str(tmp_path / "live.m3u8"))
    assert address.options["protocol_whitelist"] == "none"
    assert (address.format, address.protocol) == ("hls", "file")


def test_a_device_is_opened_by_its_demuxer() -> None:
    for text in ("/dev/video3", "v4l2:/dev/video3"):
        address = find_address(text)
        assert (address.url, address.format, address.protocol) == ("/dev/video3", "v4l2", "v4l2")


def test_only_rtsp_has_a_transport() -> None:
    assert find_address("rtsp://h/x", transport="auto").transport == "auto"
    assert find_address("tcp://h:1", transport="auto").transport is None


def test_srt_is_left_to_a_program_where_it_is_missing_here() -> None:
    assert find_address("srt://h:1").needs_ffmpeg is not has_protocol("srt")
    assert not find_address("rtsp://h/x").needs_ffmpeg


def test_a_segment_of_a_playlist_may_take_longer_than_a_packet() -> None:
    packets, segments = (find_address(url).read_seconds for url in ("tcp://h:1", "http://h/x.m3u8"))
    assert packets <= 5 < segments


def test_a_protocol_of_no_live_input_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedMedia, match="gopher"):
        find_address("gopher://h/x")

"""Whether an HLS playlist is a live one."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from support.servers.hls import hls_server

from upframe.io.live.address import hls_is_live, is_live

LIVE = b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nsegment7.ts\n"
ENDED = LIVE + b"#EXT-X-ENDLIST\n"
ON_DEMAND = LIVE.replace(b"\n#EXTINF", b"\n#EXT-X-PLAYLIST-TYPE:VOD\n#EXTINF")
MASTER = b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nlow/media.m3u8\n"
SONGS = b"#EXTM3U\n#EXTINF:180,A song\nsong.mp3\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [(LIVE, True), (ENDED, False), (ON_DEMAND, False), (SONGS, False), (b"video", False)],
)
def test_a_playlist_is_live_until_it_says_that_it_has_ended(
    content: bytes, expected: bool, tmp_path: Path
) -> None:
    path = tmp_path / "list.m3u8"
    path.write_bytes(content)
    with hls_server({"/list.m3u8": content}) as server:
        assert is_live(str(path)) is expected
        assert is_live(server.url("/list.m3u8?token=1")) is expected


@pytest.mark.parametrize(("media", "expected"), [(LIVE, True), (ENDED, False)])
def test_a_master_playlist_is_as_live_as_its_first_one(media: bytes, expected: bool) -> None:
    with hls_server({"/a/master.m3u8": MASTER, "/a/low/media.m3u8": media}) as server:
        assert hls_is_live(server.url("/a/master.m3u8")) is expected


def test_a_playlist_that_names_itself_has_an_end() -> None:
    itself = MASTER.replace(b"low/media.m3u8", b"master.m3u8")
    with hls_server({"/master.m3u8": itself}) as server:
        assert not hls_is_live(server.url("/master.m3u8"))


def test_one_that_cannot_be_had_is_not_live(tmp_path: Path) -> None:
    with hls_server({}) as server:
        assert not hls_is_live(server.url("/none.m3u8"))
    assert not hls_is_live(server.url("/none.m3u8"))  # refused by now
    assert not hls_is_live(str(tmp_path / "none.m3u8"))


def test_the_login_in_the_url_is_used() -> None:
    token = base64.b64encode(b"me:p@ss").decode()
    with hls_server({"/list.m3u8": LIVE}, login=token) as server:
        assert hls_is_live(server.url("/list.m3u8", "me:p%40ss@"))
        assert not hls_is_live(server.url("/list.m3u8", "me:other@"))


def test_a_playlist_from_the_network_cannot_lead_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "media.m3u8"
    path.write_bytes(LIVE)
    master = MASTER.replace(b"low/media.m3u8", path.as_uri().encode())
    with hls_server({"/master.m3u8": master}) as server:
        assert not hls_is_live(server.url("/master.m3u8"))

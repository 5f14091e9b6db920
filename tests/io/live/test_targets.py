"""Where a live output may go, told before anything is connected to."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from upframe.io.errors import SinkRefused, SourceMissing
from upframe.io.live.archive import NamePattern
from upframe.io.live.target import find_live_target, is_live_target
from upframe.io.web import NetworkRules, network_rules


@pytest.mark.parametrize(
    ("text", "form", "url"),
    [
        ("rtsp://h/x", "rtsp", "rtsp://h/x"),
        ("rtmp://h/app/key", "flv", "rtmp://h/app/key"),
        ("tcp://h:5", "mpegts", "tcp://h:5?timeout=5000000"),
        ("tcp://h:5?timeout=7", "mpegts", "tcp://h:5?timeout=7"),
        ("udp://h:5", "mpegts", "udp://h:5?pkt_size=1316"),
        ("udp://h:5?ttl=2", "mpegts", "udp://h:5?ttl=2&pkt_size=1316"),
        ("rtp://h:5", "rtp_mpegts", "rtp://h:5"),
        ("http://h/live/a.m3u8?key=1", "hls", "http://h/live/a.m3u8?key=1"),
        ("https://h/cam/whip", "whip", "https://h/cam/whip"),
        ("whips://h/cam", "whip", "https://h/cam"),
    ],
)
def test_a_url_tells_its_muxer_and_carries_what_ffmpeg_takes_only_there(
    text: str, form: str, url: str
) -> None:
    with network_rules(NetworkRules(tls_insecure=True)):  # by WHIP no certificate can be verified
        target = find_live_target(text)
    assert (target.format, target.url, target.is_file) == (form, url, False)
    assert is_live_target(text)


def test_srt_is_sent_by_a_program_where_the_libraries_have_none() -> None:
    target = find_live_target("srt://h:5?mode=caller")
    assert target.format == "mpegts"
    assert target.url == "srt://h:5?mode=caller"


def test_srt_without_a_way_to_send_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not find_live_target("srt://h:5").needs_ffmpeg:
        pytest.skip("the libraries have SRT")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SinkRefused, match="no ffmpeg program"):
        find_live_target("srt://h:5")


def test_rtsp_goes_over_tcp() -> None:
    assert find_live_target("rtsp://h/x").options["rtsp_transport"] == "tcp"


@pytest.mark.parametrize(
    ("text", "form", "why"),
    [
        ("ftp://h/x", None, "wanted rtsp://"),
        ("rtsp:///x", None, "no host"),
        ("rtsp://h:port/x", None, "not a URL"),
        ("https://h/whip", None, "cannot verify its certificate"),
        ("http://h/x.mp4", None, r"wanted an \.m3u8"),
        ("rtsp://h/x", "mp4", "carries rtsp, not mp4"),
        ("tcp://h:1", "cheese", "unknown output format 'cheese'"),
        ("out.png", None, "cannot tell the format"),
        ("out", None, "cannot tell the format"),
        ("out.gif", None, "gif cannot be recorded live"),
        ("frame_%05d.png", None, "cannot tell the format"),
        ("no/such/folder/out.mp4", None, "folder does not exist"),
        ("no/such/%Y.mp4", None, "folder does not exist"),
        ("no/such/out.m3u8", None, "folder does not exist"),
        ("%Y-%q.mp4", None, "unknown field %q"),
    ],
)
def test_what_cannot_be_written_is_refused_at_once(
    text: str, form: str | None, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SinkRefused, match=why):
        find_live_target(text, format=form)


@pytest.mark.parametrize(
    ("name", "kind", "form"),
    [
        ("out.mp4", "file", "mp4"),
        ("100%.mkv", "file", "matroska"),
        ("%Y%m%d-%H%M%S.mp4", "rolling", "mp4"),
        ("%Y/%m/%H.ts", "rolling", "mpegts"),
        ("live.m3u8", "hls", "hls"),
    ],
)
def test_a_name_tells_what_is_written(name: str, kind: str, form: str, tmp_path: Path) -> None:
    target = find_live_target(str(tmp_path / name))
    assert (target.kind, target.format) == (kind, form)
    assert target.is_file == (kind in ("file", "rolling"))
    assert is_live_target(name) == (kind == "hls")


def test_a_file_that_is_there_is_not_replaced_unasked(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"mine")
    with pytest.raises(SinkRefused, match="output exists"):
        find_live_target(str(path))
    assert find_live_target(str(path), overwrite=True).overwrite


def test_where_it_is_asked_for_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    assert find_live_target(str(path), numbered=True).url == str(path)
    path.write_bytes(b"mine")
    (tmp_path / "out-1.mp4").symlink_to(tmp_path / "gone.mp4")
    assert find_live_target(str(path), numbered=True).url == str(tmp_path / "out-2.mp4")
    assert find_live_target(str(path), numbered=True, overwrite=True).url == str(path)


def test_mp4_is_not_written_to_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out.mp4")
    with pytest.raises(SinkRefused, match="cannot seek"):
        find_live_target(str(tmp_path / "out.mp4"))


def test_passwords_are_in_the_url_and_nowhere_else(tmp_path: Path) -> None:
    secret = tmp_path / "login"
    secret.write_text("user:pa/ss\n")
    secret.chmod(0o600)
    typed = find_live_target("rtsp://user:pa55@h/x")
    filed = find_live_target("rtsp://h/x", credentials_file=secret)
    assert "pa55" in typed.url
    assert filed.url == "rtsp://user:pa%2Fss@h/x"
    for target, word in ((typed, "pa55"), (filed, "pa%2Fss")):
        assert word not in target.display + repr(target)


def test_credentials_that_others_can_read_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "login"
    secret.write_text("user:pass\n")
    secret.chmod(0o644)
    with pytest.raises(SourceMissing, match="lets everybody read it"):
        find_live_target("rtsp://h/x", credentials_file=secret)
    with pytest.raises(SinkRefused, match="takes no credentials"):
        find_live_target(str(tmp_path / "out.mp4"), credentials_file=secret)


def test_names_follow_the_clock_and_keep_what_is_no_field(tmp_path: Path) -> None:
    naming = NamePattern(tmp_path / "100%%" / "%Y-%H%M%S.mp4")
    moment = time.mktime((2024, 2, 29, 13, 5, 9, 0, 0, -1))
    assert naming.at(moment) == tmp_path / "100%" / "2024-130509.mp4"


def test_only_what_this_pattern_has_left_is_found(tmp_path: Path) -> None:
    day = tmp_path / "day[1]" / "29"
    day.mkdir(parents=True)
    mine = day / ".cam-130509.mp4.live-0123abcd.partial"
    others = ("cam-130509.mp4", ".cab-1.mp4.live-0123abcd.partial", ".cam-1.mp4.0123abcd.partial")
    for path in (mine, *(day / name for name in others)):
        path.touch()
    found = list(NamePattern(tmp_path / "day[1]" / "%d" / "cam-%H%M%S.mp4").leftovers())
    assert found == [(mine, day / "cam-130509.mp4")]

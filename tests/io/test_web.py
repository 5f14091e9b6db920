"""Hosts are looked at by their addresses, on every way to them; files of web servers are read."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.media.clips import make_clip

from upframe.io.errors import MediaError, SourceMissing, UnsupportedMedia
from upframe.io.extent import mp4_boxes
from upframe.io.source import open_source
from upframe.io.web import NetworkRules, RemoteFile, RemoteFiles, check_url, network_rules, open_url

INSIDE = """
    127.0.0.1 127.1 2130706433 0x7f.1 0x7f000001 017700000001 0177.0.0.1 127.255.255.254 localhost
    0.0.0.0 0 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 169.254.169.254 192.0.2.1
    198.18.0.1 203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255
    [::1] [::] [::127.0.0.1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::ffff:10.0.0.1] [fe80::1]
    [fe80::1%25lo] [fc00::1] [fdff::1] [fec0::1] [ff02::1] [64:ff9b::127.0.0.1] [64:ff9b::a00:1]
    [64:ff9b:1::1] [2002:7f00:1::] [2002:c0a8:101::1] [2001:db8::1] [2001::1] [100::1] [5f00::1]
"""
OUTSIDE = """
    93.184.216.34 8.8.8.8 1572395042 [2606:4700::1111] [::ffff:8.8.8.8] [64:ff9b::8.8.8.8]
    [2002:808:808::1]
"""


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", INSIDE.split())
def test_no_spelling_of_an_address_inside_is_taken_for_a_public_one(host: str, scheme: str) -> None:
    with pytest.raises((UnsupportedMedia, SourceMissing), match=r"allowed_hosts|no such host"):
        check_url(f"{scheme}://user:pw@{host}:8080/a.mp4", ())


@pytest.mark.parametrize("host", OUTSIDE.split())
def test_public_addresses_pass(host: str) -> None:
    url = f"http://{host}/a.mp4"
    assert check_url(url, ()) == url


@pytest.mark.parametrize(
    ("host", "named", "passes"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("0x7f.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.0/8", True),
        ("127.0.0.2", "127.0.0.1", False),
        ("localhost", "LocalHost.", True),
        ("localhost", "local", False),
        ("[::1]", "::1", True),
        ("[::ffff:127.0.0.1]", "127.0.0.0/8", True),
        ("[::1]", "127.0.0.0/8", False),
        ("10.2.3.4", "10.2.0.0/255.255.0.0", True),
        ("10.3.3.4", "10.2.0.0/16", False),
    ],
)
def test_hosts_are_named_by_name_address_or_network(host: str, named: str, passes: bool) -> None:
    if passes:
        assert check_url(f"http://{host}/", (named,))
    else:
        with pytest.raises(UnsupportedMedia, match="allowed_hosts"):
            check_url(f"http://{host}/", (named,))


def test_by_other_protocols_a_host_must_be_named_and_ffmpeg_gets_its_address() -> None:
    with pytest.raises(UnsupportedMedia, match="wanted a host of"):
        check_url("rtsp://93.184.216.34/a", ())
    known = ("127.0.0.1", "::1")
    url = check_url("rtsp://user:pw@localhost:8554/a?b=c", known)
    assert re.fullmatch(r"rtsp://user:pw@(127\.0\.0\.1|\[::1\]):8554/a\?b=c", url)
    assert (
        check_url("rtsps://localhost/a", known) == "rtsps://localhost/a"
    )  # the name's certificate


class Pages:
    """A web server at some address of this machine; answers are made from the request."""

    def __init__(self, answer: Callable[[BaseHTTPRequestHandler], None], address: str) -> None:
        self.asked: list[tuple[str, str | None, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                header = self.headers
                outer.asked.append((self.path, header["Range"], header["Authorization"]))
                answer(self)

            def log_message(self, *_: object) -> None:
                """Nothing on stderr."""

        self.server = ThreadingHTTPServer((address, 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://{address}:{self.server.server_port}"


@contextmanager
def serving(
    answer: Callable[[BaseHTTPRequestHandler], None], address: str = "127.0.0.1"
) -> Generator[Pages]:
    pages = Pages(answer, address)
    thread = threading.Thread(target=pages.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield pages
    finally:
        pages.server.shutdown()
        thread.join()
        pages.server.server_close()


def send(
    request: BaseHTTPRequestHandler, data: bytes = b"", status: int = 200, **headers: str
) -> None:
    request.send_response(status)
    for name, value in ({"Content-Length": str(len(data))} | headers).items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(data)


def files_of(folder: Path) -> Callable[[BaseHTTPRequestHandler], None]:
    """Serve the files of a folder, whole or in parts."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        path = folder / request.path.strip("/")
        if not path.is_file():
            return send(request, status=404)
        data, span = path.read_bytes(), request.headers["Range"]
        if span is None:
            return send(request, data)
        start, _, last = span.removeprefix("bytes=").partition("-")
        part = data[int(start) : int(last) + 1 if last else None]
        return send(request, part, 206)

    return answer


FIRST, SECOND = NetworkRules(hosts=("127.0.0.1",)), "127.0.0.2"


def failure(url: str) -> str:
    with pytest.raises(MediaError) as caught:
        open_source(url).close()
    return str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_leads_to_no_host_that_is_not_allowed(status: int, tmp_path: Path) -> None:
    make_clip(tmp_path / "a.mp4", frames=3)
    with serving(files_of(tmp_path), SECOND) as second:
        target = f"{second.url}/a.mp4"
        with serving(lambda request: send(request, status=status, Location=target)) as first:
            with network_rules(FIRST):
                assert "allowed_hosts" in failure(f"{first.url}/a.mp4")
            assert second.asked == []
            with (
                network_rules(NetworkRules(hosts=("127.0.0.0/8",))),
                closing(open_source(f"{first.url}/a.mp4")) as source,
            ):
                assert len(list(source)) == 3


@pytest.mark.parametrize("scheme", ["file", "ftp", "rtsp", "concat", "tcp", "unknown"])
def test_a_redirect_leads_to_no_other_scheme(scheme: str, tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=3)
    with serving(
        lambda request: send(request, status=302, Location=f"{scheme}://localhost{path}")
    ) as first:
        assert failure(f"{first.url}/a.mp4")


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n{}#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"


def test_what_a_playlist_names_is_looked_at_too(tmp_path: Path) -> None:
    make_clip(tmp_path / "a.ts", frames=6)
    with serving(files_of(tmp_path), SECOND) as second, serving(files_of(tmp_path)) as first:
        (tmp_path / "far.m3u8").write_text(PLAYLIST.format("", f"{second.url}/a.ts"))
        (tmp_path / "file.m3u8").write_text(PLAYLIST.format("", f"file://{tmp_path}/a.ts"))
        (tmp_path / "near.m3u8").write_text(PLAYLIST.format("", "a.ts"))
        with network_rules(FIRST):
            assert "allowed_hosts" in failure(f"{first.url}/far.m3u8")
            assert second.asked == []
            assert "wanted http(s)" in failure(f"{first.url}/file.m3u8")
            with closing(open_source(f"{first.url}/near.m3u8")) as source:
                assert len(list(source)) == 6


def test_a_name_that_changes_its_address_leads_to_what_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_clip(tmp_path / "a.mp4", frames=3)
    answers = iter(["127.0.0.1", "127.0.0.1"])
    asking = socket.getaddrinfo

    def rebinding(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        where = next(answers, SECOND) if host == "rebind.test" else host
        return asking(where, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with serving(files_of(tmp_path), SECOND) as second:
        port = second.server.server_port
        with network_rules(FIRST):
            failure(f"http://rebind.test:{port}/a.mp4")
        assert next(answers, None) is None  # both were asked for, and then another
        assert second.asked == []


def test_a_name_of_which_one_address_is_not_allowed_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asking = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_: asking("93.184.216.34", 80) + asking("10.0.0.1", 80)
    )
    with pytest.raises(UnsupportedMedia, match=r"is 10\.0\.0\.1"):
        check_url("http://mixed.test/a.mp4", ())


def test_without_rules_every_host_is_read(tmp_path: Path) -> None:
    make_clip(tmp_path / "a.mp4", frames=3)
    with (
        serving(files_of(tmp_path), SECOND) as second,
        closing(open_source(f"{second.url}/a.mp4")) as source,
    ):
        assert len(list(source)) == 3


# How files of web servers are read.


def test_a_file_is_read_from_anywhere(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "a").write_bytes(data)
    with serving(files_of(tmp_path)) as pages, closing(RemoteFile(f"{pages.url}/a", 5)) as file:
        assert file.seekable()
        assert file.seek(-10, os.SEEK_END) == len(data) - 10
        assert file.read(100) == data[-10:]
        assert file.read(100) == b""
        file.seek(1000)
        assert file.read(5) == data[1000:1005]
        assert file.tell() == 1005
    assert [span for _, span, _ in pages.asked] == [
        "bytes=0-",
        f"bytes={len(data) - 10}-",
        "bytes=1000-",
    ]


def test_names_need_not_be_escaped() -> None:
    with serving(lambda request: send(request, request.path.encode())) as pages:
        for name in ("ä b.ts?c=d e&f", "%C3%A4%20b.ts?c=d%20e&f"):
            with open_url(f"{pages.url}/{name}", 5) as response:
                assert response.read() == b"/%C3%A4%20b.ts?c=d%20e&f"


def test_a_file_that_ends_too_early_is_an_error() -> None:
    def cut(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "10")
        request.end_headers()
        request.wfile.write(b"abc")

    with serving(cut) as pages, closing(RemoteFile(pages.url, 5)) as file:
        assert file.read(100) == b"abc"
        with pytest.raises(OSError, match="ends after 3 of 10 bytes"):
            file.read(100)


def test_a_part_is_asked_for_and_nothing_else_is_taken() -> None:
    with (
        serving(lambda request: send(request, b"whole")) as pages,
        pytest.raises(OSError, match="got status 200"),
    ):
        RemoteFile(pages.url, 5, (2, 4))


def pour(request: BaseHTTPRequestHandler, mebibytes: int, **headers: str) -> int:
    """Answer without an end that was told of; count the MiB that were taken."""
    request.send_response(302 if headers else 200)
    for name, value in headers.items():
        request.send_header(name, value)
    request.end_headers()
    for sent in range(mebibytes):
        try:
            request.wfile.write(bytes(1 << 20))
        except OSError:
            return sent
    return mebibytes


def test_of_a_redirect_no_more_than_the_place_is_read(tmp_path: Path) -> None:
    make_clip(tmp_path / "a.mp4", frames=3)
    taken = list[int]()

    def answer(request: BaseHTTPRequestHandler) -> None:
        if request.path == "/b":
            return taken.append(pour(request, 64, Location="/a.mp4"))
        return files_of(tmp_path)(request)

    with serving(answer) as pages, closing(open_source(f"{pages.url}/b")) as source:
        assert len(list(source)) == 3
        pages.server.server_close()  # waits for nothing: the threads are daemons
    assert not taken or taken[0] < 32


def test_an_encrypted_segment_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upframe.io.web._MOST_ENCRYPTED_BYTES", 4 << 20)
    (tmp_path / "key").write_bytes(bytes(16))
    tag = '#EXT-X-KEY:METHOD=AES-128,URI="key"\n'
    (tmp_path / "a.m3u8").write_text(PLAYLIST.format(tag, "endless.ts"))
    taken = list[int]()

    def answer(request: BaseHTTPRequestHandler) -> None:
        if request.path == "/endless.ts":
            return taken.append(pour(request, 64))
        return files_of(tmp_path)(request)

    with serving(answer) as pages:
        assert "an encrypted segment of more than" in failure(f"{pages.url}/a.m3u8")
    assert not taken or taken[0] < 32


@pytest.mark.parametrize("parts", [True, False])
def test_an_index_at_the_end_needs_a_server_that_gives_parts(parts: bool, tmp_path: Path) -> None:
    """Whether it says that it does in words of its own, by Accept-Ranges, or not."""
    clip = make_clip(tmp_path / "a.mp4", frames=50)
    (_, begin), (name, _) = mp4_boxes(clip)[-2:]
    assert name == "moov"
    data = clip.read_bytes()
    gap = (1 << 20).to_bytes(4) + b"free" + bytes((1 << 20) - 8)  # more than is read ahead
    clip.write_bytes(data[:begin] + gap + data[begin:])

    def answer(request: BaseHTTPRequestHandler) -> None:
        return files_of(tmp_path)(request) if parts else send(request, clip.read_bytes())

    with serving(answer) as pages:
        if parts:
            with closing(open_source(f"{pages.url}/a.mp4")) as source:
                assert len(list(source)) == 50
        else:
            assert "a.mp4" in failure(f"{pages.url}/a.mp4")


@pytest.mark.parametrize("length", ["abc", "-5", "1_0", "9" * 20, "9" * 23, "9" * 5000])
@pytest.mark.parametrize("status", [200, 206])
def test_a_length_that_makes_no_sense_is_no_error_of_ours(
    length: str, status: int, tmp_path: Path
) -> None:
    data = make_clip(tmp_path / "a.ts", frames=50).read_bytes()

    def answer(request: BaseHTTPRequestHandler) -> None:
        send(request, data, status, **{"Content-Length": length})

    with serving(answer) as pages:
        try:
            with closing(open_source(f"{pages.url}/a.ts")) as source:
                assert len(list(source)) == 50
        except MediaError:
            pass


@pytest.mark.parametrize("name", ["data:;base64,@", "data:x", "http://[::1/x", "http://a:x/"])
def test_a_name_that_makes_no_sense_is_a_segment_that_is_not_there(name: str) -> None:
    assert RemoteFiles("http://localhost/a.m3u8", 5)(name, 0, {}).read(1) == b""


def test_a_password_goes_to_its_own_host_only(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"there")
    with serving(files_of(tmp_path), SECOND) as second:

        def answer(request: BaseHTTPRequestHandler) -> None:
            if request.headers["Authorization"] is None:
                return send(request, status=401, WWW_Authenticate='Basic realm="x"')
            return send(request, status=302, Location=f"{second.url}/a")

        with serving(answer) as first:
            url = first.url.replace("://", "://user:s3cret@")
            with open_url(url, 5) as response:
                assert response.read() == b"there"
        assert first.asked[-1][2] is not None
        assert [login for _, _, login in second.asked] == [None]


def test_digest_is_known(tmp_path: Path) -> None:
    def md5(text: str) -> str:
        return hashlib.md5(text.encode()).hexdigest()

    def answer(request: BaseHTTPRequestHandler) -> None:
        given = dict(re.findall(r'(\w+)="([^"]*)"', request.headers["Authorization"] or ""))
        wanted = md5(f"{md5('user:x:p@ss')}:abc:{md5('GET:/a')}")
        if given.get("response") != wanted:
            return send(request, status=401, WWW_Authenticate='Digest realm="x", nonce="abc"')
        return send(request, b"there")

    with serving(answer) as pages:
        with open_url(pages.url.replace("://", "://user:p%40ss@") + "/a", 5) as response:
            assert response.read() == b"there"
        with pytest.raises(OSError, match="401"):
            open_url(pages.url.replace("://", "://user:other@") + "/a", 5)


def test_an_encrypted_playlist_plays(tmp_path: Path) -> None:
    key, vector = bytes(range(16)), bytes(16)
    (tmp_path / "key").write_bytes(key)
    plain = make_clip(tmp_path / "plain.ts", frames=6).read_bytes()
    options = {"key": key.hex(), "iv": vector.hex()}
    encrypt(plain, tmp_path / "a.ts", options)
    tag = f'#EXT-X-KEY:METHOD=AES-128,URI="key",IV=0x{vector.hex()}\n'
    (tmp_path / "a.m3u8").write_text(PLAYLIST.format(tag, "a.ts"))
    with (
        serving(files_of(tmp_path)) as pages,
        closing(open_source(f"{pages.url}/a.m3u8")) as source,
    ):
        assert len(list(source)) == 6


def encrypt(data: bytes, path: Path, options: Mapping[str, str]) -> None:
    command = ["openssl", "enc", "-aes-128-cbc", "-K", options["key"], "-iv", options["iv"]]
    path.write_bytes(subprocess.run(command, input=data, stdout=-1, check=True).stdout)


def test_parts_of_one_file_are_segments(tmp_path: Path) -> None:
    clips = [make_clip(tmp_path / f"{n}.ts", frames=6).read_bytes() for n in range(2)]
    (tmp_path / "all.ts").write_bytes(b"".join(clips))
    lines = [
        f"#EXTINF:0.12,\n#EXT-X-BYTERANGE:{len(clip)}@{offset}\nall.ts"
        for clip, offset in zip(clips, (0, len(clips[0])), strict=True)
    ]
    text = "#EXTM3U\n#EXT-X-VERSION:4\n#EXT-X-TARGETDURATION:1\n{}\n#EXT-X-ENDLIST\n"
    (tmp_path / "a.m3u8").write_text(text.format("\n#EXT-X-DISCONTINUITY\n".join(lines)))
    with (
        serving(files_of(tmp_path)) as pages,
        closing(open_source(f"{pages.url}/a.m3u8")) as source,
    ):
        assert len(list(source)) == 12

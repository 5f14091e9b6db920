"""A source opens what the user named, and nothing that its content names elsewhere."""

from __future__ import annotations

import ctypes
import io
import os
import threading
import time
from collections import deque
from contextlib import closing, suppress
from pathlib import Path

import pytest
from support.media.clips import make_clip, make_sequence, make_still
from support.servers.hls import HlsServer, hls_server

from upframe.io.decode import access
from upframe.io.decode.demuxer import find_target, open_container
from upframe.io.errors import InputLost, MediaError, SourceMissing, TruncatedMedia, UnsupportedMedia
from upframe.io.live.address import find_address
from upframe.io.live.input_connection import UrlConnection
from upframe.io.root import ConfinedFile, Root, opened_source
from upframe.io.source import open_source

HEAD = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:2\n"


def playlist_of(path: Path, *names: str) -> Path:
    entries = "".join(f"#EXTINF:0.48,\n{name}\n" for name in names)
    path.write_text(f"{HEAD}{entries}#EXT-X-ENDLIST\n")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "inside"
    (inside / "sub").mkdir(parents=True)
    for path in (inside / "a.ts", inside / "sub" / "b.ts", tmp_path / "outside.ts"):
        make_clip(path, options={"g": "12"})
    return inside


def num_pictures(path: Path | str | ConfinedFile) -> int:
    source = open_source(path if isinstance(path, ConfinedFile) else str(path))
    try:
        return sum(1 for _ in source)
    finally:
        source.close()


def test_a_playlist_of_its_own_folder_is_read(folder: Path) -> None:
    assert num_pictures(playlist_of(folder / "list.m3u8", "a.ts")) == 12
    assert num_pictures(playlist_of(folder / "list.m3u8", "sub/b.ts")) == 12


@pytest.mark.parametrize(
    "name", ["../outside.ts", "sub/../../outside.ts", "{outside}", "file:{outside}"]
)
def test_a_playlist_that_names_other_files_is_refused(name: str, folder: Path) -> None:
    named = name.format(outside=folder.parent / "outside.ts")
    path = playlist_of(folder / "list.m3u8", "a.ts", named)
    with pytest.raises(UnsupportedMedia, match="wanted only files in its folder"):
        num_pictures(path)


def test_a_link_out_of_the_folder_is_outside(folder: Path) -> None:
    (folder / "link.ts").symlink_to(folder.parent / "outside.ts")
    with pytest.raises(UnsupportedMedia, match=r"link\.ts"):
        num_pictures(playlist_of(folder / "list.m3u8", "link.ts"))


@pytest.mark.parametrize("uri", ['"{}"', "{}", '"{}",IV=0x1'])
def test_a_key_is_no_way_out_either(uri: str, folder: Path) -> None:
    path = playlist_of(folder / "list.m3u8", "a.ts")
    key = f"#EXT-X-KEY:METHOD=AES-128,URI={uri.format('../outside.ts')}\n"
    path.write_text(path.read_text().replace("#EXTINF", f"{key}#EXTINF", 1))
    with pytest.raises(UnsupportedMedia, match=r"outside\.ts"):
        num_pictures(path)


def test_nor_is_a_playlist_in_a_playlist(folder: Path) -> None:
    playlist_of(folder / "media.m3u8", "../outside.ts")
    master = folder / "master.m3u8"
    master.write_text("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000\nmedia.m3u8\n")
    with pytest.raises(UnsupportedMedia, match=r"outside\.ts"):
        num_pictures(master)
    playlist_of(folder / "media.m3u8", "a.ts")
    assert num_pictures(master) == 12


def test_a_playlist_under_another_name_is_one_too(folder: Path) -> None:
    path = playlist_of(folder / "holiday.mp4", "../outside.ts")
    with pytest.raises(UnsupportedMedia):
        num_pictures(path)


def test_a_local_playlist_fetches_nothing(folder: Path) -> None:
    with hls_server({"/a.ts": (folder / "a.ts").read_bytes()}) as server:
        path = playlist_of(folder / "list.m3u8", server.url("/a.ts"))
        for target in (str(path), path.as_uri()):
            with pytest.raises(MediaError):
                num_pictures(target)
        assert server.asked == []


def test_a_playlist_from_a_pipe_opens_nothing(folder: Path) -> None:
    with hls_server({"/a.ts": (folder / "a.ts").read_bytes()}) as server:
        for name in (str(folder / "a.ts"), server.url("/a.ts")):
            content = playlist_of(folder / "list.m3u8", name).read_bytes()
            with pytest.raises(MediaError):
                open_source(io.BytesIO(content), format="hls")
        assert server.asked == []


def test_a_playlist_of_the_network_opens_no_file(folder: Path) -> None:
    good = playlist_of(folder / "list.m3u8", "a.ts").read_bytes()
    bad = playlist_of(folder / "list.m3u8", (folder / "a.ts").as_uri()).read_bytes()
    pages = {"/good.m3u8": good, "/bad.m3u8": bad, "/a.ts": (folder / "a.ts").read_bytes()}
    with hls_server(pages) as server:
        assert num_pictures(server.url("/good.m3u8")) == 12
        with pytest.raises(MediaError):
            num_pictures(server.url("/bad.m3u8"))


class Canary:
    """A file whose openings are counted, by whomever (inotify(7))."""

    _IN_OPEN = 0x20

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        assert libc.inotify_add_watch(self._descriptor, os.fsencode(path), self._IN_OPEN) > 0

    def num_opened(self) -> int:
        try:
            return len(os.read(self._descriptor, 4096)) // 16
        except BlockingIOError:
            return 0

    def close(self) -> None:
        os.close(self._descriptor)


def media(*lines: str) -> str:
    return "\n".join([HEAD.strip(), *lines, "#EXT-X-ENDLIST\n"])


def segment(name: str) -> str:
    return media("#EXTINF:0.48,", name)


def tagged(tag: str) -> str:
    return media(tag, "#EXTINF:0.48,", "a.ts")


MASTER = "#EXTM3U\n{}\n#EXT-X-STREAM-INF:BANDWIDTH=1000{}\n{}\n"
OUT = "../outside.ts"  # with {out} for its absolute path and {url} for a server's

HOSTILE: dict[str, str] = {
    **{
        f"segment {name}": segment(name)
        for name in (
            OUT, "{out}", "file:{out}", "crypto:{out}", "crypto+file:{out}", "{url}", "cache:{out}",
            "concat:{out}|{out}", "concatf:{out}", "subfile,,start,0,end,0,,:{out}", "async:{out}",
            "link.ts", "sub/../../outside.ts", "./sub/..//../outside.ts", "tcp://{url}",
        )
    },
    "line ended by NUL": media("#EXTINF:0.48,", f"#\0{OUT}"),
    "VT in a line": media("#EXTINF:0.48,", f"x\v#y/../{OUT}"),
    "NEL in a line": media("#EXTINF:0.48,", f"x\x85#y/../{OUT}"),
    "line ended by CR": segment("a.ts\r#EXTINF:0.48,\r" + OUT),
    "behind 16 MiB": media("#" * (17 << 20), "#EXTINF:0.48,", OUT),
    "key": tagged('#EXT-X-KEY:METHOD=AES-128,URI="{out}"'),
    "key, unclosed": tagged('#EXT-X-KEY:METHOD=AES-128,URI="{out}'),
    "key, SAMPLE-AES": tagged('#EXT-X-KEY:METHOD=SAMPLE-AES,URI="{out}"'),
    "map": tagged('#EXT-X-MAP:URI="{out}"'),
    "map, unclosed": tagged('#EXT-X-MAP:URI="{out}'),
    "map, escaped": tagged('#EXT-X-MAP:URI="..\\/outside.ts"'),
    "map of a range": tagged('#EXT-X-MAP:URI="{out}",BYTERANGE="188@0"'),
    "rendition": MASTER.format(
        '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="a",DEFAULT=YES,URI="{out}"',
        ',AUDIO="a"',
        "good.m3u8",
    ),
    "variant": MASTER.format("", "", "sub/outside.m3u8"),
    "ffconcat": "ffconcat version 1.0\nfile link.ts\n",
    "ffconcat of a playlist": "ffconcat version 1.0\nfile sub/outside.m3u8\n",
    "ffconcat, absolute": "ffconcat version 1.0\nfile {out}\n",
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "RTSP redirection": "rtsptext\nrtsp://127.0.0.1:{port}/x\n",
    "ASX": '<asx version="3"><entry><ref href="{out}"/></entry></asx>\n',
    "DASH": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="video/mp2t">'
    '<Representation id="1" bandwidth="1"><BaseURL>{out}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>\n",
    "SMIL": '<smil><body><video src="{out}"/></body></smil>\n',
    "SVG": '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="64" height="48">'
    '<image href="{out}" width="64" height="48"/></svg>\n',
    "VobSub": "# VobSub index file, v7 (do not modify this line!)\nsize: 64x48\n"
    "id: en, index: 0\ntimestamp: 00:00:01:101, filepos: 000000000\n",
    "pattern of pictures": "nothing",
    "Avisynth script": 'FFVideoSource("{out}")\n',
    "FFmpeg's filters": "movie={out}\n",
}  # fmt: skip
SUFFIXES = {
    "SDP": "sdp", "RTSP redirection": "rtsp", "ASX": "asx", "DASH": "mpd", "SMIL": "smil",
    "SVG": "svg", "VobSub": "idx", "pattern of pictures": "png", "Avisynth script": "avs",
    "ffconcat": "ffconcat", "FFmpeg's filters": "lavfi",
}  # fmt: skip


def hostile(kind: str, folder: Path, server: HlsServer) -> Path:
    """Write a hostile file, and what lies around it."""
    out = folder.parent / "outside.ts"
    (folder / "link.ts").symlink_to(out)
    for name in ("x\v#y", "x\x85#y"):
        (folder / name).mkdir()
    playlist_of(folder / "good.m3u8", "a.ts")
    playlist_of(folder / "sub" / "outside.m3u8", "../" + OUT)
    stem = "h%03d" if kind == "pattern of pictures" else "hostile"
    (folder / "h001.png").symlink_to(out)
    (folder / "hostile.sub").symlink_to(out)
    path = folder / f"{stem}.{SUFFIXES.get(kind, 'm3u8')}"
    values = {"out": out, "url": server.url("/a.ts"), "port": server.port}
    text = HOSTILE[kind]
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", str(value))
    path.write_text(text, newline="")
    return path


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_outside_is_opened_whatever_a_file_names(kind: str, folder: Path) -> None:
    pages = {"/a.ts": (folder / "a.ts").read_bytes()}
    with hls_server(pages) as server, closing(Canary(folder.parent / "outside.ts")) as canary:
        path = hostile(kind, folder, server)
        with suppress(MediaError):
            num_pictures(path)
        assert canary.num_opened() == 0
        assert server.asked == []


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("forced", [False, True])
def test_a_stream_of_bytes_opens_nothing_at_all(kind: str, forced: bool, folder: Path) -> None:
    pages = {"/a.ts": (folder / "a.ts").read_bytes()}
    with hls_server(pages) as server, closing(Canary(folder.parent / "outside.ts")) as canary:
        content = hostile(kind, folder, server).read_bytes()
        format_name = ("concat" if kind.startswith("ffconcat") else "hls") if forced else None
        with suppress(MediaError), closing(open_source(io.BytesIO(content), format=format_name)):
            pass
        assert canary.num_opened() == 0
        assert server.asked == []


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_comes_from_the_network_opens_no_file(kind: str, folder: Path) -> None:
    pages: dict[str, bytes] = {}
    with hls_server(pages) as server, closing(Canary(folder.parent / "outside.ts")) as canary:
        path = hostile(kind, folder, server)
        out = folder.parent / "outside.ts"
        pages[f"/{path.name}"] = path.read_bytes().replace(OUT.encode(), out.as_uri().encode())
        pages["/good.m3u8"] = (folder / "good.m3u8").read_bytes()
        pages["/a.ts"] = (folder / "a.ts").read_bytes()
        with suppress(MediaError):
            num_pictures(server.url(f"/{path.name}"))
        assert canary.num_opened() == 0


@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile a.ts\n"])
def test_a_list_that_ffmpeg_opens_past_us_is_refused_and_said(text: str, folder: Path) -> None:
    path = folder / "clips.ffconcat"
    path.write_text(text)
    with pytest.raises(UnsupportedMedia, match="a list of other files, such as ffconcat"):
        num_pictures(path)


def test_what_is_added_to_a_playlist_later_is_held_to_the_same_rule(folder: Path) -> None:
    path = folder / "live.m3u8"
    begin = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-PLAYLIST-TYPE:EVENT\n"
    path.write_text(f"{begin}#EXTINF:0.48,\na.ts\n")
    with closing(Canary(folder.parent / "outside.ts")) as canary:
        connection = UrlConnection(find_address(str(path)), now=time.monotonic, lines=deque())
        with closing(connection):
            packets = connection.packets(connection.container.streams)
            next(packets)
            path.write_text(f"{begin}#EXTINF:0.48,\na.ts\n#EXTINF:0.48,\n{OUT}\n#EXT-X-ENDLIST\n")
            with pytest.raises(InputLost, match=r"names 'file:.*outside\.ts'") as lost:
                deque(packets, maxlen=0)
        assert lost.value.reason == "unsupported"
        assert canary.num_opened() == 0


def test_a_segment_that_is_gone_is_passed_over(folder: Path) -> None:
    assert num_pictures(playlist_of(folder / "list.m3u8", "a.ts", "gone.ts", "sub/b.ts")) == 24


def test_a_fifo_named_by_a_playlist_is_refused_and_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "fifo.ts")
    with pytest.raises(UnsupportedMedia, match="is a FIFO, wanted a regular file"):
        num_pictures(playlist_of(folder / "list.m3u8", "a.ts", "fifo.ts"))


DIALECT = {  # a name that is there, patterns of ours that match it, and what FFmpeg's would
    "frame_a1.png": ["frame_[a]1.png", "frame_[!b]1.png", "frame_*.png", "frame_a%d.png"],
    "{a,b}1.png": ["{a,b}%d.png", "{a,b}*.png"],
    r"\b1.png": [r"\b%d.png", r"\b?.png"],
    "100%_01.png": ["100%_%02d.png"],
    "^1.png": ["[^a]1.png"],
}


@pytest.mark.parametrize("beneath", [False, True])
@pytest.mark.parametrize(
    ("name", "pattern"), [(name, one) for name, all_ in DIALECT.items() for one in all_]
)
def test_patterns_of_pictures_are_read_by_us_alone(
    name: str, pattern: str, beneath: bool, tmp_path: Path
) -> None:
    make_still(tmp_path / name, index=3)
    make_still(tmp_path / "b1.png", index=4)  # which FFmpeg takes for the second and the third
    found = find_target(within(tmp_path, pattern, beneath=beneath))
    assert found.images == (tmp_path / name,)
    with open_container(found) as opened:
        assert len(list(opened.decode(video=0))) == 1


def within(folder: Path, name: str, *, beneath: bool) -> str | ConfinedFile:
    path = str(folder / name)
    return ConfinedFile(path, Root(folder)) if beneath else path


@pytest.mark.parametrize("pattern", ["p%03d.png", "p*.png"])
def test_a_picture_that_leads_outside_of_its_root_is_refused(pattern: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    make_sequence(root, frames=3, start=1)
    for number in (1, 2, 3):
        (root / f"frame_{number:05d}.png").rename(root / f"p{number:03d}.png")
    found = find_target(within(root, pattern, beneath=True))
    (root / "p003.png").rename(tmp_path / "secret.png")
    (root / "p003.png").symlink_to(tmp_path / "secret.png")  # bent when it was listed already
    with closing(Canary(tmp_path / "secret.png")) as canary:
        with (
            pytest.raises(SourceMissing, match=r"p003\.png: .*leads outside"),
            open_container(found) as opened,
        ):
            deque(opened.decode(video=0), maxlen=0)
        assert canary.num_opened() == 0


@pytest.mark.parametrize("pattern", ["p%0999999999d.png", "p%d.png"])
def test_a_pattern_costs_no_memory_by_the_numbers_that_are_in_it(
    pattern: str, tmp_path: Path
) -> None:
    make_still(tmp_path / "p1.png")
    make_still(tmp_path / f"p{10**30}.png")
    with pytest.raises(MediaError, match=r"are missing, the first is 2|no such file"):
        find_target(str(tmp_path / pattern))


def test_a_sequence_that_loses_a_picture_meanwhile_is_no_shorter_one(tmp_path: Path) -> None:
    pattern = make_sequence(tmp_path, frames=3)
    found = find_target(pattern)
    found.images[2].unlink()
    with pytest.raises(SourceMissing, match="No such file"), open_container(found) as opened:
        deque(opened.decode(video=0), maxlen=0)


def test_a_fifo_below_a_root_is_refused_and_the_users_own_is_read(folder: Path) -> None:
    fifo = folder / "fifo.ts"
    os.mkfifo(fifo)
    with pytest.raises(SourceMissing, match="is a FIFO, wanted a regular file"):
        opened_source(str(fifo), Root(folder), None).__enter__()
    feeder = threading.Thread(target=lambda: fifo.write_bytes((folder / "a.ts").read_bytes()))
    feeder.start()
    assert num_pictures(fifo) == 12
    feeder.join()


def test_beneath_a_root_a_name_that_was_not_there_is_no_file_later(folder: Path) -> None:
    with pytest.raises(SourceMissing, match="no such file"):
        find_target(within(folder, "a.ts", beneath=True))


def test_a_playlist_beneath_a_root_may_name_what_lies_there(folder: Path) -> None:
    path = playlist_of(folder / "sub" / "list.m3u8", "../a.ts")
    with pytest.raises(UnsupportedMedia, match="wanted only files in its folder"):
        num_pictures(path)
    with opened_source(str(path), Root(folder), None) as source:
        assert num_pictures(source) == 12
    path = playlist_of(folder / "sub" / "list.m3u8", "../../outside.ts")
    with opened_source(str(path), Root(folder), None) as source:  # noqa: SIM117
        with pytest.raises(UnsupportedMedia, match=f"wanted only files in {folder}"):
            num_pictures(source)


def test_many_names_outside_are_refused_as_fast_as_one(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """PyAV would print the traceback of each but the last."""
    path = playlist_of(folder / "list.m3u8", *[f"../{number}/outside.ts" for number in range(9000)])
    began = time.monotonic()
    with pytest.raises(UnsupportedMedia, match=r"names 'file:.*/0/outside\.ts'"):
        num_pictures(path)
    assert time.monotonic() - began < 5
    assert capfd.readouterr().err == ""


def test_a_disk_that_fails_in_the_middle_ends_the_source_as_truncated(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = make_clip(tmp_path / "a.nut", frames=300, codec="rawvideo")
    assert path.stat().st_size > 2 * access.BUFFER_BYTES
    folder = os.open(tmp_path, os.O_RDONLY)
    with closing(open_source(str(path))) as source:
        for descriptor in Path("/proc/self/fd").iterdir():
            if descriptor.is_symlink() and str(descriptor.readlink()) == str(path):
                os.dup2(folder, int(descriptor.name))  # from which nothing can be read
        with pytest.raises(TruncatedMedia, match=r"reading failed after \d+ frames: Is a dir"):
            deque(source, maxlen=0)
    os.close(folder)
    assert capfd.readouterr().err == ""


def test_place_that_is_none_is_told_to_ffmpeg_which_goes_on(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.nut", codec="ffv1", frames=30)
    files = access.LocalFiles(clip)
    with closing(files(files.url)) as opened:
        assert opened.seek(-5) < 0
        assert opened.seek(3) == 3
    clip.write_bytes(clip.read_bytes()[:-60])  # what it says of its end leads to before its begin
    with closing(open_source(str(clip))) as source, suppress(TruncatedMedia):
        assert sum(1 for _ in source) >= 29

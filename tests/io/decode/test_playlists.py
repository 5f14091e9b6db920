"""A source opens what the user named, and nothing that its content names elsewhere."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hls_server import hls_server
from media_samples import make_clip

from upframe.io.errors import MediaError, UnsupportedMedia
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


def num_pictures(path: Path | str) -> int:
    source = open_source(str(path))
    try:
        return sum(1 for _ in source)
    finally:
        source.close()


def test_a_playlist_of_its_own_folder_is_read(folder: Path) -> None:
    assert num_pictures(playlist_of(folder / "list.m3u8", "a.ts")) == 12
    assert num_pictures(playlist_of(folder / "list.m3u8", "sub/b.ts")) == 12


@pytest.mark.parametrize(
    "name", ["../outside.ts", "sub/../../outside.ts", "{outside}", "file:{outside}", "file:a.ts"]
)
def test_a_playlist_that_names_other_files_is_refused(name: str, folder: Path) -> None:
    named = name.format(outside=folder.parent / "outside.ts")
    path = playlist_of(folder / "list.m3u8", "a.ts", named)
    with pytest.raises(UnsupportedMedia, match="wanted only files in its folder"):
        open_source(str(path))


def test_a_link_out_of_the_folder_is_outside(folder: Path) -> None:
    (folder / "link.ts").symlink_to(folder.parent / "outside.ts")
    with pytest.raises(UnsupportedMedia, match=r"link\.ts"):
        open_source(str(playlist_of(folder / "list.m3u8", "link.ts")))


@pytest.mark.parametrize("uri", ['"{}"', "{}", '"{}",IV=0x1'])
def test_a_key_is_no_way_out_either(uri: str, folder: Path) -> None:
    path = playlist_of(folder / "list.m3u8", "a.ts")
    key = f"#EXT-X-KEY:METHOD=AES-128,URI={uri.format('/etc/hostname')}\n"
    path.write_text(path.read_text().replace("#EXTINF", f"{key}#EXTINF", 1))
    with pytest.raises(UnsupportedMedia, match="/etc/hostname"):
        open_source(str(path))


def test_nor_is_a_playlist_in_a_playlist(folder: Path) -> None:
    playlist_of(folder / "media.m3u8", "../outside.ts")
    master = folder / "master.m3u8"
    master.write_text("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000\nmedia.m3u8\n")
    with pytest.raises(UnsupportedMedia, match=r"outside\.ts"):
        open_source(str(master))
    playlist_of(folder / "media.m3u8", "a.ts")
    assert num_pictures(master) == 12


def test_a_playlist_under_another_name_is_one_too(folder: Path) -> None:
    path = playlist_of(folder / "holiday.mp4", "/etc/hostname")
    with pytest.raises(UnsupportedMedia, match="/etc/hostname"):
        open_source(str(path))


def test_a_local_playlist_fetches_nothing(folder: Path) -> None:
    with hls_server({"/a.ts": (folder / "a.ts").read_bytes()}) as server:
        path = playlist_of(folder / "list.m3u8", server.url("/a.ts"))
        for target in (str(path), path.as_uri()):
            with pytest.raises(MediaError):
                open_source(target)
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
            open_source(server.url("/bad.m3u8"))


def test_a_list_of_clips_cannot_leave_its_folder(folder: Path) -> None:
    """FFmpeg's own rule for its concat demuxer, which we rely on."""
    path = folder / "clips.mp4"
    path.write_text(f"ffconcat version 1.0\nfile '{folder.parent / 'outside.ts'}'\n")
    with pytest.raises(MediaError):
        open_source(str(path))

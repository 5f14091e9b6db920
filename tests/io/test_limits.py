"""Inputs that would take the machine are refused by their headers, by whatever way they come."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import closing, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from support.media.clips import make_clip

from upframe.daemon.workers.attempt import probe_file
from upframe.io.errors import InputLost, MediaError, TooLargeMedia, UnsupportedMedia, WrongLimits
from upframe.io.limits import VARIABLE, InputLimits, limits
from upframe.io.live.address import find_address
from upframe.io.live.live_input import LiveInput
from upframe.io.source import open_source

QUICK = ["--upscale", "2", "--weights", "builtin", "--device", "cpu"]


def gif(width: int, height: int) -> bytes:
    """One pixel of data, of a size that is only said."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(3) + b"\xff" * 3
    image = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00"
    return head + image + b"\x3b"


def png(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(3 * width * 16 + 16))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def y4m(width: int, height: int) -> bytes:
    return b"YUV4MPEG2 W%d H%d F25:1\nFRAME\n" % (width, height) + bytes(1000)


def tiff(width: int, height: int) -> bytes:
    entries = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1)]
    entries += [(278, height), (279, 1000)]
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + table + bytes(1004)


PICTURES: dict[str, Callable[[int, int], bytes]] = {
    "a.gif": gif,
    "a.png": png,
    "a.tiff": tiff,
    "a.y4m": y4m,
}


MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
sys.exit(code)
"""
"""Between us and the process: what is forked off from a large process counts as large itself."""


def ended(words: list[object], **more: Any) -> tuple[int, str, int]:
    """Exit code, last line of stderr, and peak memory in MiB of a process."""
    command = [sys.executable, "-c", MEASURED, sys.executable, "-m", "upframe.daemon"]
    ran = subprocess.run(
        [*command, *map(str, words)], capture_output=True, text=True, check=False, **more
    )
    return ran.returncode, ran.stderr.splitlines()[-1], int(ran.stdout)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def hold(**given: int) -> None:
        monkeypatch.setenv(VARIABLE, json.dumps(given))

    return hold


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("size", [(16_000, 16_000), (30_000, 4), (4, 30_000)])
def test_picture_above_the_limits_is_refused_before_it_is_decoded(
    name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(PICTURES[name](*size))
    began = time.monotonic()
    with pytest.raises(
        TooLargeMedia, match=r"too large for memory: got .*, the limit is 16384x12288"
    ):
        open_source(str(path))
    assert time.monotonic() - began < 2
    assert probe_file(str(path)).kind == "refused"


@pytest.mark.parametrize("command", ["run", "probe", "verify", "pipe"])
def test_every_command_ends_with_75_and_takes_no_memory_for_it(
    command: str, tmp_path: Path
) -> None:
    path = tmp_path / ("a.y4m" if command == "pipe" else "a.gif")
    path.write_bytes(PICTURES[path.name](16_000, 16_000))
    words: dict[str, list[object]] = {
        "run": [path, tmp_path / "out.mkv", *QUICK],
        "probe": [path],
        "verify": [path],
        "pipe": QUICK,
    }
    with path.open("rb") as stdin:
        code, said, mebibytes = ended([command, *words[command]], stdin=stdin)
    assert code == 75, said
    assert "too large for memory: got" in said
    assert "the limit is 16384x12288" in said
    assert mebibytes < 600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("size", "fits"), [((64, 48), True), ((48, 64), True), ((64, 64), False)])
def test_a_turned_picture_is_as_large_as_an_upright_one(size: tuple[int, int], fits: bool) -> None:
    held = InputLimits(width=64, height=48)
    if fits:
        held.check_size(*size, "a film")
    else:
        with pytest.raises(TooLargeMedia, match="a film: too large for memory: got 64x64"):
            held.check_size(*size, "a film")


def many_streams(path: Path, count: int) -> Path:
    with av.open(str(path), "w") as output:
        video = output.add_stream("mpeg4", rate=25, width=64, height=48, pix_fmt="yuv420p")
        sounds = [output.add_stream("pcm_s16le", rate=8000, layout="mono") for _ in range(count)]
        for index in range(3):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = index
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        for sound in sounds:
            samples = av.AudioFrame(format="s16", layout="mono", samples=64)
            samples.sample_rate, samples.pts = 8000, 0
            output.mux(sound.encode(samples))
    return path


def many_chapters(path: Path, count: int) -> Path:
    """With falling ids, each of which libavformat compares with all before it."""
    clip = make_clip(path.with_name(f"short{path.suffix}"), frames=2)
    with av.open(str(clip)) as source, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        output.set_chapters(
            [
                {"id": count - n, "start": n, "end": n + 1, "time_base": Fraction(1, 1000),
                 "metadata": {}}
                for n in range(count)
            ]
        )  # fmt: skip
        for packet in source.demux():
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    return path


def many_attachments(path: Path, count: int) -> Path:
    clip = make_clip(path.with_name(f"short{path.suffix}"), frames=2)
    with av.open(str(clip)) as source, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for number in range(count):
            output.add_attachment(f"{number}.ttf", "application/x-truetype-font", b"font")
        for packet in source.demux():
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    return path


@pytest.mark.parametrize(
    ("make", "kind", "suffix"),
    [
        (many_streams, "streams", ".mkv"),
        (many_streams, "streams", ".mov"),
        (many_chapters, "chapters", ".mkv"),
        (many_attachments, "attachments", ".mkv"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_too_many_of_something_is_refused(
    make: Callable[[Path, int], Path],
    kind: str,
    suffix: str,
    tmp_path: Path,
    held: Callable[..., None],
) -> None:
    path = make(tmp_path / f"many{suffix}", 5)
    open_source(str(path)).close()
    held(**{kind: 4})
    with pytest.raises(UnsupportedMedia, match=rf"got \d {kind}, the limit is 4 \(\[limits\]"):
        open_source(str(path))
    assert probe_file(str(path)).kind == "refused"


@pytest.mark.parametrize("suffix", [".mkv", ".mov"])
def test_nine_hundred_streams_end_at_once(suffix: str, tmp_path: Path) -> None:
    path = many_streams(tmp_path / f"many{suffix}", 900)
    got, said, mebibytes = ended(["run", path, tmp_path / "out.mkv", *QUICK])
    assert (got, "streams" in said) == (65, True), said
    assert mebibytes < 500


def test_chapters_by_the_thousand_are_refused_by_default(tmp_path: Path) -> None:
    path = many_chapters(tmp_path / "many.mkv", 10_001)
    with pytest.raises(UnsupportedMedia, match="got 10001 chapters, the limit is 10000"):
        open_source(str(path))


def test_a_picture_that_grows_later_is_not_decoded(
    tmp_path: Path, held: Callable[..., None]
) -> None:
    path = tmp_path / "grows.ts"
    small = make_clip(tmp_path / "small.ts", frames=6)
    large = make_clip(tmp_path / "large.ts", frames=2, width=640, height=480)
    path.write_bytes(small.read_bytes() + large.read_bytes())
    held(width=320, height=240)
    with closing(open_source(str(path))) as source:
        with suppress(MediaError):  # too much of it is damaged, where the large ones are many
            for picture in source:
                assert (picture.width, picture.height) == (64, 48)
        assert not [line for line in source.warnings() if "another size" in line]


def test_live_input_is_held_to_them(tmp_path: Path, held: Callable[..., None]) -> None:
    make_clip(tmp_path / "part.ts", frames=50)
    text = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\npart.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / "live.m3u8").write_text(text)
    held(width=32, height=32)
    with (
        closing(LiveInput(find_address(str(tmp_path / "live.m3u8")))) as live,
        pytest.raises(InputLost, match="got 64x48, the limit is 32x32") as caught,
    ):
        live.connect()
    assert caught.value.reason == "unsupported"


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"width": 0}', '{"wdith": 7}'])
def test_limits_that_make_no_sense_are_told(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(WrongLimits, match=f"{VARIABLE}: got ") as caught:
        limits()
    assert "pydantic" not in str(caught.value)
    assert "\n" not in str(caught.value)

"""What files are, found out by a process that may die or hang over them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from support.jobs.work import children_of, config_of, eventually, is_alive
from support.media.clips import make_clip
from support.media.stills import RED, flat, make_heif

from upframe.daemon.jobs.model import ProbeVerdict
from upframe.daemon.workers.attempt import probe_file
from upframe.daemon.workers.process import FileProber
from upframe.io.root import Root


def with_prober(
    tmp_path: Path, use: Callable[[FileProber], Awaitable[None]], **seconds: float
) -> None:
    before = children_of(os.getpid())

    async def main() -> None:
        async with aclosing(FileProber(config_of(tmp_path / "state"), **seconds)) as prober:
            await use(prober)

    asyncio.run(main())
    assert children_of(os.getpid()) == before


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A file over which every reader hangs."""
    path = tmp_path / "hangs.mkv"
    os.mkfifo(path)
    return path


def test_one_process_looks_at_many_files_and_rests_when_nobody_asks(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=2)
    (tmp_path / "text.mkv").write_text("no film at all")

    async def use(prober: FileProber) -> None:
        assert prober.pid is None
        verdict = await prober.probe(clip)
        assert (verdict.kind, verdict.message) == ("video", f"{clip}: 64x48 yuv420p")
        pid = prober.pid
        verdict = await prober.probe(tmp_path / "text.mkv")
        assert verdict.kind == "refused"
        assert "not media that can be decoded" in verdict.message
        assert (await prober.probe(tmp_path / "none.mkv")).kind == "unfinished"
        assert prober.pid == pid
        await eventually(lambda: prober.pid is None)
        assert not is_alive(pid or 0)
        assert (await prober.probe(clip)).kind == "video"
        assert prober.pid != pid

    with_prober(tmp_path, use, idle_seconds=0.5)


def test_no_file_takes_the_prober_from_the_next_one(tmp_path: Path, fifo: Path) -> None:
    """Who crashes decoders is refused; who is killed, hangs or is called off is blamed on none."""
    clip = make_clip(tmp_path / "in.mp4", frames=2)

    async def killed_by(number: int, prober: FileProber) -> ProbeVerdict:
        assert (await prober.probe(clip)).kind == "video"
        asked = asyncio.create_task(prober.probe(fifo))
        await asyncio.sleep(0.2)
        os.kill(prober.pid or 0, number)
        verdict = await asked
        assert signal.Signals(number).name in verdict.message
        return verdict

    async def use(prober: FileProber) -> None:
        assert (await killed_by(signal.SIGSEGV, prober)).kind == "refused"
        assert (await killed_by(signal.SIGKILL, prober)).kind == "unfinished"
        verdict = await prober.probe(fifo)
        assert verdict.kind == "unfinished"
        assert "no progress in loading for 3 s" in verdict.message
        assert (await prober.probe(clip)).kind == "video"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await prober.probe(fifo)
        assert (await prober.probe(clip)).message.startswith(str(clip))

    with_prober(tmp_path, use, timeout_seconds=3)


@pytest.mark.parametrize("part", [0.3, 0.7, 0.8, 0.9, 0.95])
@pytest.mark.parametrize(
    ("name", "options"),
    [("in.mp4", {}), ("in.mp4", {"movflags": "faststart"}), ("in.mkv", {})],
    ids=["index last", "index first", "matroska"],
)
def test_half_a_file_is_unfinished(
    tmp_path: Path, part: float, name: str, options: dict[str, str]
) -> None:
    clip = make_clip(tmp_path / name, frames=12, audio="aac", container_options=options)
    whole = clip.read_bytes()
    clip.write_bytes(whole[: int(part * len(whole))])
    assert probe_file(str(clip)).kind == "unfinished"
    clip.write_bytes(whole)
    assert probe_file(str(clip)).kind == "video"


@pytest.mark.parametrize("name", ["in.mp4", "in.mkv", "in.ts"])
def test_space_that_was_reserved_and_not_written_yet_is_unfinished(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.touch()
    assert probe_file(str(path)).kind == "unfinished"
    path.write_bytes(bytes(100_000))
    assert probe_file(str(path)).kind == "unfinished"


def test_a_file_too_short_to_be_told_is_unfinished(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.ts", frames=3)
    assert probe_file(str(clip)).kind == "unfinished"


@pytest.mark.parametrize("name", ["in.mp4", "in.mov", "in.mkv", "in.webm", "in.ts", "in.avi"])
def test_a_whole_file_is_video(tmp_path: Path, name: str) -> None:
    codec = {"in.webm": "libvpx", "in.avi": "mpeg4"}.get(name, "libx264")
    assert probe_file(str(make_clip(tmp_path / name, frames=12, codec=codec))).kind == "video"


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.mkv"
    path.write_bytes(b"RIFF" + bytes(range(256)) * 20)
    assert probe_file(str(path)).kind == "refused"


@pytest.mark.parametrize("beneath", [False, True])
def test_a_picture_of_tiles_is_whole_or_unfinished_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beneath: bool
) -> None:
    """A watched folder never takes a tile for the picture."""
    root = Root(tmp_path) if beneath else None
    tiled = make_heif(tmp_path / "in.heic", [flat(RED)] * 4, columns=2, shown=(120, 100))
    assert probe_file(str(tiled), root) == ProbeVerdict(
        kind="video", message=f"{tiled}: 120x100 gbrp"
    )
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    verdict = probe_file(str(tiled), root)
    assert verdict.kind == "refused"
    assert "pip install 'upframe[heif]'" in verdict.message
    tiled.write_bytes(tiled.read_bytes()[:-9])
    assert probe_file(str(tiled), root).kind == "unfinished"

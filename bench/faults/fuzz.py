"""Mutated files of many containers through the daemon's own processes, and mutated pipes.

    python bench/faults/fuzz.py [--files 2000]

Each file is one of some tiny clips with bytes flipped, cleared, repeated, cut out or cut off, sizes
and counts set to extremes, or a part of another one put in. It goes through a prober and then
through a warm worker, as a file of a watched folder does; a stream for `upframe pipe` goes into a
process of that command. Correct is: none ends as an internal error (70), whether by a traceback or
by the death of its process; none stands still for a minute; no process takes 2 GB; outputs that are
done decode, and nothing else is left.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paths  # noqa: F401  # finds what is imported next
from figures import Outcome, at_most, equal, none_of, run_as_script
from mutations import MUTATIONS, Bytes
from processes import children_of, until_gone
from yard import DOUBLE, ENLARGE, Content, Yard, shows, yard_in

from upframe.daemon.__main__ import main
from upframe.daemon.jobs.model import JobError
from upframe.daemon.specification import ConversionSpec
from upframe.daemon.workers import ledger
from upframe.daemon.workers.messages import Probed, ProbeFile, RequestFailed
from upframe.daemon.workers.process import WorkerDied, WorkerLost, WorkerProcess, WorkerSettings

_MOST_SECONDS = 60.0
_MOST_GIGABYTES = 2.0
_PROBE_SECONDS = 30.0
"""What the daemon gives a prober."""
_INTERNAL = 70

_SOUND = ("-f", "lavfi", "-i", "sine=duration=0.2")
_CLIPS: dict[str, tuple[str, ...]] = {
    "mpeg4.avi": (*_SOUND, "-c:v", "mpeg4", "-c:a", "mp3"),
    "mjpeg.avi": ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p"),
    "flv1.flv": (*_SOUND, "-c:v", "flv1", "-c:a", "adpcm_swf", "-ar", "22050"),
    "h264.flv": (*_SOUND, "-c:v", "libx264", "-c:a", "aac"),
    "theora.ogg": (*_SOUND, "-c:v", "libtheora", "-c:a", "libvorbis"),
    "wmv2.wmv": (*_SOUND, "-c:v", "wmv2", "-c:a", "wmav2"),
    "msmpeg4.asf": (*_SOUND, "-c:v", "msmpeg4v3", "-c:a", "wmav2"),
    "anim.gif": (),
    "still.gif": ("-frames:v", "1"),
    "still.tiff": ("-frames:v", "1", "-pix_fmt", "rgb24"),
    "deep.tiff": ("-frames:v", "1", "-pix_fmt", "rgb48le", "-compression_algo", "deflate"),
    "mpeg2.mxf": (*_SOUND, "-c:v", "mpeg2video", "-c:a", "pcm_s16le", "-ar", "48000"),
    "mpeg2.ts": (*_SOUND, "-c:v", "mpeg2video", "-c:a", "mp2"),
    "h264.ts": (*_SOUND, "-c:v", "libx264", "-c:a", "aac"),
    "hevc.ts": ("-c:v", "libx265", "-x265-params", "log-level=none"),
    "h263.3gp": (*_SOUND, "-s", "128x96", "-c:v", "h263", "-c:a", "aac"),
    "mpeg4.3gp": ("-c:v", "mpeg4"),
    "rv10.rm": (*_SOUND, "-c:v", "rv10", "-c:a", "ac3"),
    "rv20.rm": ("-c:v", "rv20"),
    "h264.mkv": (*_SOUND, "-c:v", "libx264", "-c:a", "flac"),
    "h264.mp4": (*_SOUND, "-c:v", "libx264", "-c:a", "aac"),
    "mjpeg.mov": ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p"),
    "vp9.webm": ("-c:v", "libvpx-vp9"),
    "ffv1.nut": ("-c:v", "ffv1"),
}
_PIPES: dict[str, tuple[str, ...]] = {
    "raw.mkv": ("-c:v", "rawvideo"),
    "ffv1.mkv": ("-c:v", "ffv1"),
    "raw.nut": (*_SOUND, "-c:v", "rawvideo", "-c:a", "pcm_s16le"),
    "ffv1.nut": ("-c:v", "ffv1"),
    "raw.y4m": ("-pix_fmt", "yuv420p"),
    "deep.y4m": ("-pix_fmt", "yuv420p10le", "-strict", "-1"),
}
_STILLS = (".tiff", ".png")
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def _extreme_numbers(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """Of one to eight bytes, in both orders, mostly where a container says what follows."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        width = chance.choice((1, 2, 4, 8))
        number = chance.choice(_NUMBERS) & ((1 << 8 * width) - 1)
        last = max(1, len(changed) - width)
        place = chance.randrange(min(last, chance.choice((256, 4096, last))))
        changed[place : place + width] = number.to_bytes(width, chance.choice(("big", "little")))
    return bytes(changed)


_MUTATIONS: dict[str, Bytes] = {**MUTATIONS, "extreme numbers": _extreme_numbers}


@dataclass(slots=True)
class _Found:
    """What the files have shown so far."""

    codes: Counter[str] = field(default_factory=Counter[str])
    internal: list[str] = field(default_factory=list[str])
    unusual: list[str] = field(default_factory=list[str])
    """Neither done nor damaged data."""
    slow: list[str] = field(default_factory=list[str])
    done: list[Path] = field(default_factory=list[Path])
    verdicts: Counter[str] = field(default_factory=Counter[str])
    most_bytes: tuple[int, str] = (0, "")
    most_seconds: tuple[float, str] = (0.0, "")

    def note(self, name: str, code: int, text: str, seconds: float, num_bytes: int) -> None:
        self.codes[str(code)] += 1
        if code not in (0, 65):
            self.unusual.append(f"{name}: {code}: {text[:300]}")
        if code == _INTERNAL or code < 0 or code in (1, 134, 139):
            self.internal.append(f"{name}: {code}: {text}")
        if seconds > _MOST_SECONDS:
            self.slow.append(name)
        self.most_bytes = max(self.most_bytes, (num_bytes, name))
        self.most_seconds = max(self.most_seconds, (round(seconds, 1), name))


def measure(folder: Path, *, files: int, seed: int) -> Outcome:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny frames: threads would only wait
    with yard_in(folder) as yard:
        clips = [made(yard.clips / name, given) for name, given in _CLIPS.items()]
        pipes = [made(yard.clips / name, given) for name, given in _PIPES.items()]
        found = _Found()
        first = _FORKS.Process(
            target=os.getpid
        )  # so that the one from which all are forked is there
        first.start()
        first.join()
        before = children_of(os.getpid())
        names = sorted(mutated(yard.input, clips, pipes, files, random.Random(seed)))
        asyncio.run(_all(yard, names, found))
        return _judged(yard, found, files, before)


def made(path: Path, given: tuple[str, ...]) -> Path:
    """Make a clip of five tiny frames with the ffmpeg program."""
    picture = ["-f", "lavfi", "-i", "testsrc2=size=48x32:rate=25:duration=0.2"]
    muxer = ["-f", "yuv4mpegpipe"] if path.suffix == ".y4m" else []
    words = ["ffmpeg", "-nostdin", "-v", "error", "-y", *picture, *given, *muxer, str(path)]
    subprocess.run(words, check=True)
    return path


def mutated(
    folder: Path, clips: list[Path], pipes: list[Path], files: int, chance: random.Random
) -> Iterator[tuple[str, str]]:
    """Write them all, every sixth a pipe; gives names and what was done."""
    for number in range(files):
        of = pipes if number % 6 == 5 else clips
        original, other = chance.choice(of), chance.choice(of)
        kind = chance.choice(list(_MUTATIONS))
        name = f"{number:04d}-{'pipe-' if of is pipes else ''}{original.name}"
        data = _MUTATIONS[kind](original.read_bytes(), other.read_bytes(), chance)
        (folder / name).write_bytes(data)
        yield name, kind


async def _all(yard: Yard, names: list[tuple[str, str]], found: _Found) -> None:
    waiting = iter(names)
    number = len(os.sched_getaffinity(0))
    async with asyncio.TaskGroup() as group:
        for index in range(number):
            group.create_task(_some(yard, index, waiting, found))


async def _some(yard: Yard, index: int, waiting: Iterator[tuple[str, str]], found: _Found) -> None:
    """Take files as long as there are some, with one prober and one worker."""
    state = yard.folder / "state"
    given: dict[str, Any] = {"device": "cpu", "precision": "fp32", "weights": "builtin"}
    prober = _Process(WorkerSettings(f"prober{index}", state, runs_jobs=False))
    worker = _Process(WorkerSettings(str(index), state, **given))
    try:
        for name, kind in waiting:
            path, about = yard.input / name, f"{name} ({kind})"
            if "-pipe-" in name:
                began = time.monotonic()
                code, text, num_bytes = await asyncio.to_thread(piped, path)
                found.note(about, code, text, time.monotonic() - began, num_bytes)
                continue
            await prober.probe(path, about, found)
            await worker.run(path, yard.watched / f"{name}{_suffix(path)}", about, found)
    finally:
        await prober.end()
        await worker.end()


def _suffix(path: Path) -> str:
    return ".png" if path.suffix in _STILLS else ".mkv"


class _Process:
    """A prober or worker, started again where a file has cost one."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._process = WorkerProcess(settings)

    async def _ready(self) -> WorkerProcess:
        if not self._process.alive:
            await self._process.kill()
            self._process = WorkerProcess(self._settings)
            await self._process.start(600.0)
        self._forget_peak()
        return self._process

    async def probe(self, path: Path, about: str, found: _Found) -> None:
        process, began = await self._ready(), time.monotonic()
        try:
            asked = ProbeFile(path=str(path))
            answer = await process.ask(asked, _PROBE_SECONDS, Probed)
            found.verdicts[answer.verdict.kind] += 1
            code, text = 0, ""
        except WorkerLost as lost:
            code, text = lost.error.code, lost.error.message
        found.note(f"probe {about}", code, text, time.monotonic() - began, self._peak())

    async def run(self, path: Path, sink: Path, about: str, found: _Found) -> None:
        process, began = await self._ready(), time.monotonic()
        filters = DOUBLE if int(path.name[:4]) % 8 == 0 and sink.suffix == ".mkv" else ENLARGE
        encoder = {} if sink.suffix == ".png" else {"codec": "libx264", "preset": "ultrafast"}
        work = ConversionSpec.model_validate(
            {"source": str(path), "sink": str(sink), "filters": filters, "encoder": encoder}
        )
        stages: Any = dict.fromkeys(("loading", "streaming", "publishing"), _MOST_SECONDS)
        outcome = await process.run_job(path.name[:4], work, stages, lambda _: None)
        error: JobError | None = (
            outcome.error if isinstance(outcome, RequestFailed | WorkerDied) else None
        )
        code, text = (error.code, _said(error)) if error is not None else (0, "")
        if code == 0:
            found.done.append(sink)
            # as the daemon does, once the job counts as done
            (self._settings.state_dir / ledger.FOLDER / f"{path.name[:4]}.json").unlink()
        found.note(about, code, text, time.monotonic() - began, self._peak())

    async def end(self) -> None:
        await self._process.stop()

    def _forget_peak(self) -> None:
        with suppress(OSError):
            Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def _peak(self) -> int:
        return peak_bytes(self._process.pid or 0)


def _said(error: JobError) -> str:
    return f"{error.message} {(error.detail or '').strip()[-300:]}"


def peak_bytes(pid: int) -> int:
    """The most resident memory that a process has had; 0 where it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


_FORKS = multiprocessing.get_context("forkserver")
"""Each command has a process of its own, forked off from one that has all modules loaded."""
_FORKS.set_forkserver_preload(["upframe.daemon.__main__", "upframe.daemon.cli.pipe"])


def piped(path: Path) -> tuple[int, str, int]:
    """Put a file through `upframe pipe`: exit code, last words and peak memory."""
    said = path.with_suffix(".said")
    process = _FORKS.Process(target=_pipe, args=(path, said))
    process.start()
    end, peak = time.monotonic() + _MOST_SECONDS + 1, 0
    while process.is_alive():
        peak = max(peak, peak_bytes(process.pid or 0))
        if time.monotonic() > end:
            process.kill()
        process.join(0.02)
    text = said.read_text(errors="replace")[-600:]
    said.unlink()
    return process.exitcode or 0, text, peak


def _pipe(path: Path, said: Path) -> None:
    """Be the process of a command."""
    for number, name, flags in ((0, path, os.O_RDONLY), (1, os.devnull, os.O_WRONLY)):
        os.dup2(os.open(name, flags), number)
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT, 0o600), 2)
    sys.argv = ["upframe", "pipe", "--upscale", "2", "--weights", "builtin", "--device", "cpu"]
    sys.exit(main())


def _judged(yard: Yard, found: _Found, files: int, before: set[int]) -> Outcome:
    ended = sum(found.codes.values()) - sum(found.verdicts.values())
    broken = [sink.name for sink in found.done if not _decodes(sink)]
    extra = sorted(set(yard.watched.iterdir()) - set(found.done))
    gigabytes, largest = found.most_bytes[0] / 1e9, found.most_bytes[1]
    checks = [
        none_of("internal errors (70), tracebacks, crashes", found.internal),
        none_of("stood still for a minute", found.slow),
        at_most("the most memory of a process", gigabytes, _MOST_GIGABYTES, "GB"),
        none_of("done, but does not decode", broken),
        none_of("outputs of what is not done", extra),
        none_of("leftovers", yard.leftovers()),
        none_of("processes left", until_gone(children_of(os.getpid()) - before, 5.0)),
        equal("files looked at", ended >= files, True),
    ]
    details = {
        "codes": dict(found.codes),
        "verdicts": dict(found.verdicts),
        "done": len(found.done),
        "largest": largest,
        "slowest": found.most_seconds,
        "neither done nor damaged data": found.unusual,
    }
    return Outcome(checks, details)


def _decodes(sink: Path) -> bool:
    content = shows(sink)
    return isinstance(content, Content) and content.frames > 0


if __name__ == "__main__":
    run_as_script("fuzz", __doc__, measure, files=2000)

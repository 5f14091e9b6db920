"""What spoils a film in segments: each fault strikes a run at its third segment, or what it left.

A run stops with a clear state, or repeats just what is spoilt; the output is right or missing.
"""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from figures import Check, equal
from films import drawn, frames_in, same
from segments_runs import attempt, converted, progress_of, words_of

from upframe.daemon.convert.plan import PLAN_NAME, plan_folder

_STOPS_SECONDS = 120.0
_VOLUME_MIB = 160
NOT_MOUNTED = "no file system can be mounted here"
WORDS = ("--interpolate", 1, "--codec", "ffv1", "--segment-frames", 8)


@dataclass(frozen=True)
class Scene:
    """Files of one run."""

    film: Path
    volume: Path
    """Holds the output and nothing else."""
    sink: Path
    is_mounted: bool

    @property
    def away(self) -> Path:
        """Where the volume is while it is away."""
        return self.volume.with_name("away")


def _fill(scene: Scene) -> None:
    filler = scene.volume / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 16)):
                pass
        except OSError:
            pass


def _go(scene: Scene) -> None:
    scene.volume.rename(scene.away)


def _come_back(scene: Scene) -> None:
    if scene.volume.exists():
        shutil.rmtree(scene.volume)
    scene.away.rename(scene.volume)


def _unmount(scene: Scene) -> None:
    subprocess.run(["umount", "-l", str(scene.volume)], check=True)


def _append(scene: Scene) -> None:
    with scene.film.open("ab") as file:
        file.write(b"\xec\x84more")  # a void element of Matroska


def _replace(scene: Scene) -> None:
    other = drawn(
        scene.film.with_name("other.mkv"), 4, "-c:v", "libx264", "-g", "8", "-vf", "hflip"
    )
    other.rename(scene.film)


def _spoil(scene: Scene) -> None:
    path = min(plan_folder(scene.sink).glob("[0-9a-f]*.mkv"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _of_another_version(scene: Scene) -> None:
    with sqlite3.connect(plan_folder(scene.sink) / PLAN_NAME) as connection:
        connection.execute("PRAGMA user_version = 99")


def _garbled(scene: Scene) -> None:
    (plan_folder(scene.sink) / PLAN_NAME).write_bytes(bytes(4096))


def _nothing(scene: Scene) -> None:
    del scene


Step = Callable[[Scene], None]


@dataclass(frozen=True)
class Fault:
    """What happens, and what is wanted of the run and of the next one."""

    name: str
    strike: Step
    code: int | None
    """Of the run that is struck; None: it has been killed before."""
    said: str = ""
    """By that run."""
    mend: Step = _nothing
    again: tuple[object, ...] = ()
    """More words for the next run."""
    then_said: str = ""
    """By the next run."""
    keeps: bool = True
    """Whether the next run uses what is done."""
    volume: bool = False
    """Whether it needs a file system of its own."""


FAULTS = (
    Fault("disk full", _fill, 74, "o space left", lambda s: (s.volume / "filler").unlink(),
          volume=True),
    Fault("volume renamed", _go, 73, "folder does not exist", _come_back),
    Fault("volume unmounted", _unmount, 73, "folder does not exist", keeps=False, volume=True),
    Fault("source grows", _append, 66, "was changed during the work",
          then_said="source.size was", keeps=False),
    Fault("source replaced", _replace, 66, "was changed during the work",
          then_said="source.ends was", keeps=False),
    Fault("segment spoilt", _spoil, None, then_said="is made again"),
    Fault("plan of another version", _of_another_version, None, keeps=False),
    Fault("plan garbled", _garbled, None, keeps=False),
    Fault("other settings", _nothing, None, again=("--frame-interpolation-scale", 0.5),
          then_said="settings.filters.frame_interpolation_scale was 1.0, is 0.5", keeps=False),
)  # fmt: skip


def rows(folder: Path, faults: Sequence[Fault] = FAULTS) -> list[Check]:
    """Let each fault strike once."""
    film = drawn(folder / "film.mkv", 30, "-c:v", "libx264", "-g", "8")
    checks: list[Check] = []
    for number, fault in enumerate(faults):
        place = folder / str(number)
        place.mkdir()
        scene = _scene(place, film, fault)
        if fault.volume and not scene.is_mounted:
            checks.append(Check(fault.name, NOT_MOUNTED, "struck", False))
            continue
        try:
            checks += _struck(scene, fault)
        finally:
            subprocess.run(["umount", "-l", str(scene.volume)], stderr=subprocess.DEVNULL)
    return checks


def _scene(place: Path, film: Path, fault: Fault) -> Scene:
    own = place / "film.mkv"
    shutil.copyfile(film, own)
    volume = place / "volume"
    volume.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_VOLUME_MIB}m", "none", str(volume)]
    mounted = fault.volume and subprocess.run(mount, stderr=subprocess.DEVNULL).returncode == 0
    return Scene(own, volume, volume / "out.mkv", mounted)


def _struck(scene: Scene, fault: Fault) -> list[Check]:
    log = scene.film.with_name("stderr.txt")
    with log.open("w") as stderr:
        # beside the volume, whose report would be lost with it
        words = words_of(scene.film, scene.sink, scene.film.with_name("report.json"), *WORDS)
        child = subprocess.Popen(words, stderr=stderr)
        try:
            done = _reached(child, scene, log)
            if fault.code is None:
                child.kill()
                child.wait()
                fault.strike(scene)
                return _next_run(scene, fault, done)
            child.send_signal(signal.SIGSTOP)
            fault.strike(scene)
            child.send_signal(signal.SIGCONT)
            with suppress(subprocess.TimeoutExpired):
                child.wait(_STOPS_SECONDS)
        finally:
            child.kill()
            code = child.wait()
    said = log.read_text().strip()
    last = said.splitlines()[-1] if said else ""
    got = f"exit {code}" if code == fault.code and fault.said in said else f"exit {code}: {last}"
    checks = [
        Check(f"{fault.name}: the run", got, f"exit {fault.code}", got == f"exit {fault.code}"),
        equal(f"{fault.name}: published", scene.sink.exists(), False),
    ]
    fault.mend(scene)
    return [*checks, *_next_run(scene, fault, done)]


def _reached(child: subprocess.Popen[bytes], scene: Scene, log: Path) -> int:
    """Wait until the third segment; return how many are done.

    A process that was stopped is not asked: it may hold the lock of the journal.
    """
    while (now := progress_of(scene.sink)) is None or now.done < 2:
        assert child.poll() is None, log.read_text()
        time.sleep(0.01)
    return now.done


def _next_run(scene: Scene, fault: Fault, done: int) -> list[Check]:
    words = (*WORDS, *fault.again)
    ran = attempt(scene.film, scene.sink, *words)
    if ran.code:
        return [
            equal(f"{fault.name}: the next run", f"exit {ran.code}: {ran.said[-300:]}", "exit 0")
        ]
    fresh = scene.film.with_name("fresh.mkv")
    converted(scene.film, fresh, *words, "--no-resume")
    found = ran.report["resumed"]["found"]
    spoilt = fault.strike is _spoil
    used = found >= done - spoilt if fault.keeps else found == 0
    wanted = "what is whole" if fault.keeps else "0"
    return [
        same(f"{fault.name}: the next run's frames", frames_in(scene.sink), frames_in(fresh)),
        Check(f"{fault.name}: … uses", f"{found} of {done}", wanted, used),
        equal(f"{fault.name}: … says so", fault.then_said in ran.said, True),
        equal(f"{fault.name}: … leaves a folder", plan_folder(scene.sink).exists(), False),
    ]

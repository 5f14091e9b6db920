"""Mutated media files arrive in a watched folder.

    python bench/faults/mutations.py [--files 500] [--stable-seconds 0.1]

Each is one of some small clips, of several containers and codecs, with bytes flipped, cleared,
repeated, cut out or cut off, or a part of another one put in. Correct is: the daemon lives on as
the same process; each file ends as done, with an output that decodes, or as failed, with a reason
and a file beside it that says so.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paths  # noqa: F401  # finds what is imported next
from figures import Check, Outcome, equal, none_of, run_as_script
from support.jobs.daemon import RunningDaemon
from support.media.clips import make_clip
from yard import Content, Yard, arrive, logged, running, shows, yard_in

_KINDS: dict[str, dict[str, Any]] = {
    "plain.mp4": {"audio": "aac"},
    "faststart.mp4": {"container_options": {"movflags": "faststart"}},
    "fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "sound.mkv": {"audio": "aac", "chapters": [(0.0, 0.2, "one")]},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg2.ts": {"codec": "mpeg2video"},
    "h264.ts": {"audio": "aac"},
    "subtitled.mkv": {"subtitles": [(0.0, 0.2, "text")]},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "hevc.mkv": {"codec": "libx265"},
}
_BATCH = 25


def measure(folder: Path, *, files: int, stable_seconds: float, seed: int) -> Outcome:
    chance = random.Random(seed)
    with yard_in(folder) as yard:
        originals = [
            make_clip(yard.clips / name, frames=5, **given) for name, given in _KINDS.items()
        ]
        watch = yard.watch(stable_seconds=stable_seconds, scan_seconds=1.0)
        config = yard.config(watches=(watch,))
        kinds: Counter[str] = Counter()
        with running(yard, config) as daemon:
            for number in range(files):
                path, kind = mutated(yard, originals, number, chance)
                kinds[kind] += 1
                arrive(path, yard.input / path.name)
                if number % _BATCH == _BATCH - 1:
                    yard.until_ended(number + 1 - _BATCH)  # no more than some at a time
            yard.until_ended(files, 400.0)
            until_told(yard)
            return judged(yard, daemon, files, kinds)


Bytes = Callable[[bytes, bytes, random.Random], bytes]


def _flipped(data: bytes, other: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 4, 16, 64, 256))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _flipped_head(data: bytes, other: bytes, chance: random.Random) -> bytes:
    size = min(512, len(data))
    return _flipped(data[:size], other, chance) + data[size:]


def _cut_off(data: bytes, other: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def _cut_out(data: bytes, other: bytes, chance: random.Random) -> bytes:
    first, last = _part(data, chance)
    return data[:first] + data[last:]


def _cleared(data: bytes, other: bytes, chance: random.Random) -> bytes:
    first, last = _part(data, chance)
    return data[:first] + bytes(last - first) + data[last:]


def _repeated(data: bytes, other: bytes, chance: random.Random) -> bytes:
    first, last = _part(data, chance)
    return data[:last] + data[first:last] + data[last:]


def _crossed(data: bytes, other: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))] + other[chance.randrange(len(other)) :]


def _noise(data: bytes, other: bytes, chance: random.Random) -> bytes:
    return chance.randbytes(len(data))


def _largest_numbers(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """Sizes and counts are where parsers go wrong."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 3, 9))):
        place = chance.randrange(max(1, len(changed) - 4))
        changed[place : place + 4] = chance.choice((b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 4))
    return bytes(changed)


def _part(data: bytes, chance: random.Random) -> tuple[int, int]:
    first, last = sorted(chance.randrange(len(data)) for _ in range(2))
    return first, min(last, first + len(data) // 4)


MUTATIONS: dict[str, Bytes] = {
    "bits flipped": _flipped,
    "bits of the head flipped": _flipped_head,
    "cut off": _cut_off,
    "a part cut out": _cut_out,
    "a part cleared": _cleared,
    "a part repeated": _repeated,
    "crossed with another": _crossed,
    "noise": _noise,
    "largest numbers": _largest_numbers,
}


def mutated(
    yard: Yard, originals: list[Path], number: int, chance: random.Random
) -> tuple[Path, str]:
    """Make one; returns how."""
    original, other = chance.choice(originals), chance.choice(originals)
    kind = chance.choice(list(MUTATIONS))
    path = yard.clips / f"{number:04d}-{original.name}"
    path.write_bytes(MUTATIONS[kind](original.read_bytes(), other.read_bytes(), chance))
    return path, kind


def until_told(yard: Yard) -> None:
    """What lies beside a failed file is written after its job has ended; give it a moment."""
    end = time.monotonic() + 15
    while untold(yard) and time.monotonic() < end:
        time.sleep(0.1)


def untold(yard: Yard) -> list[str]:
    """Failed files without a reason beside them."""
    failed = [Path(job.source) for job in yard.jobs() if job.state == "failed"]
    return [path.name for path in failed if not _reason_beside(path)]


def _reason_beside(path: Path) -> str | None:
    beside = path.with_name(f"{path.name}.upframe-error.json")
    try:
        return json.loads(beside.read_text())["error"]["message"]
    except FileNotFoundError:
        return None


def judged(yard: Yard, daemon: RunningDaemon, files: int, kinds: Counter[str]) -> Outcome:
    alive = daemon.process.poll() is None and daemon.status()["phase"] == "ready"
    jobs = yard.jobs()
    by_source = {Path(job.source).name for job in jobs}
    arrived = {path.name for path in yard.input.iterdir() if not path.name.endswith(".json")}
    done = [job for job in jobs if job.state == "done"]
    failed = [job for job in jobs if job.state == "failed"]
    reasons = Counter(_class_of(job.error.message if job.error else "") for job in failed)
    mine = {job.sink for job in done}
    extra = [path.name for path in yard.watched.iterdir() if str(path) not in mine]
    checks: list[Check] = [
        equal("daemon alive", alive, True),
        equal("daemons that were started", _starts(yard), 1),
        none_of("parts of the daemon that failed", _failures(yard)),
        equal("files that arrived", len(arrived), files),
        none_of("files without a job", sorted(arrived - by_source)),
        equal("jobs", len(jobs), files),
        equal("done or failed", len(done) + len(failed), files),
        none_of("failed without a reason", [j.id for j in failed if not _says(j)]),
        none_of("failed without a file beside it", untold(yard)),
        none_of("done, but does not decode", [j.source for j in done if not _decodes(j.sink)]),
        none_of("outputs of jobs not done", extra),
        none_of("leftovers", yard.leftovers()),
        equal("exit of the daemon", daemon.stop(), 0),
    ]
    details = {
        "done": len(done),
        "failed": len(failed),
        "codes": dict(Counter(job.error.code for job in failed if job.error)),
        "reasons": dict(reasons.most_common(25)),
        "attempts": dict(Counter(job.attempts for job in jobs)),
        "mutations": dict(kinds),
    }
    return Outcome(checks, details)


def _says(job: Any) -> bool:
    return job.error is not None and bool(job.error.message.strip())


def _decodes(sink: str) -> bool:
    content = shows(Path(sink))
    return isinstance(content, Content) and content.frames > 0


def _class_of(message: str) -> str:
    """The message without what names a file."""
    return " ".join(word for word in message.split() if "/" not in word)[:80]


def _starts(yard: Yard) -> int:
    return sum(1 for line in logged(yard) if line["message"].startswith("ready: "))


def _failures(yard: Yard) -> list[str]:
    return [
        line["message"]
        for line in logged(yard)
        if line["level"] == "error" and line["logger"] in ("upframe.daemon", "upframe.outside")
    ]


if __name__ == "__main__":
    run_as_script("mutations", __doc__, measure, files=500, stable_seconds=0.1)

"""Films in segments: equal to one pass, exact in time, safe from kills and faults, and their price.

    python bench/segments.py [PART ...] [--short] [--out FILE]

| part | what it shows |
|---|---|
| equal | decoded frames and their times: in one go, resumed after kills, by several workers |
| vfr | ten minutes of variable rate, with B-frames, a start that is not 0, and two tracks |
| kinds | ten kinds of films in segments, each against the film in one piece, without loss |
| kills | work that is repeated after `kill -9` |
| overhead | time and size in segments against one segment |
| workers | two workers of one thread against one |
| schedule | 10,000 segments on 64 simulated workers |
| faults | a full disk, a volume that goes, another source, damaged segments, other plans |
| trimmed | `--start`, `--end`, `--duration`: frames and sound against the decoded source |

Everything is done by the command line, and looked at by an `ffmpeg` that is none of ours. Without
a part all are run. Ends with 1 where a figure is missed.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import paths  # noqa: F401  # finds what is imported next
import segments_schedule
import segments_workers
from figures import Check, Outcome, at_least, at_most, equal, none_of, show, timed, write_result
from films import (
    KINDS,
    Kind,
    Shown,
    described,
    differences,
    drawn,
    frames_in,
    packets_in,
    same,
    scaled_clip,
    uneven,
    with_sound,
)
from rounds import Variant, interleave, spread_of
from segments_faults import rows as fault_rows
from segments_runs import ONE_SEGMENT, Kills, attempt, converted, kill_often

from upframe.daemon.convert.plan import plan_folder

# ---------------------------------------------------------------------------------- equal, kills

CODECS: Mapping[str, tuple[str, ...]] = {
    "x264 medium": ("--codec", "libx264", "--preset", "medium"),
    "x265": ("--codec", "libx265"),
}


def equal_part(folder: Path, short: bool, dice: random.Random) -> Outcome:
    """Whatever a run goes through, its frames and their times are the same."""
    kills = 3 if short else 20
    film = scaled_clip(
        folder / "film.mkv", 6.4 if short else 32.0, "320:180", "-c:v", "libx264", "-g", "8",
        "-bf", "2",
    )  # fmt: skip
    checks: list[Check] = []
    details: dict[str, Any] = {}
    for name, codec in CODECS.items():
        words = ("--interpolate", 1, "--segment-frames", 8, *codec)
        target = folder / name.replace(" ", "-")
        target.mkdir()
        first = converted(film, target / "first.mkv", *words)
        wanted = frames_in(target / "first.mkv")
        checks.append(at_least(f"{name}: segments", first.segments, kills))
        for title, more, environment in WAYS:
            sink = target / "again.mkv"
            ran = attempt(film, sink, *words, *more, "--overwrite", **environment)
            got = frames_in(sink) if ran.code == 0 else []
            note = "" if ran.code == 0 else f", exit {ran.code}: {ran.said[-200:]}"
            checks.append(same(f"{name}: {title}", got, wanted, note))
        found = kill_often(film, target / "killed.mkv", words, kills, dice)
        checks.append(equal(f"{name}: kills", found.number, kills))
        checks.append(
            same(f"{name}: resumed after these", frames_in(target / "killed.mkv"), wanted)
        )
        details[name] = _told(found)
    return Outcome([*checks, *_other_threads(film, folder)], details)


WAYS: tuple[tuple[str, tuple[object, ...], dict[str, str]], ...] = (
    ("again, with --no-resume", ("--no-resume",), {}),
    ("memory filled with 165", (), {"MALLOC_PERTURB_": "165"}),
    ("memory filled with 90", (), {"MALLOC_PERTURB_": "90"}),
    ("2 workers", ("--device", "cpu*2"), {}),
    ("3 workers", ("--device", "cpu*3"), {}),
)
"""How one run differs from another, with the same threads for each worker."""


def _other_threads(film: Path, folder: Path) -> list[Check]:
    """With another number of threads, pixels may differ by 1 before the encoder."""
    outputs: list[Path] = []
    for threads in ("1", "2"):
        outputs.append(folder / f"threads-{threads}.mkv")
        words = ("--interpolate", 1, "--segment-frames", 48, "--codec", "ffv1")
        converted(film, outputs[-1], *words, OMP_NUM_THREADS=threads)
    inputs = [word for path in outputs for word in ("-i", str(path))]
    graph = "[0:v][1:v]blend=all_mode=difference,signalstats,metadata=print:file=-"
    command = ["ffmpeg", "-v", "error", *inputs, "-filter_complex", graph, "-f", "null", "-"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = ("YMAX=", "UMAX=", "VMAX=")
    codes = [float(line.partition("=")[2]) for line in text.splitlines()
             if any(name in line for name in names)]  # fmt: skip
    what = "1 and 2 threads, before the encoder: largest difference"
    return [at_most(what, max(codes, default=255.0), 1, "code")]


def _told(found: Kills) -> dict[str, Any]:
    assert found.last is not None
    return {
        "kills": found.number,
        "while loading or joining": found.loading,
        "segments in flight at all kills": found.in_flight,
        "last run": found.last.report.get("resumed"),
    }


def kills_part(folder: Path, short: bool, dice: random.Random) -> Outcome:
    """Count what is begun once more after each kill."""
    kills = 4 if short else 40
    film = drawn(folder / "film.mkv", kills * 8 * 8 / 24 + 8, "-c:v", "libx264", "-g", "8")
    checks: list[Check] = []
    details: dict[str, Any] = {}
    for workers in (1, 2):
        device = () if workers == 1 else ("--device", f"cpu*{workers}")
        name = "1 worker" if workers == 1 else f"{workers} workers"
        sink = folder / f"{workers}.mkv"
        words = ("--interpolate", 1, "--segment-frames", 8, "--preset", "ultrafast", *device)
        found = kill_often(film, sink, words, kills, dice)
        most = f"{name}: segments in flight at one kill"
        together = 2  # one process converts a segment while it completes the one before
        checks += [
            equal(f"{name}: kills", found.number, kills),
            at_most(most, found.most_in_flight, together, "segments"),
            at_most(f"{name}: begun once more, all", found.in_flight, kills * together, "segments"),
            none_of(f"{name}: kills that lost finished segments", found.lost),
            none_of(f"{name}: processes left", found.orphans),
            equal(f"{name}: folders left", plan_folder(sink).exists(), False),
        ]
        details[name] = _told(found)
    return Outcome(checks, details)


# -------------------------------------------------------------------------------------- vfr, kinds


def vfr_part(folder: Path, short: bool, dice: random.Random) -> Outcome:
    """A long film of variable rate: times are exact, sound stays where it was."""
    frames, least, wanted = (900, 100, 8) if short else (10_400, 200, 40)
    silent = uneven(folder / "silent.mkv", frames, 96, 80, start=1480, seed=dice.randrange(100))
    shown = frames_in(silent)
    length = float(shown[-1].pts - shown[0].pts)
    checks: list[Check] = []
    for suffix in ("mkv", "mp4"):
        film = with_sound(silent, folder / f"film.{suffix}", length + 1)
        words = ("--interpolate", 1, "--preset", "ultrafast", "--segment-frames", least)
        sink = folder / f"out.{suffix}"
        ran = converted(film, sink, *words)
        checks += [
            at_least(f"{suffix}: segments", ran.segments, wanted),
            *(_named(suffix, check) for check in exact_times(film, sink)),
        ]
    return Outcome(checks, {"frames": frames, "seconds": length})


def exact_times(film: Path, sink: Path) -> list[Check]:
    """Compare the times of a film that was made twice as smooth with those of its source."""
    source, result = frames_in(film), frames_in(sink)
    pts = [one.pts for one in source]
    between = [(one + other) / 2 for one, other in pairwise(pts)]
    shift = result[0].pts - pts[0]
    got = [one.pts - shift for one in result]
    checks = [
        same("pts of the source's frames", got[::2], pts),
        same("pts between", got[1::2], between),
        equal("end of the last frame, s", video_end(sink), video_end(film)),
    ]
    for number, (one, other) in enumerate(
        zip(packets_in(film, "audio"), packets_in(sink, "audio"), strict=False)
    ):
        track = f"track {number}"
        checks.append(same(f"{track}: packets", [p.digest for p in other],
                           [p.digest for p in one]))  # fmt: skip
        moved = abs(other[-1].pts - shift - one[-1].pts) * 1000
        checks.append(at_most(f"{track}: offset at the end", float(moved), 1, "ms"))
    return [
        *checks,
        equal("tracks", len(packets_in(sink, "audio")), len(packets_in(film, "audio"))),
    ]


def video_end(path: Path) -> float:
    """When the last frame ends, in seconds, as ffprobe tells it of a container."""
    [video, *_] = described(path)["streams"]
    if "duration" in video:
        return round(float(video["start_time"]) + float(video["duration"]), 6)
    hours, minutes, seconds = video["tags"]["DURATION"].split(":")  # of Matroska: its end
    return round(3600 * int(hours) + 60 * int(minutes) + float(seconds), 6)


def _named(name: str, check: Check) -> Check:
    return Check(f"{name}: {check.what}", check.got, check.wanted, check.ok, check.timed)


def kinds_part(folder: Path, short: bool, dice: random.Random) -> Outcome:
    """Each kind of film in segments is the film in one piece."""
    del dice
    checks: list[Check] = []
    details: dict[str, Any] = {}
    for kind in KINDS:
        found, told = one_kind(kind, folder, 3.0 if short else 6.0)
        checks.append(found)
        details[kind.name] = told
    return Outcome(checks, details)


def one_kind(kind: Kind, folder: Path, seconds: float = 3.0) -> tuple[Check, dict[str, Any]]:
    """Convert a film in segments and in one piece, and compare everything in the files."""
    film = folder / kind.file
    kind.make(film, seconds)
    sinks = [folder / f"{film.stem}-{name}{kind.output}" for name in ("whole", "segments")]
    words = ("--interpolate", 1, *kind.encode)
    converted(film, sinks[0], *words, "--segment-frames", ONE_SEGMENT)
    ran = converted(film, sinks[1], *words, "--segment-frames", 8)
    if ran.segments < 3:
        got = f"not divided: {ran.why_whole or f'{ran.segments} segments'}"
        return Check(kind.name, got, "equal", False), {"segments": ran.segments}
    whole, parts = (frames_in(sink) for sink in sinks)
    unequal = [*differences(described(sinks[1]), described(sinks[0]))]
    for name in ("audio", "subtitle"):
        unequal += differences(packets_in(sinks[1], name), packets_in(sinks[0], name), name)
    note = f", {len(unequal)} other differences: {unequal[0]}" if unequal else ""
    check = same(kind.name, parts, whole, note)
    told = {"segments": ran.segments, "frames": len(parts), "differences": unequal[:10]}
    return Check(check.what, check.got, check.wanted, check.ok and not unequal), told


# ------------------------------------------------------------------------------ overhead, workers


def overhead_part(folder: Path, short: bool, dice: random.Random) -> Outcome:
    """What segments cost in time and size."""
    del dice
    seconds, rounds = (6, 1) if short else (60, 3)
    film = scaled_clip(folder / "film.mkv", seconds, "640:360", "-c:v", "libx264", "-g", "50")
    sizes: dict[str, int] = {}
    numbers: dict[str, int] = {}

    def run(name: str, *words: object) -> Variant:
        def once(_: int) -> float:
            sink = folder / f"{name.replace(' ', '-')}.mkv"
            ran = converted(film, sink, "--interpolate", 1, "--overwrite", *words)
            sizes[name], numbers[name] = sink.stat().st_size, ran.segments
            return ran.report["seconds"]

        return Variant(name, once)

    divided = ("--segment-frames", 50) if short else ()
    variants = [run("in segments", *divided), run("one segment", "--segment-frames", ONE_SEGMENT)]
    with others_share() as others:
        readings = interleave(variants, rounds)
    spreads = {name: spread_of(values) for name, values in readings.items()}
    many, one = spreads["in segments"].median, spreads["one segment"].median
    checks = [
        at_least("segments", numbers["in segments"], 2),
        equal("segments of the other", numbers["one segment"], 1),
        timed(at_most("more time", 100 * (many / one - 1), 4, "%")),
        at_most("more bytes", 100 * (sizes["in segments"] / sizes["one segment"] - 1), 3, "%"),
    ]
    details = {
        "seconds": {name: spread.model_dump() for name, spread in spreads.items()},
        "readings": readings,
        "bytes": sizes,
        "segments": numbers,
        "share of other processes": others(),
    }
    return Outcome(checks, details)


@contextmanager
def others_share() -> Iterator[Callable[[], float]]:
    """Measure the share of the processors' time that other processes have."""
    peers = str(Path(__file__).with_name("peers"))
    sys.path.append(peers)
    try:
        from neighbours import Neighbours
    finally:
        sys.path.remove(peers)
    yield Neighbours().share


def workers_part(folder: Path, short: bool, dice: random.Random) -> Outcome:
    """Two workers of one thread against one."""
    del dice
    with others_share() as others:
        one, two, are_equal = segments_workers.compared(folder, 10.0 if short else 120.0)
        share = others()
    checks = [
        timed(at_least("two workers of one thread against one", one / two, segments_workers.GOAL)),
        equal("frames are equal", are_equal, True),
    ]
    return Outcome(checks, {"seconds": [one, two], "share of other processes": share})


def schedule_part(folder: Path, short: bool, dice: random.Random) -> Outcome:
    """Simulated workers."""
    del folder, short, dice
    made_of = segments_schedule.Simulation()()
    checks = [Check(what, got, "so", ok) for what, got, ok in segments_schedule.rows(made_of)]
    return Outcome(checks, {"seconds": made_of.seconds, "workers that died": made_of.num_lost})


# -------------------------------------------------------------------------------- faults, trimmed


def faults_part(folder: Path, short: bool, dice: random.Random) -> Outcome:
    """Nothing wrong is published, and what is whole is used."""
    del short, dice
    return Outcome(fault_rows(folder), {})


PARTS_OF_FILMS: tuple[tuple[str, ...], ...] = (
    ("--start", "1.3", "--end", "3.7"),
    ("--start", "0:02", "--duration", "1.5"),
    ("--end", "2.29"),
    ("--start", "3.01"),
)


def trimmed_part(folder: Path, short: bool, dice: random.Random) -> Outcome:
    """A part of a film has the frames of that time, and its sound."""
    del dice
    checks: list[Check] = []
    for kind in KINDS[-3:] if short else KINDS:
        film, whole = folder / kind.file, folder / f"whole-{kind.file}{kind.output}"
        kind.make(film, 5.0)
        words = ("--interpolate", 1, "--deinterlace", "off", "--segment-frames", 8, *kind.encode)
        converted(film, whole, *words)
        checks.append(at_least(f"{kind.name}, all: least PSNR", least_psnr(film, whole), 30.0))
        for part in PARTS_OF_FILMS[:2] if short else PARTS_OF_FILMS:
            sink = folder / f"{film.stem}-part{kind.output}"
            name = f"{kind.name} {' '.join(part)}"
            ran = attempt(film, sink, *words, "--overwrite", *part)
            if ran.code:
                got = f"exit {ran.code}: {ran.said[-200:]}"
                checks.append(Check(name, got, "frame-exact", False))
                continue
            checks += part_of(name, part, film, whole, sink, kind.evened)
    return Outcome(checks, {})


def least_psnr(film: Path, whole: Path) -> float:
    """Compare the source's frames with those of the film that was made twice as smooth, in dB."""
    numbered = "settb=1/25,setpts=N"
    graph = f"[0:v]{numbered}[a];[1:v]select=not(mod(n\\,2)),{numbered}[b];[a][b]psnr=stats_file=-"
    inputs = ["-i", str(film), "-i", str(whole)]
    command = ["ffmpeg", "-v", "error", *inputs, "-filter_complex", graph, "-f", "null", "-"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = [word.partition(":")[2] for word in text.split() if word.startswith("psnr_avg:")]
    return min(map(float, found), default=0.0)


def part_of(
    name: str, words: Sequence[str], film: Path, whole: Path, sink: Path, evened: Fraction | None
) -> list[Check]:
    """Compare a part with the source as ffmpeg decodes it, and with all of the film converted."""
    source, converted_film, part = frames_in(film), frames_in(whole), frames_in(sink)
    if evened is not None:
        source = [one._replace(pts=source[0].pts + at / evened) for at, one in enumerate(source)]
    begins = Fraction(described(film)["format"]["start_time"])
    given = {words[at]: _seconds(words[at + 1]) for at in range(0, len(words), 2)}
    start = given.get("--start", Fraction(0))
    end = given.get("--end", start + given["--duration"] if "--duration" in given else None)
    taken = [
        index for index, one in enumerate(source)
        if ("--start" not in given or start <= one.pts - begins)
        and (end is None or one.pts - begins < end)
    ]  # fmt: skip
    wanted = converted_film[2 * taken[0] : 2 * taken[-1] + 1]
    moved = max(
        abs((one.pts - part[0].pts) - (other.pts - wanted[0].pts))
        for one, other in zip(part, wanted, strict=False)
    )
    checks = [
        # the source's frames: the first gap is judged as that of a film of its own
        same(name, [one.digest for one in part[::2]], [one.digest for one in wanted[::2]]),
        at_most(f"{name}: times, from the first", float(moved * 1000), _tick(sink), "ms"),
    ]
    shift = part[0].pts - source[taken[0]].pts
    last = None if end is None else begins + end
    for number, (one, other) in enumerate(
        zip(packets_in(film, "audio"), packets_in(sink, "audio"), strict=True)
    ):
        got = part_of_sound(one, other, begins + start, last, shift)
        wanted_text = "≤ 1 packet at its ends, ≤ 1 ms of offset"
        checks.append(Check(f"{name}: track {number}", got or "so", wanted_text, not got))
    return checks


def _tick(path: Path) -> float:
    """What a container may round times by, in ms."""
    return 1.0 if path.suffix == ".mkv" else 0.0


def _seconds(text: str) -> Fraction:
    minutes, _, seconds = text.rpartition(":")
    return 60 * Fraction(minutes or 0) + Fraction(seconds)


def part_of_sound(
    source: Sequence[Shown], part: Sequence[Shown], start: Fraction, end: Fraction | None,
    shift: Fraction,
) -> str:  # fmt: skip
    """Say what is wrong with the sound of a part; nothing if it is right."""
    digests, wanted = [one.digest for one in source], [one.digest for one in part]
    places = [
        at for at in range(len(digests) - len(wanted) + 1)
        if digests[at : at + len(wanted)] == wanted
    ]  # fmt: skip
    if not wanted or not places:
        return f"{len(wanted)} packets, which do not follow each other in the source"
    at = min(places, key=lambda at: abs(source[at].pts - start))
    first, last = source[at], source[at + len(part) - 1]
    edges = [abs(first.pts - max(start, source[0].pts))]
    ending = source[-1].pts + source[-1].duration
    edges.append(abs(last.pts + last.duration - min(end or ending, ending)))
    if max(edges) > first.duration:
        return f"it begins {float(edges[0]):.3f} s and ends {float(edges[1]):.3f} s away"
    moved = max(abs(one.pts - shift - other.pts) for one, other in
                zip(part, source[at:], strict=False))  # fmt: skip
    return f"it is {float(moved * 1000):.3f} ms away" if moved > Fraction(1, 1000) else ""


PARTS: Mapping[str, Callable[[Path, bool, random.Random], Outcome]] = {
    "equal": equal_part,
    "vfr": vfr_part,
    "kinds": kinds_part,
    "kills": kills_part,
    "overhead": overhead_part,
    "workers": workers_part,
    "schedule": schedule_part,
    "faults": faults_part,
    "trimmed": trimmed_part,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="*", choices=[*PARTS, []], metavar="PART")
    parser.add_argument("--short", action="store_true", help="only see whether all works")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON of the results")
    parser.add_argument("--folder", type=Path, help="work here, and leave all as it is at the end")
    arguments = parser.parse_args()
    names = arguments.part or [*PARTS]
    began = time.monotonic()
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory(prefix="upframe-segments-") as made_here:
        os.environ["XDG_CACHE_HOME"] = made_here  # what others measure changes nothing here
        for name in names:
            folder = (arguments.folder or Path(made_here)).absolute() / name
            folder.mkdir(parents=True)
            outcomes[name] = PARTS[name](folder, arguments.short, random.Random(arguments.seed))
            show(name, outcomes[name])
    everything = Outcome(
        [_named(name, check) for name, outcome in outcomes.items() for check in outcome.checks],
        {name: outcome.details for name, outcome in outcomes.items()},
    )
    given = {"parts": names, "seed": arguments.seed, "short": arguments.short}
    if arguments.out:
        write_result(
            arguments.out, "segments", everything, options=given,
            full_size=not arguments.short, seconds=time.monotonic() - began,
        )  # fmt: skip
    return 0 if everything.ok else 1


if __name__ == "__main__":
    sys.exit(main())

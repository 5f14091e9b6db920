"""Every peer against upframe: same frames, same weights, same threads, in turns.

    python bench/peers/install.py && bench/peers/.venv/bin/python bench/peers/compare.py

The peers come into an environment of their own; see `install.py`. Each runs in its own process.
Times are of float32 pixels to float32 picture on the device, without decoding and encoding.
PSNR is to the peers' own classes in float32 over the same frames. A run during which other
processes had more than a twentieth of the processor does not count: it exits with 1, and its file
has another name.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import paths  # noqa: F401  # finds what is imported next
import programs
import torch
from children import Child, Failed, started
from clip_frames import decode, write_clip
from contests import CONTESTS, Contest, Entry, Setting
from lineup import REFERENCE, chosen, entries, quality_reference
from machine import describe
from neighbours import MOST_OTHERS, Neighbours
from pages import markdown
from pins import PEERS, RECORD
from quality import Picture, psnr, summed_up
from rounds import Variant, interleave
from verdicts import judge

from upframe.filters.kernels.native import kernels

ROOT = Path(__file__).parents[2]
FRAMES = 10
COMPARED = (3, 7)
"""Frames whose results are compared with the reference's."""
PROGRAM_FRAMES = 40
PROGRAM_ROUNDS = 3
_PAUSE_SECONDS = 0.1
"""Before every turn: threads of some runtimes spin a while after their work."""


def main() -> None:
    arguments = _arguments()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    torch.set_num_threads(arguments.threads)
    neighbours = Neighbours()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = [
            hold(contest, arguments, folder)
            for contest in CONTESTS[arguments.device.partition(":")[0]]
            if contest.name.startswith(tuple(arguments.contests))
        ]
        whole = [] if arguments.no_programs else run_programs(arguments, folder)
    share = neighbours.share()
    result: dict[str, Any] = {
        "benchmark": "peers",
        "machine": describe(),
        "device": arguments.device,
        "compiled_kernels": kernels() is not None,
        "threads": arguments.threads,
        "versions": _versions(),
        "not_installed": _not_installed(),
        "clip": arguments.clip.name,
        "share_of_other_processes": share,
        "counts": share <= MOST_OTHERS,
        "note": arguments.note,
        "contests": results,
        "programs": whole,
        "figures": list(judge(results)),
    }
    if arguments.out and not result["counts"]:
        # what was published before stays
        arguments.out = arguments.out.with_stem(f"{arguments.out.stem}-does-not-count")
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(markdown(result)))
    if not (result["counts"] and all(figure["met"] for figure in result["figures"])):
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    data = Path(os.environ.get("UPFRAME_TEST_DATA", ROOT.parent / "shared"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clip", type=Path, default=data / "media" / "bigbuckbunny.mp4")
    parser.add_argument("--weights", type=Path, default=data / "weights", help="their folder")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--contests", nargs="+", default=[""], help="only those whose names begin so: srvgg, rife-6"
    )
    parser.add_argument(
        "--only", nargs="+", default=[""], help="only contestants with one of these in their names"
    )
    parser.add_argument(
        "--no-compiled", action="store_true", help="leave out what torch.compile takes minutes for"
    )
    parser.add_argument("--no-programs", action="store_true", help="nothing from file to file")
    parser.add_argument("--note", default="", help="is written down, as 'on a busy machine'")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def hold(contest: Contest, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Hold one contest; a contestant that fails is in the result with its error."""
    frames_path = folder / f"{contest.name}.npy"
    np.save(frames_path, decode(arguments.clip, contest.width, contest.height, FRAMES))
    setting = Setting(
        contest,
        frames_path,
        arguments.weights,
        folder / "exports",
        arguments.device,
        arguments.threads,
    )
    everyone = entries(contest, arguments.device.partition(":")[0])
    wanted = chosen(everyone, arguments.only, compiled=not arguments.no_compiled)
    errors: dict[str, str] = {}
    with ExitStack() as stack:
        children = _ready(stack, wanted, setting, folder, errors)
        pictures = _pictures(children, errors)
        rounds = min(arguments.rounds, contest.most_rounds)
        samples = _times(children, contest, rounds, errors)
        peaks = {name: child.peak_mib() for name, child in children.items() if name not in errors}
    reference = pictures.get(quality_reference([*pictures]), [])
    return {
        "contest": contest.name,
        "reference": REFERENCE,
        "entrants": [
            _described(entry)
            | (
                {"error": errors[entry.name]}
                if entry.name in errors
                else _measured(samples[entry.name], pictures[entry.name], reference)
                | {"peak_mib": round(peaks[entry.name])}
            )
            for entry in wanted
        ],
    }


def _ready(
    stack: ExitStack, wanted: list[Entry], setting: Setting, folder: Path, errors: dict[str, str]
) -> dict[str, Child]:
    """Start them one after the other, so that none disturbs another's compiling."""
    children: dict[str, Child] = {}
    for entry in wanted:
        child = stack.enter_context(started(entry, setting, folder))
        try:
            child.ready()
            children[entry.name] = child
        except Failed as error:
            errors[entry.name] = str(error)
        print(f"{setting.contest.name}: {entry.name} {errors.get(entry.name, 'is ready')}")
    return children


def _pictures(children: dict[str, Child], errors: dict[str, str]) -> dict[str, list[Picture]]:
    pictures: dict[str, list[Picture]] = {}
    for name, child in children.items():
        try:
            pictures[name] = [child.picture(index) for index in COMPARED]
        except Failed as error:
            errors[name] = str(error)
    return pictures


def _times(
    children: dict[str, Child], contest: Contest, rounds: int, errors: dict[str, str]
) -> dict[str, list[float]]:
    def turn(name: str, calls: int) -> float:
        if name in errors:
            return math.nan
        time.sleep(_PAUSE_SECONDS)
        try:
            return children[name].timed(calls) * calls
        except Failed as error:
            errors[name] = str(error)
            return math.nan

    return interleave([Variant(one, partial(turn, one), contest.calls) for one in children], rounds)


def _described(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "peer": entry.peer,
        "precision": entry.precision,
        "note": entry.note,
    }


def _measured(
    seconds: list[float], pictures: list[Picture], reference: list[Picture]
) -> dict[str, Any]:
    return {
        "ms": summed_up(seconds, 1000),
        "psnr_db": psnr(pictures, reference) if reference else None,
    }


def run_programs(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Run whole programs from file to file."""
    results: list[dict[str, Any]] = []
    for name, size, commands in (
        ("enlarge by 4, srvgg", (320, 180), programs.enlarge),
        ("double the rate, rife", (640, 360), programs.double),
    ):
        place = folder / name.replace(" ", "-")
        place.mkdir()
        write_clip(decode(arguments.clip, *size, PROGRAM_FRAMES), place / "clip.mp4")
        work = programs.Work(
            f"{name}, {size[0]}x{size[1]}",
            place / "clip.mp4",
            PROGRAM_FRAMES,
            arguments.weights,
            arguments.threads,
        )
        results.append(programs.run(work, commands(work), min(PROGRAM_ROUNDS, arguments.rounds)))
    return results


def _versions() -> dict[str, str | None]:
    """Versions of what takes part, as installed; None where it is not."""
    found: dict[str, str | None] = {}
    for requirement in (one for peer in PEERS for one in peer.requirements):
        name = requirement.partition("==")[0]
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _not_installed() -> dict[str, str]:
    """What `install.py` wrote down of peers that could not be installed."""
    path = Path(sys.prefix) / RECORD
    record = json.loads(path.read_text()) if path.exists() else {}
    return {name: one["error"] for name, one in record.items() if "error" in one}


if __name__ == "__main__":
    main()

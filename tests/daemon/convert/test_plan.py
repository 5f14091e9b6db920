"""The plan of a film in segments: its hash, its journal, its folder."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from upframe.daemon.convert.plan import (
    Entry,
    Facts,
    Plan,
    SourceFacts,
    abandoned_plans,
    encoder_library,
    held,
    plan_folder,
    remove_folder,
    settings_of,
    versions_of,
)
from upframe.daemon.specification import ConversionOptions
from upframe.filters.options import FilterOptions
from upframe.io.cuts import Segment
from upframe.io.encode.options import EncoderOptions
from upframe.io.errors import SinkFull, SinkRefused, SourceMissing

OPTIONS = ConversionOptions(
    filters=FilterOptions(enable_frame_interpolation=True, frame_interpolation_exp=2),
    encoder=EncoderOptions(crf=20),
)
FACTS = Facts(
    source=SourceFacts(size=1000, mtime_ns=5, ends="00"),
    settings=settings_of(OPTIONS, segment_frames=32),
    versions={"upframe": "1", "torch": "2"},
    weights={"interpolate": "ab" * 32},
    device="cpu",
    precision="fp32",
    threads=2,
    ways={"interpolate": "torch"},
)
SEGMENTS = [
    Segment(number, 32 * number, 32 * number + 31, number, number + 31, ((number, 0, 0),), False)
    for number in range(3)
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.mkv"
    path.write_bytes(bytes(range(256)) * (3 << 12))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = plan_folder(tmp_path / "out.mp4")
    path.mkdir()
    return path


# ----------------------------------------------------------------------------------------- facts


def test_the_source_counts_not_its_path(source: Path) -> None:
    before = SourceFacts.of(source)
    moved = source.rename(source.with_name("other.mkv"))
    assert SourceFacts.of(moved) == before


@pytest.mark.parametrize("place", [0, (1 << 20) - 1, -(1 << 20), -1])
def test_another_byte_at_either_end_is_another_source(source: Path, place: int) -> None:
    before, state = SourceFacts.of(source), source.stat()
    data = bytearray(source.read_bytes())
    data[place] ^= 1
    source.write_bytes(data)
    os.utime(source, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(SourceMissing, match=r"changed during the work \(ends was"):
        before.check(source)


def test_size_and_time_of_a_source_count(source: Path) -> None:
    before = SourceFacts.of(source)
    before.check(source)
    os.utime(source, ns=(1, 1))
    with pytest.raises(SourceMissing, match=r"mtime_ns was \d+, is 1\)"):
        before.check(source)
    source.unlink()
    with pytest.raises(SourceMissing, match="No such file"):
        before.check(source)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": SourceFacts(size=9, mtime_ns=5, ends="00")}, "source.size was 1000, is 9"),
        ({"settings": settings_of(OPTIONS, segment_frames=64)},
         "settings.segment_frames was 32, is 64"),
        ({"versions": {"upframe": "1", "torch": "3"}}, "versions.torch was 2, is 3"),
        ({"weights": {"interpolate": "cd" * 32}},
         "weights.interpolate was abababababab…, is cdcdcdcdcdcd…"),
        ({"weights": {}}, "weights.interpolate was abababababab…, is not set"),
        ({"device": "NVIDIA H200"}, "device was cpu, is NVIDIA H200"),
        ({"precision": "bf16"}, "precision was fp32, is bf16"),
        ({"threads": 3}, "threads was 2, is 3"),
        ({"ways": {"interpolate": "winograd"}}, "ways.interpolate was torch, is winograd"),
    ],
)  # fmt: skip
def test_every_fact_makes_another_plan_and_is_said(change: dict[str, Any], said: str) -> None:
    other = FACTS.model_copy(update=change)
    assert other.hash != FACTS.hash
    assert FACTS.changes(other) == [said]


def test_the_hash_is_of_the_content_not_of_the_order_of_keys() -> None:
    turned = FACTS.model_copy(update={"settings": dict(reversed(FACTS.settings.items()))})
    assert turned.hash == FACTS.hash == Facts.model_validate_json(FACTS.model_dump_json()).hash


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"overwrite": True}, True),
        ({"strict_streams": True}, True),
        ({"audio_codec": "none"}, True),
        ({"deinterlace": "off"}, False),
        ({"hwaccel": "auto"}, False),
        ({"framerate": "25"}, False),
        ({"container": "mkv"}, False),
        ({"encoder": EncoderOptions(crf=21)}, False),
        ({"filters": FilterOptions(enable_frame_interpolation=True)}, False),
    ],
)
def test_settings_count_that_change_pixels_packets_or_cuts(
    change: dict[str, Any], same: bool
) -> None:
    assert (settings_of(OPTIONS.model_copy(update=change)) == settings_of(OPTIONS)) == same


def test_weights_count_by_their_content_not_by_their_path() -> None:
    named = OPTIONS.filters.model_copy(update={"frame_interpolation_model_path": "/there/a.pkl"})
    assert settings_of(OPTIONS.model_copy(update={"filters": named})) == settings_of(OPTIONS)


@pytest.mark.parametrize(
    ("codec", "library"), [("libx264", "libx264"), ("libx265", "libx265"), ("ffv1", "")]
)
def test_an_encoder_is_known_by_its_library(codec: str, library: str) -> None:
    found = versions_of(codec)
    assert {"upframe", "torch", "av", "libavcodec"} <= found.keys()
    if library:
        assert found["encoder"].startswith(library)
        assert found["encoder"].split()[1].isdigit()
    else:
        assert found["encoder"] == ""


def test_a_library_that_is_not_listed_is_unknown(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text("7f00-7f10 r-xp 00000000 08:01 99 [vdso]\n7f20-7f30 rw-p 0 00:00 0\n")
    assert encoder_library("libx264", maps) == encoder_library("libx264", tmp_path / "none") == ""


# --------------------------------------------------------------------------------------- journal


def test_a_plan_is_read_as_it_was_begun(folder: Path) -> None:
    Plan.begun(folder, FACTS, {"source": "in.mkv"}, SEGMENTS).close()
    plan = Plan.opened(folder)
    assert plan is not None
    assert (plan.facts, plan.arguments, plan.hash) == (FACTS, {"source": "in.mkv"}, FACTS.hash)
    assert plan.entries() == list(map(Entry, SEGMENTS))


def test_states_attempts_and_results_are_kept(folder: Path) -> None:
    plan = Plan.begun(folder, FACTS, {}, SEGMENTS)
    plan.start(0)
    plan.start(1)
    plan.finish(0, 123, "ff", {"frames_out": 64})
    other = Plan.opened(folder)
    assert other is not None
    first, second, third = other.entries()
    assert (first.state, first.attempts, first.size, first.sha256) == ("done", 1, 123, "ff")
    assert first.result == {"frames_out": 64}
    assert (second.state, second.attempts, second.result) == ("running", 1, None)
    assert third == Entry(SEGMENTS[2])


def test_a_discarded_segment_is_made_again_and_its_attempts_stay_counted(folder: Path) -> None:
    plan = Plan.begun(folder, FACTS, {}, SEGMENTS)
    plan.start(1)
    plan.finish(1, 3, "ff", {})
    path = plan.path_of(SEGMENTS[1])
    path.write_bytes(b"abc")
    plan.discard(SEGMENTS[1])
    entry = plan.entries()[1]
    assert not path.exists()
    assert (entry.state, entry.attempts, entry.sha256) == ("waiting", 1, None)


def test_files_are_named_by_plan_and_frames(folder: Path) -> None:
    plan = Plan.begun(folder, FACTS, {}, SEGMENTS)
    names = [plan.path_of(each).name for each in SEGMENTS]
    assert len(set(names)) == len(SEGMENTS)
    assert all(len(name) == 36 and name.endswith(".mkv") for name in names)
    another = Plan.begun(folder, FACTS.model_copy(update={"threads": 8}), {}, SEGMENTS)
    assert another.path_of(SEGMENTS[0]).name != names[0]


def test_a_new_plan_removes_what_another_has_left(folder: Path) -> None:
    plan = Plan.begun(folder, FACTS, {}, SEGMENTS)
    plan.path_of(SEGMENTS[0]).write_bytes(b"abc")
    plan.close()
    (folder / "notes.txt").write_text("of a user")
    other = FACTS.model_copy(update={"threads": 8})
    Plan.begun(folder, other, {}, SEGMENTS[:1]).close()
    assert {path.name for path in folder.iterdir()} == {"plan.sqlite", "notes.txt"}


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "table", "version", "facts"])
def test_a_plan_that_cannot_be_read_is_none(folder: Path, damage: str) -> None:
    path = folder / "plan.sqlite"
    if damage != "missing":
        Plan.begun(folder, FACTS, {}, SEGMENTS).close()
    if damage in ("empty", "text"):
        path.write_text({"empty": "", "text": "no database" * 1000}[damage])
    changes = {"table": "DROP TABLE segment", "version": "PRAGMA user_version = 9"}
    changes["facts"] = "UPDATE plan SET facts = '{}'"
    if damage in changes:
        connection = sqlite3.connect(path)
        with connection:
            connection.execute(changes[damage])
        connection.close()
    assert Plan.opened(folder) is None


def test_a_journal_that_cannot_be_written_is_an_error_of_the_output(folder: Path) -> None:
    plan = Plan.begun(folder, FACTS, {}, SEGMENTS)
    (folder / "plan.sqlite").write_bytes(bytes(4096))
    with pytest.raises(SinkFull, match="cannot write the plan in"):
        plan.start(0)


def test_a_journal_whose_folder_has_gone_is_refused_as_an_output_without_one(folder: Path) -> None:
    plan = Plan.begun(folder, FACTS, {}, SEGMENTS)
    remove_folder(folder)
    with pytest.raises(SinkRefused, match="folder does not exist any more"):
        plan.start(0)


KILLED = """
import json, os, signal, sys
from pathlib import Path
from upframe.daemon.convert.plan import Plan
plan = Plan.opened(Path(sys.argv[1]))
for number in range(3):
    plan.start(number)
    if number == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    plan.finish(number, number, "ff", {"number": number})
"""


@pytest.mark.parametrize("number", range(3))
def test_what_was_recorded_survives_a_kill(folder: Path, number: int) -> None:
    Plan.begun(folder, FACTS, {}, SEGMENTS).close()
    ran = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(number)], check=False)
    assert ran.returncode == -signal.SIGKILL
    plan = Plan.opened(folder)
    assert plan is not None
    states = [entry.state for entry in plan.entries()]
    assert states == ["done"] * number + ["running"] + ["waiting"] * (2 - number)


# ---------------------------------------------------------------------------------------- folder


X, A = (hashlib.sha256(name.encode()).hexdigest() for name in ("x" * 255, "ä" * 127))


@dataclass
class Named:
    target: str
    folder: str


@pytest.mark.parametrize(
    "named",
    [Named("film.mp4", ".film.mp4.upframe"), Named("x" * 255, f".{'x' * 237}-{X[:8]}.upframe"),
     Named("ä" * 127, f".{'ä' * 118}-{A[:8]}.upframe")],
)  # fmt: skip
def test_the_folder_is_beside_the_output_with_a_name_that_fits(
    tmp_path: Path, named: Named
) -> None:
    found = plan_folder(tmp_path / named.target)
    assert found == tmp_path / named.folder
    found.mkdir()


def test_only_one_holds_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    folder = plan_folder(target)
    refused = pytest.raises(SinkRefused, match=f"another run is writing {target}")
    with held(folder, target), refused, held(folder, target):
        raise AssertionError("two hold it")
    with held(folder, target):  # it is free again
        remove_folder(folder)
    assert not folder.exists()


def test_a_folder_that_its_holder_has_removed_is_made_again(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    folder = plan_folder(target)
    with held(folder, target):
        remove_folder(folder)
        with held(folder, target):
            assert folder.is_dir()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "none" / "out.mp4"
    with (
        pytest.raises(SinkRefused, match=r"cannot use .* No such file"),
        held(plan_folder(target), target),
    ):
        raise AssertionError("it was made")


def test_abandoned_plans_are_told_with_age_size_and_state(tmp_path: Path) -> None:
    folder = plan_folder(tmp_path / "a.mp4")
    with held(folder, tmp_path / "a.mp4"):
        plan = Plan.begun(folder, FACTS, {}, SEGMENTS)
        plan.start(0)
        plan.finish(0, 4096, "ff", {})
        plan.path_of(SEGMENTS[0]).write_bytes(bytes(4096))
        plan.close()
        assert abandoned_plans(tmp_path) == []  # somebody works on it
    (tmp_path / ".notes.upframe").mkdir()  # not ours
    changed = max(path.stat().st_mtime for path in folder.iterdir() if path.name != "lock")
    [(found, remove)] = abandoned_plans(tmp_path, now=lambda: changed + 3600)
    assert (found.folder, found.done, found.total) == (folder, 1, 3)
    assert found.age_seconds == pytest.approx(3600)
    assert found.num_bytes == 4096 + (folder / "plan.sqlite").stat().st_size
    remove()
    assert not folder.exists()
    assert (tmp_path / ".notes.upframe").exists()


def test_removing_spares_what_is_not_ours_and_what_is_in_use(tmp_path: Path) -> None:
    folder = plan_folder(tmp_path / "a.mp4")
    with held(folder, tmp_path / "a.mp4"):
        Plan.begun(folder, FACTS, {}, SEGMENTS).close()
    (folder / "film.mkv").write_text("of a user")
    [(_, remove)] = abandoned_plans(tmp_path)
    with held(folder, tmp_path / "a.mp4"), pytest.raises(SinkRefused, match="another run"):
        remove()
    remove()
    assert {path.name for path in folder.iterdir()} == {"film.mkv"}

"""Interlaced or not: pixels count more than flags, and flags where pixels show nothing."""

from __future__ import annotations

import subprocess
import threading
from collections import Counter
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from support.media.clips import make_clip, make_still
from support.media.fields import (
    flagged_progressive,
    moving_frames,
    still_combs,
    telecined,
    unflagged_combs,
    wrongly_ordered,
)

from upframe.filters.frame import Picture
from upframe.io.decode.deinterlace import FieldSample
from upframe.io.probe import probe_source
from upframe.io.source import ContainerSource, Deinterlace, open_source


def read(
    target: object, deinterlace: Deinterlace = "auto"
) -> tuple[ContainerSource, list[Picture]]:
    source = open_source(
        str(target) if isinstance(target, Path) else target,  # type: ignore[arg-type]
        deinterlace=deinterlace,
    )
    with closing(source):
        return source, list(source)


def verdict_of(path: Path) -> str:
    with closing(open_source(str(path))) as source:
        return probe_source(source).verdicts.interlaced


def error(pictures: list[Picture], wanted: list[Picture]) -> float:
    """Mean difference of luma, in code values."""
    pairs = zip(pictures, wanted, strict=True)
    both = [(one.planes[0].float() - other.planes[0].float()).abs().mean() for one, other in pairs]
    return float(torch.stack(both).mean())


@pytest.mark.parametrize(("codec", "name"), [
    ("libx264", "clip.mkv"), ("libx264", "clip.ts"), ("libx264", "clip.mp4"),
    ("mpeg2video", "clip.ts"), ("mpeg2video", "clip.mkv"),
])  # fmt: skip
def test_progressive_frames_flagged_as_interlaced_stay_as_they_are(
    tmp_path: Path, codec: str, name: str
) -> None:
    clip = flagged_progressive(tmp_path / name, codec=codec)
    source, kept = read(clip)
    _, plain = read(clip, "off")
    assert error(kept, plain) == 0
    assert plain[5].interlaced, "the clip has no flags"
    assert source.info.field_order == "progressive"
    assert not source.is_interlaced
    (said,) = [line for line in source.warnings() if "flagged as interlaced" in line]
    assert said.startswith("progressive by the pixels of ")
    assert verdict_of(clip) == said


def test_deinterlacing_that_was_asked_for_wins(tmp_path: Path) -> None:
    clip = flagged_progressive(tmp_path / "clip.mkv")
    source, asked = read(clip, "on")
    assert error(asked, read(clip, "off")[1]) > 0
    assert any("as asked" in line for line in source.warnings())


@pytest.mark.parametrize("order", ["tt", "bb"])
@pytest.mark.parametrize(("codec", "name"), [
    ("libx264", "clip.mkv"), ("libx264", "clip.mp4"), ("mpeg2video", "clip.ts"),
    ("ffv1", "clip.mkv"), ("rawvideo", "clip.nut"),
])  # fmt: skip
def test_combs_without_flags_are_removed_in_their_order(
    tmp_path: Path, codec: str, name: str, order: str
) -> None:
    """Each frame becomes the picture at the time of its first field."""
    source, smooth = read(unflagged_combs(tmp_path / name, order, codec=codec))
    assert not any(picture.interlaced for picture in smooth)
    assert source.fields.order == order
    times = moving_frames(tmp_path / "times.mkv", rate=50, frames=48)
    moments = read(times)[1]
    left, right = error(smooth, moments[::2]), error(smooth, moments[1::2])
    assert left < right / 2
    first = {"tt": "top", "bb": "bottom"}[order]
    text = verdict_of(tmp_path / name)
    assert text.startswith(f"interlaced, {first} field first by the pixels of ")
    assert text.endswith(", flagged as progressive: deinterlaced to one frame per frame")
    assert text in source.warnings()


def test_combs_without_flags_can_be_kept(tmp_path: Path) -> None:
    clip = unflagged_combs(tmp_path / "clip.mkv", "tt")
    source, kept = read(clip, "off")
    assert source.warnings() == []
    assert error(kept, read(clip)[1]) > 0.5


def test_field_order_that_the_flags_have_wrong_is_taken_from_the_pixels(tmp_path: Path) -> None:
    clip = wrongly_ordered(tmp_path / "clip.mkv")
    source, smooth = read(clip)
    assert source.fields.order == "bb"
    moments = read(moving_frames(tmp_path / "times.mkv", rate=50, frames=48))[1]
    assert error(smooth, moments[::2]) < error(smooth, moments[1::2]) / 2
    assert verdict_of(clip).startswith("interlaced, bottom field first by the pixels of ")


def test_header_with_the_wrong_field_order_is_named() -> None:
    verdict = sample({"bff": 40, "undetermined": 8}, {}).judge("tt")
    assert (verdict.kind, verdict.order, verdict.measured) == ("as flagged", "bb", "bb")
    assert ", the header says top field first: " in verdict.text(is_interlaced=True)


@pytest.mark.parametrize("flagged", [True, False])
def test_combs_that_do_not_move_leave_the_decision_to_the_flags(
    tmp_path: Path, flagged: bool
) -> None:
    source, _ = read(still_combs(tmp_path / "clip.mkv", flagged=flagged))
    assert (source.fields.kind, source.fields.evidence) == ("as flagged", "")
    assert source.is_interlaced == flagged


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_few_frames_prove_nothing_against_the_flags(tmp_path: Path, frames: int) -> None:
    source, pictures = read(flagged_progressive(tmp_path / "clip.mkv", frames=frames))
    assert (source.fields.kind, source.is_interlaced, len(pictures)) == ("as flagged", True, frames)


def test_telecined_film_has_its_line(tmp_path: Path) -> None:
    clip = telecined(tmp_path / "clip.mkv")
    source, pictures = read(clip)
    assert source.fields.is_telecined
    assert len(pictures) == 40
    assert any(line.startswith("telecined film, ") for line in source.warnings())


def test_frames_that_move_only_later_are_found(tmp_path: Path) -> None:
    """A film begins with a still title; so the sample is spread."""
    still = still_combs(tmp_path / "still.ts", flagged=False, frames=120)
    moving = unflagged_combs(tmp_path / "moving.ts", "tt", frames=120)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(still.read_bytes() + moving.read_bytes())
    with closing(open_source(str(joined))) as source:
        assert source.fields.kind == "interlaced"


@pytest.mark.parametrize("order", ["tt", "bb"])
@pytest.mark.parametrize(("codec", "name"), [("libx264", "c.mkv"), ("rawvideo", "c.nut")])
def test_combs_without_flags_are_seen_in_a_pipe(
    tmp_path: Path, codec: str, name: str, order: str
) -> None:
    data = unflagged_combs(tmp_path / name, order, codec=codec).read_bytes()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        feeder = threading.Thread(target=lambda: (process.stdin.write(data), process.stdin.close()))
        feeder.start()
        source, pictures = read(process.stdout)
        feeder.join()
    assert (source.fields.kind, source.fields.order, len(pictures)) == ("interlaced", order, 24)


@pytest.mark.parametrize("size", [(64, 48), (1920, 1080)])
def test_progressive_video_has_its_evidence(tmp_path: Path, size: tuple[int, int]) -> None:
    width, height = size
    clip = make_clip(tmp_path / "clip.mp4", frames=40, width=width, height=height)
    with closing(open_source(str(clip))) as source:
        assert source.fields.evidence.startswith("by the pixels of ")
        assert source.warnings() == []
        assert not source.is_interlaced


@pytest.mark.parametrize(
    ("width", "height", "rate"), [(1920, 1200, 25), (64, 48, 50), (1080, 1920, 30)]
)
def test_frames_that_no_interlaced_video_has_are_not_looked_at(
    tmp_path: Path, width: int, height: int, rate: int
) -> None:
    clip = make_clip(
        tmp_path / "clip.mp4", frames=12, width=width, height=height, rate=Fraction(rate),
        options={"preset": "ultrafast"},
    )  # fmt: skip
    with closing(open_source(str(clip))) as source:
        assert source.fields.evidence == ""


def test_no_more_than_the_sample_is_decoded(tmp_path: Path) -> None:
    clip = still_combs(tmp_path / "clip.mkv", flagged=False, frames=300)
    with closing(open_source(str(clip))) as source:
        assert source._survey is not None
        assert source._survey.fields.num_frames <= 96


def test_still_is_no_interlaced_video(tmp_path: Path) -> None:
    with closing(open_source(str(make_still(tmp_path / "still.png")))) as source:
        assert (source.fields.kind, source.is_interlaced) == ("as flagged", False)


def sample(flagged: dict[str, int], unflagged: dict[str, int]) -> FieldSample:
    made = FieldSample()
    made.flagged, made.unflagged = Counter(flagged), Counter(unflagged)
    return made


@pytest.mark.parametrize(
    ("flagged", "unflagged", "kind"),
    [
        ({"tff": 90, "progressive": 6}, {}, "as flagged"),
        ({"progressive": 90, "tff": 6}, {}, "progressive"),
        ({"progressive": 70, "tff": 20}, {}, "as flagged"),
        ({}, {"progressive": 90}, "as flagged"),
        ({}, {"tff": 90, "progressive": 6}, "interlaced"),
        ({}, {"progressive": 90, "tff": 6}, "as flagged"),
        # combs of both orders are stripes that move, not fields
        ({}, {"tff": 30, "bff": 30, "progressive": 36}, "as flagged"),
        # film and video in one stream, each flagged as it is
        ({"tff": 20}, {"progressive": 76}, "as flagged"),
        ({"undetermined": 96}, {}, "as flagged"),
        ({"progressive": 5, "undetermined": 91}, {}, "as flagged"),
    ],
)
def test_flags_count_unless_the_frames_that_have_them_contradict(
    flagged: dict[str, int], unflagged: dict[str, int], kind: str
) -> None:
    assert sample(flagged, unflagged).judge("tt" if flagged else "progressive").kind == kind


def test_evidence_names_what_was_counted() -> None:
    verdict = sample({}, {"progressive": 6, "tff": 90}).judge("progressive")
    assert verdict.text(is_interlaced=True) == (
        "interlaced, top field first by the pixels of 96 frames (idet: tff 90, progressive 6), "
        "flagged as progressive: deinterlaced to one frame per frame"
    )

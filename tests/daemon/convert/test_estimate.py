"""What a film will take in time and memory, judged before its first frame is computed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from support.media.clips import make_clip
from support.media.fakes import moving_pictures, stream_info

from upframe.daemon.convert import conversion
from upframe.daemon.convert.compute import FilmCompute
from upframe.daemon.convert.conversion import run
from upframe.daemon.convert.estimate import (
    Estimate,
    Film,
    Limits,
    estimate,
    overlapped,
    part_size,
)
from upframe.daemon.convert.memory import Memory, memory_of, picture_bytes
from upframe.daemon.convert.pipeline import Flow
from upframe.daemon.convert.preflight import RunRequest
from upframe.daemon.convert.progress import snapshot_of
from upframe.daemon.exits import exit_code_of
from upframe.daemon.specification import ConversionOptions, MediaOptions
from upframe.filters.chain import build_filters
from upframe.filters.device import GIB, Runtime
from upframe.filters.errors import TooLarge
from upframe.filters.frame import Picture
from upframe.filters.options import FilterOptions
from upframe.io.encode.encoder import EncoderOptions
from upframe.io.part import Part
from upframe.io.probe import excerpts, held_pictures, part_of, trial_encoder
from upframe.io.source import open_source

RUNTIME = Runtime(torch.device("cpu"), torch.float32, "builtin")
INTERPOLATE = FilterOptions(enable_frame_interpolation=True)
UPSCALE = FilterOptions(enable_upscaling=True, upscaling_scale=2)
BOTH = FilterOptions(enable_frame_interpolation=True, enable_upscaling=True, upscaling_scale=2)
ALWAYS = Limits(least_seconds=0, share=1e9)


@contextmanager
def film_of(source: str, options: FilterOptions = INTERPOLATE) -> Iterator[Film]:
    with closing(open_source(source)) as opened:
        info = opened.info
    filters = build_filters(options, RUNTIME)
    media = MediaOptions(filters=options, encoder=EncoderOptions(preset="ultrafast"))
    with closing(FilmCompute(info, filters, media, RUNTIME, info.pix_fmt)) as compute:
        yield Film(source, "a.mp4", info, filters, compute, RUNTIME.device, media)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (40, "1,200 frames: about 40 s, done by 11:05; 12.3 fps"),
        (200, "1,200 frames: about 3 min, done by 11:08; 12.3 fps"),
        (3599, "1,200 frames: about 1 h 0 min, done by 12:04; 12.3 fps"),
        (10_800, "1,200 frames: about 3 h 0 min, done by 14:05; 12.3 fps"),
        (86_400, "1,200 frames: about 24 h 0 min, done by Tue 01 Dec 11:05; 12.3 fps"),
    ],
)
def test_the_line_says_frames_time_end_and_rate(seconds: float, text: str) -> None:
    made = Estimate(seconds=seconds, fps=12.34, frames=1200, num_pictures=9, measured="")
    assert made.text(datetime(2026, 11, 30, 11, 5)) == text


@pytest.mark.parametrize(
    ("compute", "encode", "encode_cpu", "threads", "cores", "seconds"),
    [
        (1.0, 0.1, 0.5, 4, 4, 1.125),  # all compete for all cores
        (1.0, 0.1, 0.5, 1, 16, 1.0),  # as on a card: the encoder has its own cores
        (0.1, 2.0, 2.0, 1, 16, 2.0),  # the encoder holds up the filters
        (1.0, 0.0, 0.0, 8, 2, 1.0),  # threads are no more than the cores
    ],
)
def test_stages_are_combined_as_they_overlap(
    compute: float, encode: float, encode_cpu: float, threads: int, cores: int, seconds: float
) -> None:
    assert overlapped(compute, encode, encode_cpu, threads, cores) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("workers", "threads", "cores", "seconds"),
    [(2, 1, 2, 0.55), (2, 1, 8, 0.5), (4, 2, 2, 1.05), (3, 1, 64, 1 / 3)],
)
def test_workers_share_the_frames_as_far_as_there_are_cores(
    workers: int, threads: int, cores: int, seconds: float
) -> None:
    assert overlapped(1.0, 0.2, 0.1, threads, cores, workers) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("size", "share", "part"),
    [
        ((1920, 1080), 1.5, (1920, 1080)),
        ((1920, 1080), 0.25, (960, 528)),
        ((1920, 1080), 1e-9, (64, 64)),
        ((48, 1000), 0.25, (48, 496)),
    ],
)
def test_a_part_has_the_shape_of_the_picture_and_no_tiny_edge(
    size: tuple[int, int], share: float, part: tuple[int, int]
) -> None:
    assert part_size(*size, share) == part


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "gbrp", "yuva420p", "gray"])
def test_a_part_of_a_picture_is_its_middle(pix_fmt: str) -> None:
    picture = moving_pictures(1, 101, 83, pix_fmt)[0]
    part = part_of(picture, 48, 32)
    assert (part.width, part.height, part.pix_fmt) == (48, 32, pix_fmt)
    assert torch.equal(part.planes[0].int(), picture.planes[0][24:56, 24:72].int())
    whole = part_of(picture, 101, 83)
    assert all(
        map(torch.equal, map(torch.Tensor.int, whole.planes), map(torch.Tensor.int, picture.planes))
    )
    assert picture_bytes(stream_info(101, 83, pix_fmt)) == picture.num_bytes


def test_pictures_come_from_all_over_the_film(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mkv", frames=40, options={"g": "4", "bf": "0"})
    with closing(open_source(str(clip))) as source:
        info, pictures = source.info, list(source)
    found = list(excerpts(str(clip), info, (0.1, 0.5, 0.9), 2))
    places = [[_index(picture, pictures) for picture in place] for place in found]
    assert places == [[4, 5], [20, 21], [36, 37]]


@pytest.mark.parametrize("begins", [0, 250])
@pytest.mark.parametrize(
    ("part", "wanted"),
    [
        (Part(Fraction(12, 25), Fraction(28, 25)), [[12, 13], [20, 21], [24, 25]]),
        (Part(Fraction(0), Fraction(16, 25)), [[0, 1], [8, 9], [12, 13]]),
    ],
)
def test_pictures_of_a_part_come_from_all_over_the_part(
    tmp_path: Path, begins: int, part: Part, wanted: list[list[int]]
) -> None:
    pts, options = range(begins, begins + 40), {"g": "4", "bf": "0"}
    clip = str(make_clip(tmp_path / "a.mkv", frames=40, pts=pts, options=options))
    with closing(open_source(clip)) as source:
        pictures = list(source)
    with closing(open_source(clip, part=part)) as source:
        found = list(excerpts(clip, source.info, (0.1, 0.5, 0.8), 2, part))
    assert [[_index(picture, pictures) for picture in place] for place in found] == wanted


def test_a_run_of_a_part_is_estimated_on_the_part(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mkv", frames=40, options={"g": "4"})
    part = {"start": "0.48", "end": "1.12"}
    options = ConversionOptions.model_validate({"filters": INTERPOLATE, **part})
    request = RunRequest(str(clip), str(tmp_path / "b.mkv"), options, RUNTIME)
    report = run(replace(request, estimates=ALWAYS))
    assert report.estimate is not None
    assert report.estimate.frames == report.frames_out == 31


def _index(picture: Picture, among: list[Picture]) -> int:
    return next(
        index for index, one in enumerate(among) if torch.equal(one.planes[0], picture.planes[0])
    )


def test_what_cannot_be_sought_in_has_no_places(tmp_path: Path) -> None:
    info = stream_info(num_frames=100)
    assert list(excerpts("http://127.0.0.1:9/a.mp4", info, (0.5,), 2)) == []


@pytest.mark.parametrize(
    ("options", "share"), [(INTERPOLATE, 1e9), (UPSCALE, 1e9), (BOTH, 1e9), (BOTH, 1e-6)]
)
def test_the_output_is_the_same_with_and_without_an_estimate(
    options: FilterOptions, share: float, tmp_path: Path
) -> None:
    clip = str(make_clip(tmp_path / "a.mp4", frames=8, width=160, height=96))
    results = list[list[Picture]]()
    counted = list[dict[str, int]]()
    for with_estimate in (False, True):
        with film_of(clip, options) as film, closing(open_source(clip)) as source:
            if with_estimate:
                made = estimate(film, replace(ALWAYS, share=share))
                assert made is not None
                assert made.seconds > 0
            compute = film.compute
            frames = [one for picture in source for one in compute(picture)]
            results.append([*frames, *compute.flush()])
            counted.append(dict(compute.statistics()))
    assert counted[0] == counted[1]
    plain, after = results
    assert [(one.pts, one.duration) for one in plain] == [(one.pts, one.duration) for one in after]
    for one, other in zip(plain, after, strict=True):
        assert all(map(torch.equal, one.planes, other.planes))


class Clock:
    """Every look at it is one step later."""

    def __init__(self, step: float) -> None:
        self.now, self._step = 0.0, step

    def __call__(self) -> float:
        self.now += self._step
        return self.now


@pytest.mark.parametrize(("step", "num_places"), [(0.0, None), (0.01, 3), (100.0, 1)])
def test_a_slow_machine_measures_fewer_places_and_a_fast_one_stops_early(
    step: float, num_places: int | None, tmp_path: Path
) -> None:
    clip = str(make_clip(tmp_path / "a.mp4", frames=30))
    with film_of(clip) as film:
        least = film.bound_seconds if num_places is None else 0.0
        limits = Limits(least_seconds=least, share=1e6)
        made = estimate(film, limits, wall=Clock(step), cpu=Clock(0.0))
    if num_places is None:
        assert made is None
    else:
        assert made is not None
        assert f"{num_places} of 3 places" in made.measured
        assert made.frames == 59
        assert made.fps == pytest.approx(59 / made.seconds, rel=0.01)


def test_short_work_is_not_measured(tmp_path: Path) -> None:
    with film_of(str(make_clip(tmp_path / "a.mp4"))) as film:
        assert film.bound_seconds < 60

        def never() -> float:
            raise AssertionError

        assert estimate(film, Limits(), wall=never, cpu=never) is None


def test_the_real_encoder_with_its_options_is_tried_in_memory(tmp_path: Path) -> None:
    info = stream_info(rate=Fraction(25))
    encode = trial_encoder(info, EncoderOptions(preset="slow"), str(tmp_path / "a.mkv"), None)
    assert encode is not None
    encode(moving_pictures(5))
    assert trial_encoder(info, EncoderOptions(), str(tmp_path / "a_%03d.png"), None) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [INTERPOLATE, UPSCALE, BOTH])
def test_what_does_not_fit_is_refused_with_what_to_change(
    options: FilterOptions, tmp_path: Path
) -> None:
    with film_of(str(make_clip(tmp_path / "a.mp4")), options) as film:
        fits = memory_of(film, lambda _: 8 * GIB)
        assert fits.needed_bytes > picture_bytes(film.info)
        assert fits.tile is None
        assert "of 8.0 free" in fits.text
        unknown = memory_of(film, lambda _: None)
        assert unknown.free_bytes is None
        with pytest.raises(TooLarge, match=r"needs at least .* ask for a smaller --") as refused:
            memory_of(film, lambda _: 10_000)
    assert exit_code_of(refused.value) == 75


@pytest.mark.parametrize(
    ("name", "encoder", "least", "most"),
    [
        ("a.mkv", {"preset": "veryslow"}, 60, 90),
        ("a.mkv", {"options": {"rc-lookahead": "10"}}, 10, 30),
        ("a.mp4", {"codec": "hevc"}, 20, 40),
        ("a.mkv", {"codec": "ffv1"}, 0, 0),
    ],
)
def test_the_pictures_that_an_encoder_holds_are_counted_with_its_options(
    name: str, encoder: dict[str, Any], least: int, most: int
) -> None:
    options = EncoderOptions.model_validate(encoder)
    assert least <= held_pictures(stream_info(1920, 1080), options, name, None) <= most


def test_the_encoders_memory_is_added_and_grows_with_its_pictures(tmp_path: Path) -> None:
    def judged(sink: str | None, options: FilterOptions = UPSCALE, **encoder: Any) -> Memory:
        with film_of(clip, options) as film:
            media = MediaOptions(filters=options, encoder=EncoderOptions(**encoder))
            return memory_of(replace(film, sink=sink, options=media))

    clip = str(make_clip(tmp_path / "a.mp4", width=640, height=480))
    fast, slow = judged("a.mp4", preset="ultrafast"), judged("a.mp4", preset="veryslow")
    assert 0 < 2 * fast.encoder_bytes < slow.encoder_bytes
    larger = UPSCALE.model_copy(update={"upscaling_scale": 4})
    assert judged("a.mp4", larger, preset="veryslow").encoder_bytes == 4 * slow.encoder_bytes
    assert f", about {slow.encoder_bytes / GIB:.1f} for the encoder" in slow.text
    for name in ("a_%d.png", None):  # an image's encoder holds nothing
        none = judged(name)
        assert none.encoder_bytes == 0
        assert "encoder" not in none.text
    refused = judged("a.avi", codec="h261")  # of small pictures: what every encoder holds
    assert 0 < refused.encoder_bytes < slow.encoder_bytes


def test_the_tile_that_is_said_is_the_one_that_is_used(tmp_path: Path) -> None:
    options = UPSCALE.model_copy(update={"upscaling_tile": 40})
    with film_of(str(make_clip(tmp_path / "a.mp4")), options) as film:
        found = memory_of(film)
    assert found.tile == 40
    assert found.text.endswith(" for the encoder, tiles of 40 pixels")


def test_too_little_memory_is_found_before_the_output_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judged(*given: object) -> object:
        return memory_of(*given, lambda _: 10_000)  # type: ignore[arg-type]

    monkeypatch.setattr(conversion, "memory_of", judged)
    options = ConversionOptions(filters=BOTH)
    clip = str(make_clip(tmp_path / "a.mp4"))
    with pytest.raises(TooLarge):
        run(RunRequest(clip, str(tmp_path / "b.mp4"), options, RUNTIME))
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_long_work_is_announced_and_reported_and_progress_begins_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "upframe.run")
    clip = str(make_clip(tmp_path / "a.mp4"))
    request = RunRequest(
        clip, str(tmp_path / "b.mp4"), ConversionOptions(filters=INTERPOLATE), RUNTIME
    )
    report = run(replace(request, estimates=ALWAYS))
    assert report.estimate is not None
    assert report.estimate.frames == report.frames_out == 23
    (line,) = [text for text in caplog.messages if "done by" in text]
    assert line.startswith("23 frames: about ")
    assert "GiB of memory" in line
    assert json.loads(report.model_dump_json())["memory"]["lanes"] >= 1


def test_the_time_left_begins_with_the_estimate() -> None:
    flow = Flow()
    flow.began -= 10
    before = snapshot_of(flow, 100, 60.0)
    assert before.eta_seconds == pytest.approx(50, abs=1)
    assert json.loads(before.to_json(ended=False))["estimate_seconds"] == 60.0
    flow.began -= 80
    assert snapshot_of(flow, 100, 60.0).eta_seconds == 0
    flow.first_frame_seconds, flow.frames_out = 0.0, 46
    assert snapshot_of(flow, 100, 60.0).eta_seconds == pytest.approx(108, rel=0.02)

"""Captions and HDR10+ through a whole conversion: which frames of the output have which."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from support.media.messages import captions, hdr10_plus, make_clip_with_messages, side_data_of
from torch import Tensor

from upframe.daemon.convert.compute import Compute
from upframe.daemon.convert.conversion import run
from upframe.daemon.convert.preflight import RunRequest
from upframe.daemon.specification import ConversionOptions
from upframe.filters.chain import Chain, build_filters
from upframe.filters.device import Runtime
from upframe.filters.frame import Color, Picture, StreamInfo
from upframe.filters.options import FilterOptions
from upframe.io.encode.encoder import EncoderOptions

RUNTIME = Runtime(torch.device("cpu"), torch.float32, "builtin")
RATE = Fraction(1, 25)


def both(index: int) -> list[bytes]:
    return [captions(index), hdr10_plus(index)]


@pytest.mark.parametrize(("exp", "upscale"), [(0, True), (1, False), (2, True)])
def test_captions_stay_with_originals_and_in_betweens_repeat_hdr10_plus(
    tmp_path: Path, exp: int, upscale: bool
) -> None:
    clip = make_clip_with_messages(tmp_path / "in.mkv", "libx265", both, frames=4, bit_depth=10)
    out = tmp_path / "out.mp4"
    filters: dict[str, object] = {}
    if upscale:
        filters |= {"enable_upscaling": True, "upscaling_scale": 2}
    if exp:
        filters |= {"enable_frame_interpolation": True, "frame_interpolation_exp": exp}
    options = ConversionOptions(
        filters=FilterOptions.model_validate(filters),
        encoder=EncoderOptions(preset="ultrafast"),
    )
    report = run(RunRequest(str(clip), str(out), options, RUNTIME))
    factor = 2**exp
    assert report.frames_out == 3 * factor + 1
    originals, made = side_data_of(clip, "A53_CC"), side_data_of(out, "A53_CC")
    assert made[::factor] == originals
    assert sum(one is not None for one in made) == 4
    originals, made = side_data_of(clip, "DYNAMIC_HDR_PLUS"), side_data_of(out, "DYNAMIC_HDR_PLUS")
    assert made == [originals[index // factor] for index in range(3 * factor + 1)]


@pytest.fixture(params=[1, 2])
def _lanes(request: pytest.FixtureRequest) -> Iterator[None]:
    """As many frames are computed at the same time as there are threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_lanes")
def test_repeats_at_cuts_and_of_duplicates_count_as_in_betweens() -> None:
    """Of four pictures the second repeats the first, and the third begins another scene."""
    ramp = torch.linspace(0, 1, 96).expand(64, 96)
    scenes = [ramp, (torch.linspace(0, 6, 64).frac() > 0.5).float().view(64, 1).expand(64, 96)]
    pictures = [_picture(index, scenes[index // 2]) for index in range(4)]
    info = StreamInfo(96, 64, "gray", RATE, rate=1 / RATE, average_rate=1 / RATE)
    filters = build_filters(FilterOptions(enable_frame_interpolation=True), RUNTIME)
    chain = Chain(built.filter for built in filters)
    compute = Compute(info, {"full": chain}, pix_fmt="gray", device=RUNTIME.device)
    made = [out for picture in pictures for out in compute(picture)] + list(compute.flush())
    counts = compute.statistics()
    compute.close()
    assert (counts["repeated_at_cuts"], counts["repeated_at_duplicates"]) == (1, 2)
    assert [picture.t35 for picture in made[::2]] == [tuple(both(index)) for index in range(4)]
    assert [picture.t35 for picture in made[1::2]] == [(hdr10_plus(index),) for index in range(3)]


def _picture(index: int, scene: Tensor) -> Picture:
    plane = (scene * 255).to(torch.uint8)
    return Picture((plane,), "gray", Color(), index, 1, RATE, t35=tuple(both(index)))

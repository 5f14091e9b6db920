"""What is made of a damaged result before a card has told so is made again, and never given out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import count
from typing import Any

import pytest
import torch
from support.kernels.card import CARD_1, Card, card
from support.kernels.interpolation import as_frames, info_of, moving
from support.kernels.upscaling import DamagedInHalf, small_srvgg
from torch import Tensor

from upframe.daemon.convert import compute
from upframe.daemon.convert.compute import Compute
from upframe.filters import guard
from upframe.filters.chain import Chain
from upframe.filters.color.convert import ToPicture
from upframe.filters.frame import Color, Filter, Frame, Picture, StreamInfo
from upframe.filters.interpolate.filter import GapFiller, Interpolate
from upframe.filters.interpolate.network import IFNet, load_ifnet
from upframe.filters.kernels.cuda import stream_for
from upframe.filters.upscale.filter import Enlarger, Upscale
from upframe.filters.weights import RIFE, load_state_dict, resolve_weights

__all__ = ["card"]

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> IFNet:
    return load_ifnet(load_state_dict(resolve_weights("builtin", RIFE).path))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures had been begun whenever a verdict was asked for."""
    moments: list[int] = []
    call = guard.Verdict.__call__

    def noting(verdict: guard.Verdict) -> bool:
        moments.append(Begun.count)
        return call(verdict)

    monkeypatch.setattr(guard.Verdict, "__call__", noting)
    return moments


class Begun(ToPicture):
    """Counts pictures that were begun."""

    count = 0

    def begin(self, pending: Any) -> Any:
        Begun.count += 1
        return super().begin(pending)


class SometimesDamaged:
    """What fills gaps, with results that are no pictures in some of them."""

    def __init__(self, inner: GapFiller, times: set[int]) -> None:
        self._inner, self._times = inner, times
        self._calls = count()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __call__(self, *given: Any) -> list[Tensor]:
        images = self._inner(*given)
        if next(self._calls) in self._times:
            images[1] = torch.full_like(images[1], float("nan"))
        return images


def filters(network: IFNet, times: set[int], value: float) -> list[Filter]:
    interpolate: Any = Interpolate(network, exact=network, exp=2)
    interpolate._fill = SometimesDamaged(interpolate._fill, times)
    upscaler = Enlarger(DamagedInHalf(small_srvgg(), value), CPU, torch.bfloat16)
    return [interpolate, Upscale(upscaler, 2)]


def counts(stages: list[Filter]) -> list[dict[str, int]]:
    return [dict(stage.statistics()) for stage in stages]


def begun_and_finished(stages: list[Filter], frames: list[Frame]) -> Iterator[Picture]:
    """Begin all pictures before the first one is finished."""
    chain, to_picture = Chain(stages), ToPicture("gbrp", Color())
    chain.open(info_of(frames))
    pending = [one for frame in frames for one in chain.plan(frame)]
    pending += chain.plan_flush()
    finish = [to_picture.begin(one) for one in pending]
    yield from (one() for one in finish)


@pytest.mark.parametrize("value", [float("nan"), 0.0])
@pytest.mark.parametrize("times", [set[int](), {0}, {1}, {0, 2}])
def test_damage_that_is_found_late_leaves_the_same_pictures_and_counts(
    network: IFNet, times: set[int], value: float
) -> None:
    frames = as_frames(moving(4, 32, 64))
    at_once = filters(network, times, value)
    chain, to_picture = Chain(at_once), ToPicture("gbrp", Color())
    chain.open(info_of(frames))
    wanted = [to_picture(made) for frame in frames for made in chain(frame)]
    wanted += [to_picture(made) for made in chain.flush()]
    late = filters(network, times, value)
    for found, expected in zip(begun_and_finished(late, frames), wanted, strict=True):
        assert found.pts == expected.pts
        assert all(map(torch.equal, found.planes, expected.planes))
    assert counts(late) == counts(at_once)
    assert counts(late)[0]["redone_in_fp32"] == 3 * len(times)


def picture(shift: int, pts: int) -> Picture:
    ramp = (torch.arange(64)[None] * 3 + 8 * torch.arange(32)[:, None] + 40 * shift) % 200 + 20
    return Picture((ramp.to(torch.uint8),) * 3, "gbrp", Color(), pts, 1, Fraction(1, 25))


def computed(
    monkeypatch: pytest.MonkeyPatch, stages: list[Filter], downloads: int
) -> list[Picture]:
    """What a card's compute thread gives, with so many pictures in flight."""
    monkeypatch.setattr(compute, "lanes_for", lambda *_, **__: None)
    monkeypatch.setattr(compute, "ToPicture", Begun)
    monkeypatch.setattr(Begun, "count", 0)
    info = StreamInfo(64, 32, "gbrp", Fraction(1, 25), rate=Fraction(25), average_rate=Fraction(25))
    made = Compute(info, {"full": Chain(stages)}, pix_fmt="gbrp", device=CPU, detect_cuts=False)
    made._most_downloads = downloads
    given = [picture(shift, shift) for shift in range(4)]
    return [out for one in given for out in made(one)] + list(made.flush())


def test_a_picture_is_judged_when_it_goes_out_with_two_after_it_in_flight(
    monkeypatch: pytest.MonkeyPatch, network: IFNet, asked: list[int]
) -> None:
    wanted = computed(monkeypatch, filters(network, {1}, 0.0), 0)
    asked.clear()
    found = computed(monkeypatch, filters(network, {1}, 0.0), 2)
    assert [one.pts for one in found] == list(range(13))
    for ours, theirs in zip(found, wanted, strict=True):
        assert all(map(torch.equal, ours.planes, theirs.planes))
    assert asked[0] == 3
    assert asked == sorted(asked)


@pytest.mark.parametrize(
    ("exp", "width", "height", "most"),
    [(0, 640, 360, 2), (1, 1920, 1080, 4), (3, 1920, 1080, 16), (3, 7680, 4320, 2)],
)
def test_a_card_has_the_pictures_of_two_frames_in_flight_or_as_many_as_take_a_gib(
    card: Card, exp: int, width: int, height: int, most: int
) -> None:
    info = StreamInfo(width, height, "gbrp", Fraction(1, 25))
    made = Compute(info, {"full": Chain([Finer(2**exp)])}, pix_fmt="gbrp", device=CARD_1)
    assert made._most_downloads == most


class Finer:
    """A filter that gives so many frames for each."""

    def __init__(self, factor: int) -> None:
        self._factor = factor

    def open(self, info: StreamInfo) -> StreamInfo:
        return replace(info, time_base=info.time_base / self._factor)

    def __call__(self, frame: Frame) -> Iterator[Frame]:
        yield from [frame] * self._factor

    def flush(self) -> tuple[()]:
        return ()

    def statistics(self) -> dict[str, int]:
        return {}


def test_a_card_computes_on_a_stream_of_its_own_once_its_weights_are_there(card: Card) -> None:
    info = StreamInfo(64, 32, "gbrp", Fraction(1, 25))
    made = Compute(info, {"full": Chain([])}, pix_fmt="gbrp", device=CARD_1)
    own: Any = stream_for("compute", CARD_1)
    assert own.waited_for == [card.current_stream()]
    with made._working():
        assert card.current_stream() is own
    assert card.current_stream() is not own

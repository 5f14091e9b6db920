"""The same filter for another exponent: one network, nothing else in common."""

from __future__ import annotations

from support.kernels.interpolation import as_frames, counted_calls, info_of, moving, run

from upframe.filters.interpolate.filter import Interpolate
from upframe.filters.interpolate.network import IFNet


def test_it_gives_what_one_made_for_that_exponent_gives(network: IFNet) -> None:
    frames = as_frames(moving(3))
    other = Interpolate(network, exp=3, scale=2.0, method="direct").with_exp(2)
    wanted = run(Interpolate(network, exp=2, scale=2.0, method="direct"), frames)
    found = run(other, frames)
    assert [frame.pts for frame in found] == [frame.pts for frame in wanted]
    assert all(map(lambda a, b: a.pixels.equal(b.pixels), found, wanted))


def test_both_run_the_same_network(network: IFNet) -> None:
    frames = as_frames(moving(2))
    first = Interpolate(network, exp=1)
    with counted_calls(network) as calls:
        run(first.with_exp(2), frames)
    assert len(calls) == 2


def test_neither_sees_the_frames_or_counters_of_the_other(network: IFNet) -> None:
    frames = as_frames(moving(2))
    first = Interpolate(network, exp=1)
    first.open(info_of(frames))
    assert list(first(frames[0])) == []
    other = first.with_exp(2)
    other.open(info_of(frames))
    assert list(other(frames[1])) == []
    assert len(list(first(frames[1]))) == 2
    assert (first.statistics()["inserted"], other.statistics()["inserted"]) == (1, 0)

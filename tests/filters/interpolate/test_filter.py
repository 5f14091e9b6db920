"""Interpolate: counts, times, what is repeated, what is computed once."""

from __future__ import annotations

import copy
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from support.kernels.interpolation import (
    TIME_BASE,
    as_frames,
    counted_calls,
    info_of,
    moving,
    run,
    texture,
)
from torch import Tensor

from upframe.filters.errors import FilterError
from upframe.filters.frame import Frame
from upframe.filters.interpolate.filter import Interpolate
from upframe.filters.interpolate.network import IFNet

REPEATS = ("repeated_at_cuts", "repeated_at_gaps", "repeated_at_duplicates")


def retimed(frames: list[Frame], pts: list[int], time_base: Fraction = TIME_BASE) -> list[Frame]:
    return [replace(f, pts=p, time_base=time_base) for f, p in zip(frames, pts, strict=True)]


@pytest.mark.parametrize("num_frames", [1, 2, 3, 5, 17])
@pytest.mark.parametrize("exp", [1, 2, 3, 4])
def test_n_frames_become_n_minus_1_times_2_to_the_exp_plus_1(
    network: IFNet, num_frames: int, exp: int
) -> None:
    frames = as_frames(moving(num_frames, 32, 32, step=1))
    out = run(Interpolate(network, exp=exp), frames)
    assert len(out) == (num_frames - 1) * 2**exp + 1
    assert out[-1].pixels is frames[-1].pixels
    assert [frame.pixels for frame in out[:: 2**exp]] == [frame.pixels for frame in frames]


def test_nothing_in_nothing_out(network: IFNet) -> None:
    assert list(Interpolate(network).flush()) == []


def test_flush_leaves_nothing_behind(network: IFNet) -> None:
    built = Interpolate(network)
    run(built, as_frames(moving(2)))
    assert list(built.flush()) == []


def test_the_earlier_frame_leaves_before_anything_is_computed(network: IFNet) -> None:
    built = Interpolate(network)
    first, second = as_frames(moving(2))
    assert list(built(first)) == []
    with counted_calls(network) as calls:
        results = iter(built(second))
        assert next(results).pixels is first.pixels
        assert calls == []
        next(results)
        assert calls == [1]


def test_in_betweens_lie_exactly_between_and_last_one_step(network: IFNet) -> None:
    """VFR, a start that is not 0, and a time base in which a quarter of a gap is no integer."""
    frames = retimed(as_frames(moving(3)), [1001, 1004, 1005], Fraction(1, 30))
    out = run(Interpolate(network, exp=2), [replace(f, duration=7) for f in frames])
    assert {frame.time_base for frame in out} == {Fraction(1, 120)}
    assert [f.pts for f in out] == [4004, 4007, 4010, 4013, 4016, 4017, 4018, 4019, 4020]
    assert [f.duration for f in out] == [3, 3, 3, 3, 1, 1, 1, 1, 28]


def test_constant_rate_stays_constant_and_the_whole_duration_stays(network: IFNet) -> None:
    time_base = Fraction(1001, 24000)
    frames = retimed(as_frames(moving(5)), list(range(5)), time_base)
    out = run(Interpolate(network, exp=1), frames, rate=1 / time_base)
    assert {b.pts - a.pts for a, b in pairwise(out)} == {1}
    assert out[-1].duration == 2  # the last frame keeps its own
    assert (out[-1].pts + out[-1].duration) * out[-1].time_base == 5 * time_base


def test_describes_what_it_gives(network: IFNet) -> None:
    info = replace(info_of(as_frames(moving(3))), duration_seconds=Fraction(3, 25))
    out = Interpolate(network, exp=3).open(info)
    assert (out.rate, out.average_rate) == (200, 200)
    assert out.time_base == Fraction(1, 200)
    assert out.num_frames == 17
    assert out.duration_seconds == info.duration_seconds
    assert (out.width, out.height, out.pix_fmt) == (info.width, info.height, info.pix_fmt)


def test_describes_variable_rate_and_unknown_length_as_such(network: IFNet) -> None:
    info = replace(info_of(as_frames(moving(2))), rate=None, num_frames=None)
    out = Interpolate(network).open(info)
    assert (out.rate, out.average_rate, out.num_frames) == (None, 50, None)


@pytest.mark.parametrize("method", ["recursive", "direct"])
def test_moments_come_in_order(network: IFNet, method: str) -> None:
    """Every in-between is nearer to where it should be than to where its neighbours are."""
    *_, expected = (moving(9, 64, 96, step=1),)
    frames = as_frames([expected[0], expected[8]])
    out = run(Interpolate(network, exp=3, method=method), frames)
    inner = (..., slice(16, -16), slice(16, -16))
    for index, frame in enumerate(out):
        errors = [float((frame.pixels - e)[inner].abs().mean()) for e in expected]
        assert errors.index(min(errors)) == index


def test_recursive_takes_the_results_of_one_round_into_the_next(network: IFNet) -> None:
    frames = as_frames(moving(2, 50, 70))  # not a multiple of 32
    first = run(Interpolate(network, exp=1), frames)
    again = run(Interpolate(network, exp=1), as_frames([frame.pixels for frame in first]))
    at_once = run(Interpolate(network, exp=2), frames)
    for one, other in zip(at_once, again, strict=True):
        torch.testing.assert_close(one.pixels, other.pixels, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("method", "batches"), [("recursive", [1, 2, 4]), ("direct", [7])])
def test_one_batch_per_round(network: IFNet, method: str, batches: list[int]) -> None:
    with counted_calls(network) as calls:
        run(Interpolate(network, exp=3, method=method), as_frames(moving(2)))
    assert calls == batches


def test_every_original_is_encoded_once(network: IFNet) -> None:
    with counted_calls(network.encode) as calls:
        run(Interpolate(network), as_frames(moving(6)))
    assert calls == [1] * 6


def test_every_in_between_is_encoded_once_in_batches(network: IFNet) -> None:
    with counted_calls(network.encode) as calls:
        run(Interpolate(network, exp=3), as_frames(moving(2)))
    assert calls == [1, 1, 1, 2]  # those of the last round are only looked at


def test_reused_features_give_what_fresh_ones_give_bit_by_bit(network: IFNet) -> None:
    """A cache with the features of another frame is tens of dB off and looks nearly right."""
    frames = as_frames(moving(5))
    reused = run(Interpolate(network), frames)
    for index in range(4):
        fresh = run(Interpolate(network), frames[index : index + 2])
        assert torch.equal(reused[2 * index + 1].pixels, fresh[1].pixels)


def test_at_a_cut_the_earlier_frame_is_repeated(network: IFNet) -> None:
    frames = as_frames([*moving(2), *moving(2)])
    frames[2] = replace(frames[2], cut=True)
    with counted_calls(network) as calls:
        built = Interpolate(network, exp=2)
        out = run(built, frames)
    assert len(out) == 13
    assert calls == [1, 2, 1, 2]
    assert all(frame.pixels is frames[1].pixels for frame in out[4:8])
    assert [frame.duplicate for frame in out] == [False] * 5 + [True] * 3 + [False] * 5
    assert [frame.cut for frame in out].index(True) == 8
    assert sum(frame.cut for frame in out) == 1
    assert [frame.pts for frame in out] == list(range(13))
    assert built.statistics()["repeated_at_cuts"] == 3


def test_repeats_of_a_frame_that_begins_a_scene_do_not_begin_it_again(network: IFNet) -> None:
    a, b, c = as_frames(moving(3))
    out = run(Interpolate(network), [a, replace(b, cut=True), replace(c, cut=True)])
    assert [frame.cut for frame in out] == [False, False, True, False, True]


@pytest.mark.parametrize(
    ("rate", "step_ms", "repeated"),
    [
        (Fraction(25), 250, False),
        (Fraction(25), 251, True),
        (Fraction(10), 400, False),
        (Fraction(10), 401, True),
        (None, 1000, False),
        (None, 1001, True),
    ],
)
def test_does_not_interpolate_across_a_jump_in_time(
    network: IFNet, rate: Fraction | None, step_ms: int, repeated: bool
) -> None:
    frames = retimed(as_frames(moving(2)), [40, 40 + step_ms], Fraction(1, 1000))
    built = Interpolate(network)
    out = run(built, frames, rate)
    assert [frame.pts for frame in out] == [80, 80 + step_ms, 80 + 2 * step_ms]
    assert out[1].duplicate == repeated
    assert (out[1].pixels is frames[0].pixels) == repeated
    assert built.statistics()["repeated_at_gaps"] == repeated


@pytest.mark.parametrize("back_to", [100, 50])
def test_repeats_keep_to_their_frame_where_time_stands_still_or_jumps_back(
    network: IFNet, back_to: int
) -> None:
    frames = retimed(as_frames(moving(2)), [100, back_to])
    frames = [replace(frame, duration=3) for frame in frames]
    out = run(Interpolate(network, exp=2), frames)
    assert [frame.pts for frame in out] == [400, 403, 406, 409, 4 * back_to]
    assert [frame.duplicate for frame in out] == [False, True, True, True, False]


@pytest.mark.parametrize("flagged", [False, True])
def test_equal_frames_need_no_network(network: IFNet, flagged: bool) -> None:
    image, moved = moving(2)
    frames = as_frames([image, image.clone(), moved])
    frames[1] = replace(frames[1], duplicate=flagged)
    built = Interpolate(network)
    with counted_calls(network) as calls, counted_calls(network.encode) as encoded:
        out = run(built, frames)
    assert calls == [1]
    assert encoded == [1, 1]
    assert [frame.duplicate for frame in out] == [False, True, True, False, False]
    assert torch.equal(out[1].pixels, image)
    assert built.statistics()["repeated_at_duplicates"] == 1


def test_features_are_handed_on_over_equal_frames(network: IFNet) -> None:
    a, b, c = moving(3)
    with counted_calls(network.encode) as encoded:
        out = run(Interpolate(network), as_frames([a, b, b.clone(), c]))
    assert encoded == [1, 1, 1]
    fresh = run(Interpolate(network), as_frames([b, c]))
    assert torch.equal(out[5].pixels, fresh[1].pixels)


def test_frames_that_differ_in_alpha_only_are_not_equal(network: IFNet) -> None:
    left, right = as_frames([texture(32, 32)] * 2, alpha=True)
    assert left.alpha is not None
    out = run(Interpolate(network), [left, replace(right, alpha=1 - left.alpha)])
    assert not out[1].duplicate


def test_counts_every_frame_that_it_added_once(network: IFNet) -> None:
    frames = as_frames(moving(6))
    frames[1] = replace(frames[1], cut=True)
    frames[3] = replace(frames[3], pixels=frames[2].pixels)
    frames = retimed(frames, [0, 1, 2, 3, 40, 41])
    built = Interpolate(network, exp=2)
    out = run(built, frames)
    counts = built.statistics()
    assert len(out) - len(frames) == counts["inserted"] + sum(counts[name] for name in REPEATS)
    assert [counts[name] for name in REPEATS] == [3, 3, 3]
    assert counts["redone_in_fp32"] == 0


def test_alpha_comes_out_between_and_leaves_the_colours_alone(network: IFNet) -> None:
    images = moving(3)
    with_alpha = run(Interpolate(network, exp=2), as_frames(images, alpha=True))
    without = run(Interpolate(network, exp=2), as_frames(images))
    for one, other in zip(with_alpha, without, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert one.alpha is not None
        assert other.alpha is None
        # alpha was the mean of the colours, and is sampled and blended as they are
        torch.testing.assert_close(one.alpha[0], one.pixels.mean(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_keeps_shape_dtype_and_range(network: IFNet, dtype: torch.dtype) -> None:
    images = [image.to(dtype) for image in moving(2, 33, 47)]
    _, between, _ = run(Interpolate(network), as_frames(images))
    assert between.pixels.shape == (3, 33, 47)
    assert between.pixels.dtype == dtype
    assert between.pixels.min() >= 0
    assert between.pixels.max() <= 1


def test_one_pixel_is_enough(network: IFNet) -> None:
    out = run(Interpolate(network, exp=2), as_frames([torch.zeros(3, 1, 1), torch.ones(3, 1, 1)]))
    assert [tuple(frame.pixels.shape) for frame in out] == [(3, 1, 1)] * 5


def test_does_not_write_into_the_frames_it_is_given(network: IFNet) -> None:
    images = moving(2, 64, 64)
    before = [image.clone() for image in images]
    run(Interpolate(network, exp=2), as_frames(images))
    assert all(torch.equal(*pair) for pair in zip(images, before, strict=True))


def damaged(network: IFNet, value: float) -> IFNet:
    broken = copy.deepcopy(network).to(torch.bfloat16)
    broken.blocks[2].conv0[0].bias.fill_(value)
    return broken


def test_a_damaged_gap_is_redone_in_fp32_and_counted(network: IFNet) -> None:
    frames = as_frames(moving(3))
    built = Interpolate(damaged(network, float("nan")), exact=network, exp=2)
    out = run(built, frames)
    assert built.statistics()["redone_in_fp32"] == built.statistics()["inserted"] == 6
    for found, expected in zip(
        out, run(Interpolate(network, exp=2, way="torch"), frames), strict=True
    ):
        assert torch.equal(found.pixels, expected.pixels)


def test_what_is_no_picture_even_in_fp32_is_an_error(network: IFNet) -> None:
    broken = damaged(network, float("inf"))
    built = Interpolate(broken, exact=copy.deepcopy(broken).float())
    with pytest.raises(FilterError, match=r"NaN or Inf after Frame.*in fp32 too"):
        run(built, as_frames(moving(2)))


def test_what_overflows_in_fp16_is_redone_in_fp32(network: IFNet) -> None:
    """Features beyond 65504 are Inf in fp16 and nothing special in fp32."""
    loud = copy.deepcopy(network)
    loud.encode.cnn0.weight *= 1e6
    loud.encode.cnn1.weight *= 1e-6
    built = Interpolate(copy.deepcopy(loud).half(), exact=loud)
    out = run(built, as_frames(moving(2)))
    assert built.statistics()["redone_in_fp32"] == 1
    assert torch.isfinite(out[1].pixels).all()


def test_sound_results_are_not_redone(network: IFNet, network_bf16: IFNet) -> None:
    with counted_calls(network) as exact_calls:
        built = Interpolate(network_bf16, exact=network)
        run(built, as_frames([*moving(2), torch.zeros(3, 64, 96), torch.zeros(3, 64, 96) + 1e-4]))
    assert exact_calls == []
    assert built.statistics()["redone_in_fp32"] == 0


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (Frame(torch.zeros(3, 64, 64), 1, 1, TIME_BASE), "width must be 96 .*, got 64"),
        (Frame(torch.zeros(3, 32, 96), 1, 1, TIME_BASE), "height must be 64 .*, got 32"),
        (
            Frame(torch.zeros(3, 64, 96), 1, 1, Fraction(1, 24)),
            "time_base must be 1/25 .*, got 1/24",
        ),
        (
            Frame(torch.zeros(3, 64, 96), 1, 1, TIME_BASE, alpha=torch.zeros(1, 64, 96)),
            "every frame must have alpha or none",
        ),
    ],
)
def test_frames_of_another_stream_are_a_bug(network: IFNet, second: Frame, message: str) -> None:
    built = Interpolate(network)
    built(as_frames(moving(1))[0])
    with pytest.raises(ValueError, match=message):
        built(second)


@pytest.mark.needs_cuda
@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_cuda_gives_what_the_cpu_gives(network: IFNet, precision: torch.dtype) -> None:
    images = moving(3, 75, 133)
    expected = run(Interpolate(network, exp=2), as_frames(images))
    on_device = copy.deepcopy(network).cuda().to(precision)
    found = run(Interpolate(on_device, exp=2), as_frames([image.cuda() for image in images]))
    assert all(frame.pixels.is_cuda for frame in found)
    for one, other in zip(found, expected, strict=True):
        error = (one.pixels.cpu() - other.pixels).square().mean()
        assert -10 * torch.log10(error) > 52  # dB; TF32 and fp16 both cost some


def test_results_do_not_share_memory(network: IFNet) -> None:
    """A result that is written into by whoever gets it must not change another."""
    out = run(Interpolate(network, exp=1), as_frames(moving(3)))
    results: list[Tensor] = [out[1].pixels, out[3].pixels]
    assert results[0].data_ptr() != results[1].data_ptr()

"""Clips in every form that programs have them in: lists, arrays, tensors and PIL images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.kernels.interpolation import moving
from torch import Tensor

from upframe.filters import (
    batch_upscale_frames,
    interpolate_frames,
    interpolate_video_tensor,
    upscale_frames,
    upscale_tensor,
)

HEIGHT, WIDTH = 33, 47
Values = npt.NDArray[np.uint8]


def clip(channels: int, num: int = 3) -> Values:
    """(N, H, W, C), moving; alpha is a picture of its own."""
    colors = torch.stack(moving(num, HEIGHT, WIDTH))
    alpha = colors[:, :1].flip(-1)
    gray = colors[:, :1]
    parts = {1: [gray], 2: [gray, alpha], 3: [colors], 4: [colors, alpha]}[channels]
    return (torch.cat(parts, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def tensor(values: Values) -> Tensor:
    return torch.from_numpy(values).permute(0, 3, 1, 2).contiguous()


def interpolated(frames: Any, exp: int = 1) -> Any:
    out, multiplier = interpolate_frames(frames, exp, model_path="builtin")
    assert multiplier == 2**exp
    return out


def enlarged(frames: Any, scale: float = 2) -> Any:
    return upscale_frames(frames, "builtin", scale)


FORMS: dict[str, Callable[[Values], Any]] = {
    "list of uint8": list,
    "tuple of uint8": tuple,
    "list of floats": lambda values: list(values.astype(np.float32) / 255),
    "list of doubles": lambda values: list(values.astype(np.float64) / 255),
    "array of uint8": lambda values: values,
    "array of floats": lambda values: values.astype(np.float32) / 255,
    "tensor of uint8": tensor,
    "tensor of floats": lambda values: tensor(values).float() / 255,
    "tensor of halves": lambda values: (tensor(values).float() / 255).half(),
    "list of tensors": lambda values: list(tensor(values)),
}


def levels(frames: Any) -> npt.NDArray[np.float64]:
    """(N, H, W, C) in levels of 8 bits, from any form."""
    if isinstance(frames, Tensor) or (isinstance(frames, Sequence) and torch.is_tensor(frames[0])):
        stacked = frames if isinstance(frames, Tensor) else torch.stack(list(frames))
        values = stacked.permute(0, 2, 3, 1).double().numpy()
        is_whole = stacked.dtype == torch.uint8
    else:
        stacked = np.stack([np.asarray(frame) for frame in frames])
        values, is_whole = stacked.astype(np.float64), stacked.dtype == np.uint8
    return values if is_whole else values * 255


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        *((name, 3) for name in FORMS),
        *(("array of uint8", channels) for channels in (1, 2, 4)),
        *(("tensor of floats", channels) for channels in (1, 2, 4)),
    ],
)
@pytest.mark.parametrize("change", [interpolated, enlarged])
def test_results_have_the_form_of_the_frames_and_the_same_values(
    name: str, channels: int, change: Callable[[Any], Any]
) -> None:
    values = clip(channels, num=2)
    given = FORMS[name](values)
    results = change(given)
    wanted = list if isinstance(given, list | tuple) else type(given)
    assert type(results) is wanted
    first, made = given[0], results[-1]
    assert type(made) is type(first)
    assert made.dtype == first.dtype
    expected = levels(change(list(values)))
    assert levels(results).shape == expected.shape
    assert np.abs(levels(results) - expected).max() <= 1.0  # uint8 is rounded, halves have 11 bits


def test_gray_without_an_axis_of_channels_stays_so() -> None:
    gray = clip(1)[..., 0]
    for change in (interpolated, enlarged):
        results = change(list(gray))
        with_axis = change(list(gray[..., None]))
        assert {frame.ndim for frame in results} == {2}
        assert all(np.array_equal(a, b[..., 0]) for a, b in zip(results, with_axis, strict=True))


def test_gray_is_enlarged_as_the_same_picture_in_color_would_be() -> None:
    gray = clip(1, num=1)
    (color,) = enlarged(list(gray.repeat(3, axis=-1)))
    (result,) = enlarged(list(gray))
    assert np.abs(color.mean(-1) - result[..., 0]).max() <= 1


def test_alpha_moves_with_the_picture() -> None:
    values = clip(4)
    _, between, *_ = interpolated(list(values))
    left, right = values[0, ..., 3].astype(int), values[1, ..., 3].astype(int)
    assert np.abs(between[..., 3] - left).mean() > 1
    assert np.abs(between[..., 3] - right).mean() > 1
    low, high = np.minimum(left, right).min(), np.maximum(left, right).max()
    assert low - 3 <= between[..., 3].min() <= between[..., 3].max() <= high + 3


def test_originals_of_a_tensor_are_its_exact_values() -> None:
    frames = tensor(clip(3)).float() / 255
    out = interpolated(frames, exp=2)
    assert out.shape == (9, 3, HEIGHT, WIDTH)
    assert torch.equal(out[::4], frames)


def test_one_frame_passes_in_every_form() -> None:
    for name, form in FORMS.items():
        given = form(clip(3, num=1))
        out, multiplier = interpolate_frames(given, model_path="builtin")
        assert multiplier == 1, name
        assert np.array_equal(levels(out), levels(given))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_pil_images_come_back_as_pil_images(mode: str) -> None:
    pil = pytest.importorskip("PIL.Image", reason="Pillow is not needed by upframe")
    values = clip({"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode])
    plain = values[..., 0] if mode == "L" else values
    images = [pil.fromarray(np.ascontiguousarray(one)) for one in plain]
    assert {image.mode for image in images} == {mode}
    for change in (interpolated, enlarged):
        results = change(images)
        assert {(type(result), result.mode) for result in results} == {(pil.Image, mode)}
        expected = change(list(plain))
        assert all(np.array_equal(np.asarray(a), b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("mode", ["P", "CMYK", "YCbCr", "1", "F"])
def test_a_pil_image_of_another_mode_is_refused_with_its_mode(mode: str) -> None:
    pil = pytest.importorskip("PIL.Image", reason="Pillow is not needed by upframe")
    image = pil.fromarray(clip(3)[0]).convert(mode)
    with pytest.raises(ValueError, match=f"frame 0 must be .* PIL image of mode {mode} "):
        enlarged([image])


@pytest.mark.parametrize("call", [interpolate_frames, upscale_frames])
@pytest.mark.parametrize(
    ("frames", "error", "message"),
    [
        ([], ValueError, "frames is empty, wanted at least one"),
        (np.zeros((0, 4, 4, 3), np.uint8), ValueError, "frames is empty"),
        (iter([clip(3)[0]]), TypeError, "a list, an array or a tensor, got list_iterator"),
        ((frame for frame in clip(3)), TypeError, "a list, an array or a tensor, got generator"),
        ("film.mp4", TypeError, "a list, an array or a tensor, got str"),
        (None, TypeError, "got NoneType"),
        (clip(3)[0], ValueError, r"frames must be \(N, H, W, C\), or a list, got \(33, 47, 3\)"),
        (tensor(clip(3))[0], ValueError, r"frames must be \(N, C, H, W\), or a list, got \(3, 33"),
        (["film.mp4"], ValueError, "frame 0 must be uint8 or float: .* got str"),
        ([[[1, 2]]], ValueError, "frame 0 must be uint8 or float: .* got list"),
        (clip(3).astype(np.float32), ValueError, r"frame 0 must be in \[0, 1\], got .* to 2"),
        (np.full((2, 4, 4, 3), np.nan), ValueError, r"frame 0 must be in \[0, 1\], got nan"),
        (tensor(clip(3)).permute(0, 2, 3, 1), ValueError, r"frame 0 .* tensor \(C, H, W\), with"),
        (tensor(clip(3)).int(), ValueError, "frame 0 .* got int32 tensor"),
    ],
)
def test_what_is_no_clip_is_refused_with_what_was_wanted(
    call: Callable[..., Any], frames: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(frames, model_path="builtin")


def test_frames_to_interpolate_are_all_alike() -> None:
    values = clip(3)
    with pytest.raises(ValueError, match=r"frame 1 must be uint8 array .*, got float32 array"):
        interpolated([values[0], values[1].astype(np.float32) / 255])
    with pytest.raises(ValueError, match=r"frame 1 must be uint8 array .*, got uint8 tensor"):
        interpolated([values[0], tensor(values)[1]])


def test_floats_slightly_outside_are_clipped() -> None:
    frames = np.clip(clip(3).astype(np.float32) / 255, 0, 1)
    inside = interpolated(frames)
    beyond = frames.copy()
    beyond[frames == frames.max()] += 0.005
    assert np.abs(interpolated(beyond)[1] - inside[1]).max() < 0.02


# Functions of the reference implementation: tensors (N, 3, H, W) in, float32 out.


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
@pytest.mark.parametrize(("exp", "num"), [(1, 5), (2, 9)])
def test_video_tensor_is_interpolated_to_float32(dtype: torch.dtype, exp: int, num: int) -> None:
    frames = tensor(clip(3))
    given = frames if dtype == torch.uint8 else (frames.float() / 255).to(dtype)
    out, multiplier = interpolate_video_tensor(given, exp=exp, model_path="builtin")
    assert (tuple(out.shape), out.dtype, multiplier) == (
        (num, 3, HEIGHT, WIDTH),
        torch.float32,
        2**exp,
    )
    expected = levels(interpolated(frames, exp))
    assert np.abs(levels(out) - expected).max() <= 1


def test_one_frame_of_a_video_tensor_passes_with_the_multiplier_1() -> None:
    frames = tensor(clip(3, num=1))
    out, multiplier = interpolate_video_tensor(frames, model_path="builtin")
    assert multiplier == 1
    assert torch.equal(out, frames.float() / 255)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_tensor_is_enlarged_to_float32(dtype: torch.dtype) -> None:
    frames = tensor(clip(3, num=2))
    given = frames if dtype == torch.uint8 else frames.float() / 255
    out = upscale_tensor(given, model_path="builtin", scale=2)
    assert (tuple(out.shape), out.dtype) == ((2, 3, 2 * HEIGHT, 2 * WIDTH), torch.float32)
    assert 0 <= out.min() <= out.max() <= 1
    assert np.abs(levels(out) - levels(enlarged(frames))).max() <= 0.5 + 1e-4
    half = upscale_tensor(given, "builtin", 2, half_precision=True)
    assert half.dtype == torch.float32
    assert not torch.equal(half, out)


@pytest.mark.parametrize("call", [interpolate_video_tensor, upscale_tensor])
@pytest.mark.parametrize("frames", [clip(3), tensor(clip(4)), tensor(clip(3))[0], [clip(3)]])
def test_functions_of_tensors_want_tensors_of_three_channels(
    call: Callable[..., Any], frames: Any
) -> None:
    with pytest.raises(ValueError, match=r"frames must be a tensor \(N, 3, H, W\), got"):
        call(frames, model_path="builtin")


def test_mixed_sizes_are_enlarged_in_their_order() -> None:
    sizes = [(8, 6), (5, 7), (8, 6), (4, 4), (5, 7)]
    random = np.random.default_rng(1)
    frames = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    results = batch_upscale_frames(frames, model_path="builtin", scale=2)
    assert [result.shape for result in results] == [(2 * h, 2 * w, 3) for h, w in sizes]
    for frame, result in zip(frames, results, strict=True):
        assert np.array_equal(result, enlarged([frame])[0])
    assert not any(np.array_equal(a, b) for a, b in pairwise(results) if a.shape == b.shape)
    assert batch_upscale_frames([], model_path="builtin") == []

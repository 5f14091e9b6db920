import logging
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from support.kernels.upscaling import DamagedInHalf, small_srvgg
from torch import Tensor

from upframe.filters.device import Runtime
from upframe.filters.errors import CheckpointRejected, TooLarge, WeightsUnavailable
from upframe.filters.frame import Filter, Frame, StreamInfo
from upframe.filters.options import UpscaleOptions
from upframe.filters.upscale.filter import Enlarger, Upscale, build_upscale

CPU = torch.device("cpu")
INFO = StreamInfo(64, 48, "yuv420p", Fraction(1, 25))


def upscale(scale: float = 2, value: float | None = None) -> Upscale:
    network = small_srvgg() if value is None else DamagedInHalf(small_srvgg(), value)
    dtype = torch.float32 if value is None else torch.bfloat16
    return Upscale(Enlarger(network, CPU, dtype), scale)


def frame(pixels: Tensor | None = None, pts: int = 0, **flags: bool) -> Frame:
    return Frame(
        torch.rand(3, 6, 8) if pixels is None else pixels, pts, 3, Fraction(1, 90), **flags
    )


def with_alpha(alpha: Tensor, **flags: bool) -> Frame:
    return Frame(torch.full((3, 6, 8), 0.5), 0, 1, Fraction(1, 25), alpha=alpha, **flags)


def test_is_a_filter() -> None:
    stage: Filter = upscale()
    assert stage.open(INFO) is not None


@pytest.mark.parametrize(("scale", "size"), [(2, (128, 96)), (1, (64, 48)), (3.3, (211, 158))])
def test_the_stream_becomes_larger_and_nothing_else(scale: float, size: tuple[int, int]) -> None:
    info = StreamInfo(
        64, 48, "yuv420p10le", Fraction(1, 90), rate=Fraction(30), rotation=90, num_frames=7
    )
    opened = upscale(scale).open(info)
    assert (opened.width, opened.height) == size
    assert opened == StreamInfo(
        *size, "yuv420p10le", Fraction(1, 90), rate=Fraction(30), rotation=90, num_frames=7
    )


def test_every_frame_gives_one_with_its_time_and_flags() -> None:
    (result,) = upscale()(frame(pts=41, cut=True))
    assert (result.width, result.height) == (16, 12)
    assert (result.pts, result.duration, result.time_base) == (41, 3, Fraction(1, 90))
    assert result.cut
    assert not result.duplicate


def test_a_frame_is_never_written_into() -> None:
    pixels = torch.rand(3, 6, 8)
    before = pixels.clone()
    list(upscale()(frame(pixels)))
    assert torch.equal(pixels, before)


def test_the_result_is_the_networks() -> None:
    pixels = torch.rand(3, 6, 8)
    (result,) = upscale()(frame(pixels))
    assert torch.equal(result.pixels, small_srvgg()(pixels[None])[0].clamp(0, 1))


def test_nothing_is_held_back() -> None:
    stage = upscale()
    list(stage(frame()))
    assert list(stage.flush()) == []


def test_a_duplicate_reuses_the_last_result() -> None:
    stage = upscale()
    pixels = torch.rand(3, 6, 8)
    (first,) = stage(frame(pixels))
    (second,) = stage(frame(pixels.clone(), pts=1, duplicate=True))
    (third,) = stage(frame(pixels.clone(), pts=2, duplicate=True))
    assert second.pixels is third.pixels is first.pixels
    assert (second.pts, second.duplicate) == (1, True)
    assert stage.statistics() == {
        "upscaled": 1,
        "reused": 2,
        "redone_in_fp32": 0,
        "tiles_halved": 0,
    }


def test_a_duplicate_without_a_last_result_is_enlarged() -> None:
    stage = upscale()
    list(stage(frame()))
    stage.open(INFO)  # a new stream, counted anew
    list(stage(frame(duplicate=True)))
    assert stage.statistics() == {
        "upscaled": 1,
        "reused": 0,
        "redone_in_fp32": 0,
        "tiles_halved": 0,
    }
    list(stage(frame(torch.rand(3, 5, 5), duplicate=True)))  # of something of another size
    assert stage.statistics()["upscaled"] == 2


def test_the_same_pixels_may_have_another_alpha() -> None:
    stage = upscale()
    (first,) = stage(with_alpha(torch.zeros(1, 6, 8)))
    (second,) = stage(with_alpha(torch.ones(1, 6, 8), duplicate=True))
    assert second.pixels is first.pixels
    assert second.alpha is not None
    assert (second.alpha == 1).all()


def test_the_same_alpha_is_enlarged_once() -> None:
    stage = upscale()
    alpha = torch.rand(1, 6, 8)
    (first,) = stage(with_alpha(alpha))
    (second,) = stage(with_alpha(alpha.clone()))
    assert second.alpha is first.alpha


@pytest.mark.parametrize("scale", [2, 1.7, 3.3])
def test_alpha_is_enlarged_as_a_gray_picture(scale: float) -> None:
    alpha = torch.rand(1, 6, 8)
    (result,) = upscale(scale)(with_alpha(alpha))
    (gray,) = upscale(scale)(frame(alpha.expand(3, -1, -1).contiguous()))
    assert result.alpha is not None
    assert result.alpha.shape == (1, *result.pixels.shape[1:])
    torch.testing.assert_close(result.alpha[0], gray.pixels.mean(0))


@pytest.mark.parametrize("opacity", [0.0, 0.25, 1.0])
def test_alpha_that_is_the_same_everywhere_stays_exact(opacity: float) -> None:
    (result,) = upscale(1.5)(with_alpha(torch.full((1, 6, 8), opacity)))
    assert result.alpha is not None
    assert result.alpha.shape == (1, 9, 12)
    assert (result.alpha == opacity).all()


def test_what_was_redone_in_fp32_is_reported() -> None:
    stage = upscale(value=float("nan"))
    (result,) = stage(frame())
    assert result.pixels.isfinite().all()
    assert stage.statistics()["redone_in_fp32"] == 1


def test_a_stream_too_large_for_any_memory_is_refused_before_its_first_frame() -> None:
    stage = Upscale(Enlarger(small_srvgg(scale=4), CPU), 8)
    with pytest.raises(TooLarge, match="153600x86400 to 1228800x691200"):
        stage.open(StreamInfo(153600, 86400, "yuv420p", Fraction(1, 25)))


@pytest.mark.parametrize("scale", [0.5, 0.999, 8.01])
def test_scales_out_of_range_are_a_bug(scale: float) -> None:
    with pytest.raises(ValueError, match=f"scale must be from 1 to 8, got {scale}"):
        upscale(scale)


def _runtime(policy: str = "hub") -> Runtime:
    return Runtime(CPU, torch.float32, policy)


def test_building_takes_the_weights_that_are_named(tmp_path: Path) -> None:
    path = tmp_path / "small.pth"
    torch.save({"params": small_srvgg().state_dict()}, path)
    stage, weights = build_upscale(
        UpscaleOptions(upscaling_model_path=str(path), upscaling_scale=1.5), _runtime()
    )
    assert (weights.path, weights.origin) == (path, "local")
    assert stage.open(INFO).width == 96


def test_building_with_the_built_in_weights(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        stage, weights = build_upscale(UpscaleOptions(), _runtime("builtin"))
    (result,) = stage(frame())
    assert (result.width, result.height) == (32, 24)
    assert weights.origin == "builtin"
    assert not caplog.records


def test_a_foreign_checkpoint_is_refused_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "hat.pth"
    torch.save({"layers.0.residual_group.overlap_attn.qkv.weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointRejected, match=r"hat\.pth: not a Real-ESRGAN .* it is HAT"):
        build_upscale(UpscaleOptions(upscaling_model_path=str(path)), _runtime())


def test_weights_that_are_not_there_are_unavailable(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match=r"none\.pth"):
        build_upscale(UpscaleOptions(upscaling_model_path=str(tmp_path / "none.pth")), _runtime())


def test_the_users_tile_reaches_the_network(data: Path) -> None:
    """Tiles of 16 give the same picture as the whole, and not by chance the same numbers."""
    path = str(data / "weights" / "starter_srvgg_x4.pth")
    pixels = torch.rand(3, 40, 40)
    results: list[torch.Tensor] = []
    for tile in (0, 16):
        options = UpscaleOptions(upscaling_model_path=path, upscaling_tile=tile)
        stage, _ = build_upscale(options, _runtime())
        (result,) = stage(frame(pixels))
        results.append(result.pixels)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-5)

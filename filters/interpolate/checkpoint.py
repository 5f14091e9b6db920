"""Recognise a checkpoint of RIFE 4.22.lite by its keys and shapes, and build the network of it.

Versions of RIFE share their names; the shapes alone tell them apart. So loading is strict, and a
checkpoint of another version is refused with what was found and what was expected.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import CheckpointRejected
from .network import (
    BLOCK_CHANNELS,
    FIRST_CHANNELS,
    NEXT_CHANNELS,
    NUM_RESIDUALS,
    OUT_CHANNELS,
    IFNet,
)

logger = logging.getLogger(__name__)

_PREFIX = "module."
_FAULTS_NAMED = 3
"""Keys that a refusal names."""

# Of our input channels, which ones of the checkpoint they are. There: left and right image,
# left and right features, timestep[, mask, 8 features, flow]. Here: features and image of the
# left frame, of the right frame[, mask, 8 features], timestep[, flow].
_SIDES = (6, 7, 8, 9, 0, 1, 2, 10, 11, 12, 13, 3, 4, 5)
_FIRST_ORDER = (*_SIDES, 14)
_NEXT_ORDER = (*_SIDES, *range(15, 24), 14, *range(24, 28))


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Return every key of a checkpoint, without ``module.``, and its shape."""
    shapes = _conv("encode.cnn0", 3, 16) | _conv("encode.cnn1", 16, 16)
    shapes |= _conv("encode.cnn2", 16, 16) | _transposed("encode.cnn3", 16, 4)
    for index, channels in enumerate(BLOCK_CHANNELS):
        name, half = f"block{index}", channels // 2
        shapes |= _conv(f"{name}.conv0.0.0", NEXT_CHANNELS if index else FIRST_CHANNELS, half)
        shapes |= _conv(f"{name}.conv0.1.0", half, channels)
        for step in range(NUM_RESIDUALS):
            shapes[f"{name}.convblock.{step}.beta"] = (1, channels, 1, 1)
            shapes |= _conv(f"{name}.convblock.{step}.conv", channels, channels)
        shapes |= _transposed(f"{name}.lastconv.0", channels, 4 * OUT_CHANNELS)
    return shapes


def load_ifnet(state: Mapping[str, Tensor]) -> IFNet:
    """Build the network of a state dict, in fp32, on the CPU, ready for inference.

    Args:
        state: keys with or without ``module.``; any float dtype.

    Raises:
        CheckpointRejected: if it is not a checkpoint of RIFE 4.22.lite.
    """
    bare = {key.removeprefix(_PREFIX): value for key, value in state.items()}
    ours = {key: value for key, value in bare.items() if _is_ours(key)}
    ignored = sorted({key.partition(".")[0] for key in bare.keys() - ours.keys()})
    _check(ours)
    if ignored:
        logger.info(
            "ignored parts of the checkpoint that only training needs: %s", ", ".join(ignored)
        )
    network = IFNet()
    network.load_state_dict(_folded({key: value.float() for key, value in ours.items()}))
    network.requires_grad_(False).eval()
    # torch's annotations leave this argument out
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue, reportUnknownVariableType]


def _is_ours(key: str) -> bool:
    first = key.partition(".")[0]
    return first == "encode" or (first.startswith("block") and first != "block")


def _conv(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs, 3, 3), f"{name}.bias": (outputs,)}


def _transposed(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (inputs, outputs, 4, 4), f"{name}.bias": (outputs,)}


def _check(ours: Mapping[str, Tensor]) -> None:
    expected = expected_shapes()
    faults = [
        f"{key} should be {shape}, found {tuple(ours[key].shape) if key in ours else 'nothing'}"
        for key, shape in expected.items()
        if key not in ours or tuple(ours[key].shape) != shape
    ]
    faults += [
        f"{key} should not be there, found {tuple(ours[key].shape)}"
        for key in ours
        if key not in expected
    ]
    if not faults:
        return
    more = f"; and {len(faults) - _FAULTS_NAMED} more" if len(faults) > _FAULTS_NAMED else ""
    raise CheckpointRejected(
        f"not a RIFE 4.22.lite checkpoint: {'; '.join(faults[:_FAULTS_NAMED])}{more}"
    )


def _folded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring checked weights into the form of `IFNet`."""
    folded = {key: value for key, value in state.items() if key.startswith("encode.")}
    for index in range(len(BLOCK_CHANNELS)):
        folded |= _folded_block(state, f"block{index}.", f"blocks.{index}.", index)
    return folded


def _folded_block(state: dict[str, Tensor], old: str, new: str, index: int) -> dict[str, Tensor]:
    order = list(_NEXT_ORDER if index else _FIRST_ORDER)
    outputs = IFNet.block_outputs(index)
    folded = {
        f"{new}conv0.0.weight": state[f"{old}conv0.0.0.weight"][:, order],
        f"{new}conv0.0.bias": state[f"{old}conv0.0.0.bias"],
        f"{new}conv0.1.weight": state[f"{old}conv0.1.0.weight"],
        f"{new}conv0.1.bias": state[f"{old}conv0.1.0.bias"],
        # pixel_shuffle(2) makes every channel of four
        f"{new}lastconv.weight": state[f"{old}lastconv.0.weight"][:, : 4 * outputs],
        f"{new}lastconv.bias": state[f"{old}lastconv.0.bias"][: 4 * outputs],
    }
    for step in range(NUM_RESIDUALS):
        beta = state[f"{old}convblock.{step}.beta"].view(-1, 1, 1, 1)
        weight = state[f"{old}convblock.{step}.conv.weight"] * beta
        diagonal = weight[:, :, 1, 1].diagonal()
        diagonal += 1  # the + x of the residual step
        folded[f"{new}convblock.{step}.weight"] = weight
        folded[f"{new}convblock.{step}.bias"] = (
            state[f"{old}convblock.{step}.conv.bias"] * beta.flatten()
        )
    return folded

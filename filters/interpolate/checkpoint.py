"""Recognise a checkpoint of RIFE 4.22.lite by its keys and shapes, and build the network of it.

Versions of RIFE share their names; the shapes alone tell them apart. So loading is strict, and a
checkpoint of another version is refused with what was found and what was expected.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import CheckpointRejected
from .network import BLOCK_CHANNELS, OUT_CHANNELS, IFNet

logger = logging.getLogger(__name__)

_PREFIX = "module."
_OURS = re.compile(r"encode(?:\.|$)|block[^.]")
_FAULTS_NAMED = 3
"""Keys that a refusal names."""

# Of our input channels, which ones of the checkpoint they are. There: left and right image,
# left and right features, timestep[, mask, 8 features, flow]. Here: features and image of the
# left frame, of the right frame[, mask, 8 features], timestep[, flow].
_SIDES = (6, 7, 8, 9, 0, 1, 2, 10, 11, 12, 13, 3, 4, 5)
_FIRST_ORDER = [*_SIDES, 14]
_NEXT_ORDER = [*_SIDES, *range(15, 24), 14, *range(24, 28)]


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Return every key of a checkpoint, without ``module.``, and its shape."""
    with torch.device("meta"):
        network = IFNet()
    shapes: dict[str, tuple[int, ...]] = {}
    for key, value in network.state_dict().items():
        name = _theirs(key)
        if name.endswith(".conv.weight"):
            shapes[name.replace("conv.weight", "beta")] = (1, len(value), 1, 1)
        shapes[name] = tuple(value.shape)
    last = f"block{len(BLOCK_CHANNELS) - 1}.lastconv.0"
    shapes[f"{last}.weight"] = (BLOCK_CHANNELS[-1], 4 * OUT_CHANNELS, 4, 4)
    shapes[f"{last}.bias"] = (4 * OUT_CHANNELS,)
    return shapes


def _theirs(key: str) -> str:
    """Return the name in a checkpoint of a weight or bias of `IFNet`."""
    key = re.sub(r"^blocks\.(\d)", r"block\1", key)
    key = re.sub(r"(conv0\.\d|lastconv)\.", r"\1.0.", key)
    return re.sub(r"(convblock\.\d)\.", r"\1.conv.", key)


def load_ifnet(state: Mapping[str, Tensor]) -> IFNet:
    """Build the network of a state dict, in fp32, on the CPU, ready for inference.

    Args:
        state: keys with or without ``module.``; any float dtype.

    Raises:
        CheckpointRejected: if it is not a checkpoint of RIFE 4.22.lite.
    """
    bare = {key.removeprefix(_PREFIX): value for key, value in state.items()}
    ours = {key: value for key, value in bare.items() if _OURS.match(key)}
    ignored = sorted({key.partition(".")[0] for key in bare.keys() - ours.keys()})
    _check(ours)
    if ignored:
        logger.info(
            "ignored parts of the checkpoint that only training needs: %s", ", ".join(ignored)
        )
    network = IFNet()
    floats = {key: value.float() for key, value in ours.items()}
    network.load_state_dict(
        {key: _folded(key, floats, value.shape) for key, value in network.state_dict().items()}
    )
    network.requires_grad_(False).eval()
    # torch's annotations leave this argument out
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue, reportUnknownVariableType]


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


def _folded(key: str, state: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
    """Bring checked weights into the form of a weight or bias of `IFNet`."""
    name = _theirs(key)
    value = state[name]
    if key.endswith(".conv0.0.weight"):
        return value[:, _FIRST_ORDER if key.startswith("blocks.0.") else _NEXT_ORDER]
    if ".convblock." in key:
        beta = state[re.sub(r"conv\.\w+$", "beta", name)]
        value = value * beta.view(-1, *[1] * (value.ndim - 1))
        if value.ndim == 4:
            value[:, :, 1, 1].diagonal().add_(1)  # the + x of the residual step
    # of the last block less is computed; pixel_shuffle(2) makes every channel of four
    return value[tuple(map(slice, shape))]

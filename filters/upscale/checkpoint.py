"""From a state dict to the network it belongs to. Keys and shapes decide, names of files never."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from math import isqrt

import torch
from torch import Tensor

from ..errors import CheckpointRejected
from .network import NUM_IN_BY_SCALE, RRDBNet, SRVGGNetCompact, Upscaler

# Naming checkpoints that are not ours, by keys that only their architecture has.

_TELL_TALES: tuple[tuple[str, str], ...] = (
    ("RIFE", r"(?:flownet\.)?block\d\.conv0\.|block_tea\.|contextnet\."),
    ("HAT", r"layers\.\d+\.residual_group\.overlap_attn\."),
    ("SwinIR", r"layers\.\d+\.residual_group\.blocks\.\d+\.attn\.(?:relative_position_|qkv\.)"),
    ("DRCT", r"layers\.\d+\.swin\d\."),
    ("DAT", r"layers\.\d+\.blocks\.\d+\.attn\.attns\.\d+\.|before_RG\."),
    ("SPAN", r"block_1\.c1_r\.|feats\.\d+\.(?:block_1\.c1_r|eval_conv)\."),
    ("OmniSR", r"residual_layer\.\d+\.residual_layer\."),
    ("RealCUGAN or waifu2x CUNet", r"unet1\.conv1\.conv\."),
    ("waifu2x", r"(?:model\.)?net\.\d+\.(?:weight|bias)|unet\.(?:patch|swin\d|to_image)|conv7\."),
    ("PLKSR", r"feats\.\d+\.channel?_mixer\."),
    ("SCUNet or DRUNet", r"m_head\."),
    ("Restormer", r"encoder_level1\."),
    ("NAFNet", r"intro\.(?:weight|bias)|middle_blks\."),
    ("SAFMN", r"feats\.\d+\.safm\."),
    ("GFPGAN", r"stylegan_decoder\."),
    ("CodeFormer", r"quantize\.embedding\."),
    ("BasicVSR", r"(?:backward|forward)_(?:trunk|resblocks)\.|spynet\."),
    ("a discriminator (the training half of Real-ESRGAN)", r"conv\d\.weight_(?:orig|u|v)"),
    ("RCAN", r"body\.\d+\.(?:body\.\d+\.body\.|rcab\.)"),
    ("EDSR or SRResNet", r"(?:head|tail)\.\d+\.|body\.\d+\.(?:body\.\d+|conv[12])\.|upconv[12]\."),
    ("ESRGAN in its old layout of keys (before Real-ESRGAN)", r"RRDB_trunk\.|model\.1\.sub\."),
    ("a diffusion model", r"model\.diffusion_model\.|down_blocks\.|transformer_blocks\."),
)
_MOST_NAMED = 4


def name_architecture(keys: Collection[str]) -> str:
    """Describe what a checkpoint with these keys is."""
    for name, pattern in _TELL_TALES:
        if any(re.match(pattern, key) for key in keys):
            return f"it is {name}"
    if not keys:
        return "it holds no tensors"
    some = ", ".join(sorted(keys)[:_MOST_NAMED]) + ", …" * (len(keys) > _MOST_NAMED)
    return f"unknown architecture with {len(keys)} tensors: {some}"


_WANTED = "not a Real-ESRGAN checkpoint (SRVGGNetCompact or RRDBNet)"
_SRVGG_KEY = re.compile(r"body\.(\d+)\.(?:weight|bias)")
_RRDB_KEY = re.compile(r"body\.(\d+)\.rdb[123]\.conv[1-5]\.(?:weight|bias)")


def load_upscaler(state: Mapping[str, Tensor]) -> Upscaler:
    """Recognise the architecture of a bare state dict and build its network.

    It is in float32 on the CPU, frozen; `scale` is its factor.

    Raises:
        CheckpointRejected: if it is of another architecture, incomplete or misshapen.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if any(_RRDB_KEY.fullmatch(key) for key in state):
        network = _empty_rrdb(state)
    elif state and all(_SRVGG_KEY.fullmatch(key) for key in state):
        network = _empty_srvgg(state)
    else:
        raise CheckpointRejected(f"{_WANTED}: {name_architecture(state)}")
    _check_shapes(state, network)
    floats = {key: value.float() for key, value in state.items()}
    network.load_state_dict(floats, assign=True)
    return network.requires_grad_(False).eval()


def _empty_srvgg(state: Mapping[str, Tensor]) -> SRVGGNetCompact:
    indices = _indices(state, _SRVGG_KEY)
    if all(index % 2 == 0 for index in indices):
        raise CheckpointRejected(
            f"{_WANTED}: it is an SRVGGNetCompact with an activation that has no parameters, as "
            "ReLU or LeakyReLU; only PReLU (body.1.weight) is known"
        )
    _check_gaps(indices)
    last = indices[-1]
    if last < 2 or last % 2:
        raise CheckpointRejected(
            f"{_WANTED}: an SRVGGNetCompact has an odd number of layers, 3 or more, got {last + 1}"
        )
    num_feat = _shape(state, "body.0.weight")[0]
    num_out = _shape(state, f"body.{last}.weight")[0]
    scale = isqrt(num_out // 3)
    if scale < 1 or num_out != 3 * scale**2:
        raise CheckpointRejected(
            f"{_WANTED}: body.{last}.weight must have 3 * n² output channels, got {num_out}"
        )
    with torch.device("meta"):
        return SRVGGNetCompact(num_feat, (last - 2) // 2, scale)


def _empty_rrdb(state: Mapping[str, Tensor]) -> RRDBNet:
    indices = _indices(state, _RRDB_KEY)
    _check_gaps(indices)
    num_feat, num_in = _shape(state, "conv_first.weight")[:2]
    num_grow = _shape(state, "body.0.rdb1.conv1.weight")[0]
    scales = [scale for scale, channels in NUM_IN_BY_SCALE.items() if channels == num_in]
    if not scales:
        raise CheckpointRejected(
            f"{_WANTED}: conv_first.weight of an RRDBNet must have 3, 12 or 48 input channels, "
            f"got {num_in}"
        )
    with torch.device("meta"):
        return RRDBNet(num_feat, len(indices), num_grow, scales[0])


def _indices(state: Iterable[str], pattern: re.Pattern[str]) -> list[int]:
    return sorted({int(match[1]) for key in state if (match := pattern.fullmatch(key))})


def _check_gaps(indices: list[int]) -> None:
    for expected, index in enumerate(indices):
        if index != expected:
            raise CheckpointRejected(f"{_WANTED}: missing: body.{expected}")


def _shape(state: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    if key not in state:
        raise CheckpointRejected(f"{_WANTED}: missing: {key}")
    shape = tuple(state[key].shape)
    if len(shape) != 4 or 0 in shape:
        raise CheckpointRejected(
            f"{_WANTED}: {key} must be a convolution (out, in, 3, 3), got {shape}"
        )
    return shape


def _check_shapes(state: Mapping[str, Tensor], network: Upscaler) -> None:
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    faults = [
        f"{what}: {_some(keys)}"
        for what, keys in (
            ("missing", wanted.keys() - state.keys()),
            ("unknown", state.keys() - wanted.keys()),
        )
        if keys
    ] + [
        f"{key} must be {shape}, got {tuple(state[key].shape)}"
        for key, shape in wanted.items()
        if key in state and tuple(state[key].shape) != shape
    ][:_MOST_NAMED]
    if faults:
        raise CheckpointRejected(f"{_WANTED}: as {type(network).__name__}, {'; '.join(faults)}")


def _some(keys: Collection[str]) -> str:
    more = len(keys) - _MOST_NAMED
    return ", ".join(sorted(keys)[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")

"""Naming checkpoints that are not ours, by keys that only their architecture has."""

from __future__ import annotations

import re
from collections.abc import Collection

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
    (
        "ESRGAN in its old layout of keys (before Real-ESRGAN)",
        r"RRDB_trunk\.|model\.1\.sub\.",
    ),
    ("a diffusion model", r"model\.diffusion_model\.|down_blocks\.|transformer_blocks\."),
)
_PATTERNS = tuple((name, re.compile(pattern)) for name, pattern in _TELL_TALES)
_MOST_NAMED = 4


def name_architecture(keys: Collection[str]) -> str:
    """Say in words what a checkpoint with these keys is."""
    for name, pattern in _PATTERNS:
        if any(pattern.match(key) for key in keys):
            return f"it is {name}"
    if not keys:
        return "it holds no tensors"
    some = ", ".join(sorted(keys)[:_MOST_NAMED])
    return f"unknown architecture with {len(keys)} tensors: {some}" + (
        ", …" if len(keys) > _MOST_NAMED else ""
    )

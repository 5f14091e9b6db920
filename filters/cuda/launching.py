"""How the kernels are laid out on a card: by the registers and the shared memory that they want."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Protocol, cast

import torch

_SHARED_FOR_RESIDENT = 160_000
"""Bytes that a block must be allowed to have, as on compute capability 8.0 and 9.0."""
_SHARED_FOR_WIDE = 200_000
"""The same for strips of twice the width, which also want the registers of 9.0."""
_MOST_RESIDENT = 64
"""Channels in and out."""


class _Facts(Protocol):
    multi_processor_count: int
    shared_memory_per_block_optin: int


@dataclass(frozen=True, slots=True)
class Launch:
    """How a kernel is laid out on a card."""

    is_resident: bool
    columns: int
    block: int
    """Channels that are read at once."""
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True)
class Card:
    """What of a device decides how kernels are laid out."""

    num_processors: int
    shared_bytes: int
    """That one block may use."""


@cache
def card_of(device: torch.device) -> Card:
    """Look at a device; any other than CUDA is for Triton's interpreter."""
    if device.type != "cuda":
        return Card(num_processors=2, shared_bytes=1 << 30)
    facts = cast("_Facts", torch.cuda.get_device_properties(device))  # pyright: ignore[reportUnknownMemberType]
    return Card(facts.multi_processor_count, facts.shared_memory_per_block_optin)


def launch_of(num_in: int, num_padded: int, card: Card) -> Launch:
    """Choose the layout for a number of channels.

    By registers and shared memory of the compiled kernels: but for the last layer, which spills
    24 values, none of these spills on sm_90.
    """
    if num_in == _MOST_RESIDENT >= num_padded and card.shared_bytes >= _SHARED_FOR_RESIDENT:
        return Launch(True, columns=128, block=num_in, num_warps=8, num_stages=2)
    block = 64 if num_in % 64 == 0 else 32
    stages = 3 if card.shared_bytes >= _SHARED_FOR_RESIDENT else 2
    is_wide = num_padded <= 32 and card.shared_bytes >= _SHARED_FOR_WIDE
    columns = 256 if is_wide else 128
    return Launch(False, columns=columns, block=block, num_warps=8, num_stages=stages)


def rows_each(width: int, height: int, columns: int, num_processors: int) -> int:
    """Choose how many rows a program walks: the least work of the processor that has most.

    A program also reads a row above and one below its own.
    """
    strips = -(-width // columns)

    def cost(rows: int) -> int:
        programs = strips * -(-height // rows)
        return -(-programs // num_processors) * (rows + 2)

    bands = (max(1, waves * num_processors // strips) for waves in range(1, 9))
    return min({-(-height // min(count, height)) for count in bands}, key=cost)

"""One network for all tests of interpolation, in fp32 and in bf16."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch

from upframe.filters.interpolate.network import IFNet, load_ifnet
from upframe.filters.weights import RIFE, load_state_dict, resolve_weights


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Frames are tiny here: handing them to threads takes longer than the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def network() -> IFNet:
    """The built-in weights in fp32."""
    return load_ifnet(load_state_dict(resolve_weights("builtin", RIFE).path))


@pytest.fixture(scope="session")
def network_bf16(network: IFNet) -> IFNet:
    return copy.deepcopy(network).to(torch.bfloat16)

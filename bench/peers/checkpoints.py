"""The same file of weights for a peer's class, which may call its tensors otherwise."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

PREFIX = "module."
"""What training on several devices puts before every name."""


def fit(network: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load a checkpoint into a network that has all its tensors, or some of them; freeze it.

    Args:
        network: of any peer.
        state: as `upframe.filters.weights.load_state_dict` gives it.

    Raises:
        ValueError: if a tensor of the network is missing, or of another shape.
    """
    bare = {name.removeprefix(PREFIX): value for name, value in state.items()}
    wanted = network.state_dict()
    missing = sorted(wanted.keys() - bare.keys())
    if missing:
        raise ValueError(f"the checkpoint lacks {len(missing)} tensors, {missing[0]} among them")
    for name, value in wanted.items():
        if value.shape != bare[name].shape:
            raise ValueError(f"{name} must be {tuple(value.shape)}, got {tuple(bare[name].shape)}")
    network.load_state_dict({name: bare[name] for name in wanted})
    return network.requires_grad_(False).eval()

"""One live stream as it is asked for, by the command line or by the daemon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...filters.options import Policy
from ..specification import StreamSpec

if TYPE_CHECKING:
    from ...filters.device import Runtime


@dataclass(frozen=True, slots=True)
class LiveRequest:
    """What a session runs."""

    spec: StreamSpec
    runtime: Runtime
    overwrite: bool = False
    numbered: bool = False
    """Whether a file gets a number where its name is taken, as a stream that restarts needs."""
    duration_seconds: float | None = None
    """Length of the output, after which the stream ends well; None: until it is stopped."""
    give_up: bool = False
    """Whether a first connection that cannot work (not found, unauthorised, no video) ends it."""


def request_of(spec: StreamSpec, weights: Policy) -> LiveRequest:
    """Make the request of an entry of the configuration; loads torch.

    Raises:
        DeviceUnavailable: if the device is not there.
    """
    from ...filters.device import Runtime, resolve_device, resolve_precision

    device = resolve_device(spec.device)
    precision = resolve_precision(spec.precision, device)
    return LiveRequest(spec, Runtime(device, precision, weights), numbered=True)

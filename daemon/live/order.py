"""One live stream as it is asked for: what the daemon sends a worker, and what a session runs.

An order is one line of JSON on the worker's stdin, never an argument of its command line, which
every user of the machine can read: addresses may hold passwords.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from ...filters.options import Policy
from ..specification import StreamSpec, part_of

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


class LiveOrder(BaseModel, frozen=True, extra="forbid"):
    """What the daemon sends a worker."""

    spec: StreamSpec
    weights: Policy
    threads: int | None = Field(default=None, ge=1)
    """For computing on the CPU; None leaves the choice to torch."""

    @property
    def line(self) -> bytes:
        """The order as it is sent."""
        return self.model_dump_json().encode() + b"\n"


def order_of(spec: StreamSpec, weights: Policy, threads: int | None = None) -> LiveOrder:
    """Make the order for an entry of the configuration."""
    return LiveOrder(spec=part_of(spec, StreamSpec), weights=weights, threads=threads)


def request_of(order: LiveOrder) -> LiveRequest:
    """Make the request of an order; loads torch.

    Raises:
        DeviceUnavailable: if the device is not there.
    """
    from ...filters.device import Runtime, resolve_device, resolve_precision

    device = resolve_device(order.spec.device)
    precision = resolve_precision(order.spec.precision, device)
    return LiveRequest(order.spec, Runtime(device, precision, order.weights), numbered=True)

"""What the daemon tells the worker of a live stream, as one line of JSON on its stdin.

Never on its command line, which everybody on the machine can read: addresses may hold passwords.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from ...filters.options import FilterOptions, Policy
from ...io.encode.options import EncoderOptions
from .options import LiveOptions

if TYPE_CHECKING:
    from ..config import LiveConfig
    from .request import LiveRequest


class LiveOrder(BaseModel, frozen=True, extra="forbid"):
    """One live stream to be kept up, by names that a JSON line can hold."""

    name: str
    input: str
    output: str
    filters: FilterOptions
    encoder: EncoderOptions
    options: LiveOptions
    device: str
    precision: str
    weights: Policy
    credentials_file: Path | None = None
    output_credentials_file: Path | None = None
    threads: int | None = Field(default=None, ge=1)
    """For computing on the CPU; None leaves the choice to torch."""

    @property
    def line(self) -> bytes:
        """As it is sent."""
        return self.model_dump_json(by_alias=True).encode() + b"\n"


def order_of(entry: LiveConfig, weights: Policy, threads: int | None = None) -> LiveOrder:
    """Make the order for an entry of the configuration."""
    return LiveOrder(
        name=entry.name,
        input=entry.input,
        output=entry.output,
        filters=entry.filters,
        encoder=entry.encoder,
        options=entry.options,
        device=entry.device,
        precision=entry.precision,
        weights=weights,
        credentials_file=entry.credentials_file,
        output_credentials_file=entry.output_credentials_file,
        threads=threads,
    )


def request_of(order: LiveOrder) -> LiveRequest:
    """Make the request of an order; loads torch.

    Raises:
        DeviceUnavailable: if the device is not there.
    """
    from ...filters.device import Runtime, resolve_device, resolve_precision
    from .request import LiveRequest

    device = resolve_device(order.device)
    precision = resolve_precision(order.precision, device)
    return LiveRequest(
        name=order.name,
        input=order.input,
        output=order.output,
        filters=order.filters,
        runtime=Runtime(device, precision, order.weights),
        encoder=order.encoder,
        options=order.options,
        credentials_file=order.credentials_file,
        output_credentials_file=order.output_credentials_file,
        numbered=True,
    )

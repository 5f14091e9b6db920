"""What can be known before the first connection: whether weights and an encoder are to be had."""

from __future__ import annotations

from ...filters.chain import BuiltFilter, build_filters
from ...io.live.encoder import check_encoder
from ...io.live.targets import LiveTarget
from .request import LiveRequest

Prepared = tuple[BuiltFilter, ...]
"""The filters, with their weights loaded."""


def prepare(request: LiveRequest, target: LiveTarget) -> Prepared:
    """Check the encoder, and load the weights, which takes seconds, or minutes from the hub.

    So what is wrong with either is said at the start, and not once a camera has answered; and the
    output begins the sooner.

    Raises:
        SinkRefused: if no encoder can make the output.
        FilterError: if weights cannot be had, or are none of the filter.
    """
    check_encoder(request.encoder, target.format)
    return build_filters(request.filters, request.runtime)

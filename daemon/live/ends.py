"""The two ends of a live stream: what a request's addresses mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ...io.live.address import LiveAddress, Remembered, find_address, is_live
from ...io.live.credentials import read_credentials, with_credentials
from ...io.live.input import LiveInput, PacedFile
from ...io.live.targets import LiveTarget, find_live_target
from .incoming import CONNECT_SECONDS, Make
from .reader import LiveSource
from .request import LiveRequest


def is_file_input(request: LiveRequest) -> bool:
    """Tell whether the input is a file, which has an end and can wait; a playlist is fetched."""
    return not is_live(request.input)


def source_maker(request: LiveRequest, now: Callable[[], float], *, is_file: bool) -> Make:
    """Say how each connection of the input is made."""
    remembered = Remembered()

    def make_file(_: float | None) -> LiveSource:
        return PacedFile(Path(request.input), now=now, sound=request.options.sound)

    def address_of(read_seconds: float | None) -> LiveAddress:
        """Find the address anew: a file of credentials may have changed."""
        return find_address(
            request.input,
            transport=request.options.rtsp_transport,
            credentials_file=request.credentials_file,
            connect_seconds=CONNECT_SECONDS,
            read_seconds=read_seconds,
            remembered=remembered,
        )

    def make_live(read_seconds: float | None) -> LiveSource:
        address = address_of(None)
        if read_seconds is not None and read_seconds > address.read_seconds:
            address = address_of(read_seconds)
        return LiveInput(address, now=now, sound=request.options.sound)

    return make_file if is_file else make_live


def find_target(request: LiveRequest) -> LiveTarget:
    """Make out where the output shall go.

    Raises:
        SinkRefused: if it cannot be written, as far as that shows without connecting.
        SourceMissing: if its credentials cannot be read.
    """
    target = find_live_target(
        request.output,
        format=request.options.format,
        segment_seconds=request.options.segment_seconds,
        overwrite=request.overwrite,
        numbered=request.numbered,
    )
    if request.output_credentials_file is None:
        return target
    credentials = read_credentials(request.output_credentials_file)
    return replace(target, url=with_credentials(target.url, credentials))

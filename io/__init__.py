"""Media in and out: plain blocking iterators over pictures. Knows no filter and no event loop."""

from __future__ import annotations

from .errors import MediaError
from .media import Sink, Source

__all__ = ["MediaError", "Sink", "Source"]

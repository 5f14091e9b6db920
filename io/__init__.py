"""Media in and out: plain blocking iterators over pictures. Knows no filter and no event loop.

Here are the two ends (`source`, `sink`, `images`, `pipes`) with what others ask about them; how
they do it is in the packages: `decode` and `encode` for the video, `streams` for what goes along,
`pictures` for pixels and tags, `rawvideo` for pipes, `check` for proofs, `demo` for samples.
"""

from __future__ import annotations

from .errors import MediaError
from .media import Sink, Source

__all__ = ["MediaError", "Sink", "Source"]

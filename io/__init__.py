"""Media in and out: plain blocking iterators over pictures; no filter and no event loop.

`source`, `sink`, `images` and `pipes` are the two ends, `probe` and `verify` describe and check a
file. Beneath them: `decode` and `encode` for the video, `streams` for what is copied beside it,
`pictures` for pixels and tags, `rawvideo` for pipes, `live` for streams in real time.
`Source` and `Sink` are imported on first use, so that who needs only an error loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import MediaError

if TYPE_CHECKING:
    from .media import Sink, Source

__all__ = ["MediaError", "Sink", "Source"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import media

    return getattr(media, name)

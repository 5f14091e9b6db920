"""Media in and out: plain blocking iterators over pictures. Knows no filter and no event loop.

Here are the two ends (`source`, `sink`, `images`, `pipes`) with what others ask about them; how
they do it is in the packages: `decode` and `encode` for the video, `streams` for what goes along,
`pictures` for pixels and tags, `rawvideo` for pipes, `check` for proofs, `demo` for samples.
The contracts load on first use: who needs only an error loads no torch.
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

"""What becomes of each of a source's other streams: the decisions, and how people are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..encode.containers import Container
from .conversion import Conversion

Action = Literal["copy", "convert", "attach", "drop", "rewrite"]


@dataclass(frozen=True, slots=True)
class StreamFate:
    """What becomes of one stream of the source."""

    index: int
    """Of the stream in the source."""
    kind: str
    """``audio``, ``subtitle``, ``attachment``, ``data``, ``video`` or ``cover``."""
    codec: str
    action: Action
    """``rewrite``: not copied, but made anew from the metadata, such as chapter titles."""
    conversion: Conversion | None = None
    language: str | None = None
    reason: str = ""
    """Why it is not copied as it is."""

    def line(self) -> str:
        """Say it for people: ``audio #1 aac (eng): copied``."""
        language = f" ({self.language})" if self.language and self.language != "und" else ""
        name = f"{self.kind} #{self.index} {self.codec}{language}"
        if self.action in ("copy", "attach"):
            return f"{name}: copied"
        if self.action == "convert" and self.conversion:
            return f"{name}: converted to {self.conversion.codec}, {self.reason}"
        done = "left out" if self.action == "drop" else "written anew"
        return f"{name}: {done}, {self.reason}"

    @property
    def loses(self) -> bool:
        """Whether something of it is lost."""
        lossy = self.conversion is not None and self.conversion.loses is not None
        return self.action == "drop" or lossy


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What becomes of all of a source's streams but the video, and of its chapters."""

    source: str
    container: Container | None
    """None for still images."""
    fates: tuple[StreamFate, ...] = ()
    num_chapters: int = 0
    notes: tuple[str, ...] = ()
    warnings: list[str] = field(default_factory=list[str])
    """What is lost, for people."""

    def lines(self) -> list[str]:
        """Say what will be done, for people, one line a stream."""
        chapters = [f"{self.num_chapters} chapters: copied"] if self.num_chapters else []
        return [fate.line() for fate in self.fates] + chapters + list(self.notes)

    def kept(self) -> tuple[StreamFate, ...]:
        """Give the streams that get to the output."""
        return tuple(fate for fate in self.fates if fate.action in ("copy", "convert", "attach"))

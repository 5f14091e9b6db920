"""What a live run did, for who comes later: as one JSON file, and as one line."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ..report import WeightsReport, WrittenReport


class LiveReport(WrittenReport, frozen=True):
    """What `--report FILE` writes of a live run."""

    schema_name: Literal["upframe.live-report/1"] = Field("upframe.live-report/1", alias="schema")
    version: str
    name: str
    input: dict[str, Any]
    output: dict[str, Any]
    ended_by: str = Field(description="why it ended, for people")
    seconds: float = Field(description="that the output lasts")
    counts: dict[str, int]
    reconnects: dict[str, int] = Field(description="of the input, by reason")
    connections: int = Field(description="of the output")
    written: int = Field(description="pictures that the far end, or the file, has taken")
    dropped: dict[str, int] = Field(description="pictures that were encoded and not written")
    delay_seconds: dict[str, float] = Field(description="p50, p99 and max of the whole run")
    levels: list[tuple[float, str, str]] = Field(
        description="changes of the level: seconds since the start, its name, why"
    )
    files: list[str]
    device: str
    precision: str
    weights: list[WeightsReport]
    warnings: list[str]

    @property
    def summary(self) -> str:
        """One line for people."""
        shown = self.output.get("url", "")
        late = self.delay_seconds.get("p99")
        delay = "" if late is None else f", delay {late:.2f} s at the 99th percentile"
        return (
            f"{shown}: {self.written} frames written in {self.seconds:.1f} s{delay}, "
            f"{self.counts.get('frames_dropped', 0)} dropped; {self.ended_by}"
        )

"""One live stream, as it is asked for: by the command line, or by an entry of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ...filters.device import Runtime
from ...filters.options import FilterOptions
from ...io.encode.options import EncoderOptions
from .options import LiveOptions


@dataclass(frozen=True, slots=True)
class LiveRequest:
    """What to read, what to do with it, and where to."""

    name: str
    """For people, on the slate, in topics and metrics; never with a secret."""
    input: str
    output: str
    filters: FilterOptions
    runtime: Runtime
    encoder: EncoderOptions = field(default_factory=lambda: EncoderOptions.model_validate({}))
    options: LiveOptions = field(default_factory=lambda: LiveOptions.model_validate({}))
    credentials_file: Path | None = None
    """Holds one line USER:PASSWORD for the input, readable by nobody else."""
    output_credentials_file: Path | None = None
    overwrite: bool = False
    numbered: bool = False
    """Whether a file gets a number where its name is taken: who runs for months begins it anew."""
    duration_seconds: float | None = None
    """Of the output, after which it ends well; None: until told."""
    give_up: bool = False
    """Whether a first connection that cannot work (not found, unauthorised, no video) ends it."""

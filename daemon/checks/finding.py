"""What a check of the machine found: a value, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Fact = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor."""

    verdict: Literal["ok", "warn", "fail"]
    """``fail``: the main job cannot run; ``warn``: some work cannot, or not well."""
    name: str
    text: str
    facts: Mapping[str, Fact] = field(default_factory=dict[str, Fact])
    """The same for programs."""

    def as_dict(self) -> dict[str, object]:
        """Give what JSON can hold."""
        return {
            "verdict": self.verdict,
            "name": self.name,
            "text": self.text,
            "facts": dict(self.facts),
        }


def ok(name: str, text: str, **facts: Fact) -> Finding:
    """All is well."""
    return Finding("ok", name, text, facts)


def warn(name: str, text: str, **facts: Fact) -> Finding:
    """Some work cannot be done, or not well."""
    return Finding("warn", name, text, facts)


def fail(name: str, text: str, **facts: Fact) -> Finding:
    """The main job cannot run."""
    return Finding("fail", name, text, facts)

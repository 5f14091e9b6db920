"""What a changed configuration file means for a daemon that runs: what begins anew, what waits."""

from __future__ import annotations

from dataclasses import dataclass

from .config import Config

_FIXED = ("state_dir", "weights")
_FIXED_OF_JOBS = ("slots", "devices", "precision")
"""Workers are started with these, and the state directory is locked."""


@dataclass(frozen=True, slots=True)
class Reload:
    """The consequences of a new file."""

    config: Config
    """What holds from now on: the new file, but for what waits for a restart."""
    waiting: tuple[str, ...]
    """Keys that are changed and keep their old value until the daemon is started again."""
    parts: frozenset[str]
    """What has to begin anew: `log`, `jobs`, `watch`, `live`, `mqtt`, `http`."""

    def __str__(self) -> str:
        changed = ", ".join(sorted(self.parts)) or "nothing"
        text = f"configuration read again: {changed} changed"
        return f"{text}; {', '.join(self.waiting)} after a restart" if self.waiting else text


def reload_of(old: Config, new: Config) -> Reload:
    """Compare two configurations."""
    waiting = [key for key in _FIXED if getattr(old, key) != getattr(new, key)]
    of_jobs = [key for key in _FIXED_OF_JOBS if getattr(old.jobs, key) != getattr(new.jobs, key)]
    waiting += [f"jobs.{key}" for key in of_jobs]
    jobs = new.jobs.model_copy(update={key: getattr(old.jobs, key) for key in _FIXED_OF_JOBS})
    kept = {key: getattr(old, key) for key in _FIXED}
    config = new.model_copy(update={**kept, "jobs": jobs})
    parts = {
        name
        for name in ("log", "jobs", "watch", "live", "mqtt", "http")
        if getattr(old, name) != getattr(config, name)
    }
    if "jobs" in parts and config.mqtt is not None:
        parts.add("mqtt")  # requests are confined to its roots and schemes
    return Reload(config, tuple(waiting), frozenset(parts))

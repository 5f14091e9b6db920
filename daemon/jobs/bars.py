"""Follows jobs on a terminal: a bar for each that runs, a line for each that ends."""

from __future__ import annotations

from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from .display import STYLES, JobJson, counts_text, note_of, progress_text


class Bars:
    """Shows changes as they come; where there is no terminal, only lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (TextColumn("{task.fields[id]}"), BarColumn(), TextColumn("{task.description}"))
        self._progress = Progress(*columns)
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, str] = {}
        self._counts = ""
        self._live = Live(get_renderable=self._render, console=console)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, change: JobJson) -> None:
        """Show one item of the daemon's answer."""
        job: JobJson = change["job"]
        if change["kind"] != "progress":
            self._say(job)
        if job["state"] == "running":
            self._move(job)
        elif job["id"] in self._tasks:
            self._progress.remove_task(self._tasks.pop(job["id"]))
        if "counts" in change:
            self._counts = counts_text(change["counts"])

    def _render(self) -> Group:
        return Group(self._progress.get_renderable(), Text(self._counts, "dim"))

    def _say(self, job: JobJson) -> None:
        """Say a state that was not said yet."""
        note = note_of(job)
        line = f"{job['id']}: {job['state']}{f', {note}' if note else ''}"
        if self._said.get(job["id"]) != line:
            self._console.print(Text(line, STYLES[job["state"]]), soft_wrap=True)
        self._said[job["id"]] = line
        if job["state"] in ("done", "cancelled"):
            del self._said[job["id"]]

    def _move(self, job: JobJson) -> None:
        progress = job["progress"]
        if job["id"] not in self._tasks:
            self._tasks[job["id"]] = self._progress.add_task("", id=job["id"], total=None)
        self._progress.update(
            self._tasks[job["id"]],
            total=progress["total"],
            completed=progress["frames"],
            description=progress_text(job),
        )

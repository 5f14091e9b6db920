"""Metadata on its way from source to output: what is copied, and what would be stale."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.container.core import Chapter

# These describe the old file, or are written anew by the muxer.
_STALE = {
    "encoder", "encoded_by_ffmpeg", "major_brand", "minor_version", "compatible_brands", "duration",
    "vendor_id", "rotate", "timecode", "number_of_frames", "number_of_bytes", "bps", "source_id",
    "_statistics_writing_app", "_statistics_writing_date_utc", "_statistics_tags",
}  # fmt: skip


def kept_metadata(tags: Mapping[str, str]) -> dict[str, str]:
    """Leave out what describes the file rather than its content.

    Matroska's tags may end in a language: ``DURATION-eng`` is as stale as ``DURATION``.
    """
    return {key: value for key, value in tags.items() if not _is_stale(key)}


def _is_stale(key: str) -> bool:
    name = key.lower()
    return name in _STALE or (len(name) > 4 and name[-4] == "-" and name[:-4] in _STALE)


def shifted_chapters(chapters: list[Chapter], origin_seconds: Fraction) -> list[Chapter]:
    """Put chapters on a time line that begins at `origin_seconds` of theirs."""
    return [_shifted(chapter, origin_seconds) for chapter in chapters]


def _shifted(chapter: Chapter, origin_seconds: Fraction) -> Chapter:
    time_base = chapter["time_base"] or Fraction(1, 1000)
    ticks = round(origin_seconds / time_base)
    moved = chapter.copy()
    moved["time_base"] = time_base
    moved["start"] = max(chapter["start"] - ticks, 0)
    moved["end"] = max(chapter["end"] - ticks, 0)
    return moved

"""The results as tables in Markdown: of one run for people, of a folder of runs for a README."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from results import (
    Document,
    FilterFigures,
    PipeFigures,
    PipelineFigures,
    StartFigures,
    read_document,
)
from rounds import Spread

BEGIN = "<!-- tables of upframe bench -->"
END = "<!-- end of the tables -->"
_NONE = "-"

Row = Sequence[str]


def read_folder(folder: Path) -> dict[str, Document]:
    """Read all results of a folder, by the names of their files; other benchmarks' are passed by.

    Raises:
        ValueError: if a file is damaged.
    """
    found = {path.name: read_document(path) for path in sorted(folder.glob("*.json"))}
    return {name: document for name, document in found.items() if document is not None}


def between_markers(page: str, text: str) -> str:
    """Replace what stands between the marks.

    Raises:
        ValueError: if the page has not both of them.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"there must be {BEGIN} and {END}")
    return f"{before}{begin}\n{text}{end}{after}"


def tables_of(documents: Mapping[str, Document]) -> str:
    """One section a file."""
    parts = [f"\n### `{name}`\n\n{figures_text(document)}" for name, document in documents.items()]
    return "".join(parts) + "\n" if parts else "\nNo results yet.\n\n"


def figures_text(document: Document) -> str:
    """Everything that one run has found."""
    blocks = [_head(document), _filters(document.filters), _thrice(document.filters)]
    blocks += [_pipeline(document.pipeline), _start(document.start)]
    blocks.append([f"- left out: {one.what}: {one.reason}" for one in document.left_out])
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def _head(document: Document) -> list[str]:
    machine = document.machine
    device = "" if document.device == "cpu" else f"{document.device}; "
    lines = [
        f"{device}{machine['processor']}; {machine['usable_cores']} cores, "
        f"{machine['torch_threads']} threads; torch {machine['torch']}; upframe "
        f"{machine['upframe']}; {document.began}, {document.seconds:.0f} s; "
        f"frames of {document.clip}; load before {machine['load_average'][0]:g}."
    ]
    if document.limits is not None:
        limits = [
            f"{one.precision} {one.gflop_per_second:.0f} GFLOP/s ({one.size}, {one.layout})"
            for one in document.limits.convolutions
        ]
        copied = f"copy {document.limits.copy_gb_per_second.median:.1f} GB/s"
        lines.append(f"Best single convolution: {', '.join(limits)}; {copied}.")
    return lines


def _filters(figures: Sequence[FilterFigures]) -> list[str]:
    heads = ("filter", "weights", "input", "precision", "", "ms (quartiles)", "fps", "GFLOP/s")
    heads += ("of convolution", "of copy", "PSNR to fp32", "memory", "duplicate, ms")
    return _table(heads, map(_filter_row, figures))


def _filter_row(one: FilterFigures) -> Row:
    much = f"exp {one.exp}" if one.exp is not None else f"x{one.scale or 0:g}"
    psnr = _NONE if one.psnr_db is None else one.psnr_db
    return (
        one.network,
        one.weights,
        one.size,
        one.precision,
        much,
        _spread(one.ms),
        _number(one.fps),
        _number(one.gflop_per_second),
        _NONE if one.share_of_convolution is None else f"{one.share_of_convolution:.2f}",
        f"{one.share_of_copy:.3f}",
        psnr if isinstance(psnr, str) else f"{psnr:.1f} dB",
        _NONE if one.peak_mib is None else f"{one.peak_mib:.0f} MiB",
        _number(one.duplicate_ms.median),
    )


def _thrice(figures: Sequence[FilterFigures]) -> list[str]:
    """Per inserted frame, more of them in a gap against one."""
    ones = {(one.weights, one.size, one.precision): one for one in figures if one.exp == 1}
    lines: list[str] = []
    for many in figures:
        single = ones.get((many.weights, many.size, many.precision))
        if many.exp is None or many.exp == 1 or single is None:
            continue
        lines.append(
            f"- exp {many.exp} per inserted frame against exp 1, {many.size} {many.precision}: "
            f"{per_frame_ratio(many, single):.2f}"
        )
    return lines


def per_frame_ratio(many: FilterFigures, single: FilterFigures) -> float:
    """Time per frame made, of the one over the other."""
    return many.ms.median / many.frames / (single.ms.median / single.frames)


def _pipeline(figures: Sequence[PipelineFigures]) -> list[str]:
    heads = ("input", "precision", "filters", "way", "seconds (quartiles)", "filters alone over it")
    heads += ("first frame", "decode / compute / encode: worked", "waited", "memory")
    rows = [row for one in figures for row in _pipeline_rows(one)]
    return [*_table(heads, rows), *_bounds(figures)]


def _bounds(figures: Sequence[PipelineFigures]) -> list[str]:
    """Say what would be left of the filters' rate if they and the encoder took turns."""
    lines = [""]
    for one in figures:
        if one.encoder_seconds is not None:
            alone = one.filters_seconds.median
            ratio = alone / (alone + one.encoder_seconds.median)
            lines.append(
                f"- {one.size}, x264 {one.preset}: filters and encoder one after the other, each "
                f"with the whole machine, would come to {ratio:.3f}"
            )
    return lines if len(lines) > 1 else []


def _pipeline_rows(one: PipelineFigures) -> list[Row]:
    what = (one.size, one.precision, _filters_of(one))
    alone = ("filters alone", _spread(one.filters_seconds), "1", *[_NONE] * 4)
    rows: list[Row] = [(*what, *alone)]
    if one.encoder_seconds is not None:
        encoder = f"encoder alone, x264 {one.preset}", _spread(one.encoder_seconds)
        rows.append((*what, *encoder, *[_NONE] * 5))
    rows.append((*what, "file to file", *_way(one, one.file_seconds, one.run_peak_mib)))
    if one.pipe is not None:
        way = _way(one.pipe, one.pipe.flow_seconds, one.pipe.peak_mib)
        rows.append((*what, "pipe to pipe", *way))
    return rows


def _way(one: PipelineFigures | PipeFigures, seconds: Spread, peak_mib: float) -> Row:
    return (
        _spread(seconds),
        f"{one.ratio:.3f}",
        f"{one.first_frame_seconds.median:.2f} s",
        " / ".join(f"{stage.worked_seconds:.2f}" for stage in one.stages.values()),
        " / ".join(f"{stage.waited_seconds:.2f}" for stage in one.stages.values()),
        f"{peak_mib:.0f} MiB",
    )


def _filters_of(one: PipelineFigures | StartFigures) -> str:
    return f"exp {one.exp}, x{one.scale:g}; {', '.join(one.weights)}"


def _start(figures: Sequence[StartFigures]) -> list[str]:
    heads = ("start of `upframe pipe`", "precision", "filters", "header out", "first frame out")
    rows = [
        (
            one.size,
            one.precision,
            _filters_of(one),
            f"{_spread(one.header_seconds)} s",
            f"{_spread(one.first_frame_seconds)} s",
            f"{one.peak_mib:.0f} MiB",
        )
        for one in figures
    ]
    return _table((*heads, "memory"), rows)


def _table(heads: Row, rows: Iterable[Row]) -> list[str]:
    lines = [_line(row) for row in rows]
    return [_line(heads), "|---" * len(heads) + "|", *lines] if lines else []


def _line(cells: Row) -> str:
    return "| " + " | ".join(re.sub(r"\|", r"\\|", cell) for cell in cells) + " |"


def _spread(spread: Spread) -> str:
    return f"{_number(spread.median)} ({_number(spread.low)}-{_number(spread.high)})"


def _number(value: float) -> str:
    """Three significant digits, without an exponent."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"

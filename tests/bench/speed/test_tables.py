"""The tables in bench/results/README.md are those of the JSON files beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.scripts import BENCH, script

results = script("speed/results")
rounds = script("rounds")
tables = script("speed/tables")

RESULTS = BENCH / "results"
MACHINE = {
    "processor": "A processor",
    "usable_cores": 2,
    "torch_threads": 2,
    "torch": "2.13.0",
    "upframe": "0.1.0",
    "load_average": [0.25, 0, 0],
}


def spread(median: float) -> rounds.Spread:
    return rounds.spread_of([median * 0.9, median, median * 1.1])


def rife(exp: int, ms: float, precision: str = "bf16") -> results.FilterFigures:
    return results.FilterFigures(
        filter="interpolate",
        weights="builtin",
        network="RIFE 4.22.lite",
        size="640x360",
        precision=precision,
        exp=exp,
        frames=2**exp - 1,
        ms=spread(ms),
        fps=1e3 / ms,
        gflop=11.0,
        gflop_per_second=11e3 / ms,
        convolution_gflop_per_second=400,
        share_of_convolution=0.1375,
        share_of_copy=0.004,
        psnr_db=55.5,
        peak_mib=60.4,
        duplicate_ms=spread(0.05),
    )


def pipeline() -> results.PipelineFigures:
    stage = results.StageFigures(worked_seconds=1.5, waited_seconds=0.25)
    return results.PipelineFigures(
        size="640x360",
        precision="bf16",
        weights=["builtin", "mine.pth"],
        exp=1,
        scale=2,
        frames_in=24,
        frames_out=47,
        filters_seconds=spread(1.4),
        encoder_seconds=spread(0.6),
        preset="slow",
        file_seconds=spread(1.5),
        ratio=0.933,
        first_frame_seconds=spread(0.2),
        stages={"decode": stage, "compute": stage, "encode": stage},
        run_peak_mib=400,
        cuda_peak_mib=None,
        pipe=None,
    )


def document(**parts: object) -> results.Document:
    common = {
        "began": "2026-11-23T18:00:00+00:00",
        "seconds": 60,
        "machine": MACHINE,
        "device": "cpu",
        "clip": "demo scene",
        "settings": {},
    }
    return results.Document.model_validate(common | parts)


def test_the_committed_tables_are_what_the_files_give() -> None:
    page = (RESULTS / "README.md").read_text()
    wanted = tables.between_markers(page, tables.tables_of(tables.read_folder(RESULTS)))
    command = "python bench/speed/measure.py table bench/results --write bench/results/README.md"
    assert page == wanted, f"run: {command}"


def test_a_filter_has_a_row() -> None:
    assert (
        "| RIFE 4.22.lite | builtin | 640x360 | bf16 | exp 1 | 200 (190-210) | 5.00 | 55.0 "
        "| 0.14 | 0.004 | 55.5 dB | 60 MiB | 0.050 |"
    ) in tables.figures_text(document(filters=[rife(1, 200)]))


def test_more_frames_in_a_gap_are_held_against_one_in_the_same_precision() -> None:
    figures = [rife(1, 200), rife(3, 1260), rife(3, 5600, "fp32")]
    assert tables.per_frame_ratio(figures[1], figures[0]) == pytest.approx(0.9)
    text = tables.figures_text(document(filters=figures))
    assert "- exp 3 per inserted frame against exp 1, 640x360 bf16: 0.90" in text
    assert "640x360 fp32: " not in text


def test_the_pipeline_has_a_row_for_every_way() -> None:
    text = tables.figures_text(document(pipeline=[pipeline()]))
    what = "| 640x360 | bf16 | exp 1, x2; builtin, mine.pth |"
    assert f"{what} filters alone | 1.40 (1.33-1.47) | 1 |" in text
    assert (
        f"{what} file to file | 1.50 (1.43-1.58) | 0.933 | 0.20 s | 1.50 / 1.50 / 1.50 "
        "| 0.25 / 0.25 / 0.25 | 400 MiB |"
    ) in text
    assert f"{what} encoder alone, x264 slow | 0.600 (0.570-0.630) | - |" in text


def test_filters_and_encoder_in_turns_are_a_bound_that_is_told() -> None:
    text = tables.figures_text(document(pipeline=[pipeline()]))
    assert "640x360, x264 slow: filters and encoder one after the other" in text
    assert "would come to 0.700" in text
    unknown = pipeline().model_copy(update={"encoder_seconds": None})
    assert "one after the other" not in tables.figures_text(document(pipeline=[unknown]))


def test_what_was_left_out_is_told() -> None:
    left_out = results.LeftOut(what="upscale x4", reason="needs 9 GiB")
    assert "- left out: upscale x4: needs 9 GiB" in tables.figures_text(
        document(left_out=[left_out])
    )


def test_other_benchmarks_files_are_passed_by(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"benchmark": "memory"}')
    document().write(tmp_path / "speed.json")
    assert list(tables.read_folder(tmp_path)) == ["speed.json"]
    assert results.read_document(tmp_path / "other.json") is None


def test_a_damaged_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "speed.json").write_text('{"schema": "upframe.bench/1"}')
    with pytest.raises(ValueError, match="machine"):
        tables.read_folder(tmp_path)


def test_only_what_is_between_the_marks_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    document(filters=[rife(1, 200)]).write(tmp_path / "speed.json")
    assert script("speed/measure").main(["table", str(tmp_path), "--write", str(page)]) == 0
    text = page.read_text()
    assert text.startswith(f"before\n{tables.BEGIN}\n")
    assert text.endswith(f"{tables.END}\nafter\n")
    assert "### `speed.json`" in text
    assert "old" not in text


def test_a_page_without_marks_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "README.md"
    page.write_text("nothing here\n")
    assert script("speed/measure").main(["table", str(tmp_path), "--write", str(page)]) == 64
    assert "there must be" in capsys.readouterr().err
    assert script("speed/measure").main(["table", str(tmp_path / "none")]) == 66

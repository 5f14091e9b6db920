"""`bench/speed/measure.py` once from end to end, as small as it goes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.scripts import script

measure = script("speed/measure")
commands = script("speed/commands")
results = script("speed/results")
tables = script("speed/tables")

_TINY = ("--device", "cpu", "--sizes", "64x48", "--short", "--frames", "3")
_LITTLE = ("--precision", "fp32,bf16", "--interpolate", "1,2", "--upscale", "2")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of everything. With one thread each, which on a busy machine is the fastest."""
    folder = tmp_path_factory.mktemp("results")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")
        assert measure.main(["all", *_TINY, *_LITTLE, "--out", str(folder)]) == 0
    torch.set_num_threads(threads)
    return folder / "speed-all-cpu.json"


@pytest.fixture(scope="module")
def document(out: Path) -> results.Document:
    found = results.read_document(out)
    assert found is not None
    return found


def test_the_file_says_where_and_how_it_was_measured(document: results.Document) -> None:
    assert document.device == "cpu"
    assert document.machine["processor"]
    assert document.machine["torch"] == torch.__version__
    assert document.clip == "demo scene"
    assert document.settings["sizes"] == ["64x48"]
    assert document.settings["short"]
    assert document.left_out == []


def test_every_filter_is_measured_in_every_way(document: results.Document) -> None:
    ways = {(one.filter, one.precision, one.exp, one.scale) for one in document.filters}
    assert ways == {
        ("interpolate", "fp32", 1, None),
        ("interpolate", "fp32", 2, None),
        ("interpolate", "bf16", 1, None),
        ("interpolate", "bf16", 2, None),
        ("upscale", "fp32", None, 2.0),
        ("upscale", "bf16", None, 2.0),
    }


def test_figures_of_a_filter_agree_with_each_other(document: results.Document) -> None:
    for one in document.filters:
        seconds = one.ms.median / 1e3
        assert one.frames == (1 if one.exp is None else 2**one.exp - 1)
        assert one.fps == pytest.approx(one.frames / seconds)
        assert one.gflop_per_second == pytest.approx(one.gflop / seconds)
        assert one.convolution_gflop_per_second
        share = one.gflop_per_second / one.convolution_gflop_per_second
        assert one.share_of_convolution == pytest.approx(share)
        assert 0 < one.share_of_copy < 1


def test_half_precision_is_held_against_fp32(document: results.Document) -> None:
    for one in document.filters:
        if one.precision == "fp32":
            assert one.psnr_db is None
        else:
            assert isinstance(one.psnr_db, float)
            assert 50 < one.psnr_db < 110


def test_duplicates_cost_less_than_computed_frames(document: results.Document) -> None:
    for one in document.filters:
        assert one.duplicate_ms.least < one.ms.least


def test_limits_are_measured_in_the_same_run(document: results.Document) -> None:
    assert document.limits
    assert [one.precision for one in document.limits.convolutions] == ["fp32", "bf16"]
    assert document.limits.copy_gb_per_second.median > 0


def test_the_pipeline_is_measured_from_end_to_end(document: results.Document) -> None:
    (one,) = document.pipeline
    assert (one.frames_in, one.frames_out) == (3, 5)
    assert one.ratio == pytest.approx(one.filters_seconds.median / one.file_seconds.median)
    assert list(one.stages) == ["decode", "compute", "encode"]
    assert one.stages["compute"].worked_seconds > 0
    assert one.run_peak_mib > 50
    assert one.encoder_seconds is not None
    assert one.encoder_seconds.median > 0
    assert (one.pipe is not None) == commands.has_ffmpeg()
    if one.pipe is not None:
        assert one.pipe.seconds.median > one.pipe.flow_seconds.median


def test_the_start_ends_with_the_first_frame(document: results.Document) -> None:
    (one,) = document.start
    assert 0 < one.header_seconds.median < one.first_frame_seconds.median
    assert one.peak_mib > 50


def test_the_table_has_a_row_for_everything(document: results.Document) -> None:
    text = tables.figures_text(document)
    assert text.count("| RIFE 4.22.lite | builtin | 64x48 |") == 4
    assert text.count("| SRVGGNetCompact 32f10c x4 | builtin | 64x48 |") == 2
    assert "- exp 2 per inserted frame against exp 1, 64x48 bf16: " in text
    assert "| file to file |" in text


@pytest.mark.parametrize(("wanted", "missed"), [(0.0, False), (1e6, True)])
def test_a_ratio_below_what_is_wanted_is_a_miss(
    document: results.Document, wanted: float, missed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure.misses(document, wanted) == missed
    assert (f"wanted at least {wanted:g}" in capsys.readouterr().err) == missed


def test_a_ratio_that_could_not_be_measured_is_a_miss(document: results.Document) -> None:
    assert measure.misses(document.model_copy(update={"pipeline": []}), 0.9)


def test_a_ratio_is_wanted_of_the_pipeline_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert measure.main(["filters", *_TINY, "--at-least", "0.9"]) == 64
    assert "--at-least is for the pipeline" in capsys.readouterr().err


def test_refuses_a_folder_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "none" / "speed.json"
    assert measure.main(["start", *_TINY, "--out", str(target)]) == 73
    assert "there is no folder" in capsys.readouterr().err


def test_a_wrong_checkpoint_ends_with_65(tmp_path: Path) -> None:
    (tmp_path / "no.pth").write_text("no weights")
    words = ("--upscaling-model-path", str(tmp_path / "no.pth"))
    assert measure.main(["filters", *_TINY, *words]) == 65


def test_what_takes_too_long_is_left_out_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--precision", "fp32", "--budget-seconds", "0", "--json")
    assert measure.main(["filters", *_TINY, *words]) == 0
    document = results.Document.model_validate_json(capsys.readouterr().out)
    assert document.filters == []
    reasons = {one.what: one.reason for one in document.left_out}
    assert "interpolate builtin 64x48 fp32 exp 3" in reasons
    assert all("fit into --budget-seconds 0" in text for text in reasons.values())

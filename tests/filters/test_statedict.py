"""Files of weights: what is read, and how everything else is refused."""

from __future__ import annotations

import io
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from upframe.filters.errors import CheckpointRejected, WeightsUnavailable
from upframe.filters.weights import load_state_dict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STATE = {"conv.weight": torch.rand(4, 3, 3, 3), "conv.bias": torch.rand(4)}


def saved(path: Path, content: object, *, as_zip: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=as_zip)
    return path


def assert_state(found: dict[str, torch.Tensor]) -> None:
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[key], value) for key, value in STATE.items())


def assert_rejected(path: Path, text: str) -> None:
    with pytest.raises(CheckpointRejected, match=re.escape(text)) as caught:
        load_state_dict(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Runs:
    """Unpickling this makes a file: the trace of code that ran."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("as_zip", [True, False])
def test_reads_checkpoints_of_both_pickle_formats(tmp_path: Path, as_zip: bool) -> None:
    assert_state(load_state_dict(saved(tmp_path / "x.pth", STATE, as_zip=as_zip)))


def test_reads_safetensors(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "x.safetensors")
    assert_state(load_state_dict(tmp_path / "x.safetensors"))


def test_content_decides_and_not_the_suffix(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "x.pth")
    assert_state(load_state_dict(tmp_path / "x.pth"))


@pytest.mark.parametrize("key", ["params", "params_ema"])
def test_unwraps_the_dictionary_of_real_esrgan(tmp_path: Path, key: str) -> None:
    assert_state(load_state_dict(saved(tmp_path / "x.pth", {key: STATE})))


def test_prefers_the_averaged_parameters(tmp_path: Path) -> None:
    both = {"params": {"conv.bias": torch.zeros(4)}, "params_ema": STATE}
    assert_state(load_state_dict(saved(tmp_path / "x.pth", both)))


def test_reads_ordered_dictionaries_and_parameters(tmp_path: Path) -> None:
    content = OrderedDict((key, torch.nn.Parameter(value)) for key, value in STATE.items())
    found = load_state_dict(saved(tmp_path / "x.pth", content))
    assert_state(found)
    assert not any(value.requires_grad for value in found.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_come_back_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    path = saved(tmp_path / "x.pth", {key: value.to(dtype) for key, value in STATE.items()})
    found = load_state_dict(path)
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert torch.equal(found["conv.bias"], STATE["conv.bias"].to(dtype).float())


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path, as_zip: bool) -> None:
    marker = tmp_path / "it-ran"
    path = saved(tmp_path / "x.pth", {"conv.weight": Runs(marker)}, as_zip=as_zip)
    assert_rejected(path, "it wants to load posix.mkdir, wanted plain tensors")
    assert not marker.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_bare_pickle_that_runs_code_is_not_run(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "it-ran"
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(Runs(marker), protocol))
    with pytest.raises(CheckpointRejected):
        load_state_dict(path)
    assert not marker.exists()


def test_a_whole_module_is_refused_by_name(tmp_path: Path) -> None:
    assert_rejected(saved(tmp_path / "x.pth", torch.nn.Conv2d(1, 1, 1)), "Conv2d")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is not a checkpoint: it is empty"),
        (b"hello, world\n", "it is a text file that begins with 'hello, world"),
        ("schön".encode(), "it is a text file that begins with 'schön'"),
        (b"\n<!DOCTYPE html><html>404</html>", "it is an HTML page"),
        (b'{"error": "not found"}', 'it is a text file that begins with \'{"error"'),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "it is a Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "begins with the bytes 89 50 4e 47 0d 0a 1a 0a"),
        (b"\x80\x02garbage", "is a damaged or foreign checkpoint"),
        (b"\x80", "is a damaged or foreign checkpoint"),
        (b"PK\x03\x04garbage", "is a damaged or foreign checkpoint"),
        (b"\xff\0\0\0\0\0\0\0{", "is a damaged or foreign checkpoint: its header claims 255 bytes"),
    ],
)
def test_what_is_no_checkpoint_is_called_what_it_is(
    tmp_path: Path, content: bytes, text: str
) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    assert_rejected(path, text)


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("form", ["zip", "pickle", "safetensors"])
def test_a_truncated_file_is_called_damaged(tmp_path: Path, form: str, kept: float) -> None:
    path = tmp_path / "x.pth"
    if form == "safetensors":
        save_file(STATE, path)
    else:
        saved(path, STATE, as_zip=form == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert_rejected(path, "is a damaged")


def test_a_zip_archive_of_something_else_is_foreign(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("RIFE/train_log/flownet.txt", "weights are in the other archive")
    (tmp_path / "x.pkl").write_bytes(buffer.getvalue())
    assert_rejected(tmp_path / "x.pkl", "is a damaged or foreign checkpoint")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([torch.zeros(1)], "must hold a dictionary of tensors, got a list"),
        (torch.zeros(1), "must hold a dictionary of tensors, got a Tensor"),
        ({}, "holds an empty dictionary"),
        ({"params": {}}, "holds an empty dictionary"),
        ({1: torch.zeros(1)}, "must hold tensors by name, got a int for a name"),
        (STATE | {"epoch": 3}, "must hold tensors only, got a int under 'epoch'"),
        ({"model": STATE}, "must hold tensors only, got a dict under 'model'"),
        ({"x": torch.zeros(1).expand(1 << 40)}, "holds something else than the (1099511627776,)"),
    ],
)
def test_what_holds_no_plain_tensors_is_refused(tmp_path: Path, content: object, text: str) -> None:
    assert_rejected(saved(tmp_path / "x.pth", content), text)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    bad = STATE["conv.bias"].clone()
    bad[2] = value
    path = saved(tmp_path / "x.pth", STATE | {"conv.bias": bad})
    assert_rejected(path, "holds NaN or infinite values under 'conv.bias'")


def test_doubles_beyond_float32_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", {"x": torch.tensor([1e300], dtype=torch.float64)})
    assert_rejected(path, "holds NaN or infinite values under 'x'")


def test_a_file_that_cannot_be_read_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match=r"cannot read weights .*: No such file"):
        load_state_dict(tmp_path / "x.pth")
    with pytest.raises(WeightsUnavailable, match=r"cannot read weights .*: Is a directory"):
        load_state_dict(tmp_path)


@pytest.mark.parametrize(
    ("name", "num_tensors"),
    [
        ("flownet.pkl", 128),
        ("starter_srvgg_x4.pth", 35),
        ("realesr-animevideov3.pth", 53),
        ("RealESRGAN_x4plus_anime_6B.pth", 192),
    ],
)
def test_reads_the_published_checkpoints(data: Path, name: str, num_tensors: int) -> None:
    assert len(load_state_dict(data / "weights" / name)) == num_tensors

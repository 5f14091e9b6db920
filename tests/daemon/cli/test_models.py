"""`upframe models`: what it prints and how it ends."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from support.servers.hub import Hub, running_hub

from upframe.daemon.__main__ import main
from upframe.filters.hub import sha256_of
from upframe.filters.weights import REAL_ESRGAN, RIFE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """A hub with the default weights of both filters, and a picture of a cat."""
    with running_hub() as hub:
        for default in (RIFE, REAL_ESRGAN):
            hub.add(default.repo_id, default.filename, default.builtin_path.read_bytes())
        hub.add("someone/cat", "cat.pth", b"meow")
        yield hub


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hf")


def upframe(hub: Hub, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own: the hub's client reads its environment once."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    hub_variables = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(cache), "NO_PROXY": "*"}
    return subprocess.run(
        [sys.executable, "-m", "upframe.daemon", "models", *arguments],
        env=clean | hub_variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_pull_fetches_the_defaults_and_list_shows_them(hub: Hub, cache: Path) -> None:
    before = upframe(hub, cache, "list")
    assert before.stdout.count("not fetched") == 2
    assert RIFE.builtin in before.stdout
    pulled = upframe(hub, cache, "pull")
    assert pulled.returncode == 0, pulled.stderr
    assert "elfgum/RIFE-4.22.lite:flownet.pkl: RIFE 4.22.lite, interpolation" in pulled.stdout
    assert "RealESRGAN_x4.pth: SRVGGNetCompact, enlarging x4" in pulled.stdout
    asked = len(hub.requests)
    entries = json.loads(upframe(hub, cache, "list", "--json").stdout)
    assert len(hub.requests) == asked
    assert [entry["kind"] for entry in entries] == ["builtin"] * 2 + ["default"] * 2
    for entry, default in zip(entries[2:], (RIFE, REAL_ESRGAN), strict=True):
        assert entry["name"] == default.name
        assert entry["bytes"] == default.builtin_path.stat().st_size
        assert entry["sha256"] == sha256_of(default.builtin_path)


def test_pull_refuses_what_no_filter_can_load(hub: Hub, cache: Path) -> None:
    pulled = upframe(hub, cache, "pull", "someone/cat:cat.pth")
    assert (pulled.returncode, pulled.stdout) == (65, "")
    assert "cat.pth is not a checkpoint: it is a text file that begins with 'meow'" in pulled.stderr
    assert hashlib.sha256(b"meow").hexdigest() in upframe(hub, cache, "list").stdout


def test_pull_of_a_missing_repository_is_unavailable(hub: Hub, cache: Path) -> None:
    pulled = upframe(hub, cache, "pull", "someone/nothing")
    assert (pulled.returncode, pulled.stdout) == (69, "")
    assert pulled.stderr.splitlines()[-1] == (
        "upframe: cannot get someone/nothing from the hub: "
        "the hub has no such repository, or it is private (set HF_TOKEN)"
    )


@pytest.mark.parametrize("name", ["builtin", "."])
def test_pull_of_what_is_here_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flownet.pkl").write_bytes(b"abc")
    assert main(["models", "pull", name]) == 64
    assert "owner/name" in capsys.readouterr().err


def test_check_says_what_the_built_in_weights_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "check", "builtin"]) == 0
    printed = capsys.readouterr().out
    assert "builtin: RIFE 4.22.lite, interpolation, 4.87 million weights\n" in printed
    assert "builtin: SRVGGNetCompact, enlarging x4, 0.11 million weights\n" in printed
    assert f"SHA-256 {sha256_of(RIFE.builtin_path)}\n" in printed


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("flownet.pkl", "RIFE 4.22.lite, interpolation"),
        ("starter_srvgg_x4.pth", "SRVGGNetCompact, enlarging x4"),
        ("realesr-animevideov3.pth", "SRVGGNetCompact, enlarging x4"),
        ("RealESRGAN_x4plus_anime_6B.pth", "RRDBNet, enlarging x4"),
    ],
)
def test_check_recognises_real_checkpoints(
    data: Path, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    path = data / "weights" / name
    assert main(["models", "check", str(path)]) == 0
    assert f"{path}: {text}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "state",
    [
        {"block0.conv0.0.0.weight": torch.zeros(96, 7, 3, 3)},
        {"layers.0.residual_group.blocks.0.norm1.weight": torch.zeros(180)},
    ],
    ids=["another RIFE", "another upscaler"],
)
def test_check_refuses_other_networks_by_file_and_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], state: dict[str, torch.Tensor]
) -> None:
    torch.save(state, tmp_path / "x.pth")
    assert main(["models", "check", str(tmp_path / "x.pth")]) == 65
    printed = capsys.readouterr()
    assert str(tmp_path / "x.pth") in printed.err
    assert printed.out == ""
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"x": torch.eye(2).to_sparse()}, "it wants to load torch._utils._rebuild_sparse_tensor"),
        (
            {"x": torch.zeros(2, dtype=torch.complex64)},
            "it wants to load torch.ComplexFloatStorage",
        ),
    ],
)
def test_check_says_what_it_found_and_what_was_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: object, text: str
) -> None:
    torch.save(content, tmp_path / "x.pth")
    assert main(["models", "check", str(tmp_path / "x.pth")]) == 65
    wanted = "wanted plain tensors of float32, float16, bfloat16 or float64"
    assert f"{text}, {wanted}" in capsys.readouterr().err


def test_check_of_a_missing_file_is_unavailable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "check", str(tmp_path / "x.pth")]) == 69
    assert f"no weights at '{tmp_path}/x.pth'" in capsys.readouterr().err


def test_models_without_an_action_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 64
    assert "ACTION" in capsys.readouterr().err

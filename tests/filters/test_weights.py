"""Names of weights on this machine, and the built-in ones. The hub has its own file."""

from __future__ import annotations

import hashlib
import json
import os
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from support.scripts import script

from upframe.filters.errors import WeightsUnavailable
from upframe.filters.hub import sha256_of
from upframe.filters.weights import (
    REAL_ESRGAN,
    RIFE,
    DefaultWeights,
    load_state_dict,
    resolve_weights,
    warn_of_builtin,
)

store = script("builtin_weights").store

DEFAULTS = [RIFE, REAL_ESRGAN]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory. Whoever asks the hub from here gets an error at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "no hub in this test")
    return tmp_path


def assert_unavailable(name: str, default: DefaultWeights, *texts: str) -> None:
    """Refused with these texts, under every policy, and without the hub."""
    for policy in ("auto", "hub", "builtin"):
        with pytest.raises(WeightsUnavailable) as caught:
            resolve_weights(name, default, policy)
        assert all(text in str(caught.value) for text in texts), caught.value
        assert "HF_ENDPOINT" not in str(caught.value)


def test_a_file_is_taken_as_it_is(folder: Path) -> None:
    (folder / "some.weights").write_bytes(b"abc")
    found = resolve_weights(str(folder / "some.weights"), RIFE)
    assert (found.name, found.path) == (str(folder / "some.weights"), folder / "some.weights")
    assert found.sha256 == hashlib.sha256(b"abc").hexdigest()
    assert found.origin == "local"


def test_a_file_in_the_home_folder_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    (folder / "x.pth").write_bytes(b"abc")
    assert resolve_weights("~/x.pth", RIFE).path == folder / "x.pth"


@pytest.mark.parametrize("policy", ["auto", "hub", "builtin"])
def test_a_path_that_exists_wins_over_a_hub_name(folder: Path, policy: str) -> None:
    (folder / "owner").mkdir()
    (folder / "owner" / "name").write_bytes(b"abc")
    found = resolve_weights("owner/name", RIFE, policy)  # type: ignore[arg-type]
    assert found.origin == "local"


def test_a_folder_means_its_flownet_pkl_and_else_its_safetensors(folder: Path) -> None:
    (folder / "flownet.safetensors").write_bytes(b"safe")
    found = resolve_weights(".", RIFE)
    assert (found.path.name, found.name) == ("flownet.safetensors", "flownet.safetensors")
    (folder / "flownet.pkl").write_bytes(b"pickle")
    assert resolve_weights(str(folder), RIFE).path == folder / "flownet.pkl"


def test_a_folder_without_flownet_is_refused_although_it_holds_others(folder: Path) -> None:
    (folder / "other.pkl").write_bytes(b"abc")
    assert_unavailable(
        str(folder), RIFE, f"no flownet.pkl or flownet.safetensors in the folder {folder}"
    )


def test_a_folder_for_enlarging_means_its_default_file_among_others(folder: Path) -> None:
    for name in ("a.pth", "RealESRGAN_x4.pth", "b.safetensors"):
        (folder / name).write_bytes(b"abc")
    assert resolve_weights(str(folder), REAL_ESRGAN).path == folder / "RealESRGAN_x4.pth"


@pytest.mark.parametrize("name", ["only.pth", "only.safetensors", "ONLY.PTH"])
def test_a_folder_for_enlarging_means_its_only_checkpoint(folder: Path, name: str) -> None:
    (folder / "README.md").write_bytes(b"read me")
    (folder / name).write_bytes(b"abc")
    assert resolve_weights(str(folder), REAL_ESRGAN).path == folder / name


def test_a_folder_for_enlarging_with_several_checkpoints_lists_them(folder: Path) -> None:
    for name in ("b.pth", "a.safetensors", "notes.txt"):
        (folder / name).write_bytes(b"abc")
    assert_unavailable(str(folder), REAL_ESRGAN, "RealESRGAN_x4.pth", "files: a.safetensors, b.pth")


def test_an_empty_folder_says_what_was_looked_for(folder: Path) -> None:
    assert_unavailable(
        str(folder), REAL_ESRGAN, "no RealESRGAN_x4.pth nor any .pth or .safetensors in", "folder"
    )


@pytest.mark.parametrize(
    "name",
    [
        "./owner/name",
        "../name",
        "/owner/name",
        "~/owner",
        "models/flownet.pkl",
        "models/x.SafeTensors",
        "x.pth",
        "C:\\weights\\x.pth",
        "a/b/c",
        "a/b:../c.pth",
        "a/b:/etc/passwd",
        "a/b:",
        "name",
        "two words",
        "",
        "x\0y",
    ],
)
def test_what_cannot_be_on_the_hub_is_never_asked_from_it(folder: Path, name: str) -> None:
    assert_unavailable(name, RIFE, repr(name), "no such file or folder")


@pytest.mark.parametrize(
    "name", ["owner/name", "owner/name-4.22.lite", "owner/name:x.pth", "owner/name:a/b.pkl"]
)
def test_what_may_be_on_the_hub_is_asked_from_it(folder: Path, name: str) -> None:
    with pytest.raises(WeightsUnavailable, match="HF_ENDPOINT"):
        resolve_weights(name, RIFE)


def test_what_is_neither_file_nor_folder_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert_unavailable(str(folder / "pipe"), RIFE, "must be a regular file or a folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_unavailable(folder: Path) -> None:
    (folder / "x.pth").write_bytes(b"abc")
    (folder / "x.pth").chmod(0)
    assert_unavailable(str(folder / "x.pth"), RIFE, "Permission denied")


def test_the_checksum_follows_a_file_that_changes(folder: Path) -> None:
    path = folder / "x.pth"
    path.write_bytes(b"abc")
    first = sha256_of(path)
    path.write_bytes(b"xyz!")
    assert sha256_of(path) == hashlib.sha256(b"xyz!").hexdigest() != first


@pytest.mark.parametrize("default", DEFAULTS, ids=lambda default: default.builtin)
@pytest.mark.parametrize(("name", "policy"), [("builtin", "hub"), (None, "builtin")])
def test_the_built_in_weights_need_no_hub_and_no_warning(
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    default: DefaultWeights,
    name: str | None,
    policy: str,
) -> None:
    found = resolve_weights(name, default, policy)  # type: ignore[arg-type]
    assert (found.name, found.origin) == ("builtin", "builtin")
    assert caplog.messages == []


@pytest.mark.parametrize("default", DEFAULTS, ids=lambda default: default.builtin)
def test_only_the_default_falls_back_and_says_why(folder: Path, default: DefaultWeights) -> None:
    found = resolve_weights(None, default)
    assert found.origin == "builtin"
    assert "HF_ENDPOINT must be" in found.missed
    assert resolve_weights("builtin", default).missed == ""


def test_all_weights_that_fell_back_are_one_line_of_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_builtin(resolve_weights("builtin", default) for default in DEFAULTS)
    assert caplog.messages == []
    warn_of_builtin(resolve_weights(None, default) for default in DEFAULTS)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("upframe.filters.weights", "WARNING")
    text = record.getMessage()
    assert "HF_ENDPOINT must be" in text
    assert "\n" not in text
    assert len(text) < 400


def test_the_default_under_the_policy_hub_never_falls_back(folder: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="HF_ENDPOINT"):
        resolve_weights(None, RIFE, "hub")


def test_the_built_in_weights_are_small_and_tell_their_provenance() -> None:
    folder = files("upframe.filters.builtin")
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance.keys() == {default.builtin for default in DEFAULTS}
    assert sum(default.builtin_path.stat().st_size for default in DEFAULTS) < 12_000_000
    for default in DEFAULTS:
        facts = provenance[default.builtin]
        assert facts["sha256"] == sha256_of(default.builtin_path)
        assert facts["licence"] == "MIT"
        assert facts["training"]
        assert facts["quality"]
        with safe_open(default.builtin_path, "pt") as stored:
            inside = json.loads(stored.metadata()["provenance"])
        assert inside | {"sha256": facts["sha256"]} == facts


@pytest.mark.parametrize(
    ("default", "source"), [(RIFE, "flownet.pkl"), (REAL_ESRGAN, "starter_srvgg_x4.pth")]
)
def test_the_built_in_weights_are_their_checkpoints_in_float16(
    data: Path, tmp_path: Path, default: DefaultWeights, source: str
) -> None:
    facts = json.loads((default.builtin_path.parent / "provenance.json").read_text())
    facts = facts[default.builtin]
    made = store(data / "weights" / source, tmp_path / "made.safetensors", facts)
    assert made == facts  # among them the checksums of source and result: the same bytes
    stored = load_state_dict(default.builtin_path)
    for key, value in load_state_dict(data / "weights" / source).items():
        assert torch.equal(stored[key.removeprefix("module.")], value.half().float())


def test_a_value_beyond_float16_is_not_stored(tmp_path: Path) -> None:
    torch.save({"x": torch.tensor([70_000.0])}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="beyond 65504 under 'x'"):
        store(tmp_path / "x.pth", tmp_path / "x.safetensors", {})

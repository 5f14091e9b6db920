"""Everything that can be wrong: its own message, its code, no traceback, nothing left behind."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import save_file
from support.media.clips import make_clip, make_still

from upframe.daemon.__main__ import main

BUILTIN = ["--weights", "builtin", "--progress", "none"]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "in.mp4", frames=3, audio="aac")


def fails(
    capsys: pytest.CaptureFixture[str], folder: Path, code: int, message: str, *words: object
) -> None:
    """Run, and check the code, the message, and that no file came or went."""
    before = {path: path.stat().st_size for path in folder.rglob("*")}
    assert main(["run", *(str(word) for word in words), *BUILTIN]) == code
    text = capsys.readouterr().err
    assert message in text
    assert "Traceback" not in text
    assert {path: path.stat().st_size for path in folder.rglob("*")} == before


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_missing_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "none.mp4"
    fails(capsys, tmp_path, 66, str(source), source, tmp_path / "out.mp4", "--upscale", 2)


def test_a_folder_as_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, tmp_path, 66, "folder", tmp_path, tmp_path / "out.mp4", "--upscale", 2)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.mp4", b"", "empty"),
        ("text.mp4", b"Dear diary, today I am no video.\n" * 40, "text.mp4"),
        ("noise.mkv", bytes(range(256)) * 64, "noise.mkv"),
    ],
)
def test_what_is_no_video(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    source = write(tmp_path / name, content)
    fails(capsys, tmp_path, 65, message, source, tmp_path / "out.mp4", "--upscale", 2)


@pytest.mark.parametrize(("share", "message"), [(0.5, "runcated"), (0.97, "moov")])
def test_a_truncated_mp4(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], share: float, message: str
) -> None:
    """With its index first it gives some frames and ends; with its index last it gives none."""
    options = {"movflags": "faststart"} if share == 0.5 else {}
    whole = make_clip(tmp_path / "whole.mp4", frames=48, container_options=options).read_bytes()
    source = write(tmp_path / "cut.mp4", whole[: int(len(whole) * share)])
    fails(capsys, tmp_path, 65, message, source, tmp_path / "out.mp4", "--upscale", 1)


def test_sound_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.m4a"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "sine=d=0.2", source]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    fails(capsys, tmp_path, 65, "no video", source, tmp_path / "out.mp4", "--upscale", 2)


def test_a_picture_of_no_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 0, 0, 8, 2, 0, 0, 0)
    source = write(tmp_path / "zero.png", header + bytes(64))
    fails(capsys, tmp_path, 65, "zero.png", source, tmp_path / "out.png", "--upscale", 2)


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.marker}",)


def test_weights_that_run_code(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "marker"
    hostile = write(tmp_path / "flownet.pkl", pickle.dumps(Bomb(marker)))
    words = ["--interpolate", 1, "--frame-interpolation-model-path", hostile]
    fails(capsys, tmp_path, 65, "flownet.pkl", clip, tmp_path / "out.mp4", *words)
    assert not marker.exists()


def wrong_checkpoint(kind: str, path: Path) -> Path:
    """Four ways in which a file is not the checkpoint it should be."""
    if kind == "text":
        return write(path.with_suffix(".pth"), b"<html>404 not found</html>")
    if kind == "truncated":
        torch.save({"weight": torch.rand(1000)}, path.with_suffix(".pth"))
        return write(path.with_suffix(".pth"), path.with_suffix(".pth").read_bytes()[:1000])
    if kind == "another":
        state = {"layers.0.residual_group.blocks.0.attn.qkv.weight": torch.rand(4, 4)}
        save_file(state, path.with_suffix(".safetensors"))
        return path.with_suffix(".safetensors")
    torch.save([torch.rand(3)], path.with_suffix(".pth"))
    return path.with_suffix(".pth")


@pytest.mark.parametrize("kind", ["text", "truncated", "another", "list"])
@pytest.mark.parametrize(
    ("enable", "option"),
    [
        (["--interpolate", 1], "--frame-interpolation-model-path"),
        (["--upscale", 2], "--upscaling-model-path"),
    ],
)
def test_a_wrong_checkpoint(
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    enable: list[object],
    option: str,
) -> None:
    weights = wrong_checkpoint(kind, tmp_path / "weights")
    words = [*enable, option, weights]
    fails(capsys, tmp_path, 65, weights.name, clip, tmp_path / "out.mp4", *words)


def test_a_target_folder_that_is_not_there(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "no" / "out.mp4"
    fails(capsys, tmp_path, 73, str(target.parent), clip, target, "--upscale", 2)


def test_a_read_only_target(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = Path("/proc/out.mp4")  # not writable for anybody, root included
    fails(capsys, tmp_path, 73, "/proc", clip, target, "--upscale", 2)


def test_an_output_of_unknown_kind(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(capsys, tmp_path, 73, "out.xyz", clip, tmp_path / "out.xyz", "--upscale", 2)


def test_an_encoder_that_is_not_there(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--upscale", 2, "--codec", "libnothing"]
    fails(capsys, tmp_path, 73, "libnothing", clip, tmp_path / "out.mp4", *words)


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("o.mp4", ["--crf", 60], "libx264 has no crf 60; it has 0 to 51"),
        ("o.webm", ["--preset", "slow"], "libvpx-vp9 knows no option 'preset'"),
        ("o.webm", ["--codec", "vp8", "--preset", 5], "libvpx knows no option 'preset'"),
        ("o.mov", ["--codec", "prores_ks", "--crf", 3], "prores_ks knows no option 'crf'"),
        ("o.mkv", ["--codec", "ffv1", "--crf", 3], "ffv1 knows no option 'crf'"),
        ("o.mkv", ["--encoder-option", "tun=film"], "libx264 knows no option 'tun'; near it: tune"),
    ],
)
def test_what_the_encoder_does_not_have_is_refused_before_weights_are_loaded(
    name: str,
    words: list[object],
    said: str,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    no_weights = ["--upscale", 2, "--upscaling-model-path", tmp_path / "none.pth"]
    fails(capsys, tmp_path, 64, said, clip, tmp_path / name, *no_weights, *words)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("libx246", "libx265, libx264"),
        ("libx625", "libx265"),
        ("libsvtav", "libsvtav1"),
        ("Prores", "prores"),
    ],
)
def test_a_mistyped_encoder_is_answered_by_those_that_resemble_it(
    typed: str, meant: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--upscale", 2, "--codec", typed]
    fails(
        capsys,
        tmp_path,
        73,
        f"no encoder is called '{typed}'; near it: {meant}",
        clip,
        tmp_path / "out.mp4",
        *words,
    )


def test_no_space(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A full disk shows at a write, at the trailer or at the flush: the same end for all."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    clip = make_clip(tmp_path / "in.mp4", frames=6, width=320, height=240)
    small = tmp_path / "small"
    small.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", small]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        words = ["--upscale", 4, "--crf", 0]
        fails(capsys, small, 74, "No space", clip, small / "out.mp4", *words)
    finally:
        subprocess.run(["umount", small], check=True)


def test_no_space_by_limit(tmp_path: Path) -> None:
    """The same without root: the process may write no file larger than 8 KiB."""
    out = tmp_path / "out.mp4"
    clip = make_clip(tmp_path / "in.mp4", frames=3, width=320, height=240)
    command = f"ulimit -f 8; exec python3 -m upframe.daemon run {clip} {out} --upscale 4 --crf 0"
    process = subprocess.run(
        ["bash", "-c", f"trap '' XFSZ; {command} {' '.join(BUILTIN)}"],
        capture_output=True,
        text=True,
        check=False,
        # no compiled module either: half of one would be found by the next process
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )
    assert process.returncode == 74, process.stderr
    assert "Traceback" not in process.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.parametrize(("width", "height"), [(63, 47), (2, 2), (1, 1), (1, 48), (33, 1)])
def test_odd_and_tiny_pictures_go_through(tmp_path: Path, width: int, height: int) -> None:
    still = make_still(tmp_path / "in.png", width=width, height=height)
    words = [str(still), str(tmp_path / "out.mkv"), "--upscale", "1.5", *BUILTIN]
    assert main(["run", *words]) == 0
    out = tmp_path / "again.mkv"
    assert main(["run", str(tmp_path / "out.mkv"), str(out), "--interpolate", "1", *BUILTIN]) == 0


def test_a_clip_of_rate_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = b"YUV4MPEG2 W16 H16 F0:0 Ip C420jpeg\n"
    source = write(tmp_path / "in.y4m", header + 3 * (b"FRAME\n" + bytes(384)))
    assert main(["run", str(source), str(tmp_path / "out.mkv"), "--upscale", "2", *BUILTIN]) in (
        0,
        65,
    )
    assert "Traceback" not in capsys.readouterr().err


def test_a_frame_too_large_for_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """16K in, 8 times: an output of 128K x 69K, said before any work is done."""
    source = tmp_path / "in.png"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "color=s=15360x8640:d=0.04"]
    command += ["-frames:v", "1", "-pix_fmt", "gray", "-compression_level", "1", "-pred", "none"]
    subprocess.run([*command, source], check=True, stdin=subprocess.DEVNULL)
    fails(capsys, tmp_path, 75, "122880x69120", source, tmp_path / "out.png", "--upscale", 8)


def test_sound_that_breaks_later_costs_its_packets_not_the_film(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.ts", frames=75, audio="aac")
    data = source.read_bytes()
    half = len(data) // 2  # the first packets are looked at before
    source.write_bytes(data[:half] + data[half:].replace(b"\xff\xf1", b"\xff\x00"))
    quick = ["--upscale", "2", "--weights", "builtin", "--device", "cpu"]
    assert main(["run", str(source), str(tmp_path / "out.mkv"), *quick]) == 0
    with av.open(str(tmp_path / "out.mkv")) as opened:
        assert sum(1 for _ in opened.decode(video=0)) == 75

"""What the doctor says of media: codecs, containers, protocols, and the ffmpeg program."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from ...io.capabilities import (
    has_codec,
    has_container,
    has_protocol,
    library_versions,
    why_encoder_fails,
)
from .finding import Finding, fail, ok, warn

_DECODERS = ("h264", "hevc", "av1", "vp9", "mpeg2video", "prores", "png", "mjpeg")
_ENCODERS = ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "ffv1", "prores_ks", "png")
_HARDWARE_ENCODERS = ("h264_nvenc", "hevc_nvenc", "av1_nvenc")
_DEMUXERS = ("mov", "matroska", "mpegts", "nut", "yuv4mpegpipe", "image2")
_MUXERS = ("mp4", "mov", "matroska", "webm", "mpegts", "nut", "yuv4mpegpipe", "image2")
_PROTOCOLS = ("file", "pipe", "http", "https", "tcp", "udp", "rtp", "rtmp", "srt", "rist")
_REQUIRED = {"libx264", "h264", "mov", "mp4", "file"}
"""Without one of these the main job, MP4 to MP4 with the default encoder, cannot run."""
_SELDOM = {"srt", "rist", "rtmp", "rtp", "udp", "tcp", "http", "https"}
"""Live and remote sources, which `run` does not need."""


def describe_media() -> Iterator[Finding]:
    """Look at PyAV and at what its FFmpeg was built with."""
    versions = library_versions()
    libraries = ", ".join(
        f"{name} {number}" for name, number in versions.items() if name.startswith("lib")
    )
    text = f"{versions['av']} with FFmpeg {versions['ffmpeg']} ({libraries})"
    yield Finding("ok", "av", text, versions)
    yield _presence("decoders", _DECODERS, partial(has_codec, mode="r"))
    yield _presence("encoders", _ENCODERS, partial(has_codec, mode="w"))
    yield _hardware_encoders()
    yield _presence("demuxers", _DEMUXERS, partial(has_container, mode="r"))
    yield _presence("muxers", _MUXERS, partial(has_container, mode="w"))
    yield _presence("protocols", _PROTOCOLS, has_protocol)
    yield _ffmpeg_program()


def _presence(name: str, wanted: Sequence[str], has: Callable[[str], bool]) -> Finding:
    facts = {each: has(each) for each in wanted}
    missing = [each for each in wanted if not facts[each]]
    text = ", ".join(each for each in wanted if facts[each]) or "none"
    if missing:
        text += f"; not in this build: {', '.join(missing)}"
    if _REQUIRED & set(missing):
        return fail(name, text, **facts)
    return (warn if set(missing) - _SELDOM else ok)(name, text, **facts)


def _hardware_encoders() -> Finding:
    reasons = {name: why_encoder_fails(name) for name in _HARDWARE_ENCODERS}
    working = [name for name, reason in reasons.items() if reason is None]
    facts = {name: reason is None for name, reason in reasons.items()}
    if working:
        return ok("nvenc", ", ".join(working), **facts)
    text = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    if torch.cuda.is_available():
        return warn("nvenc", f"does not open although there is a CUDA device: {text}", **facts)
    return ok("nvenc", "does not open, as expected without an NVIDIA device", **facts)


def _ffmpeg_program() -> Finding:
    path = shutil.which("ffmpeg")
    if path is None:
        return ok("ffmpeg", "not on PATH: only SRT and pipes between programs need it", path=None)
    try:
        shown = subprocess.run(
            [path, "-hide_banner", "-version"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return warn("ffmpeg", f"{path} does not run: {error}", path=path)
    return ok("ffmpeg", f"{(shown.splitlines() or ['?'])[0]} at {path}", path=path)

"""What the doctor says of live streams: which kinds can be read and published here, and by what."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from ...io.capabilities import has_container, has_protocol, why_encoder_fails
from .finding import Finding, ok, warn

_PLAIN = "PyAV"
_INPUTS = {
    "rtsp": ("rtsp", "rtsp"),
    "rtmp": ("flv", "rtmp"),
    "hls": ("hls", "http"),
    "mpegts over udp": ("mpegts", "udp"),
    "mpegts over tcp": ("mpegts", "tcp"),
    "v4l2": ("v4l2", None),
}
"""By what it is called: the demuxer and the protocol that it needs."""
_OUTPUTS = {
    "rtsp": ("rtsp", "rtsp"),
    "rtmp": ("flv", "rtmp"),
    "hls": ("hls", "http"),
    "mpegts over udp": ("mpegts", "udp"),
    "mpegts over tcp": ("mpegts", "tcp"),
    "whip": ("whip", "http"),
}
"""The same with muxers."""


def describe_live(devices: Path = Path("/dev")) -> Iterator[Finding]:
    """Look at protocols, demuxers and muxers of live streams, and at the encoder they get.

    Args:
        devices: Where cameras of this machine appear, as `video0` and so on.
    """
    srt = _who_has_srt()
    inputs = {name: _inputs_by(*needs) for name, needs in _INPUTS.items()}
    outputs = {name: _outputs_by(*needs) for name, needs in _OUTPUTS.items()}
    yield _by_whom("live inputs", inputs | {"srt": srt})
    yield _by_whom("live outputs", outputs | {"srt": srt})
    yield _cameras(devices)
    yield _encoder()


def _inputs_by(demuxer: str, protocol: str | None) -> str | None:
    has = has_container(demuxer, "r") and (protocol is None or has_protocol(protocol))
    return _PLAIN if has else None


def _outputs_by(muxer: str, protocol: str) -> str | None:
    return _PLAIN if has_container(muxer, "w") and has_protocol(protocol) else None


def _by_whom(name: str, found: Mapping[str, str | None]) -> Finding:
    """Name what there is, and what is not and how it could be had."""
    parts = [
        kind if program == _PLAIN else f"{kind} by {program}"
        for kind, program in found.items()
        if program is not None
    ]
    missing = [kind for kind, program in found.items() if program is None]
    if not missing:
        return ok(name, ", ".join(parts), **found)
    text = f"{', '.join(parts) or 'none'}; not to be had: {', '.join(missing)}"
    if "srt" in missing:
        text += " (srt needs an ffmpeg program that has it)"
    return warn(name, text, **found)


def _who_has_srt() -> str | None:
    """PyAV's wheels come without SRT; an ffmpeg program may have it."""
    if has_protocol("srt"):
        return _PLAIN
    program = shutil.which("ffmpeg")
    if program is None:
        return None
    try:
        shown = subprocess.run(
            [program, "-hide_banner", "-protocols"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):  # the line on ffmpeg says why
        return None
    return program if "srt" in shown.split() else None


def _cameras(devices: Path) -> Finding:
    """Name the cameras of this machine; none is opened."""
    found = sorted(str(path) for path in devices.glob("video[0-9]*"))
    return ok("cameras", ", ".join(found) or f"none in {devices}", devices=", ".join(found))


def _encoder() -> Finding:
    """Name what a live output is encoded with where the user says nothing."""
    for name, means in (("h264_nvenc", "by the NVIDIA card"), ("libx264", "by the processor")):
        if why_encoder_fails(name) is None:
            return ok("live encoder", f"{name}, {means}", encoder=name)
    return warn("live encoder", "neither h264_nvenc nor libx264 opens here", encoder=None)

"""What this build of PyAV and its FFmpeg can read and write."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from fractions import Fraction
from typing import Literal, cast

import av
import av.error
from av import library_versions as av_versions
from av.codec.codec import UnknownCodecError
from av.codec.context import CodecContext
from av.video.codeccontext import VideoCodecContext

_PROBE_SIZE = (256, 144)
"""Pixels; hardware encoders refuse much smaller pictures."""


def library_versions() -> Mapping[str, str]:
    """Return the versions of PyAV, of FFmpeg as a whole and of its libraries, by name."""
    libraries = cast("dict[str, tuple[int, ...]]", av_versions)
    numbers = {name: ".".join(map(str, parts)) for name, parts in libraries.items()}
    return {"av": av.__version__, "ffmpeg": str(av.ffmpeg_version_info), **numbers}


def has_codec(name: str, mode: Literal["r", "w"]) -> bool:
    """Return whether this build has a decoder (``r``) or an encoder (``w``) of FFmpeg's name."""
    try:
        av.Codec(name, mode)
    except UnknownCodecError:
        return False
    return True


def has_container(name: str, mode: Literal["r", "w"]) -> bool:
    """Return whether this build has a demuxer (``r``) or a muxer (``w``) of FFmpeg's name."""
    try:
        av.ContainerFormat(name, mode)
    except ValueError:
        return False
    return True


def has_protocol(name: str, address: str = "127.0.0.1:9") -> bool:
    """Return whether FFmpeg knows a protocol. Nothing is sent or opened.

    With an empty white list a known protocol is refused before it connects, and an unknown one is
    "not found" before that.
    """
    try:
        av.open(f"{name}://{address}/", options={"protocol_whitelist": "none"}, timeout=1).close()
    except av.error.ProtocolNotFoundError:
        return False
    except av.error.FFmpegError:
        return True
    raise AssertionError(f"{name} was opened past an empty white list")


NO_NVIDIA = "it needs an NVIDIA card, and this machine shows none"


def lacks_device(encoder: str) -> bool:
    """Return whether an encoder is NVIDIA's, on a machine that shows no NVIDIA device.

    FFmpeg would call it an operation that is not permitted.
    """
    shown = ("/dev/nvidiactl", "/dev/dxg")  # of Linux, and of Linux inside of Windows
    return encoder.endswith("_nvenc") and not any(map(os.path.exists, shown))


def why_encoder_fails(
    name: str, pix_fmt: str = "yuv420p", options: Mapping[str, str] | None = None
) -> str | None:
    """Open an encoder for a small picture; return None if that works, else FFmpeg's reason.

    Many builds have hardware encoders on machines without the hardware.
    """
    if lacks_device(name):
        return NO_NVIDIA
    try:
        context = cast("VideoCodecContext", av.CodecContext.create(name, "w"))
    except UnknownCodecError:
        return "not in this build"
    context.width, context.height = _PROBE_SIZE
    context.pix_fmt, context.time_base = pix_fmt, Fraction(1, 25)
    context.options = dict(options or {})
    try:
        open_context(context)
    except (av.error.FFmpegError, OSError) as error:
        return error.strerror or str(error)
    return None


def open_context(context: CodecContext) -> None:
    """Open an encoder, so that it neither writes to stderr nor changes how threads are scheduled.

    As root, SVT-AV1 makes the calling thread a real-time one, and so all threads and processes that
    this one starts. On two cores two of them that spin never let a third one run.

    Raises:
        FFmpegError, ValueError, OverflowError: as FFmpeg and PyAV refuse it.
    """
    os.environ.setdefault("SVT_LOG", "-1")  # SVT-AV1 writes to stderr otherwise
    before = _scheduling(0)
    try:
        context.open()
    finally:
        if before and _scheduling(0) != before:
            for thread in map(int, os.listdir("/proc/self/task")):
                with suppress(OSError):  # it has ended
                    os.sched_setscheduler(thread, *before)


def _scheduling(thread: int) -> tuple[int, os.sched_param] | None:
    """Return policy and priority of a thread, 0 for this one; None where it is not Linux."""
    if sys.platform != "linux":
        return None
    return os.sched_getscheduler(thread), os.sched_getparam(thread)

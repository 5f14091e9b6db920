"""`upframe doctor`: check what this machine has and lacks, and whether the main job runs."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from fractions import Fraction
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal, cast

import torch

from ...filters.chain import build_filters
from ...filters.device import (
    Runtime,
    available_bytes,
    cpu_has_bf16,
    cpu_name,
    resolve_device,
    resolve_devices,
    resolve_precision,
)
from ...filters.errors import DeviceUnavailable, FilterError, WeightsUnavailable
from ...filters.hub import find_cached
from ...filters.kernels import ways
from ...filters.kernels.cuda import SWITCH, fault_file, faulted
from ...filters.kernels.native import kernels
from ...filters.options import FilterOptions
from ...filters.weights import BUILTIN, REAL_ESRGAN, RIFE, DefaultWeights, resolve_weights
from ...io.capabilities import (
    has_codec,
    has_container,
    has_protocol,
    library_versions,
    why_encoder_fails,
)
from ...io.demo import write_demo_clip
from ...io.errors import MediaError, SinkRefused, SourceMissing
from ...io.redaction import json_text, one_line
from ...io.web import authorities
from ..config import load_config
from ..convert.conversion import run
from ..convert.plan import abandoned_plans
from ..exits import Exit
from ..service.checks import cautions
from .demo import demo_request

Fact = str | int | float | bool | None
_HUB_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    verdict: Literal["ok", "warn", "fail"]
    """``fail``: the main job cannot run; ``warn``: some other work cannot, or only slowly."""
    name: str
    text: str
    facts: Mapping[str, Fact] = field(default_factory=dict[str, Fact])
    """The same for programs."""


def _finding(
    verdict: Literal["ok", "warn", "fail"], name: str, text: str, **facts: Fact
) -> Finding:
    return Finding(verdict, name, text, facts)


ok, warn, fail = (partial(_finding, verdict) for verdict in ("ok", "warn", "fail"))


_PLAIN = "PyAV"
_STREAMS: Mapping[str, tuple[str, str | None]] = {
    "rtsp": ("rtsp", "rtsp"),
    "rtmp": ("flv", "rtmp"),
    "hls": ("hls", "http"),
    "mpegts over udp": ("mpegts", "udp"),
    "mpegts over tcp": ("mpegts", "tcp"),
}
"""For each kind of stream, the demuxer or muxer and the protocol that it needs."""


def describe_live(devices: Path = Path("/dev")) -> Iterator[Finding]:
    """Check protocols, demuxers and muxers of live streams, their encoder, and cameras."""
    srt = _program_with_srt()
    yield _programs("live inputs", {**_STREAMS, "v4l2": ("v4l2", None)}, "r", srt)
    yield _programs("live outputs", {**_STREAMS, "whip": ("whip", "http")}, "w", srt)
    try:
        yield ok("certificates", f"verified against {authorities()}")
    except SourceMissing as error:
        yield warn("certificates", str(error))
    cameras = ", ".join(sorted(str(path) for path in devices.glob("video[0-9]*")))
    yield ok("cameras", cameras or f"none in {devices}", devices=cameras)  # none is opened
    for name, means in (("h264_nvenc", "by the NVIDIA card"), ("libx264", "by the processor")):
        if why_encoder_fails(name) is None:
            yield ok("live encoder", f"{name}, {means}", encoder=name)
            return
    yield warn("live encoder", "neither h264_nvenc nor libx264 opens here", encoder=None)


def _programs(
    name: str,
    streams: Mapping[str, tuple[str, str | None]],
    mode: Literal["r", "w"],
    srt: str | None,
) -> Finding:
    """Name the kinds of streams that are available, and those that are not."""
    found: dict[str, str | None] = {}
    for kind, (container, protocol) in streams.items():
        available = has_container(container, mode) and (protocol is None or has_protocol(protocol))
        found[kind] = _PLAIN if available else None
    found["srt"] = srt
    parts = [kind if by == _PLAIN else f"{kind} by {by}" for kind, by in found.items() if by]
    missing = [kind for kind, by in found.items() if by is None]
    if not missing:
        return ok(name, ", ".join(parts), **found)
    text = f"{', '.join(parts) or 'none'}; not available: {', '.join(missing)}"
    if "srt" in missing:
        text += " (srt needs an ffmpeg program that has it)"
    return warn(name, text, **found)


def _program_with_srt() -> str | None:
    """Find what can use SRT: PyAV's wheels cannot, an ffmpeg program may."""
    if has_protocol("srt"):
        return _PLAIN
    program = shutil.which("ffmpeg")
    try:
        has_srt = program is not None and "srt" in _output_of(program, "-protocols").split()
    except (OSError, subprocess.SubprocessError):  # the check of ffmpeg reports it
        return None
    return program if has_srt else None


def _output_of(program: str, option: str) -> str:
    command, nothing = [program, "-hide_banner", option], subprocess.DEVNULL
    return subprocess.run(
        command, stdin=nothing, capture_output=True, text=True, timeout=20, check=True
    ).stdout


_GIB = 2**30
_LOW_DISK_BYTES = 1 * _GIB
_LOW_MEMORY_BYTES = 2 * _GIB  # the networks, torch and a 1080p frame in tiles


def describe_machine() -> Iterator[Finding]:
    """Check versions, devices, memory and disk."""
    yield ok("upframe", version("upframe"), version=version("upframe"))
    number = platform.python_version()
    text = f"{number} on {platform.system()} {platform.machine()}"
    yield ok("python", text, version=number, executable=sys.executable)
    yield ok("torch", torch.__version__, version=str(torch.__version__))
    yield from _devices()
    device = resolve_device()
    name, why = {
        torch.float16: ("fp16", "fastest on CUDA"),
        torch.bfloat16: ("bf16", "this CPU multiplies bf16 in hardware"),
    }.get(resolve_precision("auto", device), ("fp32", "this CPU has no bf16 hardware"))
    yield ok("precision", f"auto means {name} on {device}: {why}", auto=name, device=str(device))
    if kernels() is not None:
        yield ok("kernels", "compiled: interpolation on the CPU is fast", compiled=True)
    else:
        text = "not there: interpolation on the CPU is slower; install a C compiler "
        yield warn("kernels", f"{text}(gcc, libc6-dev), then upframe again", compiled=False)
    if torch.cuda.is_available():
        yield _card_kernels()
    yield _threads()
    yield _memory()
    yield _temporary_folder()


def _devices() -> Iterator[Finding]:
    model, has_bf16 = cpu_name(), cpu_has_bf16()
    text = f"{model}, {'with' if has_bf16 else 'without'} bf16 hardware"
    yield ok("cpu", text, model=model, has_bf16=has_bf16)
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = "torch finds no NVIDIA device or driver" if built else "this torch has no CUDA"
        yield ok("cuda", f"none: {why}; everything runs on the CPU", devices=0)
        return
    for index in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(index)
        free, total = torch.cuda.mem_get_info(index)
        text = f"{name}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
        yield ok(f"cuda:{index}", text, model=name, free_bytes=free, total_bytes=total)
    if torch.cuda.device_count() > 1:
        try:
            found = ", ".join(map(str, resolve_devices("all")))
            yield ok("all cards", f"--device all makes one film on {found}")
        except DeviceUnavailable as error:
            yield warn("all cards", f"--device all: {error}")


def describe_ways(*, renew: bool = False) -> Iterator[Finding]:
    """Report how networks are computed on the CPU, and the readings, new ones if `renew`."""
    both = {"enable_frame_interpolation": True, "enable_upscaling": True}
    cpu = torch.device("cpu")
    runtime = Runtime(cpu, resolve_precision("auto", cpu), "builtin")
    try:
        if renew:
            ways.forget()
        built = build_filters(FilterOptions.model_validate(both), runtime)
    except (FilterError, OSError) as error:
        yield warn("ways", f"not measured: {error}")
        return
    chosen = {one.name: one.way for one in built}
    text = ", ".join(f"{name} by {way}" for name, way in chosen.items())
    yield ok("ways", f"{text}; what was measured is in {ways.ways_file()}", **chosen)
    for found in ways.measurements():
        milliseconds = found.milliseconds.items()
        own = {way: " ".join(f"{ms:.2f}" for ms in each) for way, each in milliseconds}
        taken = datetime.fromtimestamp(found.taken).astimezone().isoformat(" ", "minutes")
        text = f"{found.way} for {found.network}, ms at {found.edge}x{found.edge} on {taken}: "
        text += ", ".join(f"{way} {each}" for way, each in own.items())
        facts = {f"{way}_ms": each for way, each in own.items()}
        yield ok("way", text, network=found.network, way=found.way, taken=taken, **facts)


def _card_kernels() -> Finding:
    if os.environ.get(SWITCH) == "0":
        return warn("cuda kernels", f"switched off by {SWITCH}=0", on=False)
    if left := faulted():
        text = f"the card broke before: {'; '.join(left)}; to try again, delete {fault_file()}"
        return warn("cuda kernels", text, on=False, file=str(fault_file()))
    return ok("cuda kernels", "used where their self-test passes", on=True)


def _threads() -> Finding:
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    threads = torch.get_num_threads()
    hint = "; see OMP_NUM_THREADS" if threads < usable else ""
    text = f"{threads} for computing, {usable} CPUs usable of {os.cpu_count()}{hint}"
    return (warn if hint else ok)("threads", text, threads=threads, usable=usable)


def _memory() -> Finding:
    free = available_bytes(torch.device("cpu"))
    if free is None:
        return warn("memory", "this system does not say how much is free")
    low = ": large frames may not fit" if free < _LOW_MEMORY_BYTES else ""
    text = f"{free / _GIB:.1f} GiB available{low}"
    return (warn if low else ok)("memory", text, available_bytes=free)


def _temporary_folder() -> Finding:
    folder = tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"upframe")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return fail("disk", f"cannot write to {folder}: {error.strerror}", folder=folder)
    verdict, text = (
        warn if free < _LOW_DISK_BYTES else ok,
        f"{free / _GIB:.1f} GiB free at {folder}",
    )
    return verdict("disk", text, folder=folder, free_bytes=free)


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
    """Check PyAV and what its FFmpeg was built with."""
    versions = library_versions()
    libraries = [f"{name} {each}" for name, each in versions.items() if name.startswith("lib")]
    text = f"{versions['av']} with FFmpeg {versions['ffmpeg']} ({', '.join(libraries)})"
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
        shown = _output_of(path, "-version")
    except (OSError, subprocess.SubprocessError) as error:
        return warn("ffmpeg", f"{path} does not run: {error}", path=path)
    return ok("ffmpeg", f"{(shown.splitlines() or ['?'])[0]} at {path}", path=path)


_DEFAULTS = {"interpolate": RIFE, "upscale": REAL_ESRGAN}


def describe_weights() -> Iterator[Finding]:
    """Check the weights on this machine, without network access."""
    for filter_name, default in _DEFAULTS.items():
        yield _builtin(filter_name, default)
    try:
        yield _cache_folder()
        for filter_name, default in _DEFAULTS.items():
            name, path = f"published {filter_name}", find_cached(default.repo_id, default.filename)
            if path is not None:
                text = f"{default.name} is in the cache"
                yield ok(name, text, cached=True, file=str(path))
                continue
            text = f"{default.name} is not in the cache: "
            yield warn(name, f"{text}fetched on first use, else built-in weights", cached=False)
    except ValueError as error:  # raised while the client is imported, by a malformed HF_… variable
        yield warn("cache", f"the hub's client cannot be used: {error}")


def describe_hub() -> Iterator[Finding]:
    """Request the head of a file from the hub; any response shows that it is reachable."""
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        yield warn("hub", "HF_HUB_OFFLINE is set: it is not used", endpoint=endpoint)
        return
    try:
        address = f"{endpoint.rstrip('/')}/{RIFE.repo_id}/resolve/main/{RIFE.filename}"
        request = urllib.request.Request(address, method="HEAD")
        with urllib.request.urlopen(request, timeout=_HUB_SECONDS):
            pass
    except urllib.error.HTTPError:
        pass  # an answer all the same
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        text = f"{endpoint} cannot be reached: {reason}; the built-in weights still work"
        yield warn("hub", text, endpoint=endpoint)
        return
    yield ok("hub", f"{endpoint} answers", endpoint=endpoint)


def _builtin(filter_name: str, default: DefaultWeights) -> Finding:
    name = f"weights {filter_name}"
    try:
        found = resolve_weights(BUILTIN, default)
    except WeightsUnavailable as error:
        return fail(name, str(error))
    text = f"built-in {default.builtin}, SHA-256 {found.sha256}"
    record = json.loads(default.builtin_path.with_name("provenance.json").read_text())
    wanted = record[default.builtin]["sha256"]
    if found.sha256 != wanted:
        return fail(name, f"{text}, which should be {wanted}: install upframe again")
    return ok(name, text, file=str(found.path), sha256=found.sha256)


def _cache_folder() -> Finding:
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        return warn("cache", f"{folder} is not writable: set HF_HOME", folder=str(folder))
    state = "writable" if existing == folder else "will be made on first use"
    return ok("cache", f"{folder} ({state})", folder=str(folder))


def command(arguments: argparse.Namespace) -> int:
    """Do what the command line asks, and return the exit code."""
    findings = examine(online=bool(arguments.online), renew=bool(arguments.measure))
    if arguments.config is not None:
        config = load_config(cast("Path", arguments.config))
        findings += [warn("config", text) for text in cautions(config)]
    sys.stdout.write(as_json(findings) if arguments.json else as_text(findings))
    return Exit.OK if main_job_runs(findings) else Exit.UNAVAILABLE


def examine(*, online: bool = False, renew: bool = False) -> list[Finding]:
    """Run all checks; without `online`, none uses the network, see `describe_ways` for `renew`."""
    media = *describe_media(), *describe_live(), *describe_weights()
    findings = [*describe_machine(), *media, *describe_ways(renew=renew), *describe_kept()]
    return [*findings, *(describe_hub() if online else ()), *_try_main_job()]


def main_job_runs(findings: Iterable[Finding]) -> bool:
    """Return whether no check that the main job needs has failed."""
    return all(finding.verdict != "fail" for finding in findings)


def as_text(findings: list[Finding]) -> str:
    """Write one line for each finding: verdict, name, text."""
    width = max(len(finding.name) for finding in findings)
    marks = {"ok": "OK", "warn": "warn", "fail": "FAIL"}
    return "".join(
        f"{marks[each.verdict]:<5} {each.name:<{width}}  {one_line(each.text)}\n"
        for each in findings
    )


def as_json(findings: list[Finding]) -> str:
    """Write all findings as one JSON object; ``ok`` is whether the main job runs."""
    document = {
        "schema": "upframe.doctor/1",
        "ok": main_job_runs(findings),
        "findings": [asdict(finding) for finding in findings],
    }
    return json_text(document) + "\n"


def describe_kept(folder: Path = Path()) -> Iterator[Finding]:
    """Report what runs that were broken off have left beside outputs in a folder."""
    kept = [plan for plan, _ in abandoned_plans(folder)]
    for plan in kept:
        if isinstance(plan, SinkRefused):
            yield warn("kept runs", str(plan))
            continue
        facts = {"bytes": plan.num_bytes, "age_seconds": round(plan.age_seconds)}
        text = f"{plan.text}; `upframe jobs clean` removes it"
        yield ok("kept runs", text, folder=str(plan.folder), **facts)
    if not kept:
        yield ok("kept runs", "none in this folder")


def _try_main_job() -> Iterator[Finding]:
    """Interpolate and enlarge three small frames with sound, from file to file."""
    name = "main job"
    try:
        with tempfile.TemporaryDirectory(prefix="upframe-doctor-") as folder:
            source = Path(folder) / "source.mp4"
            write_demo_clip(source, width=64, height=48, rate=Fraction(10), num_frames=3)
            request = demo_request(source, source.with_name("result.mp4"))
            report = run(request, announce=False)
    except (MediaError, FilterError, OSError) as error:
        yield fail(name, f"does not run: {error}")
        return
    if report.frames_out != 5:
        yield fail(name, f"3 frames became {report.frames_out}, not 5")
        return
    size = f"{report.output.width}x{report.output.height}"
    text = f"3 frames became {report.frames_out}, {size}, in {report.seconds:.1f} s"
    yield ok(name, text, seconds=report.seconds)
    if report.warnings:
        yield warn(name, "; ".join(report.warnings))

"""Compile every Triton kernel of upframe as its launchers call it, for cards that are not here.

    triton_aot.py [--arch 80,86,89,90,120] [--only rife] [--out bench/results/triton-aot.md]

The launchers themselves run, on `meta` tensors (shapes without memory), so that signatures,
constants and specialisations (divisible by 16, equal to 1) are those of a frame of 1920x1080.
Instead of a launch each kernel is compiled to a cubin by the ptxas that Triton brings: no driver,
no device. With --out the table is written with all that it depends on.

Exits with 1 where `faults_of` finds something, or where no launcher has started a kernel.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

if __name__ != "triton_aot":  # as in its own processes; tests may have set it for their kernels
    os.environ.pop("TRITON_INTERPRET", None)

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from upframe.filters.color import cuda as color_launchers
from upframe.filters.color import cuda_kernels as color_kernels
from upframe.filters.frame import Color, Picture, PixelFormat
from upframe.filters.interpolate import cuda as on_cuda
from upframe.filters.interpolate import cuda_kernels as glue_kernels
from upframe.filters.interpolate.network import IFNet
from upframe.filters.kernels import convolution, convolution_kernels
from upframe.filters.kernels import cuda as launching
from upframe.filters.kernels.cuda import Card
from upframe.filters.upscale.cuda import FusedRRDB, FusedSRVGG
from upframe.filters.upscale.network import RRDBNet, SRVGGNetCompact

sys.path.append(str(Path(__file__).parents[1]))
from machine import describe

META = torch.device("meta")
WIDTH, HEIGHT = 1920, 1080
MODULES = (convolution_kernels, glue_kernels, color_kernels)
LAUNCHERS = (convolution, on_cuda, color_launchers)
BIN = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

KNOWN_SPILLS = {("convolve_rows", "RESIDUALS=1"): 55, ("convolve_rows", ""): 8}
"""By kernel and what its constants contain: instructions in loops that spill on `STRICT`. With a
residual, 64 channels to 64 are one launch of a frame; of the others none needs more than 7."""
MOST_SECONDS = {"following": 2.0}
"""Of a core alone, to compile a kernel once: the first frame after an update waits for it."""
BUSY = 1.5
"""How much longer that may take here, where other processes have the same core's other thread."""


@dataclass(frozen=True)
class Architecture:
    """What of a card limits the blocks on a multiprocessor."""

    card: Card
    shared_of_processor: int
    """Bytes of shared memory of a multiprocessor, of which each block takes 1024 for itself."""
    most_warps: int


ARCHITECTURES = {
    80: Architecture(Card(108, 166_912), 167_936, 64),  # A100
    86: Architecture(Card(84, 101_376), 102_400, 48),  # RTX 3090
    89: Architecture(Card(128, 101_376), 102_400, 48),  # RTX 4090
    90: Architecture(Card(132, 232_448), 233_472, 64),  # H100, H200
    100: Architecture(Card(148, 232_448), 233_472, 64),  # B200
    120: Architecture(Card(170, 101_376), 102_400, 48),  # RTX 5090
}
Instruction = tuple[int, str, int | None]
"""Address, name and, of a branch, target."""
STRICT = 90
"""Where neither spills in loops nor serialised products of matrices are tolerated."""


@dataclass
class Row:
    """A kernel with its constants and the types and divisibilities of its arguments."""

    kernel: str
    constants: str
    signature: str
    arch: int
    cases: dict[str, int] = field(default_factory=dict)
    """Launches of each case."""
    programs: int = 0
    """Of its largest launch."""
    warps: int = 0
    stages: int = 0
    registers: int = 0
    spills: int = 0
    """Instructions that store to or load from a thread's own memory."""
    spills_in_loops: int = 0
    shared: int = 0
    shared_limit: int = 0
    blocks_per_processor: int = 0
    instructions: dict[str, int] = field(default_factory=dict)
    """All of them, those that multiply matrices, and widths of accesses to memory."""
    serialized: bool = False
    """Whether ptxas waits for each wgmma (C7510 to C7519): half the speed or less."""
    compile_seconds: float = 0.0
    """Of the processor."""
    error: str = ""


def known_spills(row: Row) -> int:
    """Return how many instructions in its loops may spill."""
    fits = ((name, part) for name, part in KNOWN_SPILLS if name == row.kernel)
    return max(
        (KNOWN_SPILLS[name, part] for name, part in fits if part in row.constants), default=0
    )


def faults_of(row: Row) -> Iterator[tuple[str, str]]:
    """Give the kind of each fault of a compiled kernel, and its figures."""
    if row.error:
        yield "does not compile", row.error
    if row.shared > row.shared_limit:
        yield "shared memory", f"{row.shared} bytes of {row.shared_limit}"
    if row.arch == STRICT and row.spills_in_loops > known_spills(row):
        yield "spills in loops", f"{row.spills_in_loops} instructions"
    if row.arch == STRICT and row.serialized:
        yield "serialized wgmma", "ptxas says so"
    most = BUSY * MOST_SECONDS.get(row.kernel, float("inf"))
    if row.compile_seconds > most:
        yield "slow to compile", f"{row.compile_seconds:.1f} s of {most:.1f}"


# ------------------------------------------------------------------------------- compiling


class NoDriver:
    """Stands for a CUDA card of a compute capability; everything but launching works."""

    arch = 90

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.arch  # Triton caches by device: one cache for each architecture

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return META

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no driver: {name}")


class Recorder:
    """Compiles where something is launched."""

    def __init__(self, arch: int, work: Path) -> None:
        self.arch, self.work = arch, work
        self.case = ""
        self.rows: dict[tuple[str, str, str], Row] = {}

    def kernels(self, module: ModuleType) -> Any:
        """Stand for the kernels of a module."""
        recorder = self

        class Kernels:
            def __getattr__(self, name: str) -> Any:
                kernel = getattr(module, name)
                return type("Started", (), {"__getitem__": lambda _, grid: start(kernel, grid)})()

        def start(kernel: Any, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *args, **kw: recorder.launch(kernel, grid, args, kw)

        return Kernels()

    def launch(self, kernel: Any, grid: tuple[int, ...], args: Any, kw: dict[str, Any]) -> None:
        name = kernel.fn.__name__
        constants = " ".join(f"{k}={v}" for k, v in kw.items() if not k.startswith("num_"))
        key = (name, constants, ",".join(map(kind_of, args)))
        row = self.rows.get(key)
        if row is None:
            limit = ARCHITECTURES[self.arch].card.shared_bytes
            row = self.rows[key] = Row(*key, self.arch, shared_limit=limit)
            try:
                began = cpu_seconds()
                compiled = kernel.warmup(*args, grid=grid, **kw)
                row.compile_seconds = round(cpu_seconds() - began, 2)
                self.inspect(compiled, row)
            except Exception as error:
                lines = str(error).strip().splitlines() or [""]
                row.error = f"{type(error).__name__}: {lines[-1][:200]}"
        row.cases[self.case] = row.cases.get(self.case, 0) + 1
        row.programs = max(row.programs, torch.Size(grid).numel())

    def inspect(self, compiled: Any, row: Row) -> None:
        meta, asm = compiled.metadata, compiled.asm
        row.warps, row.stages, row.shared = meta.num_warps, meta.num_stages, meta.shared
        stem = self.work / f"{os.getpid()}-{row.arch}-{len(self.rows)}"
        cubin, ptx = stem.with_suffix(".cubin"), stem.with_suffix(".ptx")
        cubin.write_bytes(asm["cubin"])
        if "wgmma" in asm["ptx"]:
            ptx.write_text(asm["ptx"])
            target = f"--gpu-name=sm_{row.arch}a"
            row.serialized = "are serialized" in said("ptxas", "-v", target, ptx, "-o", os.devnull)
        if found := re.search(r"REG:(\d+)", said("cuobjdump", "-res-usage", cubin)):
            row.registers = int(found[1])
        code = list(instructions(said("cuobjdump", "-sass", cubin)))
        row.instructions = counted(code)
        row.spills, row.spills_in_loops = spills_of(code)
        row.blocks_per_processor = blocks(row)


def kind_of(argument: Any) -> str:
    """Name what of an argument Triton compiles for."""
    if isinstance(argument, torch.Tensor):
        return str(argument.dtype).removeprefix("torch.")
    if isinstance(argument, int):
        return "1" if argument == 1 else "16" if argument % 16 == 0 else "i"
    return "f"


def cpu_seconds() -> float:
    """Of this process and of those that it has waited for, such as ptxas."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def said(program: str, *words: str | Path) -> str:
    done = subprocess.run([BIN / program, *words], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def instructions(sass: str) -> Iterator[Instruction]:
    """Give address, name and, of a branch, target of each instruction of a disassembly."""
    line = r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*)"
    for at, name, words in re.findall(line, sass):
        to = re.search(r"0x([0-9a-f]+)\s*$", words) if name.startswith("BRA") else None
        yield int(at, 16), name, int(to[1], 16) if to else None


def spills_of(code: list[Instruction]) -> tuple[int, int]:
    """Count accesses to a thread's own memory, and those of them in a loop."""
    spills = [at for at, name, _ in code if name.startswith(("LDL", "STL"))]
    loops = [(to, at) for at, _, to in code if to is not None and to < at]
    return len(spills), sum(any(start <= at <= end for start, end in loops) for at in spills)


def counted(code: list[Instruction]) -> dict[str, int]:
    """Count all instructions, those of the tensor cores, and accesses by their width in bits."""
    counts = Counter({"all": len(code)})
    for _, name, _ in code:
        head = name.partition(".")[0]
        if head in ("HGMMA", "HMMA", "LDSM"):
            counts[head] += 1
        elif head in ("LDG", "STG", "LDGSTS"):
            bits = re.search(r"\.(?:U|S)?(8|16|64|128)(?:\.|$)", name)
            counts[f"{head}.{bits[1] if bits else 32}"] += 1
    return dict(sorted(counts.items()))


def blocks(row: Row) -> int:
    """Return how many blocks a multiprocessor holds at once."""
    of = ARCHITECTURES[row.arch]
    registers = max(8, -(-row.registers // 8) * 8)
    by_shared = of.shared_of_processor // (row.shared + 1024)
    return min(65536 // (registers * 32 * row.warps), by_shared, of.most_warps // row.warps, 32)


# ------------------------------------------------------------------------------- the launchers


def install(recorder: Recorder) -> None:
    """Put the recorder in place of the card and of the kernels of all launchers."""
    kernels = {module: recorder.kernels(module) for module in MODULES}
    convolution.kernels = lambda: kernels[convolution_kernels]  # type: ignore[assignment]
    on_cuda.glue_kernels = lambda: kernels[glue_kernels]  # type: ignore[assignment]
    color_launchers._kernels = lambda: kernels[color_kernels]  # type: ignore[assignment]
    card = ARCHITECTURES[recorder.arch].card
    for module in (convolution, on_cuda, launching):
        module.card_of = lambda device: card  # type: ignore[attr-defined]
    on_cuda._INTERPRETED_TILE = on_cuda._TILE
    on_cuda.FastestLayer.__call__ = lambda self, x: self.kernel(x)  # type: ignore[method-assign]


def on_meta(network: torch.nn.Module, dtype: torch.dtype) -> Any:
    network = network.to(META, dtype).requires_grad_(False).eval()
    return network.to(memory_format=torch.channels_last)  # as Enlarger and load_ifnet do


def as_cudnn(network: Any) -> Any:
    """Make the plain convolutions return channels_last, as cuDNN does and meta does not."""
    for layer in (network.conv_first, network.conv_last):
        layer.register_forward_hook(
            lambda module, given, made: made.contiguous(memory_format=torch.channels_last)
        )
    return network


def srvgg(dtype: torch.dtype, feat: int, convs: int, scale: int) -> None:
    x = torch.empty(1, 3, HEIGHT, WIDTH)
    FusedSRVGG(on_meta(SRVGGNetCompact(feat, convs, scale), dtype))(x)


def rrdb(dtype: torch.dtype, num_blocks: int, scale: int) -> None:
    x = torch.empty(1, 3, HEIGHT, WIDTH)
    FusedRRDB(as_cudnn(on_meta(RRDBNet(64, num_blocks, 32, scale), dtype)))(x)


def rife(dtype: torch.dtype, count: int, scale: float) -> None:
    network = on_meta(IFNet(), dtype)
    multiple = round(32 / min(scale, 1.0))
    width, height = WIDTH + -WIDTH % multiple, HEIGHT + -HEIGHT % multiple
    engine = on_cuda.KernelEngine(network)
    engine._has_graphs = False
    engine.sources(torch.empty(count, 3, height, width))
    engine._compute(height, width, 3, scale, torch.empty(count, 4, dtype=torch.int64))


def colours(pix_fmt: str) -> None:
    form = PixelFormat.parse(pix_fmt)
    code = torch.uint8 if form.bit_depth == 8 else torch.uint16
    sizes = [form.plane_size(WIDTH, HEIGHT, index)[::-1] for index in range(3)]
    planes = tuple(torch.empty(size, dtype=code) for size in sizes)
    with torch.device("cpu"):  # bands are read off numbers
        color = Color(range="tv", matrix="bt709", chroma_location="left")
        picture = Picture(planes, pix_fmt, color, 0, 1, Fraction(1, 25))
        color_launchers.YuvDecoder()._made(picture, form)
        pixels = torch.empty(3, HEIGHT, WIDTH, device=META)
        counts = torch.empty(1, dtype=torch.int64, device=META)
        color_launchers.YuvEncoder()._made(pixels, form, color, counts)


HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}
GROUPS: dict[str, dict[str, Callable[[], None]]] = {
    "rife": {
        f"RIFE, batch {count}, scale {scale}": lambda c=count, s=scale: rife(torch.float16, c, s)
        for count in (1, 4)
        for scale in (1.0, 0.5)
    },
    **{
        f"upscale-{name}": {
            f"SRVGG 64f16c x4, {name}": lambda d=dtype: srvgg(d, 64, 16, 4),
            f"SRVGG 64f16c x2, {name}": lambda d=dtype: srvgg(d, 64, 16, 2),
            f"SRVGG 32f8c x4, {name}": lambda d=dtype: srvgg(d, 32, 8, 4),
            f"RRDB 23b x4, {name}": lambda d=dtype: rrdb(d, 23, 4),
            f"RRDB 23b x2, {name}": lambda d=dtype: rrdb(d, 23, 2),
        }
        for name, dtype in HALVES.items()
    },
    "colours": {
        f"colours, {pix_fmt}": lambda p=pix_fmt: colours(p)
        for pix_fmt in ("yuv420p", "yuv420p10le", "yuv444p")
    },
}
"""What is compiled in one process, so that what several cases start is compiled once."""


def compiled(arch: int, group: str, folder: Path) -> list[Row]:
    """Compile what a group of cases starts for an architecture; in a process of its own."""
    stub = NoDriver()
    stub.arch = arch
    driver.set_active(stub)  # type: ignore[arg-type]
    recorder = Recorder(arch, folder)
    install(recorder)
    for recorder.case, work in GROUPS[group].items():
        with torch.inference_mode(), META:
            work()
    return list(recorder.rows.values())


# ------------------------------------------------------------------------------- the results


def all_rows(archs: Sequence[int], groups: Sequence[str]) -> list[Row]:
    """Compile everything, as many groups at a time as there are cores."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        os.environ["TRITON_CACHE_DIR"] = name + "/cache"  # times of compiling are wanted
        cores = len(os.sched_getaffinity(0))
        with ProcessPoolExecutor(
            cores, mp_context=get_context("spawn"), max_tasks_per_child=1
        ) as pool:
            jobs = {
                pool.submit(compiled, arch, group, Path(name)): (arch, group)
                for group in groups
                for arch in archs
            }
            for job in as_completed(jobs):
                arch, group = jobs[job]
                rows += job.result()
                print(f"sm_{arch} {group}: {len(job.result())} kernels", flush=True)
    return sorted(rows, key=lambda row: (row.kernel, row.constants, row.signature, row.arch))


def never_started(rows: Sequence[Row]) -> list[str]:
    """List the kernels that the launchers name, and that no case has started."""
    texts = [Path(str(module.__file__)).read_text() for module in LAUNCHERS]
    named = {name for text in texts for name in re.findall(r"kernels\(\)\.(\w+)", text)}
    return sorted(named - {row.kernel for row in rows})


def table(rows: Sequence[Row], archs: Sequence[int]) -> Iterator[str]:
    """Give the lines of a table: one for each kernel and result, a column per architecture."""
    columns = " | ".join(f"sm_{arch}" for arch in archs)
    yield f"| kernel | constants | most launches | warps, stages | {columns} | loads, products |"
    yield "|---" * (len(archs) + 5) + "|"
    forms: dict[tuple[str, str, str], dict[int, Row]] = {}
    for row in rows:
        forms.setdefault((row.kernel, row.constants, row.signature), {})[row.arch] = row
    lines: dict[tuple[str, str], int] = {}
    for (kernel, constants, _), by_arch in forms.items():
        one = by_arch.get(STRICT) or next(iter(by_arch.values()))
        reads = " ".join(f"{n} {count}" for n, count in one.instructions.items() if n != "all")
        cells = " | ".join(cell(by_arch.get(arch)) for arch in archs)
        ends = f"| {kernel} | {constants} |", f"| {one.warps}, {one.stages} | {cells} | {reads} |"
        lines[ends] = max(lines.get(ends, 0), *one.cases.values())
    for (start, end), launches in lines.items():
        yield f"{start} {launches} {end}"


def cell(row: Row | None) -> str:
    if row is None:
        return "-"
    if row.error:
        return "**does not compile**"
    spills = f", {row.spills} spills ({row.spills_in_loops} in loops)" if row.spills else ""
    serialized = ", **serialized**" if row.serialized else ""
    first = f"{row.registers} r, {row.shared / 1024:.0f} K, {row.blocks_per_processor} b"
    return first + spills + serialized


def page(rows: Sequence[Row], archs: Sequence[int]) -> Iterator[str]:
    """Give the lines of the page that is published: what, where, the table."""
    machine = describe()
    yield "# Triton kernels, compiled ahead of time"
    yield ""
    yield "Made by `python bench/cuda/triton_aot.py --out bench/results/triton-aot.md` with"
    yield f"Triton {triton.__version__}, torch {machine['torch']} and Python {machine['python']} on"
    yield f"{machine['processor']}, without a card: nothing of it was run."
    yield f"Frames of {WIDTH}x{HEIGHT}."
    yield ""
    yield "Of each architecture: registers (r) of a thread, KiB (K) of shared memory of a block,"
    yield "blocks (b) on a multiprocessor at once, instructions that spill registers, and whether"
    yield "ptxas serialises the products of matrices. Launches are those of a frame; loads, stores"
    yield "and products, by their width in bits, are instructions on sm_90."
    slowest: dict[str, float] = {}
    for row in rows:
        slowest[row.kernel] = max(slowest.get(row.kernel, 0), row.compile_seconds)
    yield ""
    yield (
        "Longest time to compile, of one core: "
        + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in slowest.items())
        + "."
    )
    yield ""
    yield from table(rows, archs)


def judged(rows: Sequence[Row]) -> list[str]:
    """Print all faults; return each kind of each kernel once."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        for kind, figures in faults_of(row):
            where = f"sm_{row.arch}: {figures}; {row.constants}"
            found.setdefault((row.kernel, kind), {})[where] = None
    for key, places in found.items():
        print(f"{key[0]}, {key[1]}:")
        print(*(f"  {place}" for place in places), sep="\n")
    return [f"{kernel}: {kind}" for kernel, kind in found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="80,86,89,90,120")
    parser.add_argument("--only", default="", help=f"one of {', '.join(GROUPS)}")
    parser.add_argument("--out", type=Path, help="Markdown")
    asked = parser.parse_args()
    archs = [int(arch) for arch in asked.arch.split(",")]
    groups = [name for name in GROUPS if name.startswith(asked.only)]
    began = time.monotonic()
    rows = all_rows(archs, groups)
    print(*table(rows, archs), sep="\n")
    new = judged(rows)
    if groups == list(GROUPS):
        new += [f"{name}: no launcher has started it" for name in never_started(rows)]
    seconds = round(time.monotonic() - began)
    if asked.out:
        asked.out.write_text("\n".join(page(rows, archs)) + "\n")
    print(f"{len(rows)} kernels, {len(new)} faults, {seconds} s, Triton {triton.__version__}")
    print(*new, sep="\n")
    return bool(new)


if __name__ == "__main__":
    sys.exit(main())
